"""The journal of a search: an Optuna study in one file that several processes write, and that survives their ends."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from steadytune.errors import SettingsError
from steadytune.support.writing import open_file

if TYPE_CHECKING:
    import optuna


def open_study(journal: Path, lock: FileLock, name: str, greater_is_better: bool) -> optuna.Study:
    """The study that a journal holds, or a new one.

    Args:
        journal: the file.
        lock: held while it is written.
        name: of the study.
        greater_is_better: the direction.

    Raises:
        SettingsError: Optuna is not installed.
    """
    try:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalStorage
    except ImportError:
        raise SettingsError("--search needs Optuna: pip install 'steadytune[search]'.") from None
    open_file(journal, "ab").close()
    with lock, quiet():
        repairing: Any = _RepairingLock(journal, lock)
        repairing.repair()
        storage = JournalStorage(JournalFileBackend(str(journal), lock_obj=repairing))
        direction = "maximize" if greater_is_better else "minimize"
        return optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)


class _RepairingLock:
    """Optuna's lock for a journal: the system takes it from a killed process, and what that left half written goes."""

    def __init__(self, journal: Path, lock: FileLock) -> None:
        self._journal, self._lock = journal, lock

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._lock.acquire()
        self.repair()
        return True

    def release(self) -> None:
        """Give it back."""
        self._lock.release()

    def repair(self) -> None:
        """Leave whole lines."""
        _cut_half_line(self._journal)


def _cut_half_line(path: Path) -> None:
    """Remove what stands after the last line's end: a process was killed, or the disk was full, while it wrote."""
    with open_file(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size == 0:
            return
        file.seek(size - 1)
        if file.read(1) == b"\n":
            return
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna tells each trial, and warns that what is used of it may change."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
