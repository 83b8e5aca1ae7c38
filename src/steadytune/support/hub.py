"""Whether the Hub can be reached, asked once and without ever hanging."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from steadytune.support.secrets import redact

CONNECTION_SECONDS = 2.0


def hub_is_reachable(seconds: float = CONNECTION_SECONDS) -> bool:
    """Try one connection to the Hub, or to the proxy that leads to it."""
    from huggingface_hub import constants

    endpoint = urlsplit(constants.ENDPOINT)
    proxy = os.environ.get(f"{endpoint.scheme}_proxy") or os.environ.get(f"{endpoint.scheme.upper()}_PROXY")
    target = urlsplit(proxy if proxy and "//" in proxy else f"//{proxy}") if proxy else endpoint
    try:
        port = target.port or (80 if target.scheme == "http" else 443)
        within(seconds, lambda: socket.create_connection((target.hostname or "", port), timeout=seconds).close())
    except (OSError, ValueError, queue.Empty):  # ValueError: no port that there can be
        return False
    return True


def hub_address() -> str:
    """Where the Hub is, for messages: without a user, a password or a token."""
    from huggingface_hub import constants

    return redact(constants.ENDPOINT)


def within(seconds: float, ask: Callable[[], Any]) -> None:
    """Ask, and raise what that raises, or ``queue.Empty`` when no answer has come in time.

    In a thread, because neither looking up a name nor the Hub's client heeds a time-out.
    """
    answer: queue.Queue[Exception | None] = queue.Queue()

    def run() -> None:
        try:
            ask()
            answer.put(None)
        except Exception as error:  # for the thread that waits
            answer.put(error)

    threading.Thread(target=run, daemon=True).start()
    error = answer.get(timeout=seconds)
    if error is not None:
        raise error
