"""Run a command line in this process, and hold it to what every command promises."""

from __future__ import annotations

import contextlib
import io
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from steadytune.cli import main

#: Of work; a machine with other work to do may take longer by the clock, which catches what waits for nothing.
LONGEST_SECONDS, LONGEST_BY_THE_CLOCK = 10.0, 120.0
LONGEST_LINE = 2000
DONE, REFUSED, STOPPED = 0, 2, 130


class Fault(AssertionError):  # noqa: N818 - what fuzzing looks for
    """A promise is broken; the message says which."""


class Hung(BaseException):
    """A command took too long; no handler of ours catches it."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its status, what it said, and the line about its end."""

    status: int
    output: str
    line: str


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hung

    timers = (
        (signal.ITIMER_PROF, signal.SIGPROF, LONGEST_SECONDS),
        (signal.ITIMER_REAL, signal.SIGALRM, LONGEST_BY_THE_CLOCK),
    )
    before = {number: signal.signal(number, stop) for _, number, _ in timers}
    for timer, _, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for timer, number, _ in timers:
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def command(arguments: Sequence[str], *, allowed: Sequence[int] = (DONE, REFUSED, STOPPED)) -> Outcome:
    """Run a command line.

    Raises:
        Fault: it took over 10 seconds, ended in an error of ours, or showed more than one clean line for its error.
    """
    output, errors = io.StringIO(), io.StringIO()
    began = time.process_time()
    try:
        with _in_time(), contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = main(list(arguments))
    except Hung:
        raise Fault(f"no answer in {LONGEST_SECONDS:g} s") from None
    except SystemExit as end:
        raise Fault(f"ended the process: {end}") from end
    if time.process_time() - began > LONGEST_SECONDS:
        raise Fault(f"took {time.process_time() - began:.1f} s")
    outcome = Outcome(status, output.getvalue(), errors.getvalue())
    _check(outcome, allowed)
    return outcome


def _check(outcome: Outcome, allowed: Sequence[int]) -> None:
    if outcome.status not in allowed:
        raise Fault(f"status {outcome.status}: {outcome.line[:500]}")
    for text in (outcome.output, outcome.line):
        wrong = [c for c in text if not c.isprintable() and c != "\n"]
        if wrong:
            raise Fault(f"{wrong[0]!r} reached the terminal")
    if outcome.status != DONE:
        lines = [line for line in outcome.line.splitlines() if line]
        if len(lines) != 1 or not lines[0].startswith("steadytune: "):
            raise Fault(f"{len(lines)} lines: {outcome.line[:500]}")
        if len(lines[0]) > LONGEST_LINE:
            raise Fault(f"a line of {len(lines[0])} characters: {lines[0][:200]}")


def files_in(folder: Path) -> frozenset[str]:
    """Names of all that lies in a folder."""
    return frozenset(str(path.relative_to(folder)) for path in folder.rglob("*"))
