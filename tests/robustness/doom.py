"""Ends a process at a chosen one of its file operations, and does to its files what a power cut does.

A forked child installs a `Doom`. From then on each operation on a file below a folder is counted: opening for writing,
renaming, removing, making a folder, fsync. At the chosen one the process ends before it is carried out; what was being
written then may be left half written. The count is shared with the worker processes that the child forks.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import random
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

#: SIGKILL to all processes, SIGKILL to the one that is at the operation, gentle ends of the first process, the power.
Kill = Literal["kill", "kill-one", "int", "int-twice", "term", "power"]
KILLS: tuple[Kill, ...] = ("kill", "kill-one", "int", "int-twice", "term", "power")
#: From an operation on the disk is full or cannot be written; all files are removed; each operation takes a while; the
#: processes halt until they are told to go on.
Trouble = Literal["full", "read-only", "vanish", "slow", "halt"]
EVENTS = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"})
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Fate:
    """What happens to a process, and when.

    Attributes:
        kind: what.
        at: operation before which it happens, from 1; 0 is never.
        within: instead, happens before the operation that follows the first one like this: its event and its file.
        tears: leave the file that was opened last half written, if it is still being written.
        seed: of the lengths of half files.
    """

    kind: Kill | Trouble = "kill"
    at: int = 0
    within: str = ""
    tears: bool = False
    seed: int = 0


class Doom:
    """Counts the file operations of the processes of one attempt, and carries out their fate.

    Args:
        root: what is outside of this folder is neither counted nor torn.
        journal: file outside of it that gets a line for each file that was synced to the disk.
        fate: what happens.
        trace: file outside of it that gets the name of each operation's file.
    """

    def __init__(self, root: Path, journal: Path, fate: Fate, trace: Path) -> None:
        self.root, self.fate = str(root.resolve()) + os.sep, fate
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._trace = os.open(trace, os.O_WRONLY | os.O_TRUNC | os.O_CREAT)
        self._shared = mmap.mmap(-1, 16)  # inherited by what is forked
        self._opened: str | None = None
        self._is_installed = self._is_inside = False
        self._folder: int | None = None
        self.first = os.getpid()

    def close(self) -> None:
        """Close the files, in the process that has not installed it."""
        os.close(self._journal)
        os.close(self._trace)

    @property
    def operations(self) -> int:
        """Operations so far."""
        return self._counted()[0]

    def _counted(self) -> tuple[int, int]:
        """Operations so far, and the one before which it happens."""
        done, at = struct.unpack("qq", self._shared[:])
        return done, at or self.fate.at

    def install(self) -> None:
        """Begin to count in this process, which cannot be undone."""
        self.first = os.getpid()
        sys.addaudithook(self._heard)
        self._wrap(os, "fsync", self._sync)
        self._wrap(os, "open", self._open)

    def _open(self, real: Callable[..., int], path: Any, *given: Any, dir_fd: int | None = None, **named: Any) -> int:
        """Remember the folder, which is not among what the event tells."""
        self._folder = dir_fd
        try:
            return real(path, *given, dir_fd=dir_fd, **named)
        finally:
            self._folder = None

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if not isinstance(path, int) and (flags & WRITING if isinstance(flags, int) else "r" not in str(mode)):
                self._reached(_in_folder(path, self._folder), "open")
        elif event in EVENTS and not isinstance(arguments[0], int):
            folder = arguments[2 if event in ("os.rename", "os.mkdir") else -1]
            self._reached(_in_folder(arguments[0], folder if event != "os.truncate" else None), event)

    def reached(self, path: str | os.PathLike[str]) -> None:
        """A library that is not Python begins to write this file."""
        self._reached(path, "open")

    def _reached(self, path: Any, event: str) -> None:
        full = os.path.abspath(os.fsdecode(path))
        if self._is_inside or not full.startswith(self.root):
            return
        self._is_inside = True
        try:
            done, at = self._counted()
            done += 1
            line = f"{event} {full.removeprefix(self.root)}"
            found = self.fate.within and not at and self.fate.within in line
            self._shared[:] = struct.pack("qq", done, done + 1 if found else at)
            with contextlib.suppress(OSError):  # the limit of a test for all files
                os.write(self._trace, f"{line}\n".encode())
            twice = self.fate.kind == "int-twice" and done == at + 1 + self.fate.seed % 5
            if done == at or twice:
                self._end()
            if at and done >= at:
                self._trouble(event, full)
            if event == "open":
                self._opened = full
        finally:
            self._is_inside = False

    def _trouble(self, event: str, path: str) -> None:
        if self.fate.kind == "full" and event in ("open", "os.mkdir", "fsync"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if self.fate.kind == "read-only":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        if self.fate.kind == "slow":
            time.sleep(0.005)

    def _end(self) -> None:
        if self.fate.kind in ("full", "read-only", "slow"):
            return
        if self.fate.kind == "vanish":
            shutil.rmtree(self.root)
            return
        if self.fate.kind == "halt":
            os.killpg(os.getpgid(self.first), signal.SIGSTOP)
            return
        if self.fate.kind in ("int", "int-twice", "term"):
            os.kill(self.first, signal.SIGTERM if self.fate.kind == "term" else signal.SIGINT)
            return
        if self.fate.tears and self._opened is not None and os.path.isfile(self._opened):
            size = os.path.getsize(self._opened)
            os.truncate(self._opened, random.Random(self.fate.seed).randint(0, size))
        if self.fate.kind == "kill-one":
            os.kill(os.getpid(), signal.SIGKILL)
        os.killpg(os.getpgid(self.first), signal.SIGKILL)
        signal.pause()

    def _sync(self, real: Callable[[int], None], descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        self._reached(path, "fsync")
        real(descriptor)
        if os.path.isfile(path) and path.startswith(self.root):
            self._opened = None if path == self._opened else self._opened
            os.write(self._journal, _identity(os.fstat(descriptor)))

    @staticmethod
    def _wrap(module: Any, name: str, around: Callable[..., Any]) -> None:
        real = getattr(module, name)
        setattr(module, name, lambda *given, **named: around(real, *given, **named))


def _in_folder(path: Any, folder: int | None) -> str:
    """The whole path of a name in an opened folder."""
    name = os.fsdecode(path)
    return name if folder in (None, -1) else os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)


def watch_libraries(doom: Doom) -> None:
    """Count the files that torch and safetensors write without Python."""
    import safetensors.torch
    import torch

    def before(real: Callable[..., Any], content: Any, path: Any, *given: Any, **named: Any) -> Any:
        if isinstance(path, str | os.PathLike):
            doom.reached(path)
        return real(content, path, *given, **named)

    doom._wrap(safetensors.torch, "serialize_file", before)
    doom._wrap(torch, "save", before)


def _identity(status: os.stat_result) -> bytes:
    return f"{status.st_ino} {status.st_mtime_ns} {status.st_size}\n".encode()


def cut_power(root: Path, journal: Path, seed: int) -> list[str]:
    """Tear all files below a folder that were not synced since they were last written, and name them.

    A file that was never synced may keep all of its content, its beginning, or nothing; or the rest of it are zeros.
    Names of files stay: a file system that orders its own changes loses only the last of them, which is the same as
    a cut at an earlier operation.
    """
    chance = random.Random(seed)
    durable = set(journal.read_bytes().splitlines(keepends=True)) if journal.exists() else set()
    torn = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        status = path.stat()
        if _identity(status) in durable or status.st_size == 0:
            continue
        how = chance.choice(("whole", "nothing", "beginning", "zeros"))
        if how == "whole":
            continue
        keep = 0 if how == "nothing" else chance.randrange(status.st_size)
        with path.open("rb+") as file:
            if how == "zeros":
                file.seek(keep)
                file.write(bytes(status.st_size - keep))
            else:
                file.truncate(keep)
        torn.append(str(path.relative_to(root)))
    with journal.open("ab") as known:  # what is there after the machine has started again lies on the disk
        for path in root.rglob("*"):
            if path.is_file():
                known.write(_identity(path.stat()))
    return torn
