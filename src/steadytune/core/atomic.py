"""Files that a reader sees whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_when_whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to, beside the real one; it takes its place when the block ends without an error.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "result.txt"
        >>> with replaced_when_whole(file) as unfinished:
        ...     _ = unfinished.write_text("all of it")
        >>> file.read_text(), unfinished.exists()
        ('all of it', False)
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
