"""The signals that ask a command to end, handled inside a block and given back after it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

#: Ctrl-C, a scheduler or `kill`, and a terminal that is closed (which Windows has not).
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def handled(handle: Callable[[int], None], numbers: tuple[int, ...] = ENDING) -> Iterator[None]:
    """Let a function handle these signals inside the block; only the main thread can.

    A hang-up that the shell has switched off (`nohup`) stays off. With a hang-up the terminal is gone, so what is
    printed from then on goes nowhere.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def heard(number: int, _frame: FrameType | None) -> None:
        if signal.Signals(number).name == "SIGHUP":
            _leave_terminal()
        handle(number)

    ours = [n for n in numbers if not _is_switched_off(n)]
    previous = {number: signal.signal(number, heard) for number in ours}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _is_switched_off(number: int) -> bool:
    return signal.Signals(number).name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN


def _leave_terminal() -> None:
    """Send what is printed nowhere, where it went to the terminal that was closed."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            if os.isatty(stream.fileno()):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
