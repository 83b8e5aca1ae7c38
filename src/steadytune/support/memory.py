"""A bound on what reading a file may take: what a file says of its own size is not believed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from steadytune.errors import DataError
from steadytune.support.reading import KILOBYTE, MEGABYTE, read_text

try:
    import resource
except ImportError:  # Windows has none
    resource = None

#: Share of the free memory that reading one file may take.
_SHARE = 0.9


@contextmanager
def within_free_memory(what: str) -> Iterator[None]:
    """Let nothing in this block take more memory than is free; a file that unpacks to more is refused.

    The system refuses the memory itself (``RLIMIT_DATA``), whatever the file's own words on its size are. Where it
    cannot (Windows, macOS), only those words bound it.

    Args:
        what: is read, as messages name it.

    Raises:
        DataError: more would be needed.
    """
    import psutil

    free = psutil.virtual_memory().available
    used = _data_bytes()
    if resource is None or used is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = used + int(free * _SHARE)
    limit = wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    except MemoryError:  # Arrow's too
        raise DataError(
            f"{what}: unpacks to more than the {free / 2**30:,.1f} GiB of memory that are free; give fewer rows."
        ) from None
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int | None:
    """The memory of this process that the limit counts; ``None`` where that cannot be told."""
    try:
        lines = read_text("/proc/self/status", MEGABYTE).splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * KILOBYTE for line in lines if line.startswith("VmData:")), None)
