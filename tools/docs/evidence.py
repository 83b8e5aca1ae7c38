"""The table of evidence in the README: what every comparison kept in benchmarks/results says, from its scores.

Read are all ``*.csv`` that `steadytune compare` wrote (``report.csv``), of the folder ``questions`` those that are
about the papers' own methods, and the older ``movie_reviews_500.json``. To add a comparison, copy its report.csv
there and run ``make docs``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from steadytune.comparison.records import Cell, RunRecord
from steadytune.comparison.statistics.cells import CandidateStatistics, CellStatistics, compare_cell
from steadytune.settings.expressions import BASELINE
from steadytune.support.text import interval, signed

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
#: Scores for which less is better.
ERRORS = frozenset({"loss", "mse", "mae"})
#: Questions about the two papers' methods; they ran beside other work, so times are left out.
MAIN_QUESTIONS = ("question-3", "question-4", "headline-1000")
COSTS = ("seconds", "seconds_per_update", "peak_memory_bytes")
HEADER = "task,train_size,stage,candidate"


def evidence_table(folder: Path = RESULTS, *, linked: bool = True) -> list[str]:
    """One row for each method of each kept comparison; losses and nulls stand among the gains.

    Args:
        folder: the kept results.
        linked: whether the data link to their file, as seen from the root of the repository.
    """
    lines = [
        "| data | method | seeds | plain | gain, 95 % interval | p | an update costs |",
        "|---|---|---|---|---|---|---|",
    ]
    for path, cell in (*kept_cells(folder), *kept_cells(folder / "questions")):
        if path.parent == folder or path.stem in MAIN_QUESTIONS:
            lines += _rows(compare_cell(cell), path.relative_to(RESULTS), linked=linked)
    return lines


def kept_cells(folder: Path = RESULTS) -> Iterator[tuple[Path, Cell]]:
    """Every task and training size of the kept comparisons, with its file."""
    for path in sorted(folder.glob("*.csv")):
        text = path.read_text(encoding="utf-8")
        if text.startswith(HEADER):
            for cell in cells_of(list(csv.DictReader(text.splitlines()))):
                yield path, cell
    older = folder / "movie_reviews_500.json"
    if older.exists():
        yield older, _older_cell(json.loads(older.read_text(encoding="utf-8")))


def cells_of(lines: Sequence[Mapping[str, str]]) -> list[Cell]:
    """The cells of a report.csv, of its compared runs alone."""
    compared = [line for line in lines if line["stage"] == "compared"]
    keys = dict.fromkeys((line["task"], line["train_size"]) for line in compared)
    return [_cell([line for line in compared if (line["task"], line["train_size"]) == key]) for key in keys]


def _cell(lines: Sequence[Mapping[str, str]]) -> Cell:
    first = lines[0]
    runs: dict[str, list[Mapping[str, str]]] = {}
    for line in lines:
        runs.setdefault(f"{line['candidate']} {line['seed']} {line['key']}", []).append(line)
    splits = tuple(dict.fromkeys(line["split"] for line in lines if line["split"] not in ("", "validation")))
    return Cell(
        task=first["task"],
        train_size=first["train_size"] or None,
        metric=first["metric"],
        greater_is_better=first["metric"] not in ERRORS,
        test_splits=splits,
        chosen_learning_rate={line["candidate"]: float(line["learning_rate"]) for line in lines},
        tuning=(),
        runs=tuple(_run(of_run) for of_run in runs.values()),
    )


def _run(lines: Sequence[Mapping[str, str]]) -> RunRecord:
    first = lines[0]
    scores = {line["split"]: {line["metric"]: float(line["score"])} for line in lines if line["score"]}
    costs = {
        name: float(first[name]) for name in ("seconds", "seconds_per_update", "peak_memory_bytes") if first[name]
    }
    status: Any = first["status"]
    return _record(first["candidate"], int(first["seed"]), scores, costs, status=status, task=first["task"])


def _record(
    candidate: str,
    seed: int,
    scores: Mapping[str, Mapping[str, float]],
    costs: Mapping[str, float],
    *,
    status: Any = "finished",
    task: str = "",
) -> RunRecord:
    return RunRecord(
        key="", candidate=candidate, methods=(), method_settings={}, task=task, train_size=None, learning_rate=0.0,
        seed=seed, status=status, error=None, metrics={"after": scores}, training=costs, environment={},
    )  # fmt: skip


def _older_cell(content: Mapping[str, Any]) -> Cell:
    runs = [
        _record(name, seed, {"test": {"accuracy": score}}, {})
        for name, found in content["results"].items()
        for seed, score in zip(found["seeds"], found["test_accuracy"]["scores"], strict=True)
    ]
    return Cell("movie-reviews", "500", "accuracy", True, ("test",), {}, (), tuple(runs))


def _rows(found: CellStatistics, path: Path, *, linked: bool) -> Iterable[str]:
    plain = found.row(BASELINE).summary
    size = f", {found.train_size} rows" if found.train_size else ""
    data = f"[{found.task}{size}](benchmarks/results/{path})" if linked else f"{found.task}{size}"
    for row in found.methods:
        cells = (f"{data}, {found.metric}", f"`{row.candidate}`", _seeds(row), _score(plain.mean), _gain(row), _p(row))
        yield f"| {' | '.join(cells)} | {_cost(row, path)} |"


def _seeds(row: CandidateStatistics) -> str:
    lost = row.failed + row.diverged
    pairs = row.against_plain.n if row.against_plain else 0
    return f"{pairs} ({lost} lost)" if lost else str(pairs)


def _gain(row: CandidateStatistics) -> str:
    pair = row.against_plain
    if pair is None or pair.mean is None:
        return "not measured"
    if pair.exact_interval is None:
        return f"{signed(pair.mean)}, too few seeds for an interval"
    return f"{signed(pair.mean)} {interval(pair.exact_interval)}"


def _p(row: CandidateStatistics) -> str:
    return "" if row.holm_p is None else f"{row.holm_p:.2g}"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _cost(row: CandidateStatistics, path: Path) -> str:
    ratio = None if path.stem in MAIN_QUESTIONS else row.costs.seconds_per_update
    return "not kept" if ratio is None else f"{ratio:.2f} ×"
