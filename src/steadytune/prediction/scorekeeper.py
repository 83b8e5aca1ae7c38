"""Score predictions where the rows carry what is true, by the measures of `steadytune evaluate`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steadytune.heads.kinds.causal_lm import language_model_scores
from steadytune.heads.registry import head_of
from steadytune.heads.scores.answers import question_answering_scores
from steadytune.heads.scores.metrics import compute_metrics
from steadytune.heads.scores.tags import tag_scores
from steadytune.prediction.predictors import Columns, Found
from steadytune.support.text import excerpt, listing
from steadytune.tasks.task import Task

#: What separates several labels in one cell; the first by which a cell falls into labels of the model.
DELIMITERS = ("|", ";", ",")


@dataclass(frozen=True)
class Scores:
    """What predictions are worth.

    Attributes:
        values: by name; empty without labels.
        rows: how many rows were scored.
        note: why there are no scores, or why some rows are not in them.
    """

    values: Mapping[str, float]
    rows: int
    note: str = ""


class _UnknownLabelError(Exception):
    """A label that the model does not have."""


class Scorekeeper:
    """Collects predictions and labels, in few bytes a row, and scores them at the end.

    Args:
        task: head, names of the labels, and which measures the task has.
        likelihoods: what given answers are worth to a language model.
    """

    def __init__(self, task: Task, likelihoods: Callable[[Columns], np.ndarray]) -> None:
        self.task = task
        self._likelihoods, self._predicts = likelihoods, head_of(task.head).predicts
        self._index = {name: i for i, name in enumerate(task.label_names or ())}
        self._outputs: list[np.ndarray] = []
        self._labels: list[Any] = []
        self._predicted: list[Any] = []
        self._rows = self._missing = 0
        self._problem = ""

    def add(self, rows: Columns, found: Found, labels: Sequence[Any], numbers: Sequence[int]) -> None:
        """Take down some rows.

        Args:
            rows: the text columns of the head.
            found: what was predicted for them.
            labels: what is true, as it is in the file.
            numbers: of the rows in the file, for messages.
        """
        if self._problem:
            return
        kept, true = [], []
        for place, label in enumerate(labels):
            if label is None or (_is_missing(label) and self._predicts != "labels"):
                self._missing += 1
                continue
            try:
                true.append(self._read(label, rows, place))
            except _UnknownLabelError as error:
                self._problem = f"Not scored: data row {numbers[place]} has {error}."
                return
            kept.append(place)
        if not kept:
            return
        self._rows += len(kept)
        if found.outputs is not None:
            self._outputs.append(found.outputs[kept])
            self._labels.append(np.array(true))
        elif self._predicts == "text":
            asked = {"prompt": [rows["prompt"][i] for i in kept], "answer": true}
            self._outputs.append(self._likelihoods(asked))
        else:
            self._predicted += [_plain(found.predictions[i].label) for i in kept]
            self._labels += true
            if "surface_f1" in self.task.metrics:
                self._outputs += [rows["tokens"][i] for i in kept]

    def scores(self) -> Scores:
        """The scores of all rows so far that have a label."""
        if self._problem or not self._rows:
            return Scores({}, 0, self._problem)
        note = f"{self._missing:,} rows have no label and are not in the scores." if self._missing else ""
        return Scores(self._values(), self._rows, note)

    def _values(self) -> dict[str, float]:
        if self._predicts == "tags":
            return tag_scores(self._predicted, self._labels, self._outputs or None)  # pyright: ignore[reportArgumentType]
        if self._predicts == "answer":
            script = "mlqa" if self.task.name == "mlqa" else None
            return question_answering_scores(self._predicted, self._labels, "en", script)
        if self._predicts == "text":
            return language_model_scores(np.concatenate(self._outputs))
        return compute_metrics(self.task.head, np.concatenate(self._outputs), np.concatenate(self._labels))

    # ------------------------------------------------------------ labels as they are in files

    def _read(self, label: Any, rows: Columns, place: int) -> Any:
        predicts = self._predicts
        if predicts == "class":
            return self._class(label)
        if predicts == "number":
            return _number(label)
        if predicts == "labels":
            return self._several(label)
        if predicts == "tags":
            return self._tags(label, len(rows["tokens"][place]))
        return _accepted(label) if predicts == "answer" else _text(label)

    def _class(self, label: Any) -> int:
        for name in _spellings(label):
            if name in self._index:
                return self._index[name]
        raise _UnknownLabelError(self._unknown(label))

    def _unknown(self, label: Any) -> str:
        return f"the label {excerpt(label)}, which the model does not have ({listing(list(self._index))})"

    def _several(self, label: Any) -> list[int]:
        values = label if isinstance(label, list) else self._divided(str(label).strip())
        holds = [0] * len(self._index)
        for value in values:
            holds[self._class(value)] = 1
        return holds

    def _divided(self, cell: str) -> list[str]:
        if not cell or cell in self._index:
            return [cell] if cell else []
        for delimiter in DELIMITERS:
            parts = [part.strip() for part in cell.split(delimiter)]
            if all(part in self._index for part in parts):
                return parts
        return [cell]

    def _tags(self, label: Any, words: int) -> list[str]:
        tags = label.split() if isinstance(label, str) else label
        if not isinstance(tags, list) or len(tags) != words:
            raise _UnknownLabelError(f"{excerpt(label)} for {words} words, not one tag for each")
        return [str(tag) for tag in tags]


def _is_missing(label: Any) -> bool:
    return label is None or (isinstance(label, str) and not label.strip())


def _spellings(label: Any) -> list[str]:
    """How a label may be written in the names of the model's outputs: `1`, `1.0` and `01` are one class."""
    text = str(label).strip()
    found = [text, text.lower()] if isinstance(label, bool) else [text]
    try:
        number = float(text)
    except ValueError:
        return found
    return [*found, str(int(number))] if math.isfinite(number) and number == int(number) else found


def _number(label: Any) -> float:
    try:
        number = float(label)
    except (TypeError, ValueError):
        raise _UnknownLabelError(f"the label {excerpt(label)}, which is no number") from None
    if not math.isfinite(number):
        raise _UnknownLabelError(f"the label {excerpt(label)}, which is no finite number")
    return number


def _accepted(label: Any) -> list[str]:
    texts = label.get("text") if isinstance(label, dict) else [label] if isinstance(label, str) else label
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise _UnknownLabelError(f"answers that are not texts ({excerpt(label)})")
    return texts


def _text(label: Any) -> str:
    if not isinstance(label, str):
        raise _UnknownLabelError(f"an answer that is not a text ({excerpt(label)})")
    return label


def _plain(label: Any) -> Any:
    """A prediction as the measures take it: tags as a list, and nothing as an empty answer."""
    return list(label) if isinstance(label, tuple) else (label or "")
