"""Results that are kept under a URL of fsspec (``s3://bucket/first``, ``gs://...``, ``file:///mnt/share/first``).

The comparison works in a folder of this machine. What the URL holds of it is fetched first, each run is sent there as
it ends, and the models that are kept, the tables and the report at the end. So any machine can go on with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from steadytune.errors import SettingsError
from steadytune.support.atomic_files import replaced_when_whole
from steadytune.support.text import is_url

#: Present last: a run whose record is not there was not sent to its end.
RECORD = "record.json"
LEFT_HERE = ("checkpoints", "model.unfinished", "model.removed.unfinished", "run.lock")


#: A user's name with a password in a URL.
_PASSWORD = re.compile(r"//[^/@]*:[^/@]*@")


def open_remote(output_dir: str | None) -> RemoteFolder | None:
    """The folder under a URL; ``None`` for a folder of this machine."""
    return RemoteFolder(output_dir) if output_dir is not None and is_url(output_dir) else None


class RemoteFolder:
    """The folder of a comparison under a URL, and its copy here.

    Args:
        url: see `is_url`.

    Raises:
        SettingsError: nothing here can open such URLs.

    Example:
        >>> remote = RemoteFolder("memory://lab/first")
        >>> remote.local.parent.name, remote.local.name[:6]
        ('runs', 'first-')
    """

    def __init__(self, url: str) -> None:
        import fsspec

        if _PASSWORD.search(url):
            raise SettingsError(
                "--output-dir: the URL holds a password, which would be written into the results; put it where the "
                "store's own tools look for it (environment, configuration file)."
            )
        self.url = url.rstrip("/")
        try:
            found: tuple[Any, str] = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise SettingsError(f"--output-dir {url}: {_one_line(error)}") from error
        except Exception as error:  # whatever a file system raises when it is set up
            raise SettingsError(f"--output-dir {url}: cannot be opened ({_one_line(error)}).") from error
        self._files, self._path = found
        self._sent: dict[Path, int] = {}

    @property
    def local(self) -> Path:
        """The copy here."""
        name = "".join(c if c.isalnum() or c in "+._-" else "_" for c in self.url.rpartition("/")[2])
        return Path("runs") / f"{name}-{hashlib.sha256(self.url.encode()).hexdigest()[:8]}"

    def fetch(self) -> None:
        """Bring the runs and searches here that are not here yet; what is here is never overwritten.

        Raises:
            SettingsError: the URL cannot be read.
        """
        try:
            names = self._names()
            whole = {name.parent for name in names if name.name == RECORD}
            here = {run for run in whole if (self.local / run / RECORD).is_file()}
            for name in sorted(names, key=lambda n: n.name == RECORD):
                run = next((parent for parent in name.parents if parent in whole), None)
                if (run is not None and run not in here) or (name.suffix == ".journal" and len(name.parts) == 2):
                    self._fetch(name)
            for run in here:
                if self._files.cat_file(f"{self._path}/{run}/{RECORD}") == (self.local / run / RECORD).read_bytes():
                    self._sent |= {path: _changed(path) for path in _files_of_run(self.local / run)}
        except Exception as error:  # whatever the file system raises
            raise SettingsError(f"--output-dir {self.url}: cannot be read ({_one_line(error)}).") from error

    def _fetch(self, name: PurePosixPath) -> None:
        target = self.local / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with replaced_when_whole(target) as unfinished:
                self._files.get_file(f"{self._path}/{name}", str(unfinished))
            self._sent[target] = _changed(target)

    def _names(self) -> list[PurePosixPath]:
        try:
            found = self._files.find(self._path)
        except FileNotFoundError:
            return []
        root = self._files._strip_protocol(self._path).rstrip("/")
        return [PurePosixPath(name[len(root) :].lstrip("/")) for name in found if name.startswith(root)]

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
        files = sorted((path for path in paths if path.is_file()), key=lambda path: (path.name == RECORD, path))
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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
