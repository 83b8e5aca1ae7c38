"""The scores of one vector of outputs per row: classes by scikit-learn, numbers by scipy.

A row whose outputs are not all finite is counted in `non_finite`, a key that is present only when there are any.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from steadytune.errors import DataError

if TYPE_CHECKING:
    import numpy as np


def class_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the scores of (rows x classes) against class indices; see `compute_metrics`.

    Raises:
        DataError: no rows, shapes that do not fit, or labels that are no class indices.
    """
    import numpy as np

    outputs, labels = _checked("classification", logits, labels)
    if labels.shape != (len(outputs),) or outputs.shape[1] < 2:
        raise _misfit("classification", outputs, labels)
    if not np.isin(labels, np.arange(outputs.shape[1])).all():
        raise DataError(f"the labels are not all class indices from 0 to {outputs.shape[1] - 1}.")
    finite = np.asarray(np.isfinite(outputs).all(axis=1))
    return _of_classes(outputs, labels, finite) | _not_finite(finite)


def label_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the scores of (rows x labels) against 0 and 1; see `compute_metrics`.

    Raises:
        DataError: no rows, shapes that do not fit, or labels that are neither 0 nor 1.
    """
    import numpy as np

    outputs, labels = _checked("multi_label", logits, labels)
    if labels.shape != outputs.shape or outputs.shape[1] < 1:
        raise _misfit("multi_label", outputs, labels)
    if not np.isin(labels, (0, 1)).all():
        raise DataError("the labels are not all 0 or 1.")
    finite = np.asarray(np.isfinite(outputs).all(axis=1))
    return _of_labels(outputs, labels, finite) | _not_finite(finite)


def number_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the scores of numbers, (rows) or (rows x 1), against numbers; see `compute_metrics`.

    Raises:
        DataError: no rows, shapes that do not fit, or labels that are not finite.
    """
    import numpy as np

    outputs = np.asarray(logits)
    outputs, labels = _checked("regression", outputs[:, None] if outputs.ndim == 1 else outputs, labels)
    if labels.shape != (len(outputs),) or outputs.shape[1] != 1:
        raise _misfit("regression", outputs, labels)
    finite = np.asarray(np.isfinite(outputs).all(axis=1))
    return _of_numbers(outputs[:, 0], labels.astype(np.float64), bool(finite.all())) | _not_finite(finite)


def _checked(head: str, logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return outputs in float64 with two dimensions, and labels that are finite."""
    import numpy as np

    outputs, labels = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if len(labels) == 0:
        raise DataError("there are no rows to score.")
    if outputs.ndim != 2 or len(outputs) != len(labels):
        raise _misfit(head, outputs, labels)
    if not np.isfinite(labels).all():
        raise DataError("the labels are not all finite numbers.")
    return outputs, labels


def _misfit(head: str, outputs: np.ndarray, labels: np.ndarray) -> DataError:
    return DataError(f"outputs of shape {outputs.shape} and labels of shape {labels.shape} do not fit {head}.")


def _not_finite(finite: np.ndarray) -> dict[str, float]:
    count = int((~finite).sum())
    return {"non_finite": float(count)} if count else {}


def _of_classes(outputs: np.ndarray, labels: np.ndarray, finite: np.ndarray) -> dict[str, float]:
    import numpy as np
    from sklearn.metrics import f1_score, matthews_corrcoef

    classes = outputs.shape[1]
    labels = labels.astype(np.int64)
    predicted = np.where(finite, np.where(finite[:, None], outputs, 0.0).argmax(axis=1), classes)
    constant = len(np.unique(predicted)) == 1 or len(np.unique(labels)) == 1
    each = f1_score(labels, predicted, labels=list(range(classes)), average=None, zero_division=0.0)  # pyright: ignore
    scores = {
        "accuracy": float((predicted == labels).mean()),
        "f1_macro": float(np.mean(each)),
        "matthews": 0.0 if constant else float(matthews_corrcoef(labels, predicted)),
    }
    if classes == 2:
        scores["f1"] = float(np.asarray(each)[1])
    return scores


def _of_labels(outputs: np.ndarray, labels: np.ndarray, finite: np.ndarray) -> dict[str, float]:
    import numpy as np

    predicted, wanted = (outputs > 0) & finite[:, None], labels.astype(bool)
    right = (predicted & wanted).sum(axis=0)
    either = predicted.sum(axis=0) + wanted.sum(axis=0)
    each = 2 * right / np.maximum(either, 1)  # of scikit-learn a single label would be taken for two classes
    return {
        "f1_micro": float(2 * right.sum() / max(int(either.sum()), 1)),
        "f1_macro": float(each.mean()),
        "accuracy": float(((predicted == wanted).all(axis=1) & finite).mean()),
    }


def _of_numbers(predicted: np.ndarray, labels: np.ndarray, finite: bool) -> dict[str, float]:
    import numpy as np
    from scipy.stats import pearsonr, spearmanr

    scores = {"pearson": 0.0, "spearman": 0.0}
    if not finite:
        return scores
    if predicted.min() < predicted.max() and labels.min() < labels.max():
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # scipy on nearly constant input
            for name, correlation in (("pearson", pearsonr), ("spearman", spearmanr)):
                value = float(correlation(predicted, labels).statistic)  # pyright: ignore
                scores[name] = value if np.isfinite(value) else 0.0
    with np.errstate(over="ignore"):
        error = float(np.mean((predicted - labels) ** 2))
    return {**scores, "mse": error} if np.isfinite(error) else scores
