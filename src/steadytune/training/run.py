"""One training run, from settings to a folder with the model and what it scored before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import EvalPrediction, TrainerCallback, set_seed

from steadytune.heads.columns import TEXT_PAIR
from steadytune.heads.encoded import Encoded
from steadytune.heads.features import encode
from steadytune.heads.head import Scorer
from steadytune.heads.registry import head_of
from steadytune.heads.scores.by_class import scores_by_class
from steadytune.methods.registry import build_methods
from steadytune.models.inputs import ModelInputs
from steadytune.models.load import load_model, longest_input
from steadytune.models.pooled.choice import Pooling
from steadytune.settings.resolve import resolve
from steadytune.settings.train import TrainSettings
from steadytune.support.atomic_files import write_json
from steadytune.tasks.task import TaskData
from steadytune.training.arguments import refuse_label_smoothing, training_arguments
from steadytune.training.callbacks import SparingCheckpoints
from steadytune.training.chosen import follow_recipe
from steadytune.training.collapse import collapse
from steadytune.training.folder import RunFolder
from steadytune.training.predictions import FOLDER, keeping
from steadytune.training.probe.run import OF_TRAINING, finish_probe, refuse_what_a_probe_ignores
from steadytune.training.reporter import Reporter, Silent
from steadytune.training.rows import fewer_rows, load_data
from steadytune.training.skeleton import Making, Run, RunResult
from steadytune.training.trainer import RunTrainer
from steadytune.training.transfer import transfer


@dataclass(frozen=True)
class Extent:
    """How much is evaluated and kept of a run, which changes nothing of its training.

    Attributes:
        before: evaluate before training too.
        test: evaluate the test splits; without, only the validation split. If only the test splits are
            missing from a finished run, only they are evaluated.
        keep_model: save the fine-tuned model.
        each_epoch: also look at the validation split after each epoch of training.
        checkpoint_seconds: fewest seconds between two checkpoints, unless ``save_steps`` is set.
        keep_predictions: keep what is predicted for each row, see `predictions`.
    """

    before: bool = True
    test: bool = True
    keep_model: bool = True
    each_epoch: bool = True
    checkpoint_seconds: float = 0.0
    keep_predictions: bool = False

    def is_reached(self, metrics: Mapping[str, Any]) -> bool:
        """Whether a run with these metrics needs no more work."""
        return "after" in metrics and not (self.test and metrics.get("skipped"))


EVERYTHING = Extent()

#: Between checkpoints where the recipe chooses the epochs, of which there are many short ones on few rows.
CHECKPOINT_SECONDS = 60.0


def train(settings: TrainSettings, reporter: Reporter | None = None, extent: Extent = EVERYTHING) -> RunResult:
    """Fine-tune, evaluate before and after, and keep everything in the run's folder.

    A folder that holds the same run unfinished is continued from its last checkpoint; a finished one is only read.

    Args:
        settings: see `TrainSettings`.
        reporter: shows progress; nothing is shown without one.
        extent: how much is evaluated and kept.

    Raises:
        SteadytuneError: settings, data or model cannot be used; the message says what to do.
        DivergedError: a loss or a weight is no longer a finite number.
        Interrupted: the user stopped the run; a checkpoint was saved.
    """
    reporter = reporter or Silent()
    folder = RunFolder(settings.folder)
    settings = folder.as_begun(settings)
    folder.check(settings)
    methods = build_methods(settings.methods, settings.method_settings())
    arguments = training_arguments(settings, folder, each_epoch=extent.each_epoch)
    metrics = folder.read_metrics()
    if extent.is_reached(metrics):
        folder.finish_removal(settings, metrics)
        return RunResult(folder.path, metrics, was_finished=True)
    folder.refuse_busy()
    data = load_data(settings)
    for note in data.notes:
        reporter.note(note)
    settings, chosen = follow_recipe(settings, [data], leave=OF_TRAINING if settings.probe else ())
    if chosen:
        reporter.note(chosen)
        extent = replace(extent, checkpoint_seconds=max(extent.checkpoint_seconds, CHECKPOINT_SECONDS))
        arguments = training_arguments(settings, folder, each_epoch=extent.each_epoch)
    only_test = "after" in metrics and folder.model.is_dir()
    if settings.probe:
        refuse_what_a_probe_ignores(settings, data.task.head)
    making = Making(
        [] if only_test else methods, arguments, folder, reporter, settings.seed, settings.keep_checkpoints
    )
    run = _Run(making, settings, data, extent, model=str(folder.model) if only_test else settings.model)
    with folder.held(settings):  # only now, so that a mistake leaves no folder behind
        metrics = folder.read_metrics()
        if extent.is_reached(metrics):  # another process has done it
            return RunResult(folder.path, metrics, was_finished=True)
        metrics = run.evaluate_skipped(metrics) if only_test else run.finish(metrics)
        return RunResult(folder.path, metrics, was_finished=False)


def probe(model: str, rows: str | Path, **settings: Any) -> RunResult:
    """Fit a linear model on the vectors of a frozen encoder, in seconds; what fine-tuning has to beat.

    Vectors are pooled as the checkpoint declares, else the mean over the last layer's real tokens. Logistic regression
    for classes and several labels, ridge regression for numbers; cross-validation within the training rows chooses the
    penalty. The run's folder is that of `steadytune train --probe`: its model loads, predicts and is evaluated alike.

    Args:
        model: ``"minilm"``, a folder or a Hub id.
        rows: a file of training rows.
        settings: others of `TrainSettings`, such as ``test_file``, ``text_column`` or ``output_dir``.

    Raises:
        SteadytuneError: settings, rows or model cannot be used; the message says what to do.

    For example, with the columns ``text`` and ``label``::

        result = steadytune.probe("minilm", "train.csv", test_file="test.csv", output_dir="runs/probe")
        print(result.metrics["after"]["test"])
        steadytune.predict(result.folder, ["a great film"])
    """
    given = {"model": model, "train_file": str(rows), "probe": True, **settings}
    return train(resolve(TrainSettings, given))


class _Run(Run):
    """The run of one task."""

    def __init__(self, making: Making, settings: TrainSettings, data: TaskData, extent: Extent, model: str) -> None:
        self.settings, self.data, self.extent, self.source = settings, data, extent, model
        #: Outputs and labels of each split's latest evaluation, where its rows have one class each.
        self.scored: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        super().__init__(making)

    def load(self) -> None:
        """Load the model with the head of the task."""
        set_seed(self.settings.seed)  # the new head is drawn while the model loads
        self.model, self.tokenizer, source = load_model(
            self.source,
            self.data.task,
            trust_remote_code=self.settings.trust_remote_code,
            dtype=self.settings.dtype,
            pooling=self._pooling(),
            new_head=self.source != str(self.folder.model),  # what was trained is only evaluated, with its own head
        )
        if source.note:
            self.reporter.note(source.note)
        self.max_length = min(self.settings.max_length, longest_input(self.model, self.tokenizer))
        if self.max_length < self.settings.max_length:
            self.reporter.note(f"Texts are cut after {self.max_length} tokens: {self.settings.model} takes no more.")

    def _pooling(self) -> Pooling:
        if self.source == str(self.folder.model):  # which has its own
            return "auto"
        return "pooled" if self.settings.probe and self.settings.pooling == "auto" else self.settings.pooling

    def finish(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """See `Run`; a probe fits a linear model in place of the training."""
        return finish_probe(self, metrics) if self.settings.probe else super().finish(metrics)

    def read_rows(self) -> None:
        """Encode every split."""
        refuse_label_smoothing(self.settings, self.data.task.head)
        self.splits = {name: self._encoded(name) for name in self.data.splits}

    def make_trainer(self, callbacks: list[TrainerCallback]) -> RunTrainer:
        """Make the trainer, which scores each split as its task is scored."""
        head, settings = head_of(self.data.task.head), self.settings
        sparing = SparingCheckpoints(0 if settings.save_steps else self.extent.checkpoint_seconds)
        return RunTrainer(
            model=self.model,
            args=self.making.arguments,
            methods=self.making.methods,
            memory=settings.memory,
            train_dataset=self.splits["train"].features,
            eval_dataset=self.splits["validation"].features,
            data_collator=head.collator(self.model, self.tokenizer),
            processing_class=self.tokenizer,
            preprocess_logits_for_metrics=head.selector(is_encoder_decoder=self.model.config.is_encoder_decoder),
            scorers={name: self._scorer(name) for name in self.splits},
            group_by_length=settings.group_by_length,
            callbacks=[sparing, *callbacks],
        )

    def was_measured(self, metrics: Mapping[str, Any]) -> bool:
        """Whether the scores before the training are there, or not wanted."""
        return "before" in metrics or not self.extent.before

    def evaluate(self, metrics: Mapping[str, Any], when: str) -> dict[str, Any]:
        """Score the splits that are looked at."""
        found = self._evaluate(self._looked_at())
        if when != "after":
            return {**metrics, when: found}
        return {**metrics, **self._results(metrics, found), **self._collapse(metrics.get("before", {}), found)}

    def skipped(self) -> list[str]:
        """The test splits, where only the validation split is looked at."""
        looked_at = self._looked_at()
        return [name for name in self._evaluated() if name not in looked_at]

    def facts_of_training(self) -> dict[str, Any]:
        """The number of rows."""
        return {"rows": len(self.splits["train"].rows)}

    def save(self) -> None:
        """Save the model, if it is to be kept."""
        if self.extent.keep_model:
            self.folder.save_model(self.model, self.tokenizer, self._inputs())

    def _inputs(self) -> ModelInputs:
        """How rows of this task become what the model takes, for predictions later."""
        is_pair = (
            TEXT_PAIR in self.data.splits["train"].column_names or head_of(self.data.task.head).layout == "questions"
        )
        named = self.settings.task is not None
        return ModelInputs.of_task(self.data.task, named=named, is_pair=is_pair, max_length=self.max_length)

    def evaluate_skipped(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Measure the saved model on what was left out."""
        found = metrics["after"] | self._evaluate(metrics["skipped"])
        metrics = {k: v for k, v in metrics.items() if k != "skipped"} | self._results(metrics, found)
        write_json(self.folder.metrics, metrics)
        return metrics

    def _results(self, metrics: Mapping[str, Any], after: dict[str, Any]) -> dict[str, Any]:
        found = transfer(self.data.task, after)
        names = self.data.task.label_names or ()
        of = {"f1_of": names[1]} if head_of(self.data.task.head).one_class_per_row and len(names) == 2 else {}
        scored = {name: scores_by_class(*arrays, names) for name, arrays in self.scored.items()}
        by_class = {"by_class": {**metrics.get("by_class", {}), **scored}} if scored else {}
        transferred = {"transfer": found} if found else {}
        return {"after": after, "metric": self.data.task.metric, **of, **by_class, **transferred}

    def _collapse(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
        """What ``metrics.json`` says where the validation split shows that nothing was learned."""
        task, rows = self.data.task, self.splits["validation"].rows
        largest = None
        if head_of(task.head).one_class_per_row:
            counts = Counter(rows["label"])
            largest = max(counts.values()) / max(1, len(rows))
        said = collapse(before.get("validation", {}), after["validation"], task.metric, largest)
        if said and self.settings.probe:  # which has neither epochs nor a rate
            said = f"{said.partition(' Try ')[0]} Train on more rows, or fine-tune without --probe."
        return {"collapse": said} if said else {}

    def _scorer(self, name: str) -> Scorer:
        split, task = self.splits[name], self.data.task
        scorer = self._remembering(head_of(task.head).scorer(task, split, name), name)
        file = self.folder.path / FOLDER / f"{name}.npz"
        return keeping(scorer, task.head, split, file) if self.extent.keep_predictions else scorer

    def _remembering(self, scorer: Scorer, name: str) -> Scorer:
        """Return the scorer that also leaves outputs and labels for the scores by class."""
        if not head_of(self.data.task.head).one_class_per_row or self.data.task.label_names is None:
            return scorer

        def score(found: EvalPrediction) -> dict[str, float]:
            scores = scorer(found)  # which refuses what is not scored
            self.scored[name] = np.asarray(found.predictions), np.asarray(found.label_ids)
            return scores

        return score

    def _evaluated(self) -> list[str]:
        return [name for name in self.splits if name != "train"]

    def _looked_at(self) -> list[str]:
        return [name for name in self._evaluated() if self.extent.test or name == "validation"]

    def _evaluate(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        return {name: self.scores(self.splits[name].features, name, len(self.splits[name].rows)) for name in names}

    def _encoded(self, name: str) -> Encoded:
        limit = self.settings.max_eval_samples
        split = self.data.splits[name]
        if name != "train" and limit is not None and len(split) > limit:
            self.reporter.note(f"{name}: {limit:,} of {len(split):,} rows (--max-eval-samples).")
            split = fewer_rows(self.data, name, limit, 0)  # the same rows for every seed
        encoded = encode(
            split,
            self.data.task,
            self.tokenizer,
            self.max_length,
            name=name,
            is_encoder_decoder=self.model.config.is_encoder_decoder,
        )
        drawn = name == "train" and self.settings.train_size is not None
        for note in encoded.notes:  # every seed draws other rows
            self.reporter.note(f"Rows of seed {self.settings.seed}: {note}" if drawn else note)
        return encoded if name == "train" else encoded.longest_first()
