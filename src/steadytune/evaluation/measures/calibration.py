"""Whether a model's probabilities mean what they say, and what temperature scaling makes of them.

Guo et al., "On calibration of modern neural networks", ICML 2017; equal-mass bins after Nixon et al., "Measuring
calibration in deep learning", CVPR workshops 2019. Everything is computed in float64 from logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steadytune.errors import DataError

if TYPE_CHECKING:
    import numpy as np

BINS = 15
#: Temperatures outside are no calibration any more: the probabilities are 0 and 1, or all equal.
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 100.0


@dataclass(frozen=True)
class Bin:
    """The rows whose confidence lies in ``(lower, upper]``; without rows there is no mean of anything."""

    lower: float
    upper: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """How a set of probabilities fits what is true.

    Attributes:
        rows: number of decisions.
        accuracy: share of right ones, 0 to 1.
        ece: expected calibration error, mean of ``|accuracy - confidence|`` over bins of equal width, 0 to 1.
        ece_equal_mass: the same over bins of equal size.
        brier: squared distance of the probabilities to the truth, summed over classes, 0 to 2.
        nll: mean negative log-likelihood in nats.
        bins: of the reliability diagram, equal in width.
    """

    rows: int
    accuracy: float
    ece: float
    ece_equal_mass: float
    brier: float
    nll: float
    bins: tuple[Bin, ...]


def calibration(logits: np.ndarray, labels: np.ndarray, *, temperature: float = 1.0) -> Calibration:
    """Measure how well the softmax of ``logits / temperature`` is calibrated.

    Args:
        logits: ``(rows, classes)``, finite.
        labels: ``(rows,)`` class indices.
        temperature: above 1 makes the model less sure.

    Raises:
        DataError: there are no rows, or a logit is not finite.

    >>> import numpy
    >>> found = calibration(numpy.log([[0.75, 0.25], [0.75, 0.25]]), numpy.array([0, 1]))
    >>> found.accuracy, round(found.ece, 6), round(found.brier, 6)
    (0.5, 0.25, 0.625)
    """
    import numpy as np

    log_p = log_probabilities(logits, temperature)
    rows = np.arange(len(log_p))
    p = np.exp(log_p)
    confidence, right = p.max(axis=1), (p.argmax(axis=1) == labels).astype(np.float64)
    truth = np.zeros_like(p)
    truth[rows, labels] = 1.0
    bins = reliability_bins(confidence, right)
    mass = [
        (len(part), abs(float(right[part].mean() - confidence[part].mean())))
        for part in np.array_split(np.argsort(confidence, kind="stable"), BINS)
        if len(part)
    ]
    gaps = [
        (b.count, abs(b.accuracy - b.confidence)) for b in bins if b.accuracy is not None and b.confidence is not None
    ]
    return Calibration(
        rows=len(p),
        accuracy=float(right.mean()),
        ece=sum(count * gap for count, gap in gaps) / len(p),
        ece_equal_mass=sum(count * gap for count, gap in mass) / len(p),
        brier=float(((p - truth) ** 2).sum(axis=1).mean()),
        nll=float(-log_p[rows, labels].mean()),
        bins=bins,
    )


def reliability_bins(confidence: np.ndarray, right: np.ndarray) -> tuple[Bin, ...]:
    """Put decisions into 15 bins of equal width by their confidence, which is in 0 to 1."""
    import numpy as np

    edges = np.linspace(0.0, 1.0, BINS + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    bins = []
    for i in range(BINS):
        inside = place == i
        count = int(inside.sum())
        means = [float(x[inside].mean()) if count else None for x in (confidence, right)]
        bins.append(Bin(float(edges[i]), float(edges[i + 1]), count, means[0], means[1]))
    return tuple(bins)


def fitted_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature whose probabilities have the lowest NLL, between 0.01 and 100.

    The NLL is convex in the inverse temperature, so it has no other minimum. Where all rows are right, or none is, it
    is best towards an end of the range.

    >>> import numpy
    >>> round(fitted_temperature(numpy.log([[0.9, 0.1]] * 4), numpy.array([0, 0, 0, 1])), 3)  # logit of 0.9 to 0.75
    2.0
    """
    import numpy as np
    from scipy.optimize import minimize_scalar

    rows = np.arange(len(logits))

    def nll(log_temperature: float) -> float:
        return float(-log_probabilities(logits, float(np.exp(log_temperature)))[rows, labels].mean())

    limits = (float(np.log(LOWEST_TEMPERATURE)), float(np.log(HIGHEST_TEMPERATURE)))
    found: Any = minimize_scalar(nll, bounds=limits, method="bounded", options={"xatol": 1e-8})
    return float(np.exp(found.x))


def log_probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Log-softmax of ``logits / temperature`` in float64.

    Raises:
        DataError: there are no rows, or a logit is not finite.
    """
    import numpy as np
    from scipy.special import log_softmax

    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 2 or len(logits) == 0:
        raise DataError(f"outputs of shape {logits.shape} hold no decisions between classes to calibrate.")
    if not np.isfinite(logits).all():
        raise DataError("the model's outputs are not all finite, so they have no calibration.")
    return log_softmax(logits / temperature, axis=1)
