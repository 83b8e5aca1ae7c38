"""Multi-task training (MT-DNN): one run over several tasks, then, if asked for, one run for each of them.

Liu et al., ACL 2019; with SMART in either phase it is the MT-DNN-SMART of Jiang et al., ACL 2020, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainingArguments, set_seed

from steadytune.core.authoring.method import Method
from steadytune.heads.columns import TEXT_PAIR
from steadytune.heads.encoded import Encoded
from steadytune.heads.features import encode
from steadytune.heads.head import Scorer
from steadytune.heads.registry import head_of
from steadytune.methods.registry import build_methods
from steadytune.models.inputs import ModelInputs
from steadytune.models.load import load_model, longest_input
from steadytune.models.multi_task import MultiTaskModel, set_head_dropout
from steadytune.settings.multi_task import MultiTaskSettings
from steadytune.tasks.task import TaskData
from steadytune.training.arguments import refuse_label_smoothing, training_arguments
from steadytune.training.chosen import follow_recipe
from steadytune.training.folder import RunFolder
from steadytune.training.multi_task.batches import OneTask, TaskCollator, TaskRows
from steadytune.training.multi_task.trainer import MultiTaskTrainer, QuietEvaluation
from steadytune.training.reporter import Reporter, Silent
from steadytune.training.rows import fewer_rows, load_data
from steadytune.training.run import train
from steadytune.training.skeleton import Making, Run, RunResult
from steadytune.training.trainer import RunTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Columns of encoded rows that are for scoring, not for the model.
_NOT_FOR_THE_MODEL = frozenset({"row", "cut", "words", "offset_start", "offset_end"})


@dataclass(frozen=True)
class MultiTaskResult:
    """What multi-task training measured.

    Attributes:
        folder: where it is kept.
        metrics: as in ``metrics.json``: ``{"tasks": {task: {"metric", "rows", "before", "after"}}, "training": ...}``.
        was_finished: the folder held the finished first phase already.
        fine_tuned: the runs of the second phase by task.
    """

    folder: Path
    metrics: Mapping[str, Any]
    was_finished: bool
    fine_tuned: Mapping[str, RunResult] = field(default_factory=dict)


def train_together(settings: MultiTaskSettings, reporter: Reporter | None = None) -> MultiTaskResult:
    """Train one encoder on several tasks, evaluate each before and after, and keep everything in the run's folder.

    In the folder ``model/`` is the shared encoder, a model for any task; ``tasks/NAME/model/`` is the whole model of
    one task, with its trained head; ``fine-tuned/NAME/`` is the run of the second phase for it. A folder that holds
    the same run unfinished is continued.

    Args:
        settings: see `MultiTaskSettings`.
        reporter: shows progress; nothing is shown without one.

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
    second = settings.fine_tune_methods
    build_methods(settings.methods if second is None else second, settings.method_settings())
    arguments = training_arguments(settings, folder)
    metrics = folder.read_metrics()
    was_finished = "training" in metrics
    if was_finished:
        folder.finish_removal(settings, metrics)
    if not was_finished:
        metrics = _first_phase(
            settings=settings,
            methods=methods,
            arguments=arguments,
            folder=folder,
            reporter=reporter,
            metrics=metrics,
        )
    fine_tuned: dict[str, RunResult] = {}
    for task in settings.tasks if settings.fine_tune else ():
        reporter.note(f"Second phase: {task}.")
        kept = model_folder(folder, task).path
        fine_tuned[task] = train(settings.second_phase(task, kept, folder.path / "fine-tuned" / task), reporter)
    return MultiTaskResult(folder.path, metrics, was_finished, fine_tuned)


def model_folder(folder: RunFolder, task: str) -> RunFolder:
    """Where the first phase leaves the whole model of a task."""
    return RunFolder(folder.path / "tasks" / task)


def _first_phase(
    *,
    settings: MultiTaskSettings,
    methods: list[Method],
    arguments: TrainingArguments,
    folder: RunFolder,
    reporter: Reporter,
    metrics: dict[str, Any],
) -> dict[str, Any]:
    data = {task: load_data(settings.for_task(task)) for task in settings.tasks}
    for task, own in data.items():
        own.training_rows()
        refuse_label_smoothing(settings, own.task.head)
        for note in own.notes:
            reporter.note(f"{task}: {note}")
    settings, chosen = follow_recipe(settings, data.values())
    if chosen:
        reporter.note(chosen)
        arguments = training_arguments(settings, folder)
    run = _Run(Making(methods, arguments, folder, reporter, settings.seed, settings.keep_checkpoints), settings, data)
    with folder.held(settings):  # only now, so that a mistake leaves no folder behind
        return run.finish(metrics)


class _Run(Run):
    """The run of several tasks together."""

    report = QuietEvaluation

    def __init__(self, making: Making, settings: MultiTaskSettings, data: Mapping[str, TaskData]) -> None:
        self.settings, self.data = settings, data
        super().__init__(making)

    def load(self) -> None:
        """Load one encoder with a head for each task."""
        self.model, self.tokenizers = _load(self.settings, self.data, self.reporter)

    def read_rows(self) -> None:
        """Encode every split of every task."""
        self.splits = {
            task: {name: self._encoded(task, name) for name in own.splits} for task, own in self.data.items()
        }

    def make_trainer(self, callbacks: list[TrainerCallback]) -> RunTrainer:
        """Make the trainer, which scores each task as its own."""
        arguments, data = self.making.arguments, self.data
        arguments.remove_unused_columns = False  # what a task's model takes is not in our own signature
        return MultiTaskTrainer(
            model=self.model,
            args=arguments,
            methods=self.making.methods,
            memory=self.settings.memory,
            train_dataset=TaskRows({task: _for_the_model(splits["train"]) for task, splits in self.splits.items()}),
            eval_dataset={task: self._rows(task, "validation") for task in data},
            data_collator=TaskCollator(
                {t: head_of(data[t].task.head).collator(self.model.model_of(t), k) for t, k in self.tokenizers.items()}
            ),
            processing_class=next(iter(self.tokenizers.values())),
            selectors={task: head_of(own.task.head).selector() for task, own in data.items()},
            scorers=self._scorers(),
            group_by_length=self.settings.group_by_length,
            tell=self._tell,
            callbacks=callbacks,
        )

    def was_measured(self, metrics: Mapping[str, Any]) -> bool:
        """Whether the scores before the training are there."""
        return "tasks" in metrics

    def evaluate(self, metrics: Mapping[str, Any], when: str) -> dict[str, Any]:
        """Score every task."""
        known = metrics.get("tasks") or {task: self._facts(task) for task in self.data}
        return {"tasks": {task: known[task] | {when: self._evaluate(task)} for task in self.data}}

    def save(self) -> None:
        """Save the whole model of each task, and the shared encoder."""
        for task in self.data:
            model_folder(self.folder, task).save_model(
                self.model.model_of(task), self.tokenizers[task], self._inputs(task)
            )
        self.model.encoder.config = self.model.config  # that of no task
        self.folder.save_model(self.model.encoder, self._plain_tokenizer())

    def _inputs(self, task: str) -> ModelInputs:
        data = self.data[task]
        return ModelInputs.of_task(
            data.task,
            named=True,
            is_pair=TEXT_PAIR in data.splits["train"].column_names,
            max_length=min(self.settings.max_length, longest_input(self.model, self.tokenizers[task])),
        )

    def _scorers(self) -> dict[str, Scorer]:
        scorers: dict[str, Scorer] = {}
        for task, splits in self.splits.items():
            own = {
                name: head_of(self.data[task].task.head).scorer(self.data[task].task, split, name)
                for name, split in splits.items()
            }
            scorers |= {f"{task}_{name}": scorer for name, scorer in own.items()}
            scorers[f"eval_{task}"] = own["validation"]
        return scorers

    def _plain_tokenizer(self) -> PreTrainedTokenizerBase:
        """Rather not that of a task of tags, which may be set up for lists of words."""
        texts = [t for t, own in self.data.items() if head_of(own.task.head).layout != "words"]
        return self.tokenizers[texts[0] if texts else next(iter(self.tokenizers))]

    def _facts(self, task: str) -> dict[str, Any]:
        return {"metric": self.data[task].task.metric, "rows": len(self.splits[task]["train"].rows)}

    def _rows(self, task: str, name: str) -> OneTask:
        return OneTask(task, _for_the_model(self.splits[task][name]))

    def _evaluate(self, task: str) -> dict[str, dict[str, Any]]:
        return {
            name: self.scores(self._rows(task, name), f"{task}_{name}", len(split.rows))
            for name, split in self.splits[task].items()
            if name != "train"
        }

    def _tell(self, epoch: float, scores: Mapping[str, Mapping[str, float]]) -> None:
        metrics = {task: self.data[task].task.metric for task in scores}
        shown = [f"{task} {metrics[task]} {own.get(metrics[task], float('nan')):.4f}" for task, own in scores.items()]
        self.reporter.note(f"epoch {epoch:g}: validation {', '.join(shown)}")

    def _encoded(self, task: str, name: str) -> Encoded:
        data, tokenizer = self.data[task], self.tokenizers[task]
        split, limit = data.splits[name], self.settings.max_eval_samples
        if name != "train" and limit is not None and len(split) > limit:
            self.reporter.note(f"{task} {name}: {limit:,} of {len(split):,} rows (--max-eval-samples).")
            split = fewer_rows(data, name, limit, 0)  # the same rows for every seed
        length = min(self.settings.max_length, longest_input(self.model, tokenizer))
        encoded = encode(split, data.task, tokenizer, length, name=f"{task} {name}")
        for note in encoded.notes:
            self.reporter.note(note)
        return encoded if name == "train" else encoded.longest_first()


def _load(
    settings: MultiTaskSettings, data: Mapping[str, TaskData], reporter: Reporter
) -> tuple[MultiTaskModel, dict[str, PreTrainedTokenizerBase]]:
    """The model of all tasks, each head drawn as in a run of its task alone, and the tokenizer of each."""
    model: MultiTaskModel | None = None
    tokenizers: dict[str, PreTrainedTokenizerBase] = {}
    for task, own in data.items():
        set_seed(settings.seed)
        one, tokenizers[task], source = load_model(
            settings.model,
            own.task,
            trust_remote_code=settings.trust_remote_code,
            new_head=True,
            dtype=settings.dtype,
            pooling="cls",
        )
        if source.note:
            reporter.note(f"{task}: {source.note}")
        if model is None:
            model = MultiTaskModel({task: one})
        else:
            model.add(task, one)  # one after the other, so that no more than two encoders are in memory
        dropout = settings.dropout_of(task)
        if not set_head_dropout(one, dropout):
            reporter.note(f"{task}: the head of {type(one).__name__} has no dropout, so {dropout:g} is not set.")
    assert model is not None  # there is at least one task
    length = longest_input(model, next(iter(tokenizers.values())))
    if length < settings.max_length:
        reporter.note(f"Texts are cut after {length} tokens: {settings.model} takes no more.")
    return model, tokenizers


def _for_the_model(split: Encoded) -> Any:
    return split.features.remove_columns([name for name in split.features.column_names if name in _NOT_FOR_THE_MODEL])
