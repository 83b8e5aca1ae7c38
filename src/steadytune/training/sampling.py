"""The order of the training rows: random, with rows of about the same length in one update."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

#: Updates whose rows are sorted by length together; the rows make at least 4 such groups.
MOST_UPDATES_SORTED = 50


class GroupedByLength(Sampler[int]):
    """Draws the rows of each epoch in an order that depends on nothing but lengths, seed and epoch.

    So it is the same whatever the methods of a run, and the same when a run is resumed. The rows are shuffled, sorted
    by length within groups of some updates, and cut into updates, and the updates of each group are shuffled. The
    rows that do not fill the last update are drawn before, from all: they are no shorter than others.

    Args:
        lengths: tokens of each row.
        rows_per_update: rows that are to be of about the same length.
        seed: of the run.
    """

    def __init__(self, lengths: np.ndarray, rows_per_update: int, seed: int) -> None:
        self.lengths = lengths
        self.rows_per_update = max(1, rows_per_update)
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer and by Accelerate before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = grouped_order(self.lengths, self.rows_per_update, (self.seed, self.epoch))
        return map(int, order)  # one Python number at a time, not a million of them


def grouped_order(lengths: np.ndarray, rows_per_update: int, seed: tuple[int, int]) -> np.ndarray:
    """Return a permutation of the rows; see `GroupedByLength`.

    >>> sorted(grouped_order(np.array([9, 1, 8, 2]), 2, (0, 0)).tolist())
    [0, 1, 2, 3]
    """
    bits = np.random.PCG64(seed)  # whose raw numbers, unlike those of a Generator, never change between versions
    shuffled = _shuffled(len(lengths), bits)
    whole = len(shuffled) // rows_per_update
    left_over, rest = np.split(shuffled, [len(shuffled) - whole * rows_per_update])
    updates = rest.reshape(whole, rows_per_update)
    sorted_together = min(MOST_UPDATES_SORTED, max(1, whole // 4))
    for start in range(0, whole, sorted_together):
        group = updates[start : start + sorted_together]
        rows = group.ravel()
        rows = rows[np.argsort(lengths[rows], kind="stable")].reshape(group.shape)
        group[:] = rows[_shuffled(len(rows), bits)]
    return np.concatenate([updates.ravel(), left_over])


def _shuffled(count: int, bits: np.random.PCG64) -> np.ndarray:
    return np.argsort(bits.random_raw(count), kind="stable")
