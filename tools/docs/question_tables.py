"""The tables in docs/start/which-method.md: the four questions, as kept in benchmarks/results/questions."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from evidence import RESULTS, kept_cells

from steadytune.comparison.records import Cell
from steadytune.comparison.statistics.cells import CellStatistics, compare_cell
from steadytune.settings.expressions import BASELINE
from steadytune.support.text import interval, signed

QUESTIONS = RESULTS / "questions"
#: Pairs of methods that each comparison's question is about: the second against the first.
PAIRS: dict[str, Sequence[tuple[str, str]]] = {
    "question-1": (
        ("r_drop", "smoothness"),
        ("smoothness", "smoothness(masks=same)"),
        ("none@2.00x", "r_drop"),
        ("none@2.67x", "smoothness"),
    ),
    "question-3": (("smoothness", "smart"), ("bregman", "smart")),
}


def question_tables(folder: Path = QUESTIONS) -> list[str]:
    """A table for every kept comparison: each method against plain training, then the pairs that were asked for."""
    lines: list[str] = []
    for path, cell in kept_cells(folder):
        lines += [f"`{path.stem}`: {_setting(cell)}", "", *_table(compare_cell(cell)), ""]
        lines += _pairs(cell, PAIRS.get(path.stem, ()))
    return lines[:-1]


def _setting(cell: Cell) -> str:
    plain = sum(score is not None for score in cell.scores(BASELINE, _split(cell)).values())
    return f"{cell.task}, {cell.train_size or 'all'} rows, {cell.metric}, {plain} seeds of plain training"


def _split(cell: Cell) -> str:
    """What is scored on; where nothing was chosen that may be the validation rows."""
    return cell.test_splits[0] if cell.test_splits else "validation"


def _table(found: CellStatistics) -> Iterable[str]:
    yield "| method | rate | mean (sd) | gain, exact 95 % interval | p, Holm | p alone | ahead in |"
    yield "|---|---|---|---|---|---|---|"
    for row in found.rows:
        pair, summary = row.against_plain, row.summary
        gained = ("", "", "", "")
        if pair is not None and pair.mean is not None:
            holm = "" if row.holm_p is None else f"{row.holm_p:.2g}"
            where = f" {interval(pair.exact_interval)}" if pair.exact_interval else ""
            gained = (f"{signed(pair.mean)}{where}", holm, f"{pair.p:.2g}", f"{pair.wins} of {pair.n}")
        spread = "" if summary.mean is None or summary.sd is None else f"{summary.mean:.3f} ({summary.sd:.3f})"
        rate = "" if row.learning_rate is None else f"{row.learning_rate:g}"
        cells = (f"`{row.candidate}`", rate, spread, *gained)
        yield f"| {' | '.join(cells)} |"


def _pairs(cell: Cell, pairs: Sequence[tuple[str, str]]) -> list[str]:
    from steadytune.comparison.statistics.paired_tests import paired

    split = _split(cell)
    lines = []
    for first, second in pairs:
        one, other = cell.scores(first, split), cell.scores(second, split)
        found = paired(one, other, greater_is_better=cell.greater_is_better)
        if found.mean is None or found.exact_interval is None:
            continue
        means = [statistics.mean(v for v in scores.values() if v is not None) for scores in (one, other)]
        lines.append(
            f"- `{second}` against `{first}`: {signed(found.mean)} {interval(found.exact_interval)}, "
            f"p = {found.p:.2g}, ahead in {found.wins} of {found.n} ({means[1]:.3f} against {means[0]:.3f})"
        )
    return [*lines, ""] if lines else []
