"""What a report shows, worked out of a comparison: the same for every form that it is written in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from steadytune.comparison.environments import differences
from steadytune.comparison.records import Cell, Comparison, RunRecord
from steadytune.comparison.statistics.cells import (
    CandidateStatistics,
    CellStatistics,
    Paired,
    Summary,
    compare_cell,
)
from steadytune.comparison.statistics.trust import Trust, trust
from steadytune.comparison.statistics.verdict import Verdict, headline, verdict
from steadytune.reporting.published import Beside, beside_published
from steadytune.reporting.words import label, size
from steadytune.support.text import plain_text


@dataclass(frozen=True)
class Gain:
    """What a candidate gains over plain training.

    Attributes:
        mean: over the seeds.
        interval: of the mean, 95 %, by the permutation test; ``None`` below six seeds, where there is none.
        by_seed: each difference.
    """

    mean: float
    interval: tuple[float, float] | None
    by_seed: Mapping[int, float]


@dataclass(frozen=True)
class MethodView:
    """One candidate on one split.

    Attributes:
        label: its name for readers.
        slot: its color, the same in the whole report; 0 for plain training.
        scores: by seed.
        statistics: its row.
    """

    label: str
    slot: int
    scores: Mapping[int, float | None]
    statistics: CandidateStatistics

    @property
    def summary(self) -> Summary:
        """Standard deviation of the scores."""
        return self.statistics.summary

    @property
    def paired(self) -> Paired | None:
        """Against plain training."""
        return self.statistics.against_plain

    @property
    def gain(self) -> Gain | None:
        """Over plain training; ``None`` without a pair of runs."""
        found = self.paired
        if found is None or found.mean is None:
            return None
        return Gain(found.mean, found.exact_interval, found.gains)

    @property
    def step_ratio(self) -> float | None:
        """Time of a step, in plain ones."""
        return self.statistics.costs.seconds_per_update


@dataclass(frozen=True)
class SplitView:
    """The candidates on one split; plain training first."""

    name: str
    statistics: CellStatistics
    methods: tuple[MethodView, ...]

    @property
    def tested(self) -> tuple[MethodView, ...]:
        """Plain training and all methods, without plain training for longer."""
        return tuple(m for m in self.methods if m.statistics.kind != "longer plain")

    @property
    def with_equal_compute(self) -> tuple[MethodView, ...]:
        """The methods that were compared with plain training of equal compute."""
        return tuple(m for m in self.methods if m.statistics.equal_compute is not None)

    @property
    def ordered(self) -> tuple[MethodView, ...]:
        """All candidates as tables show them: plain training, then by gain."""
        views = {m.statistics.candidate: m for m in self.methods}
        return tuple(views[row.candidate] for row in self.statistics.by_gain)


@dataclass(frozen=True)
class CellView:
    """One task at one training size."""

    title: str
    cell: Cell
    verdict: Verdict
    splits: tuple[SplitView, ...]
    slots: Mapping[str, int]
    trust: Trust

    @property
    def main(self) -> SplitView:
        """The split that the verdict is about."""
        return self.splits[0]

    @property
    def shown(self) -> MethodView | None:
        """The method that the figures at the top are about: that of the verdict, or else the one that gains most.

        ``None`` without any, and where nothing was learned: then figures would say something of chance.
        """
        if self.verdict.kind == "nothing learned":
            return None
        methods = {m.statistics.candidate: m for m in self.main.tested[1:]}
        if self.verdict.candidate in methods:
            return methods[self.verdict.candidate]
        gaining = [(m.gain.mean, -m.slot, m) for m in methods.values() if m.gain is not None]
        return max(gaining)[2] if gaining else None

    @property
    def failures(self) -> tuple[RunRecord, ...]:
        """All runs without a score, those of tuning too."""
        return tuple(run for run in (*self.cell.tuning, *self.cell.runs) if run.status != "finished")

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """The grid."""
        return tuple(sorted({run.learning_rate for run in self.cell.tuning}))

    def tuned(self) -> list[tuple[str, list[tuple[str, float | None, bool]]]]:
        """For each candidate, what each learning rate scored on validation data, and whether it was chosen."""
        found: dict[str, dict[float, float | None]] = {}
        states: dict[tuple[str, float], str] = {}
        for run in self.cell.tuning:
            found.setdefault(run.candidate, {})[run.learning_rate] = run.score("validation", self.cell.metric)
            states[run.candidate, run.learning_rate] = run.status
        rows = []
        for candidate, scores in found.items():
            chosen = self.cell.chosen_learning_rate.get(candidate)
            cells = [(states.get((candidate, r), ""), scores.get(r), r == chosen) for r in self.learning_rates]
            rows.append((label(candidate), cells))
        return rows

    def other_metrics(self) -> tuple[list[str], list[tuple[str, str, list[float | None]]]]:
        """Means of the metrics that the tables above leave out: their names, and rows of split, candidate, values."""
        splits = ["validation", *self.cell.test_splits]
        names = dict.fromkeys(
            name
            for run in self.cell.runs
            for split in splits
            for name, value in run.metrics.get("after", {}).get(split, {}).items()
            if name != "rows" and is_number(value)
        )
        rows = []
        for split in splits:
            for candidate in self.cell.candidates:
                means = [_mean(run.score(split, name) for run in self.cell.of(candidate)) for name in names]
                if any(mean is not None for mean in means):
                    rows.append((plain_text(split), label(candidate), means))
        return [plain_text(name) for name in names], rows


def is_number(value: Any) -> bool:
    """Whether it can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class ReportData:
    """A comparison with its statistics."""

    comparison: Comparison
    cells: tuple[CellView, ...]

    @cached_property
    def kind(self) -> str:
        """The verdict in a word or two; ``"mixed"`` if it differs between the cells."""
        kinds = {(view.verdict.kind, view.verdict.candidate) for view in self.cells}
        return self.cells[0].verdict.kind if len(kinds) == 1 else "mixed" if kinds else "nothing measured"

    @cached_property
    def sentence(self) -> str:
        """The verdict in words."""
        return plain_text(headline((view.main.statistics, view.verdict) for view in self.cells))

    @cached_property
    def claim(self) -> str:
        """The verdict as one sentence, for a heading."""
        return plain_text(self.cells[0].verdict.claim) + "." if len(self.cells) == 1 else self.sentence

    @cached_property
    def reasons(self) -> str:
        """The figures behind the claim, and what else a reader must know; empty for several cells."""
        if len(self.cells) != 1:
            return ""
        found = self.cells[0].verdict
        evidence = f"{found.evidence[:1].upper()}{found.evidence[1:]}." if found.evidence else ""
        return plain_text(" ".join(part for part in (evidence, found.further) if part))

    @property
    def chose_rates(self) -> bool:
        """Whether any learning rate was chosen among several."""
        return any(len(view.learning_rates) > 1 for view in self.cells)

    @property
    def badge(self) -> str:
        """The kind of the verdict, for people."""
        words = {"use": "Use it", "promising": "Promising, not shown", "mixed": "It depends on the data"}
        return words.get(self.kind, self.kind.capitalize())

    @property
    def eyebrow(self) -> str:
        """Model, data and extent of the comparison."""
        settings = self.comparison.settings
        seeds = len({run.seed for view in self.cells for run in view.cell.runs})
        data = self.cells[0].title if len(self.cells) == 1 else self.comparison.task
        parts = ["steadytune compare", settings.get("model", ""), data, f"{seeds} seed{'s' * (seeds != 1)}"]
        return " · ".join(plain_text(part) for part in parts if part)

    @property
    def failures(self) -> list[tuple[str, RunRecord]]:
        """All runs without a score, with the title of their cell."""
        return [(view.title, run) for view in self.cells for run in view.failures]

    @property
    def differences(self) -> list[str]:
        """What was not the same for all runs: devices, threads, versions."""
        runs = (run for view in self.cells for run in (*view.cell.tuning, *view.cell.runs))
        return [plain_text(note) for note in differences(runs)]

    @cached_property
    def beside(self) -> Beside | None:
        """The published table that the configuration carries, with our rows."""
        return beside_published(self.comparison)

    @property
    def runs(self) -> list[tuple[str, str, str, str, RunRecord]]:
        """Every run: title of its cell, stage, the split it was scored on, metric, record."""
        return [
            (view.title, stage, split, view.cell.metric, run)
            for view in self.cells
            for stage, split, runs in (
                ("tuning", "validation", view.cell.tuning),
                ("compared", view.main.statistics.split, view.cell.runs),
            )
            for run in runs
        ]


def report_data(comparison: Comparison) -> ReportData:
    """Work out all that the report shows."""
    names = dict.fromkeys(name for cell in comparison.cells for name in cell.candidates)
    kinds = {name: cell.what(name).kind for cell in comparison.cells for name in cell.candidates}
    methods = [name for name in names if kinds[name] == "method"]
    slots = dict.fromkeys(names, 0) | {name: place + 1 for place, name in enumerate(methods)}
    return ReportData(comparison, tuple(_cell_view(cell, slots) for cell in comparison.cells if cell.runs))


def _cell_view(cell: Cell, slots: Mapping[str, int]) -> CellView:
    splits = []
    for split in cell.test_splits or ("validation",):
        statistics = compare_cell(cell, split)
        methods = [
            MethodView(label(row.candidate), slots[row.candidate], cell.scores(row.candidate, split), row)
            for row in statistics.rows
        ]
        splits.append(SplitView(plain_text(split), statistics, tuple(methods)))
    title = f"{plain_text(cell.task)}, {size(cell.train_size)}"
    return CellView(
        title, cell, verdict(splits[0].statistics), tuple(splits), slots, trust(cell, splits[0].statistics)
    )
