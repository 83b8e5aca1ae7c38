"""Predict from Python: any rows in, one prediction for each out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, overload

from steadytune.errors import SettingsError, did_you_mean
from steadytune.heads.registry import head_of
from steadytune.prediction.chunks import Chunk
from steadytune.prediction.prediction import Prediction
from steadytune.prediction.session import Work, predict_rows
from steadytune.prediction.sources import from_python
from steadytune.prediction.trained_model import find_trained_model
from steadytune.settings.predict import PredictOptions


class Predictions(Sequence[Prediction]):
    """Predictions in the order of the rows.

    Attributes:
        scores: by name, where the rows have labels; else empty.
        notes: sentences about rows without a prediction or a label.
    """

    def __init__(self, found: Sequence[Prediction], scores: Mapping[str, float], notes: Sequence[str]) -> None:
        self._found = tuple(found)
        self.scores, self.notes = dict(scores), tuple(notes)

    @overload
    def __getitem__(self, place: int) -> Prediction: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Prediction]: ...

    def __getitem__(self, place: int | slice) -> Prediction | Sequence[Prediction]:
        return self._found[place]

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self._found)

    def __repr__(self) -> str:
        return f"Predictions({list(self._found)!r})"

    @property
    def labels(self) -> list[Any]:
        """The label of each row."""
        return [one.label for one in self._found]


def predict(model: str | PathLike[str], rows: Any, **options: Any) -> Predictions:
    """Predict rows with a trained model.

    Texts are cut and paired as in training. Rows without text have the prediction ``None``. If the rows have labels,
    they are also scored.

    Args:
        model: folder of a run, of a comparison (its best model) or of a saved model, or a Hub id.
        rows: a text, or a list of texts, of pairs of texts (for tags: of lists of words) or of dictionaries; a
            ``Dataset``; a ``DataFrame``; or a file, as a ``Path`` or a string that names one.
        options: those of the command line by their names, such as ``text_column`` or ``per_device_eval_batch_size``;
            see `PredictOptions`.

    Returns:
        A sequence of `Prediction`, one for each row, with ``scores`` and ``notes``.

    Raises:
        SteadytuneError: model, rows or options cannot be used.

    Example:
        >>> import tempfile
        >>> from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast
        >>> folder = tempfile.mkdtemp()
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "film"]
        >>> BertTokenizerFast(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder) and None
        >>> small = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
        >>> config = BertConfig(vocab_size=8, id2label={0: "negative", 1: "positive"}, **small)
        >>> BertForSequenceClassification(config).save_pretrained(folder)
        >>> found = predict(folder, ["a good film", ""])
        >>> found[0].label in ("negative", "positive"), found[1].label
        (True, None)
    """
    unknown = sorted(options.keys() - PredictOptions.model_fields.keys())
    if unknown:
        raise SettingsError(
            f"predict() has no option {unknown[0]!r}.{did_you_mean(unknown[0], PredictOptions.model_fields)}"
        )
    found = find_trained_model(str(model))
    asked = PredictOptions(**{"all_probabilities": head_of(found.task.head).chooses, **options})
    work = Work.planned(found, from_python(rows, found.inputs, asked), asked)
    predictions: list[Prediction] = []

    def take(_chunk: Chunk, some: list[Prediction]) -> None:
        predictions.extend(some)

    outcome = predict_rows(work, take)
    scores = outcome.scores
    notes = [*outcome.notes, *([scores.note] if scores is not None and scores.note else [])]
    return Predictions(predictions, scores.values if scores is not None else {}, notes)
