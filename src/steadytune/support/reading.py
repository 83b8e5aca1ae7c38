"""Reading files that may come from anywhere: regular ones of bounded size, and pipes where a person means them.

With `writing` the only module that opens files; `tests/support/test_who_touches_files.py` holds that.
"""

from __future__ import annotations

import errno
import json
import os
import select
import stat
import time
from pathlib import Path
from typing import Any, BinaryIO

KILOBYTE, MEGABYTE = 1 << 10, 1 << 20
#: Bytes of the largest file of each kind that is read whole.
SETTINGS, RESULTS, COMPARISON = MEGABYTE, 64 * MEGABYTE, 512 * MEGABYTE
#: Seconds that a pipe may be silent.
SILENCE = 30.0
_BYTES_AT_ONCE = MEGABYTE
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOCTTY", 0)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file; what would block or never end is refused, and never waited for.

    Raises:
        OSError: it is not there, may not be read, or is a pipe, a device or a folder.

    Example:
        >>> open_regular("/dev/null")
        Traceback (most recent call last):
        OSError: [Errno 22] is a pipe or a device, not a regular file: '/dev/null'
    """
    return os.fdopen(_opened(path, pipe=False), "rb")


def read_bytes(path: str | Path, at_most: int, *, pipe: bool = False) -> bytes:
    """Read a whole file, and one byte more than may be at most.

    Args:
        path: the file.
        at_most: bytes that it may have.
        pipe: a pipe is read as well, until its writer closes it.

    Raises:
        OSError: as `open_regular` does, it is too large, or a pipe says nothing.
    """
    descriptor = _opened(path, pipe=pipe)
    try:
        parts, size = [], 0
        while size <= at_most:
            part = _part(descriptor, min(_BYTES_AT_ONCE, at_most + 1 - size), path)
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
    finally:
        os.close(descriptor)
    raise OSError(errno.EFBIG, f"has more than the {at_most:,} bytes that are read of such a file", str(path))


def read_text(
    path: str | Path, at_most: int, *, encoding: str = "utf-8", errors: str = "strict", pipe: bool = False
) -> str:
    """Read a whole text file, its line ends as they are in text files.

    Raises:
        OSError: as `read_bytes` does.
        UnicodeDecodeError: it is no such text.
    """
    text = read_bytes(path, at_most, pipe=pipe).decode(encoding, errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: str | Path, at_most: int = RESULTS) -> Any:
    """Read a JSON file; whole numbers beyond 64 bits become floats.

    Raises:
        OSError: as `read_bytes` does.
        ValueError: it is no JSON, or nested too deep.
    """

    def bounded(digits: str) -> int | float:
        return int(digits) if len(digits) < 19 else float(digits)

    try:
        return json.loads(read_text(path, at_most), parse_int=bounded)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _opened(path: str | Path, *, pipe: bool) -> int:
    descriptor = os.open(path, os.O_RDONLY | _NO_WAIT)  # without waiting: a pipe may have no writer
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        if not stat.S_ISREG(mode) and not (pipe and stat.S_ISFIFO(mode)):
            raise OSError(errno.EINVAL, "is a pipe or a device, not a regular file", str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _part(descriptor: int, count: int, path: str | Path) -> bytes:
    """Some bytes; of a pipe when there are any."""
    end = time.monotonic() + SILENCE
    while time.monotonic() < end:
        try:
            return os.read(descriptor, count)
        except BlockingIOError:
            select.select([descriptor], [], [], SILENCE)
    raise OSError(errno.ETIMEDOUT, f"is a pipe that said nothing in {SILENCE:g} seconds", str(path))
