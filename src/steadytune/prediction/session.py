"""Predict the rows of a source, some at a time, and count what was scored and what could not be predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steadytune.errors import DataError, SettingsError
from steadytune.heads.head import Predicts
from steadytune.heads.registry import head_of
from steadytune.prediction.chunks import Chunk
from steadytune.prediction.columns import (
    PREDICTED,
    PROBABILITY,
    ChosenColumns,
    added_columns,
    choose_columns,
    refuse_collisions,
)
from steadytune.prediction.prediction import NOTHING, Prediction
from steadytune.prediction.sources import RowSource
from steadytune.prediction.trained_model import TrainedModel, load_predictor
from steadytune.settings.predict import PredictOptions
from steadytune.support.text import counted, excerpt
from steadytune.tasks.files.places import numbered
from steadytune.tasks.task import Head

if TYPE_CHECKING:
    from steadytune.prediction.scorekeeper import Scores

#: Takes the predictions of the rows of a chunk.
Take = Callable[[Chunk, list[Prediction]], None]
#: Receives the number of rows done.
Progress = Callable[[int], None]
#: Most rows without a prediction that are listed.
_NAMED = 10


@dataclass(frozen=True)
class Work:
    """What is predicted by what: everything that can be checked before a model is loaded.

    Attributes:
        model: the model.
        source: the rows.
        columns: the columns of the source that count.
        options: how the model is asked.
        added: names of the columns that predictions add.
    """

    model: TrainedModel
    source: RowSource
    columns: ChosenColumns
    options: PredictOptions
    added: tuple[str, ...]

    @classmethod
    def planned(cls, model: TrainedModel, source: RowSource, options: PredictOptions) -> Work:
        """Check columns and options.

        Raises:
            DataError: the source lacks a column.
            SettingsError: a column would be there twice, or the head has no classes.
        """
        head = head_of(model.task.head)
        columns = choose_columns(source.columns, model.inputs, options.asked_columns, source.place)
        if options.all_probabilities and not head.chooses:
            raise SettingsError(
                f"--all-probabilities: is for classes, labels and tags; {model.name} has none ({head.name})."
            )
        classes = (model.task.label_names or ()) if options.all_probabilities else ()
        added = added_columns(options.column_prefix, classes, with_probability=head.predicts != "number")
        return cls(model, source, columns, options, tuple(added))

    def refuse_collisions(self) -> None:
        """Raise where the rows have a column already that predictions would add."""
        refuse_collisions(self.source.columns, self.added, self.source.place)

    @property
    def predicts(self) -> Predicts:
        """What a prediction is."""
        return head_of(self.model.task.head).predicts

    @property
    def _vector(self) -> tuple[str, ...]:
        """The labels of the model where each is a column of 0 and 1, as training may have them."""
        names = self.model.task.label_names or ()
        is_vector = self.predicts == "labels" and set(names) <= set(self.source.columns)
        return names if is_vector else ()

    @property
    def has_labels(self) -> bool:
        """Whether the rows say what is true."""
        return self.columns.label is not None or bool(self._vector)

    def labels(self, chunk: Chunk) -> list[Any]:
        """What is true of each row, as it is in the file."""
        if not self._vector:
            return chunk.column(str(self.columns.label))
        return [[name for name in self._vector if _is_one(row.get(name))] for row in chunk.rows]

    def values(self, predictions: Sequence[Prediction], *, joined: str | None = None) -> dict[str, list[Any]]:
        """The columns that predictions add, by name.

        Args:
            predictions: one for each row.
            joined: what stands between several labels of a row in one cell; lists if ``None``.
        """
        found: dict[str, list[Any]] = {}
        prefix = f"{self.options.column_prefix}{PROBABILITY}_"
        for name in self.added:
            if name == self.options.column_prefix + PREDICTED:
                labels = [p.label for p in predictions]
                found[name] = [joined.join(x) if joined and isinstance(x, tuple) else _plain(x) for x in labels]
            elif name == self.options.column_prefix + PROBABILITY:
                found[name] = [_plain(p.probability) for p in predictions]
            else:
                found[name] = [_plain(p.probabilities.get(name.removeprefix(prefix))) for p in predictions]
        return found

    def types(self) -> dict[str, Any]:
        """The types of the added columns in Arrow."""
        import pyarrow as pa

        number = pa.list_(pa.float64()) if self.predicts == "tags" else pa.float64()
        several = self.predicts in ("tags", "labels")
        label = pa.list_(pa.string()) if several else pa.float64() if self.predicts == "number" else pa.string()
        first = self.options.column_prefix + PREDICTED
        return {name: label if name == first else number for name in self.added}


def _is_one(value: Any) -> bool:
    return str(value).strip().lower() in ("1", "1.0", "true")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        rows: how many rows there were.
        scores: what the predictions are worth; ``None`` without labels.
        notes: what the user must get to see.
    """

    rows: int
    scores: Scores | None
    notes: tuple[str, ...]


def predict_rows(work: Work, take: Take, progress: Progress = lambda _done: None) -> Outcome:
    """Load the model and predict all rows, in their order.

    Raises:
        SteadytuneError: model or rows cannot be used.
    """
    from steadytune.prediction.scorekeeper import Scorekeeper

    predictor = load_predictor(work.model, work.options)
    head, keeper = work.model.task.head, None
    if work.has_labels:
        keeper = Scorekeeper(work.model.task, predictor.likelihoods)
    done, empty, not_finite = 0, _Rows(), _Rows()
    for chunk in work.source.chunks():
        rows, places = input_columns(head, chunk, work.columns)
        found = predictor.predict(rows, all_probabilities=work.options.all_probabilities)
        predictions = [NOTHING] * len(chunk.rows)
        for place, prediction in zip(places, found.predictions, strict=True):
            predictions[place] = prediction
        empty.add(chunk.first + i - 1 for i in set(range(len(chunk.rows))) - set(places))
        not_finite.add(chunk.first + i - 1 for i in places if predictions[i] is NOTHING)
        if keeper is not None:
            labels = work.labels(chunk)
            keeper.add(rows, found, [labels[i] for i in places], [chunk.first + i for i in places])
        take(chunk, predictions)
        done += len(chunk.rows)
        progress(done)
    notes = [
        *empty.note(f"without {_what(work)}"),
        *not_finite.note("for which the model's outputs are not finite"),
    ]
    if empty.count == done:
        raise DataError(f"{work.source.place}: no row has {_what(work)}, so there is nothing to predict.")
    return Outcome(done, None if keeper is None else keeper.scores(), tuple(notes))


class _Rows:
    """How many rows something holds for, and which come first."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[int] = []

    def add(self, rows: Any) -> None:
        """More rows, by their indices from 0."""
        found = sorted(rows)
        self.count += len(found)
        self.first += found[: _NAMED - len(self.first)] if len(self.first) < _NAMED else []

    def note(self, what: str) -> list[str]:
        """A sentence about them; none where there are none."""
        if not self.count:
            return []
        rest = self.count - len(self.first)
        more = f" and {rest:,} more" if rest else ""
        return [f"{counted(self.count, 'row')} {what}, predicted as empty: {numbered(self.first)}{more}."]


def _what(work: Work) -> str:
    names = [name for name in (work.columns.text, work.columns.text_pair) if name is not None]
    return f"text in column {' or '.join(map(excerpt, names))}"


def input_columns(head: Head, chunk: Chunk, columns: ChosenColumns) -> tuple[dict[str, list[Any]], list[int]]:
    """The rows of a chunk in the text columns of a head, and which of its rows they are.

    Rows with a text that is missing, empty or only white space, or with something else in its place, are left out.
    """
    names = head_of(head).input_columns
    values = [chunk.column(columns.text)]
    if columns.text_pair is not None:
        values.append(chunk.column(columns.text_pair))
    if head_of(head).predicts == "tags":
        values[0] = [one.split() if isinstance(one, str) else one for one in values[0]]
        fits: Callable[[Any], bool] = _are_words
    else:
        fits = _is_text
    places = [i for i, row in enumerate(zip(*values, strict=True)) if all(map(fits, row))]
    kept = {name: [column[i] for i in places] for name, column in zip(names, values, strict=False)}
    return kept, places


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not value.isspace() and value != "" and _is_whole(value)


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(w, str) and _is_whole(w) for w in value)


def _is_whole(text: str) -> bool:
    """Whether there is no half of a character, which no tokenizer takes."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def as_cells(head: Head, names: Sequence[str] | None) -> str | None:
    """What stands between several labels in one cell: a sign that is in none of them, as training reads it."""
    if head_of(head).predicts != "labels":
        return None
    labels = list(names or ())
    return next((sign for sign in ("|", ";", ",") if not any(sign in str(label) for label in labels)), None)
