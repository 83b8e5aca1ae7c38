"""Files that a reader sees whole or not at all, also after the process was killed or the power has failed."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steadytune.support.writing import open_file, remove_file, remove_folder, rename, sync, write_text


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
    remove_file(unfinished)
    open_file(unfinished, "xb").close()  # ours, whatever writes to its path
    try:
        yield unfinished
        sync(unfinished)
        rename(unfinished, path)
        sync(path.parent)
    finally:
        remove_file(unfinished)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    with replaced_when_whole(path) as unfinished:
        write_text(unfinished, text)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def sync_all(folder: Path) -> None:
    """Wait until a folder lies on the disk with all that is in it."""
    for place, _, names in os.walk(folder):
        for name in names:
            file = Path(place) / name
            if file.is_file() and not file.is_symlink():
                sync(file)
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
            if path.is_dir() and not path.is_symlink():
                remove_folder(path)
            else:
                remove_file(path)
