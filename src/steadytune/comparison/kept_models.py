"""Which runs of a comparison still have their models, for who wants to go on with one."""

from __future__ import annotations

from pathlib import Path

from steadytune.comparison.folder import CONFIG
from steadytune.comparison.records import FILE_NAME, read_record

#: So many are named.
NAMED = 3


def kept_models(folder: Path) -> str:
    """The end of a sentence that names the runs of a comparison whose models were kept; empty for other folders."""
    if not any((folder / name).is_file() for name in (CONFIG, FILE_NAME)):
        return ""
    runs = sorted(path.parent for path in folder.glob("runs/*/model") if path.is_dir())
    if not runs:
        return ", and no model was kept of it (--keep-models none, or it is not finished)."
    more = f", or one of {len(runs) - NAMED} more in {folder / 'runs'}" if len(runs) > NAMED else ""
    of = "the run whose model was kept" if len(runs) == 1 else "one of the runs whose models were kept"
    return f"; give {of}: {', '.join(map(_named, runs[:NAMED]))}{more}."


def _named(run: Path) -> str:
    record = read_record(run)
    if record is None:
        return str(run)
    size = f", {record.train_size} rows" if record.train_size else ""
    return f"{run} ({record.candidate}, {record.task}{size})"
