"""The scores of sentence retrieval across languages, from sentence vectors: Tatoeba's accuracy and BUCC's F1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from steadytune.errors import DataError

if TYPE_CHECKING:
    import numpy as np

NEIGHBORS = 4
#: Cosines that are in memory at a time; 128 MB.
_MOST_AT_ONCE = 1 << 24


def retrieval_accuracy(source: np.ndarray, target: np.ndarray) -> float:
    """Return the share of source vectors whose nearest target by cosine is that of the same row (Tatoeba).

    Both are (rows, dimensions). Raises DataError for unequal shapes, no rows, or a vector that is zero or not finite.

    >>> import numpy
    >>> retrieval_accuracy(numpy.eye(2), numpy.array([[2.0, 0.0], [1.0, -1.0]]))
    0.5
    """
    import numpy as np

    source, target = _unit(source), _unit(target)
    if source.shape != target.shape:
        raise DataError(f"{len(source)} source vectors do not fit {len(target)} target vectors.")
    best = [block.argmax(axis=1) for block in _similarities(source, target)]
    return float((np.concatenate(best) == np.arange(len(source))).mean())


def mined_pairs(
    source: np.ndarray, target: np.ndarray, neighbors: int = NEIGHBORS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return candidate pairs as source indices, target indices and scores, the highest score first.

    The score is the ratio margin of Artetxe and Schwenk (2019, https://arxiv.org/abs/1811.01136): the cosine divided
    by the mean cosine of the two to their `neighbors` nearest on the other side. Each source is paired with its best
    target and each target with its best source; of these a sentence keeps only its best pair.
    """
    import numpy as np

    source, target = _unit(source), _unit(target)
    means = (_mean_of_nearest(source, target, neighbors), _mean_of_nearest(target, source, neighbors))
    forward = _best_by_margin(source, target, *means)
    backward = _best_by_margin(target, source, means[1], means[0])
    ours = np.concatenate([np.arange(len(source)), backward[0]])
    theirs = np.concatenate([forward[0], np.arange(len(target))])
    scores = np.concatenate([forward[1], backward[1]])
    chosen, used_ours, used_theirs = [], set(), set()
    for index in np.argsort(-scores, kind="stable"):
        pair = int(ours[index]), int(theirs[index])
        if pair[0] not in used_ours and pair[1] not in used_theirs:
            used_ours.add(pair[0])
            used_theirs.add(pair[1])
            chosen.append(index)
    return ours[chosen], theirs[chosen], scores[chosen]


def best_threshold(scores: np.ndarray, right: np.ndarray, wanted: int) -> float:
    """Return the score from which on pairs are taken so that F1 is highest; `wanted` is the number of true pairs.

    >>> import numpy
    >>> best_threshold(numpy.array([0.9, 0.8, 0.5]), numpy.array([True, True, False]), 2)
    0.65
    """
    import numpy as np

    if len(scores) == 0:
        raise DataError("there are no pairs to choose a threshold on.")
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    f1 = 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + wanted)
    last = np.append(ordered[1:] < ordered[:-1], True)  # equal scores are taken together
    best = int(np.flatnonzero(last)[f1[last].argmax()])
    below = ordered[best + 1] if best + 1 < len(ordered) else ordered[best]
    return float((ordered[best] + below) / 2)


def mining_scores(tuning: tuple[np.ndarray, np.ndarray], source: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """Return `precision`, `recall` and `f1` of the translations found (BUCC), and the `threshold` they had to reach.

    `tuning` holds the source and target vectors of the validation rows, on which the threshold is chosen; row i of a
    source and of its target belong together, rows beyond the shorter of the two have no translation.
    """
    ours, theirs, scores = mined_pairs(*tuning)
    threshold = best_threshold(scores, ours == theirs, min(len(tuning[0]), len(tuning[1])))
    ours, theirs, scores = mined_pairs(source, target)
    taken = scores >= threshold
    right, found = int((taken & (ours == theirs)).sum()), int(taken.sum())
    wanted = min(len(source), len(target))
    return {
        "precision": right / found if found else 0.0,
        "recall": right / wanted,
        "f1": 2 * right / (found + wanted),
        "threshold": threshold,
    }


def _unit(vectors: np.ndarray) -> np.ndarray:
    import numpy as np

    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2 or len(vectors) == 0:
        raise DataError(f"sentence vectors of shape {vectors.shape} are not rows x dimensions.")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(vectors).all() and (lengths > 0).all()):
        raise DataError("a sentence vector is zero or not finite.")
    return vectors / lengths


def _similarities(source: np.ndarray, target: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the cosines of a block of source rows to all targets."""
    rows = max(1, _MOST_AT_ONCE // len(target))
    for start in range(0, len(source), rows):
        yield source[start : start + rows] @ target.T


def _mean_of_nearest(source: np.ndarray, target: np.ndarray, neighbors: int) -> np.ndarray:
    import numpy as np

    count = min(neighbors, len(target))
    means = [np.partition(block, -count, axis=1)[:, -count:].mean(axis=1) for block in _similarities(source, target)]
    return np.concatenate(means)


def _best_by_margin(
    source: np.ndarray, target: np.ndarray, source_means: np.ndarray, target_means: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each source row the target of the highest margin, and that margin."""
    import numpy as np

    best, scores, start = [], [], 0
    for block in _similarities(source, target):
        means = (source_means[start : start + len(block), None] + target_means[None, :]) / 2
        margins = block / means
        best.append(margins.argmax(axis=1))
        scores.append(margins.max(axis=1))
        start += len(block)
    return np.concatenate(best), np.concatenate(scores)
