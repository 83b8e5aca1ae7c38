"""Which runs of a comparison still have their models."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from steadytune.comparison.folder import CONFIG
from steadytune.comparison.records import FILE_NAME, Cell, RunRecord, read_comparison, read_record
from steadytune.errors import SettingsError
from steadytune.settings.expressions import BASELINE

#: Most runs listed.
NAMED = 3


def is_comparison(folder: Path) -> bool:
    """Whether a folder is that of a comparison."""
    return any((folder / name).is_file() for name in (CONFIG, FILE_NAME))


def kept_models(folder: Path) -> str:
    """The end of a sentence that names the runs of a comparison whose models were kept; empty for other folders."""
    if not is_comparison(folder):
        return ""
    runs = sorted(path.parent for path in folder.glob("runs/*/model") if path.is_dir())
    if not runs:
        return ", and no model was kept of it (--keep-models none, or it is not finished)."
    more = f", or one of {len(runs) - NAMED} more in {folder / 'runs'}" if len(runs) > NAMED else ""
    of = "the run whose model was kept" if len(runs) == 1 else "one of the runs whose models were kept"
    return f"; give {of}: {', '.join(map(_named, runs[:NAMED]))}{more}."


def best_on_validation(runs: Iterable[tuple[Cell, RunRecord]]) -> tuple[Cell, RunRecord] | None:
    """The run with the best validation score, of cells that share a metric; ``None`` if none has a score.

    On a tie it is plain training's, which needs no proof, and then the one of smaller loss, learning rate and seed.
    """
    scored = []
    for cell, run in runs:
        score, loss = run.score("validation", cell.metric), run.score("validation", "loss")
        if score is not None:
            signed = score if cell.greater_is_better else -score
            better = -math.inf if loss is None else -loss
            order = (signed, run.candidate == BASELINE, better, -run.learning_rate, -run.seed)
            scored.append((order, cell, run))
    return max(scored, key=lambda found: found[0])[1:] if scored else None


def best_kept_run(folder: Path) -> tuple[Path, str]:
    """The folder of the best run of a comparison on validation data among those with a model, and a line about it.

    Raises:
        SettingsError: no model was kept, the comparison is not finished, or it is about several tasks.
    """
    comparison = read_comparison(folder)
    place = folder / "runs"
    kept = [(cell, run) for cell in comparison.cells for run in cell.runs if (place / run.key / "model").is_dir()]
    tasks = list(dict.fromkeys(cell.task for cell, _ in kept))
    if len(tasks) > 1:
        raise SettingsError(f"{folder}: compares several tasks ({', '.join(tasks)}){kept_models(folder)}")
    best = best_on_validation(kept)
    if best is None:
        raise SettingsError(f"{folder}: holds a comparison{kept_models(folder)}")
    cell, run = best
    score = run.score("validation", cell.metric)
    line = f"Best model of {folder}: {run.candidate}, {cell.metric} {score:.3f} on validation (runs/{run.key})."
    return place / run.key, line


def _named(run: Path) -> str:
    record = read_record(run)
    if record is None:
        return str(run)
    size = f", {record.train_size} rows" if record.train_size else ""
    return f"{run} ({record.candidate}, {record.task}{size})"
