"""Scores of each class, and which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np

#: Classes above which the confusion matrix is left out: it would be larger than the predictions.
LARGEST_MATRIX = 200


class OfClass(TypedDict):
    """Scores of one class; a score without rows or predictions is 0, as in scikit-learn."""

    support: int
    precision: float
    recall: float
    f1: float


class ByClass(TypedDict):
    """Scores by class name, and the confusion matrix: rows are true classes, columns predicted ones.

    The matrix is empty above `LARGEST_MATRIX` classes.
    """

    classes: dict[str, OfClass]
    confusion: list[list[int]]


def scores_by_class(logits: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> ByClass:
    """Return support, precision, recall and F1 of each class, and the confusion matrix.

    Args:
        logits: ``(rows, classes)``; a row's first largest output is its prediction.
        labels: ``(rows,)``, class indices.
        names: of the classes, in the order of their indices.

    >>> found = scores_by_class(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), np.array([0, 0, 1]), ["no", "yes"])
    >>> found["confusion"], found["classes"]["yes"]["precision"]
    ([[1, 1], [0, 1]], 0.5)
    """
    from sklearn import metrics

    outputs = np.asarray(logits)
    finite = np.isfinite(outputs).all(axis=1)  # the others predict nothing
    predicted, labels, indices = outputs[finite].argmax(axis=1), labels[finite], np.arange(len(names))
    library: Any = metrics  # scikit-learn has no types
    precision, recall, f1, support = library.precision_recall_fscore_support(
        labels, predicted, labels=indices, zero_division=0.0
    )
    classes: dict[str, OfClass] = {
        name: {
            "support": int(support[i]),
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
        }
        for i, name in enumerate(names)
    }
    small = len(names) <= LARGEST_MATRIX
    return {
        "classes": classes,
        "confusion": library.confusion_matrix(labels, predicted, labels=indices).tolist() if small else [],
    }
