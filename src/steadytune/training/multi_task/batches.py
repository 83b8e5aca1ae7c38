"""Batches of several tasks: each of one task, the tasks interleaved in proportion to their sizes (MT-DNN)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from steadytune.heads.encoded import lengths_of
from steadytune.training.sampling import grouped_order

#: A task and the index of one of its rows.
TaskRow = tuple[str, int]

# Keeps the numbers that interleave the tasks apart from those that shuffle the rows.
_INTERLEAVING = 1


class TaskRows(Dataset[dict[str, Any]]):
    """The encoded rows of several tasks, addressed by task and index; each row says its task.

    Args:
        features: by task, data sets or lists of rows.

    Example:
        >>> rows = TaskRows({"rte": [{"labels": 1}]})
        >>> rows["rte", 0], len(rows)
        ({'labels': 1, 'task': 'rte'}, 1)
    """

    def __init__(self, features: Mapping[str, Any]) -> None:
        self.features = features

    def __len__(self) -> int:
        return sum(map(len, self.features.values()))

    def __getitem__(self, place: TaskRow) -> dict[str, Any]:
        task, index = place
        return {**self.features[task][index], "task": task}


class OneTask(Dataset[dict[str, Any]]):
    """The encoded rows of one task, for evaluation; each row says its task."""

    def __init__(self, task: str, features: Any) -> None:
        self.task, self.features = task, features

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.features[index], "task": self.task}


class TaskBatches(Sampler[list[TaskRow]]):
    """Batches of one task each; an epoch holds every row of every task once.

    Within a task the rows come in the order of single-task training with the same seed. Which task is next is drawn
    without replacement from all batches of the epoch, as if all of them were shuffled together, so a task of twice the
    rows is met twice as often. Everything follows from seed and epoch, so a resumed run gets the same batches.

    Args:
        lengths: tokens of each row, by task.
        batch_size: rows of a batch; the last one of a task may have fewer.
        rows_per_update: rows that single-task training keeps together by length; 0 shuffles without regard to it.
        seed: of the run.

    Example:
        >>> batches = TaskBatches({"a": np.array([3, 3, 3, 3]), "b": np.array([2, 2])}, 2, 2, seed=0)
        >>> sorted(batch[0][0] for batch in batches), len(batches)
        (['a', 'a', 'b'], 3)
    """

    def __init__(self, lengths: Mapping[str, np.ndarray], batch_size: int, rows_per_update: int, seed: int) -> None:
        self.lengths, self.batch_size, self.rows_per_update = dict(lengths), batch_size, rows_per_update
        self.seed, self.epoch, self.drop_last = seed, 0, False
        # Accelerate looks for the epoch's owner behind whatever it wraps this in.
        self.sampler = self

    @classmethod
    def of(cls, rows: TaskRows, batch_size: int, rows_per_update: int, seed: int) -> TaskBatches:
        """The batches of encoded rows."""
        lengths = {task: lengths_of(features) for task, features in rows.features.items()}
        return cls(lengths, batch_size, rows_per_update, seed)

    def __len__(self) -> int:
        return sum(self.batches_of(task) for task in self.lengths)

    def batches_of(self, task: str) -> int:
        """How many batches an epoch holds of a task."""
        return -(-len(self.lengths[task]) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer and by Accelerate before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[TaskRow]]:
        tasks = list(self.lengths)
        orders = [self._order(self.lengths[task]) for task in tasks]
        turns = np.repeat(np.arange(len(tasks)), [self.batches_of(t) for t in tasks])
        np.random.Generator(np.random.PCG64((self.seed, self.epoch, _INTERLEAVING))).shuffle(turns)
        done = [0] * len(tasks)
        for turn in turns:
            rows = orders[turn][done[turn] : done[turn] + self.batch_size]
            done[turn] += self.batch_size
            yield [(tasks[turn], int(row)) for row in rows]

    def _order(self, lengths: np.ndarray) -> np.ndarray:
        if self.rows_per_update:
            return grouped_order(lengths, self.rows_per_update, (self.seed, self.epoch))
        # What Accelerate's sampler draws for a single task.
        return torch.randperm(len(lengths), generator=torch.Generator().manual_seed(self.seed + self.epoch)).numpy()


class TaskCollator:
    """Makes a batch of rows of one task by that task's own collator, and names the task in it.

    Args:
        collators: by task.
    """

    def __init__(self, collators: Mapping[str, Callable[[list[dict[str, Any]]], Any]]) -> None:
        self.collators = collators

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate; all rows are of one task."""
        (task,) = {row["task"] for row in rows}
        kept = [{name: value for name, value in row.items() if name != "task"} for row in rows]
        return {**self.collators[task](kept), "task": task}
