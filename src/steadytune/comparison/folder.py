"""The folder of a comparison: whether it may be used, and what is known of the source that writes it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from steadytune.comparison.records import FILE_NAME
from steadytune.errors import SettingsError
from steadytune.settings.compare import CompareSettings
from steadytune.settings.groups import as_written
from steadytune.support.atomic_files import remove_abandoned, write_atomically
from steadytune.support.plain_yaml import read_yaml, write_yaml
from steadytune.support.reading import SETTINGS, read_text
from steadytune.support.writing import make_folder, refuse_links, writes_below

CONFIG = "compare.yaml"


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        SettingsError: it does.
    """
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"--output-dir {folder}: is a file; give a folder.")
    refuse_links(folder)
    if (folder / "config.yaml").is_file():
        raise SettingsError(f"--output-dir {folder}: holds a single run of `steadytune train`; give another folder.")
    own = {CONFIG, FILE_NAME, "runs", "locks", "search", "workers.log"}
    names = {p.name for p in folder.iterdir()} if folder.is_dir() else set()
    names = {name for name in names if not (name.startswith(f"{CONFIG}.") and name.endswith(".unfinished"))}
    if names and not names & own:
        raise SettingsError(f"--output-dir {folder}: is not empty and holds no comparison; give another folder.")


def as_begun(settings: CompareSettings) -> CompareSettings:
    """The settings, with recipe and pooling that the comparison of this folder was begun with, where none are given.

    Raises:
        SettingsError: the folder's configuration cannot be read.
    """
    file = settings.folder / CONFIG
    if not file.is_file():
        return settings
    held = read_yaml(read_text(file, SETTINGS), str(file))
    return as_written(settings, held) if isinstance(held, dict) else settings


def claim(settings: CompareSettings) -> None:
    """Make the folder, keep the resolved settings there, and remove what killed processes have left."""
    with writes_below(settings.folder):
        make_folder(settings.folder)
        remove_abandoned(settings.folder, "*.unfinished", "estimate-*")
        write_atomically(settings.folder / CONFIG, write_yaml(settings.resolved()))


def commit() -> dict[str, str]:
    """The commit of the source, where it is a checkout."""
    try:
        asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
        found = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": found} if found else {}
