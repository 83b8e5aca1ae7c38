"""What a comparison measured: each candidate against plain training, at equal updates and at equal compute; costs.

What follows from it in one sentence is in `verdict`, the arithmetic in `pairing`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from steadytune.comparison.kinds import CandidateKind
from steadytune.comparison.records import Cell, RunRecord
from steadytune.comparison.statistics.constant_predictions import in_words, same_for_every_row
from steadytune.comparison.statistics.paired_tests import (
    ALPHA,
    Paired,
    Summary,
    holm,
    paired,
    smallest_p,
    summary,
    with_worst,
)
from steadytune.settings.expressions import BASELINE

Finding = Literal["better", "worse", "not distinguishable"]


#: A ratio this near to 1 is no difference where the method declares that it costs nothing.
NOISE = 0.1


@dataclass(frozen=True)
class Ratio:
    """A cost as a multiple of plain training's, over the pairs of equal seeds.

    Attributes:
        median: of the ratios.
        low: the smallest of them.
        high: the largest.
        declared: what the method's own account says; 1 if it adds nothing.
    """

    median: float
    low: float
    high: float
    declared: float | None = None

    @property
    def is_none(self) -> bool:
        """Whether it is no difference: seeds lie on both sides of 1, or a method that adds nothing is within noise."""
        both_sides = self.low < 1 < self.high and abs(self.median - 1) < NOISE
        return both_sides or (self.declared == 1 and abs(self.median - 1) < NOISE)


@dataclass(frozen=True)
class Costs:
    """Costs as multiples of plain training's, ``None`` where not measured: of a step, the whole time, the memory."""

    step: Ratio | None
    total: Ratio | None
    memory: Ratio | None

    @property
    def seconds_per_update(self) -> float | None:
        """Median ratio of the time of a step."""
        return self.step.median if self.step else None

    @property
    def seconds(self) -> float | None:
        """Median ratio of the time of the whole training."""
        return self.total.median if self.total else None

    @property
    def peak_memory(self) -> float | None:
        """Median ratio of the peak memory."""
        return self.memory.median if self.memory else None


@dataclass(frozen=True)
class EqualCompute:
    """A method against plain training that was given as much compute.

    Attributes:
        candidate: e.g. ``"none@3.00x"``.
        factor: how many times the updates of plain training it made.
        paired: the gain of the method over it.
        holm_p: its p-value, corrected over the methods that have this view.
    """

    candidate: str
    factor: float
    paired: Paired
    holm_p: float


@dataclass(frozen=True)
class CandidateStatistics:
    """One row of the table.

    Attributes:
        candidate: as in the records.
        kind: plain training, plain training for longer (no method, so not among the tests), or a method.
        learning_rate: chosen on validation data.
        summary: of the scores.
        failed: runs that failed.
        diverged: runs that diverged.
        errors: ``(seed, status, error)`` of these.
        against_plain: gains over plain training, from the pairs in which both have a score; ``None`` for plain itself.
        holm_p: p-value after Holm's correction over the methods; ``None`` if the candidate is not a method.
        worst_case: the same, with each run that gave no score counted as the worst score seen, before or after
            training; equal to `against_plain` if all gave one.
        worst_case_holm_p: its p-value after Holm's correction.
        costs: in multiples of plain training.
        equal_compute: the second view; ``None`` where no such plain runs were made.
        constant: how many runs predict the same for every row, by what they predict.
        log_loss: mean over the seeds; ``None`` for other heads than classifiers.
        calibration_error: mean over the seeds of the expected calibration error; ``None`` if unknown.
    """

    candidate: str
    kind: CandidateKind
    learning_rate: float | None
    summary: Summary
    failed: int
    diverged: int
    errors: tuple[tuple[int, str, str], ...]
    against_plain: Paired | None
    holm_p: float | None
    worst_case: Paired | None
    worst_case_holm_p: float | None
    costs: Costs
    equal_compute: EqualCompute | None
    constant: Mapping[str, int] = field(default_factory=dict)
    log_loss: float | None = None
    calibration_error: float | None = None

    @property
    def finding(self) -> Finding | None:
        """What holds after all corrections, with and without the failed runs; ``None`` if it is not a method."""
        if self.against_plain is None or self.worst_case is None or self.holm_p is None:
            return None
        if _holds(self.against_plain, self.holm_p, 1) and _holds(self.worst_case, self.worst_case_holm_p, 1):
            return "better"
        if _holds(self.against_plain, self.holm_p, -1) and _holds(self.worst_case, self.worst_case_holm_p, -1):
            return "worse"
        return "not distinguishable"


@dataclass(frozen=True)
class CellStatistics:
    """One split of one task at one training size.

    Attributes:
        task: as in the cell, like the next three.
        train_size: rows asked for.
        metric: main metric.
        greater_is_better: whether more of it is better.
        split: where the scores were measured.
        rows: one for each candidate, plain training first.
        worst_score: what a run without a score counts as in the worst case; ``None`` if nothing was measured.
        notes: what a reader must know before the figures.
        test_rows: rows of the split that were scored; ``None`` if unknown.
    """

    task: str
    train_size: str | None
    metric: str
    greater_is_better: bool
    split: str
    rows: tuple[CandidateStatistics, ...]
    worst_score: float | None
    notes: tuple[str, ...]
    test_rows: int | None = None

    @property
    def by_gain(self) -> tuple[CandidateStatistics, ...]:
        """The rows for people: plain training, then by gain, the largest first."""

        def order(row: CandidateStatistics) -> tuple[bool, float]:
            gain = row.against_plain.mean if row.against_plain else None
            return row.kind != "plain", math.inf if gain is None else -gain

        return tuple(sorted(self.rows, key=order))

    @property
    def methods(self) -> tuple[CandidateStatistics, ...]:
        """The rows that are tested."""
        return tuple(row for row in self.rows if row.kind == "method")

    @property
    def smallest_p(self) -> float:
        """The smallest p-value possible with this number of pairs, after Holm over the methods."""
        pairs = max((row.against_plain.n for row in self.methods if row.against_plain), default=0)
        return min(1.0, len(self.methods) * smallest_p(pairs))

    def row(self, candidate: str) -> CandidateStatistics:
        """The row of a candidate; KeyError if there is none."""
        return {row.candidate: row for row in self.rows}[candidate]


def compare_cell(
    cell: Cell, split: str | None = None, *, costs: Mapping[str, float] | None = None, seed: int = 0
) -> CellStatistics:
    """Compare all candidates of a cell with plain training.

    Args:
        cell: the runs.
        split: where they were scored; the first test split by default, or validation if there is none.
        costs: declared cost of each method in plain steps, to find the plain runs of equal compute; without it,
            ``training["relative_cost"]`` of its runs, or else the measured time per update.
        seed: of the resampling.

    Raises:
        ValueError: two runs of the cell have one candidate and one seed.
    """
    split = split or (cell.test_splits[0] if cell.test_splits else "validation")
    twice = [key for key, count in Counter((run.candidate, run.seed) for run in cell.runs).items() if count > 1]
    if twice:
        raise ValueError(f"two runs of {twice[0][0]!r} with seed {twice[0][1]}: which counts?")
    view = _View(cell, split, seed, costs or {})
    methods = [name for name in cell.candidates if cell.what(name).kind == "method"]
    plain = {name: view.against(BASELINE, name) for name in cell.candidates if name != BASELINE}
    worst = {name: view.against(BASELINE, name, worst_case=True) for name in plain}
    equal = {name: view.against(longer[0], name) for name in methods if (longer := view.longer_plain(name))}
    holm_plain = holm({name: plain[name].p for name in methods})
    holm_worst = holm({name: worst[name].p for name in methods})
    holm_equal = holm({name: found.p for name, found in equal.items()})
    rows = []
    for name in cell.candidates:
        runs = cell.of(name)
        longer = view.longer_plain(name)
        scores = cell.scores(name, split).values()
        row = CandidateStatistics(
            candidate=name,
            kind=cell.what(name).kind,
            learning_rate=cell.chosen_learning_rate.get(name),
            summary=summary(scores, greater_is_better=cell.greater_is_better),
            failed=sum(run.status == "failed" for run in runs),
            diverged=sum(run.status == "diverged" for run in runs),
            errors=tuple((run.seed, run.status, run.error or "") for run in runs if run.status != "finished"),
            against_plain=plain.get(name),
            holm_p=holm_plain.get(name),
            worst_case=worst.get(name),
            worst_case_holm_p=holm_worst.get(name),
            costs=_costs(cell.of(BASELINE), runs),
            equal_compute=EqualCompute(*longer, equal[name], holm_equal[name]) if longer and name in equal else None,
            constant=_constant(runs, split, cell.metric),
            log_loss=_mean(_log_loss(run, split) for run in runs),
            calibration_error=_mean(_calibration_error(run, split) for run in runs),
        )
        rows.append(row)
    facts = (cell.task, cell.train_size, cell.metric, cell.greater_is_better, split)
    return CellStatistics(*facts, tuple(rows), view.worst_score, _notes(cell, split, rows), _test_rows(cell, split))


class _View:
    """The scores of one split, and what they are compared with."""

    def __init__(self, cell: Cell, split: str, seed: int, declared: Mapping[str, float]) -> None:
        self.cell, self.split, self.seed, self.declared = cell, split, seed, declared
        self.worst_score = self._worst_score()

    def _worst_score(self) -> float | None:
        # Scores before training are those of a head that knows nothing: chance.
        before = [run.metrics.get("before", {}).get(self.split, {}).get(self.cell.metric) for run in self.cell.runs]
        seen = [run.score(self.split, self.cell.metric) for run in self.cell.runs] + before
        return summary(seen, greater_is_better=self.cell.greater_is_better).worst

    def against(self, baseline: str, name: str, *, worst_case: bool = False) -> Paired:
        scores = [self.cell.scores(candidate, self.split) for candidate in (baseline, name)]
        if worst_case and self.worst_score is not None:
            scores = [with_worst(each, self.worst_score) for each in scores]
        return paired(scores[0], scores[1], greater_is_better=self.cell.greater_is_better, seed=self.seed)

    def longer_plain(self, name: str) -> tuple[str, float] | None:
        """The plain runs whose compute is nearest to the method's, if they are nearer than plain training itself."""
        cost = self._cost(name)
        if self.cell.what(name).kind != "method" or cost is None:
            return None
        factors = {BASELINE: 1.0}
        for other in self.cell.candidates:
            if (found := self.cell.what(other)).kind == "longer plain":
                factors[other] = found.more_updates
        nearest = min(factors, key=lambda other: abs(math.log(factors[other] / cost)))
        return (nearest, factors[nearest]) if nearest != BASELINE else None

    def _cost(self, name: str) -> float | None:
        runs = self.cell.of(name)
        recorded = (run.training.get("relative_cost") for run in runs)
        measured = _costs(self.cell.of(BASELINE), runs).seconds_per_update
        known = (self.declared.get(name), *recorded, measured)
        return next((float(cost) for cost in known if cost is not None and cost > 0), None)


def _costs(plain: Iterable[RunRecord], runs: Sequence[RunRecord]) -> Costs:
    first = {run.seed: run.training for run in plain if run.status == "finished"}
    pairs = [(first[run.seed], run.training) for run in runs if run.status == "finished" and run.seed in first]

    declared = [run.training.get("relative_cost") for run in runs]

    def ratio(name: str) -> Ratio | None:
        both = [(before.get(name), after.get(name)) for before, after in pairs]
        ratios = [after / before for before, after in both if before and after and before > 0 and after > 0]
        known = declared[0] if name.startswith("seconds") and declared else None
        return Ratio(median(ratios), min(ratios), max(ratios), known) if ratios else None

    return Costs(ratio("seconds_per_update"), ratio("seconds"), ratio("peak_memory_bytes"))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _log_loss(run: RunRecord, split: str) -> float | None:
    """The loss of a classifier; that of other heads is another quantity."""
    return run.score(split, "loss") if run.score(split, "accuracy") is not None else None


def _calibration_error(run: RunRecord, split: str) -> float | None:
    found = run.metrics.get("calibration", {}).get(split, {}).get("ece")
    return float(found) if run.status == "finished" and isinstance(found, int | float) else None


def _test_rows(cell: Cell, split: str) -> int | None:
    """Rows of a split that the runs were scored on; the fewest, should they differ."""
    counts = [run.metrics.get("after", {}).get(split, {}).get("rows") for run in cell.runs]
    return min((count for count in counts if isinstance(count, int)), default=None)


def _constant(runs: Iterable[RunRecord], split: str, metric: str) -> dict[str, int]:
    found = (same_for_every_row(run, split, metric) for run in runs)
    return dict(Counter(each for each in found if each is not None))


def _notes(cell: Cell, split: str, rows: Iterable[CandidateStatistics]) -> tuple[str, ...]:
    notes = []
    chosen_from = Counter(run.candidate for run in cell.tuning)
    if split not in cell.test_splits and max(chosen_from.values(), default=0) > 1:
        notes.append(f"The learning rates were chosen on {split} data, so these scores are too good.")
    for row in rows:
        pair = row.against_plain
        lost = [f"{count} {word}" for count, word in ((row.failed, "failed"), (row.diverged, "diverged")) if count]
        if lost:
            notes.append(f"{row.candidate}: {' and '.join(lost)} of {row.summary.n + row.summary.failed} runs.")
        if 0 < (constant := sum(row.constant.values())) < row.summary.n:
            what = in_words(row.constant, cell.task)
            notes.append(f"{row.candidate}: {constant} of {row.summary.n} runs {what}.")
        if pair is not None and pair.missing:
            notes.append(f"{row.candidate}: {pair.missing} seeds were run for it or for plain training only.")
        if pair is not None and pair.n and pair.ties == pair.n:
            notes.append(f"{row.candidate}: the same score as plain training with every seed.")
    return tuple(notes)


def _holds(found: Paired, p: float | None, sign: int) -> bool:
    """Whether a gain (``sign`` 1) or a loss (-1) is beyond chance by the corrected test and by the interval."""
    if p is None or p >= ALPHA or found.interval is None:
        return False
    return min(sign * end for end in found.interval) > 0
