"""A split as features, and how many tokens each of them has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset


@dataclass(frozen=True, eq=False)
class Encoded:
    """A split as a model takes it.

    Attributes:
        features: what the model takes, with the columns ``row`` and ``cut`` and what the scorer of the head needs.
        rows: what they were made of.
        notes: what the user must get to see: how many rows were cut.
    """

    features: Dataset
    rows: Dataset
    notes: tuple[str, ...] = ()

    def longest_first(self) -> Encoded:
        """The features in the order of their lengths: batches of evaluation then have little padding."""
        import numpy as np

        order = np.argsort(-lengths_of(self.features), kind="stable")
        return Encoded(self.features.select(order), self.rows, self.notes)


def lengths_of(features: Dataset) -> np.ndarray:
    """Return the number of tokens of each feature, without a Python object for any.

    >>> from datasets import Dataset
    >>> lengths_of(Dataset.from_dict({"input_ids": [[1, 2, 3], [4]]}))
    array([3, 1], dtype=int32)
    """
    import numpy as np

    parts = list(list_sizes(features, "input_ids"))
    return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, dtype=np.int32)


def list_sizes(rows: Dataset, column: str) -> Iterator[np.ndarray]:
    """Yield the lengths of the lists of a column, some thousand rows at a time."""
    from pyarrow import compute

    arrow: Any = compute
    tables: Any = rows.select_columns([column]).with_format("arrow").iter(10_000)
    for table in tables:
        yield arrow.list_value_length(table.column(0)).to_numpy()
