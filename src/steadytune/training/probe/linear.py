"""Linear models on frozen features; cross-validation within the training rows chooses the penalty."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

#: Inverse strengths of the logistic regression's L2 penalty, for features of length 1.
INVERSE_STRENGTHS = tuple(10.0**k for k in np.arange(-1, 4.5, 0.5))
#: Strengths of the ridge regression's penalty, for features of length 1.
STRENGTHS = tuple(10.0**k for k in np.arange(-4, 2.5, 0.5))
#: Taken where classes are too small to cross-validate.
UNCHOSEN = 10.0
FOLDS = 5
#: Log-odds of a class or label that no training row has.
NEVER = -10.0


@dataclass(frozen=True)
class Linear:
    """A linear layer.

    Attributes:
        weight: ``(outputs, features)``.
        bias: ``(outputs,)``.
        strength: what cross-validation chose, one for each model that was fitted.
    """

    weight: np.ndarray
    bias: np.ndarray
    strength: tuple[float, ...]


def fit_classes(features: np.ndarray, labels: np.ndarray, classes: int) -> Linear:
    """Fit a multinomial logistic regression.

    Args:
        features: ``(rows, features)``.
        labels: ``(rows,)``, class indices.
        classes: number of outputs; one that no row has gets the logit `NEVER`.

    >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> found = fit_classes(rows, np.array([0, 0, 1, 1]), 2)
    >>> (rows @ found.weight.T + found.bias).argmax(1).tolist()
    [0, 0, 1, 1]
    """
    scaled, scale = _scaled(features)
    present = np.unique(labels)
    weight, bias = np.zeros((classes, features.shape[1])), np.full(classes, NEVER)
    if len(present) == 1:
        bias[present] = 0.0
        return Linear(weight, bias, (math.nan,))
    strength = _chosen(scaled, labels)
    model = _fitted(scaled, labels, strength)
    slopes, intercepts = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn has one output then, the log-odds of the second class
        slopes, intercepts = np.concatenate([-slopes, slopes]) / 2, np.concatenate([-intercepts, intercepts]) / 2
    weight[present], bias[present] = slopes / scale, intercepts
    return Linear(weight, bias, (strength,))


def fit_labels(features: np.ndarray, labels: np.ndarray) -> Linear:
    """Fit one logistic regression for each of several labels; ``labels`` is ``(rows, labels)`` of 0 and 1."""
    fits = [fit_classes(features, column.astype(np.int64), 2) for column in labels.T]
    weight = np.stack([fit.weight[1] - fit.weight[0] for fit in fits])
    bias = np.array([fit.bias[1] - fit.bias[0] for fit in fits])
    return Linear(weight, bias, tuple(fit.strength[0] for fit in fits))


def fit_numbers(features: np.ndarray, numbers: np.ndarray) -> Linear:
    """Fit a ridge regression; leave-one-out errors choose the strength.

    >>> rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
    >>> found = fit_numbers(rows, np.array([1.0, 3.0, 2.0]))
    >>> found.weight.shape, found.bias.shape
    ((1, 2), (1,))
    """
    from sklearn.linear_model import RidgeCV

    scaled, scale = _scaled(features)
    model: Any = RidgeCV(alphas=STRENGTHS).fit(scaled, numbers)  # scikit-learn has no types
    return Linear(model.coef_[None] / scale, np.array([model.intercept_]), (float(model.alpha_),))


def _scaled(features: np.ndarray) -> tuple[np.ndarray, float]:
    """Scale features to length 1 on average, so that the same strengths suit every encoder."""
    wide = np.asarray(features, dtype=np.float64)
    scale = float(np.linalg.norm(wide, axis=1).mean()) or 1.0
    return wide / scale, scale


def _fitted(features: np.ndarray, labels: np.ndarray, inverse_strength: float) -> LogisticRegression:
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged to the last digit is near enough
        return LogisticRegression(C=inverse_strength, max_iter=500).fit(features, labels)


def _chosen(features: np.ndarray, labels: np.ndarray) -> float:
    """Return the inverse strength of the lowest cross-validated log loss, the strongest penalty among equals."""
    from sklearn.model_selection import StratifiedKFold

    folds = min(FOLDS, int(np.unique(labels, return_counts=True)[1].min()))
    if folds < 2:
        return UNCHOSEN
    losses = np.zeros(len(INVERSE_STRENGTHS))
    for train, held_out in StratifiedKFold(folds, shuffle=True, random_state=0).split(features, labels):
        for i, inverse in enumerate(INVERSE_STRENGTHS):
            model = _fitted(features[train], labels[train], inverse)
            logs = model.predict_log_proba(features[held_out])
            places = np.searchsorted(model.classes_, labels[held_out])
            losses[i] -= logs[np.arange(len(held_out)), places].sum()
    return INVERSE_STRENGTHS[int(losses.argmin())]
