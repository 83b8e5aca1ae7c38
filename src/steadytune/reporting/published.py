"""The numbers of a paper's table, kept beside the configuration that repeats it, and our own in the same columns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from steadytune.comparison.records import Cell, Comparison, RunRecord
from steadytune.settings.published import Column, Published


@dataclass(frozen=True)
class Line:
    """A row of the table as it is shown.

    Attributes:
        ours: whether it was measured here.
        model: name of the model.
        method: the candidate.
        values: mean or median over the seeds, and standard deviation (none if published), in the paper's unit.
    """

    ours: bool
    model: str
    method: str
    values: tuple[tuple[float, float | None] | None, ...]


@dataclass(frozen=True)
class Beside:
    """A published table with the comparison's own rows under it."""

    table: Published
    lines: tuple[Line, ...]


def beside_published(comparison: Comparison) -> Beside | None:
    """Lay a comparison beside the table that its configuration carries; ``None`` where it carries none."""
    content = comparison.settings.get("published")
    if not isinstance(content, Mapping):
        return None
    try:
        table = Published(**content)
    except (ValidationError, TypeError):  # written by another version: the comparison itself is still shown
        return None
    lines = [
        Line(False, row.model, row.method, tuple(None if v is None else (v, None) for v in row.values))
        for row in table.rows
    ]
    candidates = dict.fromkeys(name for cell in comparison.cells for name in cell.candidates)
    model = str(comparison.settings.get("model", ""))
    lines += [Line(True, model, name, _values(table, comparison, name)) for name in candidates]
    return Beside(table, tuple(lines))


def _values(table: Published, comparison: Comparison, candidate: str) -> tuple[tuple[float, float | None] | None, ...]:
    found: list[tuple[float, float | None] | None] = []
    for column in table.columns:
        known = [value[0] for value in found if value is not None]
        if column.mean:
            # A mean over other columns than the paper's would be another quantity.
            complete = known and len(known) == len(found)
            found.append((statistics.mean(known), None) if complete else None)
        else:
            cell = next((c for c in comparison.cells if _belongs(c, column)), None)
            found.append(_score(cell, column, candidate, table.statistic) if cell is not None else None)
    return tuple(found)


def _belongs(cell: Cell, column: Column) -> bool:
    return cell.task == column.task and column.train_size in (None, cell.train_size)


def _score(cell: Cell, column: Column, candidate: str, statistic: str) -> tuple[float, float | None] | None:
    first = column.split or (cell.test_splits[0] if cell.test_splits else "validation")
    splits = cell.test_splits if column.languages else (first,)
    known = [column.unit * s for run in cell.of(candidate) if (s := _of_run(run, column, splits, cell)) is not None]
    if not known:
        return None
    middle = statistics.median(known) if statistic == "median" else statistics.mean(known)
    return middle, statistics.stdev(known) if len(known) > 1 else None


def _of_run(run: RunRecord, column: Column, splits: tuple[str, ...], cell: Cell) -> float | None:
    if column.figure is not None:
        return run.metrics.get("figures", {}).get(column.figure)
    scores = [run.score(split, column.metric or cell.metric) for split in splits]
    known = [score for score in scores if score is not None]
    return statistics.mean(known) if known and len(known) == len(scores) else None
