"""Scores on a set whose classes are coarser than the model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def in_classes_of_the_set(logits: np.ndarray, class_of_output: Sequence[int] | None) -> np.ndarray:
    """Outputs over the classes of a set; the class of the highest output stays the one that is predicted.

    A model of three classes that predicts neutral or contradiction predicts non-entailment on HANS (McCoy et al.,
    ACL 2019). Each class gets the highest output among its own, so ties and outputs that are no numbers stay so.

    Args:
        logits: ``(rows, outputs)``.
        class_of_output: for each output its class in the set; ``None`` where they are the same.

    >>> import numpy
    >>> in_classes_of_the_set(numpy.array([[0.4, 0.3, 0.5]]), (0, 1, 1)).tolist()
    [[0.4, 0.5]]
    """
    import numpy as np

    if class_of_output is None:
        return logits
    places = np.asarray(class_of_output)
    return np.stack([logits[:, places == c].max(axis=1) for c in range(int(places.max()) + 1)], axis=1)
