"""The tasks of a comparison: what is known of each before a run, the plans of its runs, and what validation says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadytune.comparison.candidates import Candidate
from steadytune.comparison.fingerprint import code_digest, run_key
from steadytune.comparison.plan import CellKey, RunPlan, places
from steadytune.comparison.records import RunRecord, read_record
from steadytune.comparison.statistics.detectable import SHARES, smallest_gain_of_rows, standard_error
from steadytune.models.digest import model_digest
from steadytune.settings.compare import CompareSettings
from steadytune.settings.expressions import BASELINE
from steadytune.support.text import counted, number
from steadytune.tasks.digest import data_digest
from steadytune.tasks.subset import parse_train_size
from steadytune.training.chosen import follow_recipe
from steadytune.training.facts import facts_of_model
from steadytune.training.recipe import learning_rates
from steadytune.training.rows import load_data

LESS_IS_BETTER = ("mse", "loss", "perplexity")
#: A gain that people compare methods for: where the test rows cannot show it, that is said beforehand.
GAIN_LOOKED_FOR = 0.02
#: A score before any was measured, for its standard error.
TYPICAL_SCORE = 0.8
#: Fewest points of a training curve (fewer if the run has fewer updates).
CURVE_POINTS = 40


@dataclass(frozen=True, eq=False)
class PreparedCell:
    """One task at one training size, before and while its runs are made.

    Attributes:
        settings: of the comparison.
        place: task and size.
        task: name of the task, or of the train file.
        metric: the task's main metric.
        test_splits: evaluated after training; never looked at to choose anything.
        train_rows: rows that a run trains on.
        evaluated_rows: rows of all other splits.
        fingerprint: digests of code, data and model.
        notes: what the user must get to see about the data.
    """

    settings: CompareSettings
    place: CellKey
    task: str
    metric: str
    test_splits: tuple[str, ...]
    train_rows: int
    evaluated_rows: Mapping[str, int]
    fingerprint: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def greater_is_better(self) -> bool:
        """Whether more of the metric is better."""
        return self.metric not in LESS_IS_BETTER

    def updates(self, candidate: Candidate) -> int:
        """Updates of one run of a candidate."""
        s = self.settings
        if s.max_steps > 0:
            return max(1, round(s.max_steps * candidate.more_updates))
        per_epoch = math.ceil(
            self.train_rows / min(s.per_device_train_batch_size * s.gradient_accumulation_steps, self.train_rows)
        )
        return math.ceil(per_epoch * s.num_train_epochs * candidate.more_updates)

    def plan(self, candidate: Candidate, learning_rate: float, seed: int, *, evaluate_test: bool) -> RunPlan:
        """The plan of one run."""
        from steadytune.methods.registry import build_methods

        settings = self.settings.run_settings(
            task=self.place.task,
            train_size=self.place.train_size,
            learning_rate=learning_rate,
            seed=seed,
            **candidate.changes(self.settings),
        )
        methods = build_methods(settings.methods, settings.method_settings())
        key = run_key(settings, methods, self.fingerprint)
        folder = self.settings.folder / "runs" / key
        logged = min(
            settings.logging_steps, max(1, self.updates(candidate) // CURVE_POINTS)
        )  # of short runs, a curve too
        return RunPlan(
            key=key,
            candidate=candidate.label,
            settings=settings.model_copy(
                update={"output_dir": str(folder), "save_total_limit": 1, "logging_steps": logged}
            ),
            metric=self.metric,
            evaluate_test=evaluate_test,
            relative_cost=candidate.relative_cost,
            retry_failed=self.settings.retry_failed,
            fingerprint=self.fingerprint,
            each_epoch=self.settings.evaluate_each_epoch,
            facts=candidate.facts,
            evaluate=tuple(self.settings.evaluate) if evaluate_test else (),
        )

    def too_few_rows(self, methods: int) -> str:
        """A warning where the test rows cannot show a gain of `GAIN_LOOKED_FOR`; empty where they can."""
        split = (self.test_splits or ("validation",))[0]
        rows = self.evaluated_rows.get(split, 0)
        seeds = self.settings.seeds
        gain = smallest_gain_of_rows(rows, seeds, methods) if self.metric in SHARES and methods else None
        if gain is None or gain <= GAIN_LOOKED_FOR:
            return ""
        error = standard_error(self.metric, TYPICAL_SCORE, rows)
        return (
            f"{self.task}: {counted(rows, 'row')} in {split}: the standard error of a score of {TYPICAL_SCORE} is "
            f"{number(error)}, and {counted(seeds, 'seed')} show gains from about {number(gain)} on. Give more test "
            "rows to see smaller ones."
        )

    def validation(self, record: RunRecord) -> tuple[float, float] | None:
        """What a choice goes by, more is better: the metric on validation data, and on a tie the loss there."""
        score, loss = (record.score("validation", name) for name in (self.metric, "loss"))
        if score is None:
            return None
        return (score if self.greater_is_better else -score), (-loss if loss is not None else -math.inf)

    def score(self, record: RunRecord) -> float | None:
        """What a run of this task and size scored on validation data; ``None`` for runs of others."""
        ours = (record.task, record.train_size) == (self.task, self.place.train_size)
        return record.score("validation", self.metric) if ours else None

    def best(self, records: Iterable[RunRecord]) -> RunRecord | None:
        """The best record on validation data; ``None`` if none has a score.

        On a tie plain training's, which needs no proof, then the one of smaller loss and of smaller learning rate.
        """
        scored = [(found, record) for record in records if (found := self.validation(record)) is not None]
        if not scored:
            return None

        def order(pair: tuple[tuple[float, float], RunRecord]) -> tuple[float, ...]:
            (score, loss), record = pair
            return score, record.candidate == BASELINE, loss, -record.learning_rate, -record.seed

        return max(scored, key=order)[1]


def with_rates(settings: CompareSettings) -> CompareSettings:
    """The settings with the recipe's learning rates, where none are given.

    Raises:
        ModelNotFoundError: the model is nowhere.
    """
    if settings.recipe != "steadytune" or "learning_rates" in settings.model_fields_set:
        return settings
    rates, _ = learning_rates(facts_of_model(settings.model))
    return settings.model_copy(update={"learning_rates": list(rates)})


def plan_cells(settings: CompareSettings) -> list[PreparedCell]:
    """Load each task once, and take down what its runs are determined by.

    Raises:
        SteadytuneError: data or model cannot be used.
    """
    model = model_digest(settings.model)
    loaded: dict[str | None, Any] = {}
    found = []
    for place in places(settings):
        if place.task not in loaded:
            data = load_data(settings.run_settings(task=place.task, train_size=None))
            rows = {name: len(split) for name, split in data.splits.items()}
            loaded[place.task] = (data, rows, data_digest(data))
        data, rows, digest = loaded[place.task]
        task = data.task
        size = rows["train"] if place.train_size is None else parse_train_size(place.train_size).of(rows["train"])
        limit = settings.max_eval_samples
        evaluated = {k: v if limit is None else min(v, limit) for k, v in rows.items() if k != "train"}
        chosen, said = follow_recipe(settings, [data], size, leave=["learning_rate"])
        found.append(
            PreparedCell(
                settings=chosen,
                place=place,
                task=place.task or Path(settings.train_file or "data").stem,
                metric=task.metric,
                test_splits=tuple(name for name in evaluated if name != "validation"),
                train_rows=size,
                evaluated_rows=evaluated,
                fingerprint={"code": code_digest(), "data": digest, "model_files": model},
                notes=(*data.notes, *([said] if said else ())),
            )
        )
    return found


def earlier_runs(folder: Path, wanted: set[str], code: str) -> list[str]:
    """Say which runs of a folder are not part of this comparison, and why.

    Args:
        folder: of the comparison.
        wanted: keys of the runs that may become part of it.
        code: digest of the present code.
    """
    others = [p for p in sorted((folder / "runs").glob("*")) if p.name not in wanted]
    records = [record for path in others if (record := read_record(path)) is not None]
    old = sum(record.environment.get("code") != code for record in records)
    notes = []
    if old:
        notes.append(
            f"{old} earlier runs in {folder} were made by another version of the code (steadytune, torch or "
            "transformers): they are not used, and runs are made again."
        )
    if len(records) > old:
        notes.append(f"{len(records) - old} earlier runs in {folder} have other settings, data or model: not used.")
    return notes


Run = tuple[PreparedCell, Candidate, RunPlan]
