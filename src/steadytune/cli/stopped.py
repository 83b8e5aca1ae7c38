"""Raise `Stopped` when the user interrupts a verb, with a hint how to resume, and lose no Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Seconds until a Ctrl-C that Python dropped comes again; by then the main thread is elsewhere.
AGAIN_AFTER = 0.02


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """Stopped by the user; the message says how to resume."""


@contextmanager
def told_how_to_go_on() -> Iterator[None]:
    """While a run trains, turn its being stopped into `Stopped`."""
    from steadytune.training.skeleton import Interrupted

    try:
        yield
    except Interrupted as stopped:
        raise Stopped(f"{stopped}; the same command continues from there.") from None


@contextmanager
def no_interrupt_lost() -> Iterator[None]:
    """Resend a Ctrl-C that came where Python cannot raise, and would print a traceback and continue.

    Such places are the callbacks of weak references and ``__del__``, which libraries have by the thousand.
    """
    before = sys.unraisablehook

    def heard(found: Any) -> None:
        if not issubclass(found.exc_type, KeyboardInterrupt):
            before(found)
            return
        # In the background a shell has Ctrl-C ignored, and SIGTERM is what stops.
        heeded = [number for number in (signal.SIGINT, signal.SIGTERM) if callable(signal.getsignal(number))]
        if heeded:
            threading.Timer(AGAIN_AFTER, _send_to_main_thread, heeded[:1]).start()

    sys.unraisablehook = heard
    try:
        yield
    finally:
        sys.unraisablehook = before


def _send_to_main_thread(number: int) -> None:
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, number)
