"""Rows to choose by, where a task has no test rows of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from steadytune.heads.columns import LABEL
from steadytune.heads.registry import head_of
from steadytune.tasks.subset import held_out_rows
from steadytune.tasks.task import RowCounts, TaskData

SEED = 1


def with_test_rows(data: TaskData) -> TaskData:
    """Make the validation rows the test rows, and hold a tenth of the training rows out as validation rows.

    What is chosen on the rows it is scored on looks better than it is. GLUE publishes no labels of its test rows, so
    its validation rows are the only ones to score on, and something else must choose the learning rate. Data that has
    test rows comes back as it is.

    Raises:
        DataError: no training row can be spared.
    """
    if "test" in data.splits or not {"train", "validation"} <= data.splits.keys():
        return data

    train = data.splits["train"]
    classes = np.asarray(train[LABEL]) if head_of(data.task.head).one_class_per_row else None
    rows = held_out_rows(classes, len(train), SEED)
    kept = np.delete(np.arange(len(train)), rows)
    others = {name: split for name, split in data.splits.items() if name not in ("train", "validation")}
    splits = {
        "train": train.select(kept),
        "validation": train.select(rows),
        "test": data.splits["validation"],
        **others,
    }
    counts = dict(data.counts)
    if {"train", "validation"} <= counts.keys():
        of_train, of_validation = counts["train"], counts["validation"]
        counts |= {
            "train": RowCounts(of_train.read, len(kept)),
            "validation": RowCounts(of_train.read, len(rows)),
            "test": of_validation,
        }
    note = (
        f"Choices are made on {len(rows):,} of the {len(train):,} training rows, held out (seed {SEED}); the "
        "validation rows are only scored on, as test."
    )
    return replace(data, splits=splits, counts=counts, notes=(*data.notes, note))
