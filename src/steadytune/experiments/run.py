"""One training run, from settings to a folder with the model and what it scored before and after."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import DataCollatorWithPadding, TrainerState, TrainingArguments, set_seed

from steadytune.core.errors import DivergedError, SettingsError
from steadytune.core.method import Method
from steadytune.core.randomness import RandomState, replayed
from steadytune.experiments.data import load_data
from steadytune.experiments.folder import RunFolder, write_json
from steadytune.experiments.measure import Meter
from steadytune.experiments.models import load_model, longest_input
from steadytune.experiments.progress import InterruptCallback, ReportCallback, Reporter, Silent, ending_gently
from steadytune.experiments.settings import TrainSettings
from steadytune.hosts.trainer import SteadyTrainer
from steadytune.methods.registry import build_methods
from steadytune.tasks.metrics import compute_metrics
from steadytune.tasks.subset import take_subset
from steadytune.tasks.task import TaskData

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

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
    """

    before: bool = True
    test: bool = True
    keep_model: bool = True


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
    arguments = training_arguments(settings, folder)
    metrics = folder.read_metrics()
    if "after" in metrics and not (extent.test and metrics.get("skipped")):
        return RunResult(folder.path, metrics, was_finished=True)
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
    folder.claim(settings)  # only now, so that a mistake leaves no folder behind
    return run.evaluate_skipped(metrics) if only_test else run.finish(metrics)


class _RunTrainer(SteadyTrainer):
    """Evaluates on random numbers of its own, and ends when the loss is no longer a number.

    A checkpoint may be written before or after the evaluation that falls on the same update; training that continues
    from it draws the same numbers either way.
    """

    #: In float16 a loss may overflow now and then until the scale of the gradients has come down.
    bad_losses = 0

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        self.bad_losses = 0 if bool(torch.isfinite(loss).all()) else self.bad_losses + 1
        if self.bad_losses > (20 if self.args.fp16 else 0):
            raise DivergedError(
                f"training diverged: the loss of update {self.state.global_step + 1} is {float(loss)}. "
                "A smaller --learning-rate may help."
            )
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with replayed(RandomState.capture(self.args.device)):
            return super().evaluate(*args, **kwargs)


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
        self.meter = Meter(arguments.device)
        set_seed(settings.seed)  # the new head is drawn while the model loads
        self.model, self.tokenizer, _ = load_model(model, data.task, trust_remote_code=settings.trust_remote_code)
        self.max_length = min(settings.max_length, longest_input(self.model, self.tokenizer))
        if self.max_length < settings.max_length:
            reporter.note(f"Texts are cut after {self.max_length} tokens: {settings.model} takes no more.")
        self.interrupt = InterruptCallback()
        self.report = ReportCallback(reporter, folder, self.meter)
        self.splits = {name: self._tokenized(split, name) for name, split in data.splits.items()}
        self.trainer = _RunTrainer(
            model=self.model,
            args=arguments,
            methods=methods,
            train_dataset=self.splits["train"],
            eval_dataset=self.splits["validation"],
            data_collator=DataCollatorWithPadding(self.tokenizer),
            processing_class=self.tokenizer,
            compute_metrics=lambda p: compute_metrics(data.task.head, _first(p.predictions), p.label_ids),
            callbacks=[self.interrupt],
        )
        _remove_default_printing(self.trainer)

    def finish(self, metrics: dict[str, Any]) -> RunResult:
        """Measure, train from where the folder stands, measure again, save."""
        if self.extent.before and "before" not in metrics:
            metrics = {"before": self._evaluate(self._looked_at())}
            write_json(self.folder.metrics, metrics)
        self.trainer.add_callback(self.report)
        state = self._train(self.folder.last_checkpoint())
        if state.global_step < state.max_steps:
            raise Interrupted(state.global_step, state.max_steps)
        self.trainer.remove_callback(self.report)
        self._refuse_diverged(state.global_step)
        looked_at = self._looked_at()
        metrics |= {
            "after": self._evaluate(looked_at),
            "training": {
                "updates": state.global_step,
                "epochs": state.epoch,
                "seconds_in_last_session": round(self.report.seconds, 3),
                **self.meter.summary(state.global_step),
                "rows": len(self.splits["train"]),
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
        found = self._evaluate(metrics["skipped"])
        metrics = {k: v for k, v in metrics.items() if k != "skipped"} | {"after": metrics["after"] | found}
        write_json(self.folder.metrics, metrics)
        return RunResult(self.folder.path, metrics, was_finished=False)

    def _evaluated(self) -> list[str]:
        return [name for name in self.splits if name != "train"]

    def _looked_at(self) -> list[str]:
        return [name for name in self._evaluated() if self.extent.test or name == "validation"]

    def _refuse_diverged(self, update: int) -> None:
        for name, weight in self.model.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                raise DivergedError(
                    f"training diverged: after update {update} the weight {name} is not finite. "
                    "A smaller --learning-rate may help."
                )

    def _train(self, checkpoint: Path | None) -> TrainerState:
        """Train to the end, or to where the user stops it, and return the Trainer's state there."""
        if checkpoint is not None:
            self.reporter.note(f"Continuing from {checkpoint}.")
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            if state.global_step >= state.max_steps:
                # Training had ended, only the results were missing; the Trainer would take one update more.
                ended = type(self.model).from_pretrained(checkpoint, use_safetensors=True)
                self.model.load_state_dict(ended.state_dict())
                self.trainer.stack.prepare(self.model, resume_from=checkpoint)
                self.trainer.stack.finish()
                self.meter.earlier_seconds = self.folder.logged_seconds()
                return state
        set_seed(self.settings.seed)  # whatever was evaluated before, training draws the same numbers
        try:
            with ending_gently(self.interrupt, self.reporter):
                self.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        finally:
            self.reporter.stop()
        return self.trainer.state

    def _evaluate(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        results = {}
        for name in names:
            split = self.splits[name]
            rows: Any = split  # the Trainer's annotation names a class of torch
            found = self.trainer.evaluate(rows, metric_key_prefix=name)
            kept = {k.removeprefix(f"{name}_"): v for k, v in found.items() if k.startswith(f"{name}_")}
            timing = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
            results[name] = {"rows": len(split), **{k: v for k, v in kept.items() if k not in timing}}
        return results

    def _tokenized(self, split: Dataset, name: str) -> Dataset:
        limit = self.settings.max_eval_samples
        if name != "train" and limit is not None and len(split) > limit:
            self.reporter.note(f"{name}: {limit:,} of {len(split):,} rows (--max-eval-samples).")
            split = take_subset(split, limit, 0, self.data.task.label_names)  # the same rows for every seed
        return tokenize(split, self.tokenizer, self.max_length)


def tokenize(split: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Turn the columns ``text``, ``text_pair`` and ``label`` into what a model takes, cut at ``max_length`` tokens."""

    def encode(rows: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(rows["text"], rows.get("text_pair"), truncation=True, max_length=max_length)
        return {**encoded, "labels": rows["label"]}

    return split.map(encode, batched=True, remove_columns=split.column_names)


def training_arguments(settings: TrainSettings, folder: RunFolder) -> TrainingArguments:
    """The arguments of the Trainer for these settings.

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
            eval_strategy="epoch",
            save_strategy="epoch" if settings.save_steps is None else "steps",
            save_steps=settings.save_steps or 500,
            logging_first_step=True,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available() and not settings.use_cpu,
        )
    except (ValueError, RuntimeError, ImportError) as error:
        raise SettingsError(" ".join(str(error).split())) from error


def _first(predictions: Any) -> Any:
    return predictions[0] if isinstance(predictions, tuple) else predictions


def _remove_default_printing(trainer: SteadyTrainer) -> None:
    from transformers.trainer_callback import PrinterCallback

    trainer.remove_callback(PrinterCallback)
