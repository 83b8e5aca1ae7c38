"""A first look at rows before anything is trained: lengths, classes, rows that occur twice. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steadytune.heads.columns import LABEL
from steadytune.heads.registry import head_of
from steadytune.settings.train import TrainSettings
from steadytune.tasks.files.load import training_rows
from steadytune.tasks.task import TaskData
from steadytune.training.facts import Lengths, facts_of_model, lengths_in, text_columns
from steadytune.training.recipe import ModelFacts
from steadytune.training.rows import load_data

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Repeats:
    """Rows whose text occurs more than once.

    Attributes:
        agreeing: the rows of each text that always has the same label, counted from 0.
        contradictory: the rows of each text that occurs with several labels.
        in_file: whether the numbers are those of the training file.
    """

    agreeing: tuple[tuple[int, ...], ...]
    contradictory: tuple[tuple[int, ...], ...]
    in_file: bool


@dataclass(frozen=True)
class Look:
    """What was seen.

    Attributes:
        data: the rows.
        lengths: of the training rows.
        classes: for classification, training rows of each class.
        repeats: rows of the training file, or training rows of a named task, that have the text of another.
        model: its size and kind.
    """

    data: TaskData
    lengths: Lengths
    classes: Mapping[str, int]
    repeats: Repeats
    model: ModelFacts = ModelFacts()

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self.data.splits["train"])

    @property
    def majority(self) -> float:
        """Share of the largest class; 0 where there are no classes."""
        return max(self.classes.values()) / max(1, sum(self.classes.values())) if self.classes else 0.0


def first_look(settings: TrainSettings) -> Look:
    """Read the rows that a run would read, and measure them.

    Raises:
        SettingsError: neither a task nor a file is given, or both.
        DataError: a file cannot be used; the message names file, row and column.
        ModelNotFoundError: the model, whose tokenizer measures, is nowhere.
    """
    data = load_data(settings)
    train = data.splits["train"]
    repeats = _repeats(_whole_file(settings), train, text_columns(data))
    return Look(data, lengths_in(data, settings.model), _classes(data), repeats, facts_of_model(settings.model))


def _whole_file(settings: TrainSettings) -> Dataset | None:
    """The rows of the training file with their numbers, which those that are trained on no longer have."""
    if settings.train_file is None:
        return None
    return training_rows(
        settings.train_file,
        text_column=settings.text_column,
        text_pair_column=settings.text_pair_column,
        label_column=settings.label_column,
        head=settings.head,
        delimiter=settings.delimiter,
        encoding=settings.encoding,
    )


def _classes(data: TaskData) -> dict[str, int]:
    import numpy as np

    names = data.task.label_names
    if not head_of(data.task.head).one_class_per_row or names is None:
        return {}
    counts = np.bincount(np.asarray(data.splits["train"].with_format("numpy")[LABEL][:]), minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def _repeats(file: Dataset | None, train: Dataset, columns: list[str]) -> Repeats:
    rows = train if file is None else file
    seen: dict[int, list[tuple[int, str]]] = {}  # by the hash of the text, which takes less room
    number = 0
    for batch in rows.select_columns([*columns, *([LABEL] if LABEL in rows.column_names else [])]).iter(10_000):
        of: Any = batch
        labels = of.get(LABEL) or [None] * len(of[columns[0]])
        for *texts, label in zip(*(of[name] for name in columns), labels, strict=True):
            seen.setdefault(hash(str(texts)), []).append((number, str(label)))
            number += 1
    agreeing, contradictory = [], []
    for found in seen.values():
        if len(found) > 1:
            (contradictory if len({label for _, label in found}) > 1 else agreeing).append(
                tuple(row for row, _ in found)
            )
    return Repeats(tuple(agreeing), tuple(contradictory), file is not None)
