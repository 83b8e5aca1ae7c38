"""The hybrid network on WNLI, from settings to a folder with the model and what it scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import TrainerCallback, set_seed

from steadytune.errors import DataError, ModelNotFoundError
from steadytune.heads.columns import TEXT, TEXT_PAIR
from steadytune.heads.scores.metrics import compute_metrics
from steadytune.methods.registry import build_methods
from steadytune.models.hybrid import HybridLoss, HybridNetwork
from steadytune.models.load import find_model, longest_input
from steadytune.settings.hybrid import HybridSettings
from steadytune.support.atomic_files import replaced_when_whole
from steadytune.support.text import brief
from steadytune.tasks.task import TaskData
from steadytune.training.arguments import training_arguments
from steadytune.training.folder import RunFolder
from steadytune.training.hybrid.encoding import PronounEncoder
from steadytune.training.hybrid.questions import PronounQuestion, pronoun_questions
from steadytune.training.reporter import Reporter, Silent
from steadytune.training.rows import load_data
from steadytune.training.skeleton import Making, Run, RunResult
from steadytune.training.trainer import RunTrainer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: File beside the language model that holds what the hybrid network adds to it.
QUERY_FILE = "hybrid.safetensors"


@dataclass(frozen=True, eq=False)
class PronounSplit:
    """A split of WNLI as questions.

    Attributes:
        labels: of all rows, 1 for entailed.
        questions: what its aligned rows ask.
        unaligned: indices of the rows that are no substitution of a pronoun.
    """

    labels: np.ndarray
    questions: list[PronounQuestion]
    unaligned: list[int]

    @classmethod
    def of(cls, rows: Dataset, known: Sequence[PronounQuestion] = ()) -> PronounSplit:
        """Align the rows; candidates of ``known`` questions may be rivals."""
        labels = [int(label) for label in rows["label"]]
        questions, unaligned = pronoun_questions(list(rows[TEXT]), list(rows[TEXT_PAIR]), labels, known)
        return cls(np.array(labels), questions, unaligned)

    def counts(self) -> dict[str, int]:
        """Rows, rows that are aligned, questions, and questions with one candidate only."""
        alone = sum(len(question.candidates) == 1 for question in self.questions)
        aligned = len(self.labels) - len(self.unaligned)
        return {"rows": len(self.labels), "aligned": aligned, "questions": len(self.questions), "alone": alone}


def train_hybrid(settings: HybridSettings, reporter: Reporter | None = None) -> RunResult:
    """Train the hybrid network on WNLI, evaluate it before and after, and keep everything in the run's folder.

    A row is entailed if its candidate has the highest score of its question, or, where it has no rival, if its
    similarity is at least a half. A row that cannot be aligned gets the label that most training rows have.

    Args:
        settings: see `HybridSettings`.
        reporter: shows progress; nothing is shown without one.

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
    if "after" in metrics:
        folder.finish_removal(settings, metrics)
        return RunResult(folder.path, metrics, was_finished=True)
    data = load_data(settings.for_data())
    for note in data.notes:
        reporter.note(note)
    run = _Run(Making(methods, arguments, folder, reporter, settings.seed, settings.keep_checkpoints), settings, data)
    with folder.held(settings):  # only now, so that a mistake leaves no folder behind
        return RunResult(folder.path, run.finish(metrics), was_finished=False)


class HybridTrainer(RunTrainer):
    """Trains on questions, and scores the rows that ask them.

    Args:
        encoder: makes features and batches.
        fallback: label of the rows that cannot be aligned.
    """

    def __init__(self, *args: Any, encoder: PronounEncoder, fallback: int, **kwargs: Any) -> None:
        self.encoder, self.fallback = encoder, fallback
        super().__init__(*args, scorers={}, group_by_length=False, **kwargs)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,  # noqa: ARG002 - the Trainer's signature
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Score the rows of a split, by default the validation split."""
        given: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        split: PronounSplit = given
        predicted = np.full(len(split.labels), self.fallback)
        scored, loss = self._scored(split)
        for question, logits, similarity in scored:
            best = int(np.argmax(logits)) if len(logits) > 1 else (0 if similarity[0] >= 0.5 else -1)
            for number, rows in enumerate(question.rows):
                predicted[list(rows)] = int(number == best)
        scores = compute_metrics("classification", np.eye(2)[predicted], split.labels)
        aligned = np.setdiff1d(np.arange(len(predicted)), split.unaligned)
        if len(aligned):
            scores["accuracy_aligned"] = float((predicted == split.labels)[aligned].mean())
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in {"loss": loss, **scores}.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def _scored(self, split: PronounSplit) -> tuple[list[tuple[PronounQuestion, np.ndarray, np.ndarray]], float]:
        """Logits and similarities of every question's candidates, and the mean loss over the questions."""
        model: Any = self.model
        was_training, found, loss = model.training, [], 0.0
        model.eval()
        size = self.args.eval_batch_size
        for start in range(0, len(split.questions), size):
            questions = split.questions[start : start + size]
            batch = self._prepare_inputs(self.encoder.batch([self.encoder.features(q) for q in questions]))
            with self.compute_loss_context_manager():
                outputs = model(**batch)
            loss += float(outputs.loss) * len(questions)
            for question, logits, similarity in zip(questions, outputs.logits, outputs.similarity, strict=True):
                count = len(question.candidates)
                own = (logits[:count].float().cpu().numpy(), similarity[:count].float().cpu().numpy())
                found.append((question, *own))
        model.train(was_training)
        return found, loss / max(len(found), 1)


class _Run(Run):
    """The run of the hybrid network."""

    def __init__(self, making: Making, settings: HybridSettings, data: TaskData) -> None:
        self.settings, self.data = settings, data
        super().__init__(making)

    def load(self) -> None:
        """Load the language model with its pretrained head."""
        self.language_model, self.tokenizer = load_language_model(
            self.settings.model, trust_remote_code=self.settings.trust_remote_code, dtype=self.settings.dtype
        )

    def read_rows(self) -> None:
        """Make questions of the rows."""
        train = PronounSplit.of(self.data.splits["train"])
        others = {name: rows for name, rows in self.data.splits.items() if name != "train"}
        self.splits = {"train": train} | {
            name: PronounSplit.of(rows, train.questions) for name, rows in others.items()
        }
        for name, split in self.splits.items():
            self.reporter.note(_counted(name, split))
        length = min(self.settings.max_length, longest_input(self.language_model, self.tokenizer))
        self.encoder = PronounEncoder(self.tokenizer, length)
        self.rows = [self.encoder.known(question) for question in train.questions]
        if not self.rows:
            raise DataError("no training row puts a candidate in the place of a pronoun: there is nothing to learn.")
        for split in self.splits.values():
            for question in split.questions:
                self.encoder.features(question)  # reports texts that are too long before training

    def make_trainer(self, callbacks: list[TrainerCallback]) -> RunTrainer:
        """Put the network on the language model, and make the trainer."""
        settings, arguments = self.settings, self.making.arguments
        set_seed(settings.seed)  # the projection is drawn
        weights = HybridLoss(settings.ranking_weight, settings.margin, settings.sharpness)
        self.model = HybridNetwork(self.language_model, weights)
        arguments.remove_unused_columns = False  # the rows are questions, of which the collator makes a batch
        return HybridTrainer(
            model=self.model,
            args=arguments,
            methods=self.making.methods,
            memory=settings.memory,
            train_dataset=self.rows,
            eval_dataset=self.splits["validation"],
            data_collator=self.encoder.batch,
            processing_class=self.tokenizer,
            encoder=self.encoder,
            fallback=int(self.splits["train"].labels.mean() > 0.5),
            callbacks=callbacks,
        )

    def was_measured(self, metrics: Mapping[str, Any]) -> bool:
        """Whether the scores before the training are there."""
        return "before" in metrics

    def evaluate(self, metrics: Mapping[str, Any], when: str) -> dict[str, Any]:
        """Score the rows of every split but the training split."""
        found = {
            name: self.scores(split, name, len(split.labels)) for name, split in self.splits.items() if name != "train"
        }
        if when == "before":
            return {**metrics, when: found}
        alignment = {name: split.counts() for name, split in self.splits.items()}
        return {**metrics, when: found, "metric": self.data.task.metric, "alignment": alignment}

    def save(self) -> None:
        """Save the language model, and what the network adds to it."""
        self.folder.save_model(self.model.language_model, self.tokenizer)
        with replaced_when_whole(self.folder.path / QUERY_FILE) as unfinished:
            save_file({"query.weight": self.model.query.weight.detach().cpu().contiguous()}, unfinished)


def _counted(name: str, split: PronounSplit) -> str:
    count = split.counts()
    return (
        f"{name}: {count['aligned']:,} of {count['rows']:,} rows put a candidate in the place of a pronoun: "
        f"{count['questions']:,} questions, {count['alone']:,} without a rival. The other rows get the label "
        "that most training rows have."
    )


def load_language_model(
    name: str, *, trust_remote_code: bool = False, dtype: str = "float32"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a masked language model with its pretrained head, and its tokenizer; safetensors only.

    Raises:
        ModelNotFoundError: it is nowhere, cannot be loaded, or comes without a masked-language-model head.
    """
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    source = find_model(name)
    options: dict[str, Any] = {
        "trust_remote_code": trust_remote_code,
        "local_files_only": source.found_in != "hub",
    }
    try:
        model, loading = AutoModelForMaskedLM.from_pretrained(
            source.location, use_safetensors=True, output_loading_info=True, dtype=dtype, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(source.location, **options)
    except Exception as error:  # Transformers raises many types here; each becomes one line
        reason = brief(error)
        raise ModelNotFoundError(
            f"--model {name}: cannot be loaded as a masked language model ({type(error).__name__}: {reason})."
        ) from error
    missing = sorted(key for key in loading["missing_keys"] if "pooler" not in key)
    if missing:
        raise ModelNotFoundError(
            f"--model {name}: holds no whole masked language model, {missing[0]} is not in its weights: the hybrid "
            "network needs a checkpoint with its masked-language-model head, such as bert-base-uncased."
        )
    return model, tokenizer
