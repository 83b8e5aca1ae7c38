"""Choose a few rows of many: exactly as many as asked for, the classes in proportion, the same for the same seed.

The choice depends only on the seed, the number of rows and their labels. It is drawn from the raw 64-bit stream of
PCG64, which numpy keeps unchanged across versions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from steadytune.errors import DataError, SettingsError
from steadytune.heads.columns import LABEL
from steadytune.support.text import excerpt

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

HELD_OUT = Fraction(1, 10)


@dataclass(frozen=True)
class TrainSize:
    """A number of training rows, given as such or as a share of all rows; exactly one of the two is set."""

    rows: int | None = None
    share: Fraction | None = None

    def of(self, available: int) -> int:
        """Return the number of rows out of those available, a share rounded to the nearest row (half up).

        Raises SettingsError when that is zero or more than there are.

        >>> TrainSize(share=Fraction(1, 200)).of(8530)
        43
        """
        rows = self.rows
        if rows is None:
            rows = int((self.share or 0) * available + Fraction(1, 2))
        if rows < 1:
            raise SettingsError(f"--train-size gives no row of the {available} available; ask for at least one.")
        if rows > available:
            raise SettingsError(f"--train-size asks for {rows} rows, but there are only {available}.")
        return rows


def parse_train_size(size: str | int | TrainSize) -> TrainSize:
    """Return a train size from a number of rows (`500`, `"500"`) or a percentage of the rows (`"10%"`, `"0.5%"`).

    Raises SettingsError when it is malformed, zero, or more than 100 %.

    >>> parse_train_size("0.5%")
    TrainSize(rows=None, share=Fraction(1, 200))
    """
    if isinstance(size, TrainSize):
        return size
    text = "" if isinstance(size, bool) else str(size).strip()
    parsed: TrainSize | None = None
    if re.fullmatch(r"[0-9]{1,18}", text):
        parsed = TrainSize(rows=int(text))
    elif re.fullmatch(r"([0-9]{1,18}\.?[0-9]{0,18}|\.[0-9]{1,18})\s*%", text):
        parsed = TrainSize(share=Fraction(text[:-1].strip().rstrip(".")) / 100)
    if parsed is None:
        raise SettingsError(f"--train-size {excerpt(size)} is neither rows such as 500 nor a share such as 10%.")
    if parsed.rows == 0 or parsed.share == 0:
        raise SettingsError(f"--train-size {excerpt(size)} is zero; ask for at least one row.")
    if parsed.share is not None and parsed.share > 1:
        raise SettingsError(f"--train-size {excerpt(size)} is more than 100%.")
    return parsed


def take_subset(
    dataset: Dataset, size: str | int | TrainSize, seed: int, label_names: Sequence[str] | None
) -> Dataset:
    """Return a seeded subset of exactly the rows asked for, in their old order.

    With `label_names` the classes keep their proportions (largest remainders), and each keeps at least one row when
    there are as many rows as classes. Rows are drawn plainly with None, for heads without classes, and where a row
    has many labels (multi-label, tags). For the same seed a smaller
    subset is nearly always contained in a larger one. Raises SettingsError as `TrainSize.of` does.

    >>> from datasets import Dataset
    >>> rows = Dataset.from_dict({"text": list("abcdef"), "label": [0, 0, 0, 0, 1, 1]})
    >>> sorted(take_subset(rows, "50%", seed=0, label_names=("no", "yes"))["label"])
    [0, 0, 1]
    """
    import numpy as np

    rows = parse_train_size(size).of(len(dataset))
    order = _seeded_order(len(dataset), seed)
    if label_names is None or _has_lists(dataset):
        chosen = order[:rows]
    else:
        labels = np.asarray(dataset.with_format("numpy")[LABEL][:])
        counts = np.bincount(labels)
        chosen = _first_of_each(order, labels, allocate(counts, rows))
    return dataset.select(np.sort(chosen))


def _has_lists(dataset: Dataset) -> bool:
    """Whether a label is a list."""
    from pyarrow import types

    return types.is_nested(dataset.features.arrow_schema.field(LABEL).type)


def allocate(counts: np.ndarray, rows: int) -> np.ndarray:
    """Return how many of the rows each class gets: in proportion, by largest remainders, none above its count.

    Every class with rows gets at least one when there are as many rows as such classes. Equal remainders go to the
    class with the lower index. Raises DataError when there are fewer rows than asked for.

    >>> import numpy
    >>> allocate(numpy.array([90, 9, 1]), 10)
    array([8, 1, 1])
    """
    import numpy as np

    total = int(counts.sum())
    if not 0 <= rows <= total:
        raise DataError(f"{rows} rows cannot be allocated from {total}.")
    if rows == 0:
        return np.zeros_like(counts)
    quotas = [int(count) * rows for count in counts]  # in units of 1 / total, exact
    shares = np.array([quota // total for quota in quotas], dtype=np.int64)
    remainders = np.array([quota % total for quota in quotas])
    shares[np.argsort(-remainders, kind="stable")[: rows - int(shares.sum())]] += 1
    if rows >= np.count_nonzero(counts):
        for empty in np.flatnonzero((shares == 0) & (counts > 0)):
            surplus = np.array([int(share) * total - quota for share, quota in zip(shares, quotas, strict=True)])
            donor = int(np.argmax(np.where(shares > 1, surplus, np.iinfo(np.int64).min)))
            shares[donor] -= 1
            shares[empty] += 1
    return shares


def held_out_rows(labels: np.ndarray | None, rows: int, seed: int) -> np.ndarray:
    """Return the sorted indices of the rows to hold out for validation: a tenth, stratified by class.

    Every class with at least two rows gives at least one and keeps at least one; without labels a tenth is drawn
    plainly. Raises DataError when no row can be spared.

    >>> len(held_out_rows(None, 100, seed=0))
    10
    """
    import numpy as np

    tenth = int(HELD_OUT * rows + Fraction(1, 2))
    order = _seeded_order(rows, seed)
    if labels is None:
        spare = np.array([rows - 1])
        labels = np.zeros(rows, dtype=np.int64)
    else:
        spare = np.bincount(labels) - 1
    spare = spare.clip(min=0)
    wanted = min(max(tenth, int(np.count_nonzero(spare))), int(spare.sum()))
    if wanted == 0:
        raise DataError("no training row can be spared for validation; give a validation file.")
    return np.sort(_first_of_each(order, labels, allocate(spare, wanted)))


def _seeded_order(rows: int, seed: int) -> np.ndarray:
    """Return a permutation of the row indices that depends on the seed alone."""
    import numpy as np

    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise SettingsError(f"the seed {excerpt(seed)} is not a whole number of at least 0.")
    return np.argsort(np.random.PCG64(seed).random_raw(rows), kind="stable")


def _first_of_each(order: np.ndarray, labels: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the first rows of each class in the given order, as many as its share."""
    import numpy as np

    ordered = labels[order]
    return np.concatenate([order[ordered == index][:share] for index, share in enumerate(shares)])
