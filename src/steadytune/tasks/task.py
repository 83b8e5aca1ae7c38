"""What a task is: one declarative record, and the record together with its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from datasets import Dataset

Head = Literal["classification", "regression"]

TEXT = "text"
TEXT_PAIR = "text_pair"
LABEL = "label"


@dataclass(frozen=True)
class Task:
    """A supervised task on one text or a pair of texts: what is read, what is predicted, how it is scored.

    `label_names` holds the class names in the order of their indices; it is None for regression and in the record
    of a task whose classes are only known from its rows. `splits` says in words what each split is, and `metric` is
    the key of `compute_metrics` that counts as the result.

    >>> task = Task("toy", "classification", "A toy.", "nobody", "text", None, "label", ("no", "yes"), {}, "accuracy")
    >>> task.number_of_outputs
    2
    """

    name: str
    head: Head
    description: str
    citation: str
    text_column: str
    text_pair_column: str | None
    label_column: str
    label_names: tuple[str, ...] | None
    splits: Mapping[str, str] = field(hash=False)
    metric: str

    @property
    def number_of_outputs(self) -> int | None:
        """Width of the head: one per class, 1 for regression, None while the classes are unknown."""
        if self.head == "regression":
            return 1
        return None if self.label_names is None else len(self.label_names)


class RowCounts(NamedTuple):
    """How many data rows a split's source held, and how many of them the split uses."""

    read: int
    used: int


@dataclass(frozen=True)
class TaskData:
    """A task with its rows.

    Every split has the columns `text` (str), `text_pair` (str, only for pairs) and `label` (int64 class index, or
    float64 for regression). `train` and `validation` are always there; `out_of_domain` names the splits that come
    from another source than `train`. `notes` are sentences the user must get to see, such as how the validation rows
    were chosen.
    """

    task: Task
    splits: dict[str, Dataset]
    out_of_domain: tuple[str, ...]
    counts: dict[str, RowCounts]
    notes: tuple[str, ...] = ()
