"""What is predicted for one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: A class, a number, several labels or tags, an answer or a text; ``None`` where nothing can be predicted.
Label = str | float | tuple[str, ...] | None
#: Probability of the whole prediction, or of each tag.
Probability = float | tuple[float | None, ...] | None


@dataclass(frozen=True)
class Prediction:
    """What a model predicts for one row.

    Attributes:
        label: the class; a number for regression; the labels that hold; one tag for each word; the answer; the text
            that was written. ``None`` for a row without text, or with outputs that are not finite.
        probability: what the model gives to this label: the class's probability; that of exactly these labels, taken
            as independent; one for each tag; that of the span among all spans; that of the whole text. ``None`` for
            numbers.
        probabilities: by class, label or tag, of heads that have them; for tags one for each word.

    Example:
        >>> Prediction("positive", 0.9, {"negative": 0.1, "positive": 0.9}).label
        'positive'
    """

    label: Label
    probability: Probability = None
    probabilities: Mapping[str, float | tuple[float | None, ...]] = field(default_factory=dict)


NOTHING = Prediction(None)
