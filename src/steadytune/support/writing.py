"""Writing and removing files without ever following a link out of the folder that they belong to.

The folder that a person gives may be a link, and so may those above it. What lies below it may not: such a folder can
come from somebody else, and a link in it would turn our writing against files of the reader. Names are looked up one
by one from the given folder (``dir_fd``, ``O_NOFOLLOW``), so that nothing that is put there meanwhile changes that.

With `reading` the only module that opens files; `tests/support/test_who_touches_files.py` holds that.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal

from filelock import FileLock

from steadytune.errors import SettingsError

Mode = Literal["wb", "ab", "xb", "r+b"]

_FLAGS: dict[Mode, int] = {
    "wb": os.O_WRONLY | os.O_CREAT,
    "ab": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "xb": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
    "r+b": os.O_RDWR,
}
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_FOLDER = getattr(os, "O_DIRECTORY", 0)
#: Windows looks names up by their whole paths only.
_BY_FOLDER = os.open in os.supports_dir_fd and os.mkdir in os.supports_dir_fd
#: How a URL begins, once it was taken for a path.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(:.*)?$")
#: Folders given by a person that are written at present, each absolute.
_given: list[Path] = []


@contextmanager
def writes_below(folder: Path) -> Iterator[None]:
    """Say that a person gave this folder: what is written below it meanwhile meets no link from there on.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp())
        >>> (place / "runs").symlink_to("/tmp")
        >>> with writes_below(place):
        ...     write_text(place / "runs" / "result.txt", "all of it")
        Traceback (most recent call last):
        steadytune.errors.SettingsError: ...runs is a link, and nothing is written or removed through one: ...
    """
    given = folder.absolute()
    _given.append(given)
    try:
        yield
    finally:
        _given.remove(given)


def open_file(path: Path, mode: Mode) -> BinaryIO:
    """Open a regular file to write it, made if it is not there (but for ``r+b``).

    Raises:
        SettingsError: it, or a folder on the way, is a link; it has a second name elsewhere; it is no regular file.
        OSError: it cannot be written.
    """
    with _inside(path) as (folder, name):
        try:
            descriptor = os.open(name, _FLAGS[mode] | _NO_LINK | _NO_WAIT, 0o666, dir_fd=folder)
        except OSError as error:
            _refuse_link(path)
            if error.errno == errno.ENXIO:  # a pipe that nobody reads
                raise _no_file(path) from None
            error.filename = str(path)
            raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _no_file(path)
        if found.st_nlink > 1:
            raise SettingsError(
                f"{path} has a second name (a hard link), under which something else would change: "
                "put a copy in its place, or give another folder."
            )
        if mode == "wb":
            os.ftruncate(descriptor, 0)
        return os.fdopen(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file in place; `atomic_files.replaced_when_whole` writes one that is never seen half."""
    with open_file(path, "wb") as file:
        file.write(text.encode("utf-8"))


def append_text(path: Path, text: str) -> None:
    """Add to a text file."""
    with open_file(path, "ab") as file:
        file.write(text.encode("utf-8"))


def make_folder(path: Path) -> None:
    """Make a folder and those above it, where they are not there.

    Raises:
        SettingsError: it, or a folder on the way, is a link, or it may not be used once it is made.
        OSError: it cannot be made.
    """
    root = _root(path)
    if root is None:
        path.mkdir(parents=True, exist_ok=True)
    else:
        root.mkdir(parents=True, exist_ok=True)
        for inner in _steps(root, path):
            with _inside(inner) as (folder, name), suppress(FileExistsError):
                os.mkdir(name, dir_fd=folder)
            _refuse_link(inner)
            if not inner.is_dir():
                raise SettingsError(f"{inner}: is a file where a folder must be; move it away.")
    if not os.access(path, os.W_OK | os.X_OK):
        raise SettingsError(
            f"{path}: nothing may be written into it, as its permissions are "
            f"{stat.S_IMODE(path.stat().st_mode):03o}: change them (chmod u+rwx), and the umask if that made them."
        )


def remove_file(path: Path) -> None:
    """Remove a file if it is there; of a link only the link goes."""
    with suppress(FileNotFoundError), _inside(path) as (folder, name):
        os.unlink(name, dir_fd=folder)


def remove_folder(path: Path) -> None:
    """Remove a folder with all that is in it, as far as that is possible.

    Raises:
        SettingsError: it is a link, or a folder on the way is.
    """
    with suppress(FileNotFoundError), _inside(path) as (folder, name):
        _refuse_link(path)
        if sys.version_info >= (3, 11) and folder is not None:
            shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def rename(path: Path, new: Path) -> None:
    """Give a file or a folder another name, in place of what has it.

    Raises:
        SettingsError: a folder on the way is a link, or a folder of the new name is.
    """
    with _inside(path) as (source, name), _inside(new) as (target, other):
        if path.is_dir():
            _refuse_link(path)
            _refuse_link(new)
        os.replace(name, other, src_dir_fd=source, dst_dir_fd=target)


def permit(path: Path, mode: int) -> None:
    """Set the permissions of a file."""
    with open_file(path, "r+b") as file:
        os.chmod(file.fileno() if os.chmod in os.supports_fd else path, mode)


def file_lock(path: Path, timeout: float = -1) -> FileLock:
    """The lock on a file, which is made; the system takes it from a process that was killed.

    Args:
        path: the file; the folder must be there.
        timeout: seconds to wait; without end by default.

    Raises:
        SettingsError: as `open_file` does.
    """
    open_file(path, "ab").close()
    return FileLock(path, timeout=timeout)


def refuse_links(folder: Path) -> None:
    """Look through a folder that libraries will write into by its path.

    Raises:
        SettingsError: there is a link in it, or something that is neither a file nor a folder.
    """
    waiting = [folder]
    while waiting:
        try:
            entries = sorted(os.scandir(waiting.pop()), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            if entry.is_symlink():
                raise _link(Path(entry.path))
            if entry.is_dir():
                waiting.append(Path(entry.path))
            elif not entry.is_file():
                raise _no_file(Path(entry.path))


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, lie on the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such thing for folders
    flags = os.O_RDWR if os.name == "nt" else os.O_RDONLY
    descriptor = os.open(path, flags | _NO_WAIT)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)


#: What some file systems answer where nothing can be synced.
_CANNOT_SYNC = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EBADF})


@contextmanager
def _inside(path: Path) -> Iterator[tuple[int | None, str]]:
    """Yield the folder that a file lies in, opened from the given folder on without a link, and the file's name."""
    root = _root(path) or path.parent
    steps = _steps(root, path.parent) if path.parent != root else []
    if not _BY_FOLDER:
        for step in steps:
            _refuse_link(step)
        yield None, str(path)
        return
    folder = os.open(root, os.O_RDONLY | _FOLDER)
    try:
        for step in steps:
            try:
                inner = os.open(step.name, os.O_RDONLY | _FOLDER | _NO_LINK, dir_fd=folder)
            except OSError as error:
                _refuse_link(step)
                error.filename = str(step)
                raise
            os.close(folder)
            folder = inner
        yield folder, path.name
    finally:
        os.close(folder)


def _root(path: Path) -> Path | None:
    """The given folder that a path lies in; the outermost of several."""
    if path.parts and _SCHEME.match(path.parts[0]):
        raise SettingsError("A URL where a folder or file of this machine must be named; only `compare` keeps at one.")
    place = path.absolute()
    outer = [given for given in _given if given in (place, *place.parents)]
    return min(outer, key=lambda given: len(given.parts), default=None)


def _steps(root: Path, path: Path) -> list[Path]:
    """The folders below the root down to a path, itself included."""
    names = path.absolute().relative_to(root.absolute()).parts
    if ".." in names:
        raise SettingsError(f"{path}: leads out of {root}.")
    steps = [root]
    for name in names:
        steps.append(steps[-1] / name)
    return steps[1:]


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise _link(path)


def _link(path: Path) -> SettingsError:
    return SettingsError(
        f"{path} is a link, and nothing is written or removed through one: remove it, or give another folder."
    )


def _no_file(path: Path) -> SettingsError:
    return SettingsError(f"{path} is a pipe or a device where a file must be: remove it, or give another folder.")
