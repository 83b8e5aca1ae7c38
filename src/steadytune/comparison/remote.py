"""Results that are kept under a URL of fsspec (``s3://bucket/first``, ``gs://...``, ``file:///mnt/share/first``).

The comparison works in a folder of this machine. What the URL holds of it is fetched first, each run is sent there as
it ends, and the models that are kept, the tables and the report at the end. So any machine can resume it.

Whoever can write to the store decides what names and sizes it tells. Each name is checked before anything is fetched,
and what is written here lies below the copy's folder.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from steadytune.errors import SettingsError
from steadytune.support.atomic_files import replaced_when_whole
from steadytune.support.reading import RESULTS, read_bytes
from steadytune.support.secrets import refuse_secret_url
from steadytune.support.text import brief, excerpt, is_url
from steadytune.support.writing import make_folder, open_file, refuse_links, writes_below

#: Present last: a run whose record is not there was not sent to its end.
RECORD = "record.json"
LEFT_HERE = (
    "checkpoints",
    "model.unfinished",
    "model.removed.unfinished",
    "checkpoints.removed.unfinished",
    "run.lock",
)
#: What fsspec opens and no results are kept in: archives, other URLs' contents, web pages, code, parts of a program.
NO_STORES = frozenset(
    {"zip", "tar", "libarchive", "reference", "http", "https", "ftp", "data", "dir", "generic", "asyncwrapper", "root"}
    | {
        "simplecache",
        "filecache",
        "blockcache",
        "cached",
        "dask",
        "git",
        "github",
        "gist",
        "jupyter",
        "jlab",
        "lakefs",
    }
)
#: Files that one comparison can have.
MOST_FILES = 1_000_000
_BYTES_AT_ONCE = 1 << 20
_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def open_remote(output_dir: str | None) -> RemoteFolder | None:
    """The folder under a URL, of which nothing is asked yet; ``None`` for a folder of this machine."""
    return RemoteFolder(output_dir) if output_dir is not None and is_url(output_dir) else None


class RemoteFolder:
    """The folder of a comparison under a URL, and its copy here.

    Args:
        url: see `is_url`.

    Raises:
        SettingsError: results are not kept under such URLs, or it holds a secret.

    Example:
        >>> remote = RemoteFolder("memory://lab/first")
        >>> remote.local.parent.name, remote.local.name[:6]
        ('runs', 'first-')
    """

    def __init__(self, url: str) -> None:
        refuse_secret_url("--output-dir", url)
        found = _PROTOCOL.match(url)
        if "::" in url or found is None or found[1].lower() in NO_STORES:
            raise SettingsError(
                f"--output-dir {url}: results are kept in a folder or in a store such as s3://bucket/name; "
                "not in an archive, a chain of URLs (::) or a web page."
            )
        self.url = url.rstrip("/")
        self._sent: dict[Path, int] = {}

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system of the store, and the folder's name in it."""
        import fsspec

        try:
            found: tuple[Any, str] = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise SettingsError(f"--output-dir {self.url}: {_one_line(error)}") from error
        except Exception as error:  # whatever a file system raises when it is set up
            raise SettingsError(f"--output-dir {self.url}: cannot be opened ({_one_line(error)}).") from error
        return found

    @property
    def _files(self) -> Any:
        return self._opened[0]

    @property
    def _path(self) -> str:
        return self._opened[1]

    @property
    def local(self) -> Path:
        """The copy here."""
        name = "".join(c if c.isalnum() or c in "+._-" else "_" for c in self.url.rpartition("/")[2])
        return Path("runs") / f"{name}-{hashlib.sha256(self.url.encode()).hexdigest()[:8]}"

    def fetch(self) -> None:
        """Bring the runs and searches here that are not here yet; what is here is never overwritten.

        Raises:
            SettingsError: the URL cannot be read, or holds what leads out of the copy's folder.
        """
        _ = self._opened
        try:
            with writes_below(self.local):
                self._fetch_missing()
        except SettingsError:
            raise
        except Exception as error:  # whatever the file system raises
            raise SettingsError(f"--output-dir {self.url}: cannot be read ({_one_line(error)}).") from error

    def _fetch_missing(self) -> None:
        sizes = self._sizes()
        refuse_links(self.local)
        whole = {name.parent for name in sizes if _is_record(name)}
        here = {run for run in whole if (self.local / run / RECORD).is_file()}
        wanted = [name for name in sizes if self._is_wanted(name, whole - here)]
        self._refuse_full_disk(sum(sizes[name] for name in wanted))
        for name in sorted(wanted, key=lambda n: n.name == RECORD):
            self._fetch(name, sizes[name])
        for run in here:
            record = self.local / run / RECORD
            is_alike = sizes[run / RECORD] == record.stat().st_size <= RESULTS
            there = f"{self._path}/{run}/{RECORD}"
            if is_alike and self._files.cat_file(there, end=RESULTS) == read_bytes(record, RESULTS):
                self._sent |= {path: _changed(path) for path in _files_of_run(self.local / run)}

    def _is_wanted(self, name: PurePosixPath, runs: set[PurePosixPath]) -> bool:
        if (self.local / name).exists():
            return False
        is_journal = len(name.parts) == 2 and name.parts[0] == "search" and name.suffix == ".journal"
        return is_journal or any(parent in runs for parent in name.parents)

    def _refuse_full_disk(self, size: int) -> None:
        make_folder(self.local.parent)
        free = shutil.disk_usage(self.local.parent).free
        if size > free:
            raise SettingsError(
                f"--output-dir {self.url}: holds {size / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free here."
            )

    def _fetch(self, name: PurePosixPath, size: int) -> None:
        """Copy one file; refuse one that is longer than the size given by the store."""
        target = self.local / name
        make_folder(target.parent)
        with (
            replaced_when_whole(target) as unfinished,
            self._files.open(f"{self._path}/{name}", "rb") as source,
            open_file(unfinished, "wb") as copy,
        ):
            left = size
            while part := source.read(min(_BYTES_AT_ONCE, left + 1)):
                left -= len(part)
                if left < 0:
                    raise SettingsError(
                        f"--output-dir {self.url}: {excerpt(name)} is longer than the {size:,} bytes it should be."
                    )
                copy.write(part)
        self._sent[target] = _changed(target)

    def _sizes(self) -> dict[PurePosixPath, int]:
        """The files of the store by their names from the folder on, with their sizes.

        Raises:
            SettingsError: a name leads elsewhere, or the store tells no size that a file can have.
        """
        try:
            found: Mapping[str, Mapping[str, Any]] = self._files.find(self._path, detail=True)
        except FileNotFoundError:
            return {}
        if len(found) > MOST_FILES:
            raise SettingsError(f"--output-dir {self.url}: holds {len(found):,} files; {MOST_FILES:,} may be.")
        root = self._files._strip_protocol(self._path).rstrip("/")
        sizes = {}
        for full, told in found.items():
            if full.startswith(f"{root}/") or not root:
                name = self._checked(full[len(root) :].lstrip("/"))
                size = told.get("size")
                if not isinstance(size, int) or size < 0:
                    raise SettingsError(f"--output-dir {self.url}: {excerpt(name)} has no size.")
                sizes[name] = size
        return sizes

    def _checked(self, name: str) -> PurePosixPath:
        """A name that a store tells, if it lies below the folder on every system.

        Raises:
            SettingsError: it does not.
        """
        parts = name.split("/")
        hostile = any(part in ("", ".", "..") or part.endswith((" ", ".")) for part in parts)
        if hostile or not name.isprintable() or any(c in name for c in '\\:*?"<>|') or len(name) > 1000:
            raise SettingsError(
                f"--output-dir {self.url}: the store holds {excerpt(name)}, which is no name of a file of a "
                "comparison; nothing was fetched. Do not trust who wrote it."
            )
        return PurePosixPath(name)

    def send_run(self, folder: Path) -> None:
        """Send a run that has ended, without its model, which may not be kept.

        Raises:
            SettingsError: the URL cannot be written; the results stay here.
        """
        self._send(_files_of_run(folder))

    def send_all(self) -> None:
        """Send what was not sent yet, the models that were kept, and all that lies beside the runs.

        Raises:
            SettingsError: the URL cannot be written; the results stay here.
        """
        for record in sorted(self.local.glob(f"runs/*/{RECORD}")):
            self.send_run(record.parent)
        self._send(self.local.glob("runs/*/model/**/*"))
        self._send([*self.local.glob("*"), *self.local.glob("search/*.journal")])

    def _send(self, paths: Iterable[Path]) -> None:
        files = sorted(
            (p for p in paths if p.is_file() and not p.is_symlink()), key=lambda path: (path.name == RECORD, path)
        )
        try:
            for path in files:
                changed = _changed(path)
                if self._sent.get(path) == changed:
                    continue
                target = f"{self._path}/{path.relative_to(self.local).as_posix()}"
                self._files.makedirs(target.rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(path), target)
                self._sent[path] = changed
        except Exception as error:  # whatever the file system raises
            raise SettingsError(
                f"--output-dir {self.url}: cannot be written ({_one_line(error)}); the results lie in {self.local}, "
                "and the same command sends them again."
            ) from error


def _files_of_run(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.relative_to(folder).parts[0] not in ("model", *LEFT_HERE)]


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns


def _is_record(name: PurePosixPath) -> bool:
    """Whether it is the record of a run, directly in the folder of runs."""
    return len(name.parts) == 3 and name.parts[0] == "runs" and name.name == RECORD


def _one_line(error: BaseException) -> str:
    return brief(error) or type(error).__name__
