"""The skeleton of a run: what training one task, several tasks and the hybrid network share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from steadytune.core.authoring.method import Method
from steadytune.support.atomic_files import write_json
from steadytune.training.callbacks import InterruptCallback, ReportCallback
from steadytune.training.folder import RunFolder
from steadytune.training.meter import Meter
from steadytune.training.reporter import Reporter
from steadytune.training.resumable import Resumable
from steadytune.training.trainer import RunTrainer

#: What the Trainer adds to the scores of an evaluation.
_TIMING = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


class Interrupted(Exception):  # noqa: N818 - not an error: the user asked for it
    """The run was stopped by the user; the same command continues it."""

    def __init__(self, step: int, total: int) -> None:
        super().__init__(f"stopped after update {step} of {total}")
        self.step = step
        self.total = total


@dataclass(frozen=True)
class RunResult:
    """What a run measured.

    Attributes:
        folder: where it is kept.
        metrics: ``{"before": {split: {...}}, "after": {split: {...}}, ...}`` as in ``metrics.json``.
        was_finished: the folder held the finished run already; nothing was trained.
    """

    folder: Path
    metrics: Mapping[str, Any]
    was_finished: bool


@dataclass(frozen=True)
class Making:
    """What a run is made with.

    Attributes:
        methods: built and checked.
        arguments: of the Trainer.
        folder: of the run.
        reporter: receives the progress.
        seed: of all that is random.
        keep_checkpoints: leave the checkpoints of the finished run where they are.
    """

    methods: list[Method]
    arguments: TrainingArguments
    folder: RunFolder
    reporter: Reporter
    seed: int
    keep_checkpoints: bool = False


class Run(ABC):
    """One run, in one order for every kind: model, rows, trainer; measure, train, measure again, save.

    A kind of run says how its model is loaded (`load`), its rows are made into features (`read_rows`), and what is
    evaluated (`evaluate`); `make_trainer` and `save` follow from these.
    """

    #: The kind of callback that reports on the training.
    report: type[ReportCallback] = ReportCallback

    def __init__(self, making: Making) -> None:
        self.making, self.folder, self.reporter = making, making.folder, making.reporter
        meter = Meter(making.arguments.device)
        self.load()
        interrupt = InterruptCallback()
        self.read_rows()
        trainer = self.make_trainer([interrupt])
        trainer.remove_callback(PrinterCallback)
        self.training = Resumable(
            trainer=trainer,
            folder=self.folder,
            reporter=self.reporter,
            report=self.report(self.reporter, self.folder, meter),
            meter=meter,
            interrupt=interrupt,
            seed=making.seed,
        )

    @abstractmethod
    def load(self) -> None:
        """Load model and tokenizer."""

    @abstractmethod
    def read_rows(self) -> None:
        """Make features of the rows of every split."""

    @abstractmethod
    def make_trainer(self, callbacks: list[TrainerCallback]) -> RunTrainer:
        """Make the trainer of the model on the rows."""

    @abstractmethod
    def evaluate(self, metrics: Mapping[str, Any], when: str) -> dict[str, Any]:
        """Measure the model as it is, and return ``metrics`` with what was found under ``when``."""

    @abstractmethod
    def was_measured(self, metrics: Mapping[str, Any]) -> bool:
        """Whether these metrics need no measurement before the training."""

    @abstractmethod
    def save(self) -> None:
        """Save what the training has made."""

    def facts_of_training(self) -> dict[str, Any]:
        """What ``metrics.json`` says of the training besides its cost."""
        return {}

    def skipped(self) -> list[str]:
        """The splits that are not evaluated."""
        return []

    def finish(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Measure, train from where the folder stands, measure again, save; return what ``metrics.json`` holds.

        Raises:
            Interrupted: the user stopped the training; a checkpoint was saved.
        """
        if not self.was_measured(metrics):
            metrics = self.evaluate({}, "before")
            write_json(self.folder.metrics, metrics)
        state = self.training.run()
        if state.global_step < state.max_steps:
            raise Interrupted(state.global_step, state.max_steps)
        found = {k: v for k, v in self.evaluate(metrics, "after").items() if k != "skipped"} | self._of_training(state)
        skipped = self.skipped()
        found |= {"skipped": skipped} if skipped else {}
        found |= {"checkpoints": "kept"} if self.making.keep_checkpoints else {}
        self.save()
        write_json(self.folder.metrics, found)
        if not self.making.keep_checkpoints and self.folder.model.is_dir():  # without a model, they are all there is
            self.folder.remove_checkpoints()
        return found

    def _of_training(self, state: TrainerState) -> dict[str, Any]:
        return {
            "training": {**self.training.summary(state), **self.facts_of_training()},
            "methods": [{"name": m.name, **m.settings()} for m in self.training.trainer.stack.methods],
        }

    def scores(self, split: Any, prefix: str, rows: int) -> dict[str, Any]:
        """What the trainer finds on a split, without the name of the split and without timing."""
        found = self.training.trainer.evaluate(split, metric_key_prefix=prefix)
        kept = {k.removeprefix(f"{prefix}_"): v for k, v in found.items() if k.startswith(f"{prefix}_")}
        return {"rows": rows, **{k: v for k, v in kept.items() if k not in _TIMING}}
