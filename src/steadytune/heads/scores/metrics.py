"""The scores of a split by the name of its head, from one vector of outputs per row.

Tags, answers and sentence vectors have scorers of their own: `tags`, `answers`, `retrieval`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from steadytune.errors import DataError
from steadytune.heads.registry import head_of

if TYPE_CHECKING:
    import numpy as np


def compute_metrics(head: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
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
    scores = head_of(head).row_scores(logits, labels)
    if scores is None:
        raise DataError(f"{head} is not scored from arrays of outputs.")
    return scores
