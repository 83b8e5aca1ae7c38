"""How a model does where people disagree: accuracy by agreement, and the distance to what people say.

After the error analysis of SMART (Jiang et al., ACL 2020, figure 2) on MNLI, whose rows carry five labels, and
ChaosNLI (Nie et al., EMNLP 2020), which adds a hundred more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steadytune.errors import DataError
from steadytune.evaluation.measures.calibration import log_probabilities

if TYPE_CHECKING:
    import numpy as np

ALL = "all"


@dataclass(frozen=True)
class Distance:
    """Mean distance of the model's distribution f to the people's p, over rows; lower is nearer.

    Attributes:
        kl: KL(p || f) in nats, 0 and more.
        cross_entropy: ``-sum p log f`` in nats, which figure 2 of the SMART paper calls KL.
        js: Jensen-Shannon divergence in nats, 0 to ln 2 (scipy's and ChaosNLI's JS distance is its root, row by row).
        total_variation: half the L1 distance, 0 to 1.
        human_entropy: entropy of p in nats: ``cross_entropy - kl``, the least the cross-entropy can be.
    """

    kl: float
    cross_entropy: float
    js: float
    total_variation: float
    human_entropy: float


@dataclass(frozen=True)
class Agreement:
    """The rows on which annotators agree to the same degree.

    Attributes:
        rows: how many there are.
        accuracy: of the model against the row's label, 0 to 1.
        five: distance to the original annotators' labels.
        hundred: distance to the many later ones, where every row has them.
    """

    rows: int
    accuracy: float
    five: Distance
    hundred: Distance | None


def agreement(labels: Sequence[int], classes: int) -> str:
    """Name the degree of agreement: how many chose each class, most first, three figures at least.

    >>> agreement([1, 1, 0, 1, 2], classes=3), agreement([0, 0, 0, 0, 0], classes=3)
    ('3/1/1', '5/0/0')
    """
    counts = sorted((list(labels).count(c) for c in range(classes)), reverse=True)
    return "/".join(map(str, counts))


def by_agreement(
    logits: np.ndarray,
    labels: np.ndarray,
    annotator_labels: Sequence[Sequence[int]],
    label_count: Sequence[Sequence[int]] | None = None,
) -> dict[str, Agreement]:
    """Accuracy and distance to people for all rows and for each degree of agreement, the most agreed first.

    Args:
        logits: ``(rows, classes)``.
        labels: ``(rows,)``, the class that counts as right (the majority's).
        annotator_labels: of each row, the class that each annotator chose.
        label_count: of each row, how many of further annotators chose each class.

    Raises:
        DataError: a row has no annotator, or a label that the model does not know.
    """
    import numpy as np

    log_f = log_probabilities(logits)
    classes = log_f.shape[1]
    for row, chosen in enumerate(annotator_labels):
        if not chosen or not all(0 <= c < classes for c in chosen):
            raise DataError(
                f"annotator_labels of row {row + 1}: {list(chosen)} are not labels from 0 to {classes - 1}."
            )
    five = np.array([[list(chosen).count(c) / len(chosen) for c in range(classes)] for chosen in annotator_labels])
    hundred = None if label_count is None else _shares(label_count, classes)
    right = log_f.argmax(axis=1) == np.asarray(labels)
    names = np.array([agreement(chosen, classes) for chosen in annotator_labels])
    groups = {ALL: np.ones(len(names), dtype=bool)} | {
        name: names == name for name in sorted(set(names.tolist()), reverse=True)
    }
    return {
        name: Agreement(
            rows=int(inside.sum()),
            accuracy=float(right[inside].mean()),
            five=distance(five[inside], log_f[inside]),
            hundred=None if hundred is None else distance(hundred[inside], log_f[inside]),
        )
        for name, inside in groups.items()
    }


def distance(p: np.ndarray, log_f: np.ndarray) -> Distance:
    """Mean distance between people's distributions and the model's log-probabilities, both ``(rows, classes)``.

    >>> import numpy
    >>> round(distance(numpy.array([[1.0, 0.0]]), numpy.log([[0.5, 0.5]])).kl, 6)
    0.693147
    """
    import numpy as np
    from scipy.special import entr, xlogy

    f = np.exp(log_f)
    middle = (p + f) / 2
    entropy = entr(p).sum(axis=1)
    cross = -np.where(p > 0, p * log_f, 0.0).sum(axis=1)
    js = entr(middle).sum(axis=1) - (entropy + -xlogy(f, f).sum(axis=1)) / 2
    return Distance(
        kl=float((cross - entropy).clip(min=0).mean()),
        cross_entropy=float(cross.mean()),
        js=float(js.clip(min=0).mean()),
        total_variation=float(np.abs(p - f).sum(axis=1).mean() / 2),
        human_entropy=float(entropy.mean()),
    )


def _shares(counts: Sequence[Sequence[int]], classes: int) -> np.ndarray:
    import numpy as np

    for row, given in enumerate(counts):
        if len(given) != classes or sum(given) <= 0 or min(given) < 0:
            raise DataError(f"label_count of row {row + 1}: {list(given)} does not count {classes} classes.")
    table = np.asarray(counts, dtype=np.float64)
    return table / table.sum(axis=1, keepdims=True)
