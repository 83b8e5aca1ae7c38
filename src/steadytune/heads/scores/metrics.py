"""The scores of a split, from the model's outputs: classes by scikit-learn, regression by scipy.

Tags, answers and sentence vectors have scorers of their own: `tagging`, `answers`, `retrieval`.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from steadytune.errors import DataError
from steadytune.tasks.task import Head

if TYPE_CHECKING:
    import numpy as np


def compute_metrics(head: Head, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return the metrics of outputs (rows x classes or labels, or rows or rows x 1 for regression) against labels.

    Classification: `accuracy`; `f1_macro`, the mean over all classes of the head, 0 for a class that neither occurs
    nor is predicted; `matthews` in [-1, 1], 0.0 when all predictions or all labels are equal; with two classes also
    `f1` of class 1. Regression: `pearson` and `spearman` in [-1, 1], 0.0 when predictions or labels are constant
    (where they are undefined), and `mse` in squared units of the labels. Multi-label (labels rows x labels, 0 or 1;
    a label is predicted where its output is above 0, a probability above one half): `f1_micro` over all labels of all
    rows, `f1_macro`, the mean over the labels, and `accuracy`, the share of rows with every label right.

    Rows whose outputs are not all finite are counted in `non_finite`, a key that is present only when there are any.
    In classification such a row is a prediction of no class, so it is wrong, and in multi-label of no label. In
    regression one such row makes `pearson` and `spearman` 0.0 and leaves `mse` out, as an `mse` beyond float64 is left
    out. Raises DataError for no rows, shapes that do not fit, labels that are not class indices or not finite, or a
    head that has another scorer.

    >>> import numpy
    >>> compute_metrics("regression", numpy.array([1.0, 2.0, 4.0]), numpy.array([1.0, 2.0, 3.0]))["spearman"]
    1.0
    """
    import numpy as np

    if head not in ("classification", "regression", "multi_label"):
        raise DataError(f"{head} is not scored from arrays of outputs.")
    outputs = np.asarray(logits, dtype=np.float64)
    if head == "regression" and outputs.ndim == 1:
        outputs = outputs[:, None]
    labels = np.asarray(labels)
    _check(head, outputs, labels)
    finite = np.asarray(np.isfinite(outputs).all(axis=1))
    if head == "classification":
        scores = _classification(outputs, labels, finite)
    elif head == "multi_label":
        scores = _multi_label(outputs, labels, finite)
    else:
        scores = _regression(outputs[:, 0], labels.astype(np.float64), bool(finite.all()))
    non_finite = int((~finite).sum())
    return {**scores, "non_finite": float(non_finite)} if non_finite else scores


def _check(head: Head, outputs: np.ndarray, labels: np.ndarray) -> None:
    import numpy as np

    if len(labels) == 0:
        raise DataError("there are no rows to score.")
    fits = outputs.ndim == 2 and labels.shape == (outputs.shape if head == "multi_label" else (len(outputs),))
    wide_enough = fits and (outputs.shape[1] >= 2 if head == "classification" else outputs.shape[1] >= 1)
    wide_enough = wide_enough and (head != "regression" or outputs.shape[1] == 1)
    if not wide_enough:
        raise DataError(f"outputs of shape {outputs.shape} and labels of shape {labels.shape} do not fit {head}.")
    if not np.isfinite(labels).all():
        raise DataError("the labels are not all finite numbers.")
    if head == "multi_label" and not np.isin(labels, (0, 1)).all():
        raise DataError("the labels are not all 0 or 1.")
    is_index = np.isin(labels, np.arange(outputs.shape[1])) if head == "classification" else None
    if is_index is not None and not is_index.all():
        raise DataError(f"the labels are not all class indices from 0 to {outputs.shape[1] - 1}.")


def _classification(outputs: np.ndarray, labels: np.ndarray, finite: np.ndarray) -> dict[str, float]:
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


def _multi_label(outputs: np.ndarray, labels: np.ndarray, finite: np.ndarray) -> dict[str, float]:
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


def _regression(predicted: np.ndarray, labels: np.ndarray, finite: bool) -> dict[str, float]:
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
