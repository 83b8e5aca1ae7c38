"""Runs the command line in a forked child: nothing is imported anew, so that a thousand starts take minutes."""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doom import Doom, Fate, watch_libraries

OUTPUT, JOURNAL, TRACE = "out", ".journal", ".trace"
_NUMBERS = itertools.count()
#: Seconds after which an attempt counts as hanging.
LONGEST = 120.0


@dataclass(frozen=True)
class Attempt:
    """How one start of the command ended.

    Attributes:
        status: exit status; negative is the signal that ended it, ``None`` a hang.
        operations: file operations that it came to.
        out: standard output.
        error: standard error.
        seconds: how long it took.
        processor: seconds of processor time.
    """

    status: int | None
    operations: int
    out: str
    error: str
    seconds: float
    processor: float = 0.0


class Running:
    """A command in a forked child that its fate awaits.

    Args:
        arguments: of the command line.
        place: working folder.
        fate: see `Fate`.
        root: folder of the files that count, by default the output folder of the commands of `places`.
        prepare: called in the child before the command, e.g. to break something.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        place: Path,
        fate: Fate,
        *,
        root: Path | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.place, self.fate = place, fate
        number = next(_NUMBERS)
        self._texts = [place / f".out-{number}", place / f".error-{number}"]
        for path in self._texts:  # the child may be killed before it has opened them
            path.touch()
        self._doom = Doom(root or place / OUTPUT, place / JOURNAL, fate, place / TRACE)
        self._began, self._used = time.monotonic(), _processor_time()
        self.pid = os.fork()
        if self.pid == 0:
            _be_the_command(arguments, place, self._doom, self._texts, prepare)
        _own_group(self.pid)

    def wait(self, after: float | None = None) -> Attempt:
        """Wait for its end; after so many seconds the fate's signal comes from outside, whatever it is at."""
        try:
            status = _awaited(self.pid, self.fate, after, self._began)
        finally:
            _end_group(self.pid)
        out, error = (path.read_text(errors="replace") for path in self._texts)
        for path in self._texts:
            path.unlink()
        doom = self._doom
        doom.close()
        seconds = time.monotonic() - self._began
        return Attempt(status, doom.operations, out, error, seconds, _processor_time() - self._used)

    def wait_for_halt(self) -> None:
        """Wait until its fate has halted it."""
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        """Let it go on after a halt."""
        os.killpg(self.pid, signal.SIGCONT)


def attempt(
    arguments: Sequence[str],
    place: Path,
    fate: Fate,
    *,
    after: float | None = None,
    prepare: Callable[[], None] | None = None,
) -> Attempt:
    """Run a command to whatever end its fate has for it; see `Running`."""
    return Running(arguments, place, fate, prepare=prepare).wait(after)


def operations(place: Path) -> list[str]:
    """The operations of the last command at a place, each as its event and the file."""
    return (place / TRACE).read_text().splitlines()


def _processor_time() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _own_group(child: int) -> None:
    with contextlib.suppress(OSError):  # it has done so itself, or is gone
        os.setpgid(child, child)


def _end_group(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def _awaited(child: int, fate: Fate, after: float | None, began: float) -> int | None:
    sent = after is None
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        now = time.monotonic() - began
        if not sent and now >= (after or 0):
            sent = True
            if fate.kind in ("int", "int-twice", "term"):
                os.kill(child, signal.SIGTERM if fate.kind == "term" else signal.SIGINT)
            else:
                os.killpg(child, signal.SIGKILL)
        if now > LONGEST:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.001 if not sent else 0.005)


def _be_the_command(
    arguments: Sequence[str], place: Path, doom: Doom, texts: list[Path], prepare: Callable[[], None] | None
) -> None:
    """What the child does; it never returns."""
    status = 99
    try:
        _own_group(0)
        for number, path in enumerate(texts, start=1):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, number)
        sys.stdout, sys.stderr = (open(n, "w", buffering=1, closefd=False) for n in (1, 2))  # noqa: SIM115
        sys.argv = ["steadytune", *arguments]
        os.chdir(place)
        _use_own_temporary_folder(place)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        from steadytune.cli import main
        from steadytune.comparison.engines import local as local_engine

        local_engine.subprocess = _Forking(doom)  # pyright: ignore[reportAttributeAccessIssue]
        if prepare is not None:
            prepare()
        watch_libraries(doom)
        doom.install()
        status = main(list(arguments))
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(status)


def _use_own_temporary_folder(place: Path) -> None:
    import tempfile

    import datasets.fingerprint

    folder = place / ".temporary"
    folder.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    datasets.fingerprint._TEMP_DIR_FOR_TEMP_CACHE_FILES = None


class _Forking:
    """Stands for the module `subprocess` where workers are started: they are forked."""

    PIPE = subprocess.PIPE

    def __init__(self, doom: Doom) -> None:
        self._doom = doom

    def Popen(self, arguments: Sequence[str], *, stderr: Any, env: Mapping[str, str], **_: Any) -> _Worker:  # noqa: N802
        assert "steadytune.comparison.engines.local_worker" in arguments
        return _Worker(stderr.fileno(), env)


class _Worker:
    """A forked worker, with what the engine uses of `subprocess.Popen`."""

    def __init__(self, errors: int, environment: Mapping[str, str]) -> None:
        to_read, to_send = os.pipe()
        to_hear, to_tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _be_a_worker(to_read, to_tell, errors, (to_send, to_hear), environment)
        os.close(to_read)
        os.close(to_tell)
        self.stdin, self.stdout = os.fdopen(to_send, "wb"), os.fdopen(to_hear, "rb")
        self.returncode: int | None = None

    def wait(self) -> int:
        if self.returncode is None:
            try:
                _, status = os.waitpid(self.pid, 0)
                self.returncode = os.waitstatus_to_exitcode(status)
            except ChildProcessError:  # the thread that reads has waited
                while self.returncode is None:
                    time.sleep(0.001)
        return self.returncode

    def kill(self) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def _be_a_worker(
    to_read: int, to_tell: int, errors: int, others: tuple[int, int], environment: Mapping[str, str]
) -> None:
    status = 99
    try:
        for descriptor in others:
            os.close(descriptor)
        os.dup2(errors, 2)
        os.dup2(to_read, 0)
        os.dup2(to_tell, 1)
        sys.stdin, sys.stdout, sys.stderr = (open(n, "r" if n == 0 else "w", closefd=False) for n in (0, 1, 2))  # noqa: SIM115
        os.environ.update(environment)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        from steadytune.comparison.engines import local_worker as worker

        worker.main()
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)
