"""Files that a reader sees whole or not at all, also after the process was killed or the power has failed."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: What some file systems answer where nothing can be synced.
_CANNOT_SYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF})


@contextmanager
def replaced_when_whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to, beside the real one; it takes its place when the block ends without an error.

    The content lies on the disk before it takes the name, so that a power cut leaves the old content or the new.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "result.txt"
        >>> with replaced_when_whole(file) as unfinished:
        ...     _ = unfinished.write_text("all of it")
        >>> file.read_text(), unfinished.exists()
        ('all of it', False)
    """
    unfinished = path.with_name(f"{path.name}.{this_process()}.unfinished")
    try:
        yield unfinished
        sync(unfinished)
        os.replace(unfinished, path)
        sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, lie on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such thing for folders
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Wait until a folder lies on the disk with all that is in it."""
    for place, _, names in os.walk(folder):
        for name in names:
            sync(Path(place) / name)
        sync(Path(place))


def this_process() -> str:
    """A name for this process, part of the names of files and folders that are gone when it has done its work.

    >>> is_abandoned(f"result.txt.{this_process()}.unfinished")
    False
    """
    host = re.sub(r"[^A-Za-z0-9_-]", "_", socket.gethostname())
    return f"{host}-{os.getpid()}"


def is_abandoned(name: str) -> bool:
    """Whether a process of this machine that no longer lives has left what is called so (see `this_process`)."""
    found = re.search(r"[.-]([A-Za-z0-9_-]+)-(\d+)(\.unfinished)?$", name)
    if found is None or found[1] != this_process().rpartition("-")[0]:
        return False
    import psutil

    return not psutil.pid_exists(int(found[2]))


def remove_abandoned(folder: Path, *patterns: str) -> None:
    """Remove what processes that were killed have left in a folder.

    Args:
        folder: only what lies directly in it is looked at.
        patterns: for names that end with that of a process.
    """
    for pattern in patterns:
        for path in folder.glob(pattern):
            if not is_abandoned(path.name):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
