"""One training run, from settings to a folder with the model and what it scored before and after."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed

from steadytune.core.authoring.method import Method
from steadytune.errors import SettingsError
from steadytune.heads.features import Encoded, encode
from steadytune.heads.scoring import Scorer, output_selector, scorer_for
from steadytune.integrations.transformers.trainer import SteadyTrainer
from steadytune.methods.registry import build_methods
from steadytune.models.load import load_model, longest_input
from steadytune.settings.train import TrainSettings
from steadytune.tasks.task import Head, TaskData
from steadytune.training.callbacks import InterruptCallback, ReportCallback, SparingCheckpoints
from steadytune.training.folder import RunFolder, write_json
from steadytune.training.meter import Meter
from steadytune.training.predictions import FOLDER, keeping
from steadytune.training.reporter import Reporter, Silent
from steadytune.training.resumable import Resumable
from steadytune.training.rows import fewer_rows, load_data
from steadytune.training.trainer import RunTrainer, collator_for
from steadytune.training.transfer import transfer

logger = logging.getLogger("steadytune")


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
class Extent:
    """How much is evaluated and kept of a run, which changes nothing of its training.

    Attributes:
        before: evaluate before training too.
        test: evaluate the test splits; without, only the validation split is looked at. A run that is finished but
            for them goes on with their evaluation.
        keep_model: save the fine-tuned model.
        each_epoch: also look at the validation split after each epoch of training.
        checkpoint_seconds: no checkpoint within so many seconds of the one before, unless ``save_steps`` is set.
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
    folder.check(settings)
    methods = build_methods(settings.methods, settings.method_settings())
    arguments = training_arguments(settings, folder, each_epoch=extent.each_epoch)
    metrics = folder.read_metrics()
    if extent.is_reached(metrics):
        return RunResult(folder.path, metrics, was_finished=True)
    folder.refuse_busy()
    data = load_data(settings)
    for note in data.notes:
        reporter.note(note)
    only_test = "after" in metrics and folder.model.is_dir()
    run = _Run(
        settings=settings,
        methods=[] if only_test else methods,
        model=str(folder.model) if only_test else settings.model,
        data=data,
        folder=folder,
        reporter=reporter,
        arguments=arguments,
        extent=extent,
    )
    with folder.held(settings):  # only now, so that a mistake leaves no folder behind
        metrics = folder.read_metrics()
        if extent.is_reached(metrics):  # by another process, by now
            return RunResult(folder.path, metrics, was_finished=True)
        return run.evaluate_skipped(metrics) if only_test else run.finish(metrics)


class _Run:
    """The objects that one run needs at the same time."""

    def __init__(
        self,
        *,
        settings: TrainSettings,
        methods: list[Method],
        data: TaskData,
        folder: RunFolder,
        reporter: Reporter,
        arguments: TrainingArguments,
        model: str,
        extent: Extent,
    ) -> None:
        self.settings, self.data, self.folder, self.reporter = settings, data, folder, reporter
        self.extent = extent
        meter = Meter(arguments.device)
        set_seed(settings.seed)  # the new head is drawn while the model loads
        self.model, self.tokenizer, source = load_model(
            model,
            data.task,
            trust_remote_code=settings.trust_remote_code,
            new_head=model != str(folder.model),  # what was trained is only evaluated, with the head that it has
        )
        if source.note:
            reporter.note(source.note)
        self.max_length = min(settings.max_length, longest_input(self.model, self.tokenizer))
        if self.max_length < settings.max_length:
            reporter.note(f"Texts are cut after {self.max_length} tokens: {settings.model} takes no more.")
        interrupt = InterruptCallback()
        refuse_label_smoothing(settings, data.task.head)
        self.splits = {name: self._encoded(name) for name in data.splits}
        self.trainer = RunTrainer(
            model=self.model,
            args=arguments,
            methods=methods,
            memory=settings.memory,
            train_dataset=self.splits["train"].features,
            eval_dataset=self.splits["validation"].features,
            data_collator=collator_for(data.task.head, self.model, self.tokenizer),
            processing_class=self.tokenizer,
            preprocess_logits_for_metrics=output_selector(
                data.task.head, is_encoder_decoder=self.model.config.is_encoder_decoder
            ),
            scorers={name: self._scorer(name) for name in self.splits},
            group_by_length=settings.group_by_length,
            callbacks=[SparingCheckpoints(0 if settings.save_steps else extent.checkpoint_seconds), interrupt],
        )
        _remove_default_printing(self.trainer)
        self.training = Resumable(
            trainer=self.trainer,
            folder=folder,
            reporter=reporter,
            report=ReportCallback(reporter, folder, meter),
            meter=meter,
            interrupt=interrupt,
            seed=settings.seed,
        )

    def finish(self, metrics: dict[str, Any]) -> RunResult:
        """Measure, train from where the folder stands, measure again, save."""
        if self.extent.before and "before" not in metrics:
            metrics = {"before": self._evaluate(self._looked_at())}
            write_json(self.folder.metrics, metrics)
        state = self.training.run()
        if state.global_step < state.max_steps:
            raise Interrupted(state.global_step, state.max_steps)
        looked_at = self._looked_at()
        metrics |= {
            **self._results(self._evaluate(looked_at)),
            "training": {
                **self.training.summary(state),
                "rows": len(self.splits["train"].rows),
            },
            "methods": [{"name": m.name, **m.settings()} for m in self.trainer.stack.methods],
        }
        skipped = [name for name in self._evaluated() if name not in looked_at]
        metrics = {k: v for k, v in metrics.items() if k != "skipped"} | ({"skipped": skipped} if skipped else {})
        if self.extent.keep_model:
            self.folder.save_model(self.model, self.tokenizer)
        write_json(self.folder.metrics, metrics)
        return RunResult(self.folder.path, metrics, was_finished=False)

    def evaluate_skipped(self, metrics: dict[str, Any]) -> RunResult:
        """Measure the saved model on what was left out."""
        found = metrics["after"] | self._evaluate(metrics["skipped"])
        metrics = {k: v for k, v in metrics.items() if k != "skipped"} | self._results(found)
        write_json(self.folder.metrics, metrics)
        return RunResult(self.folder.path, metrics, was_finished=False)

    def _results(self, after: dict[str, Any]) -> dict[str, Any]:
        found = transfer(self.data.task, after)
        names = self.data.task.label_names or ()
        of = {"f1_of": names[1]} if self.data.task.head == "classification" and len(names) == 2 else {}
        return {"after": after, "metric": self.data.task.metric, **of, **({"transfer": found} if found else {})}

    def _scorer(self, name: str) -> Scorer:
        split, task = self.splits[name], self.data.task
        scorer = scorer_for(task, split, name)
        file = self.folder.path / FOLDER / f"{name}.npz"
        return keeping(scorer, task.head, split, file) if self.extent.keep_predictions else scorer

    def _evaluated(self) -> list[str]:
        return [name for name in self.splits if name != "train"]

    def _looked_at(self) -> list[str]:
        return [name for name in self._evaluated() if self.extent.test or name == "validation"]

    def _evaluate(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        results = {}
        for name in names:
            split = self.splits[name]
            found = self.trainer.evaluate(split.features, metric_key_prefix=name)
            kept = {k.removeprefix(f"{name}_"): v for k, v in found.items() if k.startswith(f"{name}_")}
            timing = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
            results[name] = {"rows": len(split.rows), **{k: v for k, v in kept.items() if k not in timing}}
        return results

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


def training_arguments(settings: TrainSettings, folder: RunFolder, *, each_epoch: bool = True) -> TrainingArguments:
    """The arguments of the Trainer for these settings; ``each_epoch`` evaluates after each.

    Raises:
        SettingsError: this machine or this combination cannot do what is asked.
    """
    same_name = [
        "learning_rate",
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        "weight_decay",
        "warmup_steps",
        "lr_scheduler_type",
        "max_grad_norm",
        "label_smoothing_factor",
        "bf16",
        "fp16",
        "use_cpu",
        "seed",
        "logging_steps",
        "save_total_limit",
    ]
    if settings.max_steps == 0:
        raise SettingsError("--max-steps: must be -1 (use the epochs) or at least 1; got 0.")
    if settings.fp16 and (settings.use_cpu or not torch.cuda.is_available()):
        raise SettingsError(
            "--fp16 needs a GPU, and there is none in use here: leave it out, or use --bf16 (on a CPU with --use-cpu)."
        )
    checkpointing = {}
    if settings.gradient_checkpointing:
        # Newer versions of Transformers call it so, and warn about the old name.
        names = {f.name for f in fields(TrainingArguments)}
        new_name = "activation_checkpointing" in names
        checkpointing = {"activation_checkpointing" if new_name else "gradient_checkpointing": True}
    try:
        return TrainingArguments(
            output_dir=str(folder.checkpoints),
            **checkpointing,
            **{name: getattr(settings, name) for name in same_name},
            eval_strategy="epoch" if each_epoch else "no",
            save_strategy="epoch" if settings.save_steps is None else "steps",
            save_steps=settings.save_steps or 500,
            logging_first_step=True,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available() and not settings.use_cpu,
        )
    except (ValueError, RuntimeError, ImportError) as error:
        raise SettingsError(" ".join(str(error).split())) from error


def refuse_label_smoothing(settings: TrainSettings, head: Head) -> None:
    """Raise where the Trainer would leave label smoothing out in silence, or fail with it."""
    if settings.label_smoothing_factor > 0 and head not in ("classification", "token_classification", "causal_lm"):
        raise SettingsError(
            f"--label-smoothing-factor: is for classes, tags and words; this task is {head}: set it to 0."
        )


def _remove_default_printing(trainer: SteadyTrainer) -> None:
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
