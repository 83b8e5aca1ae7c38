"""What a head is: everything that depends on what a model predicts, in one object."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from steadytune.errors import SettingsError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

    from steadytune.heads.encoded import Encoded

#: The label of positions that the loss leaves out, in Transformers and torch.
IGNORED = -100

#: What the rows of a head hold, apart from their labels.
Layout = Literal["texts", "words", "questions", "prompts"]
#: What is predicted for one row.
Predicts = Literal["class", "labels", "number", "tags", "answer", "text", "nothing"]
#: Makes features by column of a batch of rows by column and their indices.
Encoder = Callable[[dict[str, list[Any]], list[int]], dict[str, Any]]
#: Makes the scores of a split of its predictions and labels.
Scorer = Callable[["EvalPrediction"], dict[str, float]]
#: Makes a batch's outputs small before they are collected (``preprocess_logits_for_metrics``).
Selector = Callable[[Any, Any], Any]


class TaskRecord(Protocol):
    """What a head asks of a task; see `tasks.Task`."""

    @property
    def name(self) -> str:
        """The task's name."""
        ...

    @property
    def head(self) -> str:
        """The name of its head."""
        ...

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Classes, labels or tags in the order of their indices."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """All scores that the benchmark reports."""
        ...

    def language_of(self, split: str) -> str | None:
        """The ISO 639-1 code of a split's language."""
        ...


class TaskHead(ABC):
    """What a model predicts: its rows, its model class, its features, its scores.

    A head is one file in `heads/kinds` that ends in ``HEAD = ...``; nothing else lists it.

    Attributes:
        name: as in ``--head``.
        layout: what its rows hold.
        predicts: what a prediction is, for `steadytune predict`.
        input_columns: the columns that carry the text of a row; ``text_pair`` is there for pairs only.
        noisy_columns: what noise on texts may change: never what a label points into.
        metrics: scores of the user's own files, the main one first.
        model_class: the ``Auto`` class of Transformers, see `auto_class`.
        from_files: rows of it can be read from the user's files, and trained on.
        one_class_per_row: a row has one class, so a subset can keep the classes' proportions.
        one_output_per_row: the outputs of a row are one vector, whose scores need no tokens.
        chooses: predictions are choices between classes, with a probability each.
        one_label_each: batches carry one tensor of labels, one for each text or word: what multi-task training needs,
            and an attack can make wrong.
        smooths_labels: the Trainer's label smoothing works.
        needs_places: needs a fast tokenizer, which knows the place of each token in the text.
        has_outputs: there is a module above the body; without one the body is loaded alone.
        unfit_noise: kinds of noise that would make labels wrong, each with the reason.
    """

    name: ClassVar[str]
    layout: ClassVar[Layout] = "texts"
    predicts: ClassVar[Predicts] = "nothing"
    input_columns: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]]
    model_class: ClassVar[str]
    from_files: ClassVar[bool] = True
    one_class_per_row: ClassVar[bool] = False
    one_output_per_row: ClassVar[bool] = False
    chooses: ClassVar[bool] = False
    one_label_each: ClassVar[bool] = False
    smooths_labels: ClassVar[bool] = False
    needs_places: ClassVar[bool] = False
    has_outputs: ClassVar[bool] = True
    unfit_noise: ClassVar[Mapping[str, str]] = {}

    @property
    def noisy_columns(self) -> tuple[str, ...]:
        """The columns that noise on texts may change."""
        return self.input_columns

    def number_of_outputs(self, label_names: tuple[str, ...] | None) -> int | None:
        """Width of the head: one per class, label or tag; ``None`` where classes do not decide it."""
        return None if label_names is None else len(label_names)

    def file_metrics(self, label_names: tuple[str, ...] | None) -> tuple[str, ...]:
        """Return the scores of the user's own files, the main one first, by the names of the training rows' labels."""
        return self.metrics

    def auto_class(self, *, is_encoder_decoder: bool) -> str:
        """Name of the ``Auto`` class that loads a model with this head."""
        return self.model_class

    def configuration(self, label_names: tuple[str, ...] | None) -> dict[str, Any]:
        """What a model's configuration must say of the head."""
        names = label_names or ()
        return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}

    def encoder(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, *, is_encoder_decoder: bool = False
    ) -> Encoder:
        """Return what makes features of rows.

        Besides what the model takes, features have the columns ``row`` (index of the row they come from) and ``cut``
        (1 where the row was too long and a part of it is in no feature), and what the scorer needs; the Trainer
        leaves those out.

        Args:
            tokenizer: of the model.
            max_length: longest feature, in tokens.
            is_encoder_decoder: an encoder reads and a decoder writes.

        Raises:
            SettingsError: the head needs a fast tokenizer, more tokens, or is not trained.
        """
        if self.needs_places and not tokenizer.is_fast:
            raise SettingsError(
                f"{self.name} needs a fast tokenizer, which knows the place of each token in the text; "
                f"{type(tokenizer).__name__} is none: save the model with a tokenizer.json."
            )
        return self._encoder(tokenizer, max_length, is_encoder_decoder)

    @abstractmethod
    def _encoder(self, tokenizer: PreTrainedTokenizerBase, max_length: int, is_encoder_decoder: bool) -> Encoder: ...

    def collator(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
        """Return what makes a batch of features, padded to the longest of them."""
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    def selector(self, *, is_encoder_decoder: bool = False) -> Selector:
        """Return what makes a batch's outputs small before they are collected."""
        return lambda outputs, _: first(outputs)

    @abstractmethod
    def scorer(self, task: TaskRecord, encoded: Encoded, split: str) -> Scorer:
        """Return what scores the predictions for the features of a split, which must come in their order.

        Args:
            task: tells names of labels and language.
            encoded: the split as it is evaluated.
            split: its name.
        """

    def row_scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float] | None:
        """Return the scores of one vector of outputs per row; ``None`` where rows have no such outputs."""
        return None

    def as_decisions(self, logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return outputs and labels as choices between classes, for heads that choose."""
        return logits, labels

    def cut_note(self, rows: int) -> str:
        """Say what is too long, with its verb, where a part of some rows is in no feature."""
        return f"rows {'is' if rows == 1 else 'are'} longer"

    def notes(self, features: Dataset, rows: Dataset, split: str) -> list[str]:
        """Say what else the user must get to see of a split's features."""
        return []

    def check_model(  # noqa: B027 - most heads fit every model that loads
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, missing: Iterable[str], name: str
    ) -> None:
        """Raise where a loaded model cannot have this head.

        Args:
            model: as it was loaded.
            tokenizer: its tokenizer.
            missing: parameters that its files lack.
            name: as it was asked for.

        Raises:
            ModelNotFoundError: it cannot; the message says why.
        """


def first(outputs: Any) -> Any:
    """Return the outputs, or the first of several."""
    return outputs[0] if isinstance(outputs, tuple | list) else outputs
