"""How long a comparison will take: first from a measured plain step, then from its own runs."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from steadytune.comparison.candidates import Candidate
from steadytune.comparison.cells import PreparedCell
from steadytune.comparison.plan import RunPlan
from steadytune.comparison.records import RunRecord

PROBED_UPDATES = 5


@dataclass
class Forecast:
    """Expected seconds of runs.

    Attributes:
        workers: runs at the same time.
        setup: seconds of a run outside of training and evaluation; ``None`` while nothing is known.
        update: seconds of a plain update.
    """

    workers: int = 1
    setup: float | None = None
    update: float | None = None
    _seen: dict[tuple[object, ...], list[float]] = field(default_factory=lambda: defaultdict(list))

    def learn_probe(self, record: RunRecord) -> None:
        """Learn from a short plain run."""
        if record.status == "finished":
            self.update = record.training["seconds_per_update"]
            self.setup = max(0.0, record.training["wall_seconds"] - record.training["seconds"])

    def learn(self, record: RunRecord) -> None:
        """Learn from a run; the wall time of one whose tests are missing is nearly that of a whole one."""
        if record.status != "finished":
            return
        key = (record.candidate, record.task, record.train_size)
        wall = float(record.training.get("wall_seconds") or 0.0)
        self._seen[key].append(wall)
        if self.update is None:
            cost = float(record.training.get("relative_cost") or 1.0)
            self.update = float(record.training["seconds_per_update"]) / cost
            self.setup = max(0.0, wall - float(record.training["seconds"]))

    def of(self, cell: PreparedCell, candidate: Candidate, plan: RunPlan, *, is_trained: bool = False) -> float | None:
        """Expected seconds of a run; ``None`` while nothing is known.

        Args:
            cell: task and size of the run.
            candidate: what is trained.
            plan: of the run.
            is_trained: it was trained while learning rates were chosen, and only its test splits are missing.
        """
        if self.update is None or self.setup is None:
            return None
        scoring = self.scoring(cell, candidate, plan, is_trained=is_trained)
        if is_trained:
            return self.setup + scoring
        seen = self._seen.get((candidate.label, cell.task, cell.place.train_size))
        if seen:
            return statistics.median(seen)
        return self.setup + cell.updates(candidate) * self.update * candidate.relative_cost + scoring

    def scoring(self, cell: PreparedCell, candidate: Candidate, plan: RunPlan, *, is_trained: bool = False) -> float:
        """Expected seconds of a run that go into scoring rows; 0 while nothing is known."""
        if self.update is None:
            return 0.0
        settings = cell.settings
        batch = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
        row = self.update / (3 * batch)  # a third of a step is forward
        tests = sum(cell.evaluated_rows[name] for name in cell.test_splits) if plan.evaluate_test else 0
        if is_trained:
            return row * tests
        epochs = settings.num_train_epochs * candidate.more_updates if settings.max_steps <= 0 else 1
        validation = cell.evaluated_rows["validation"] * (epochs * settings.evaluate_each_epoch + 1)
        return row * (validation + tests)

    def total(
        self, runs: Iterable[tuple[PreparedCell, Candidate, RunPlan]], trained: Collection[str] = ()
    ) -> float | None:
        """Expected seconds of several runs, by all workers; ``None`` while nothing is known.

        Args:
            runs: not begun yet.
            trained: keys of those of which only the test splits are missing.
        """
        seconds = [self.of(*run, is_trained=run[2].key in trained) for run in runs]
        known = [s for s in seconds if s is not None]
        return sum(known) / self.workers if len(known) == len(seconds) else None
