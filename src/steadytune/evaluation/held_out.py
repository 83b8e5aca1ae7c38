"""The rows that a run is evaluated on: its own held-out splits, and the further sets of its task."""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING

from steadytune.errors import DataError
from steadytune.heads.registry import head_of
from steadytune.tasks.digest import LENGTH, data_digest
from steadytune.tasks.named.evaluation_sets import EvaluationSet, load_evaluation_sets
from steadytune.tasks.subset import take_subset
from steadytune.tasks.task import TaskData

if TYPE_CHECKING:
    from datasets import Dataset

#: Rows that are enough where each of them costs many passes, unless the user asks for more.
FEW = 256


class HeldOut:
    """Rows by the name of their set: the task's splits but for training, and the sets that test its models.

    Args:
        data: the task with its rows.
        data_dir: folder with the data sets of named tasks.
        limit: most rows of each set, the same rows for every run; ``None`` for all.

    Attributes:
        main: the split that is looked at where one is enough.
        notes: which sets could not be found, one sentence each; known once the names are asked for.

    Raises:
        DataError: there is nothing but training rows.
    """

    def __init__(self, data: TaskData, data_dir: str | None, limit: int | None) -> None:
        self.data, self.limit = data, limit
        self._data_dir = data_dir
        own = [name for name in data.splits if name != "train"]
        if "validation" not in own:
            raise DataError(f"{data.task.name}: there are no validation rows to evaluate on.")
        self.main = "test" if "test" in own else "validation"
        self._own = own
        self.notes: tuple[str, ...] = ()
        self._limited: dict[str, Dataset] = {}
        self._digests: dict[str, str] = {}

    @functools.cached_property
    def _further(self) -> dict[str, EvaluationSet]:
        found = load_evaluation_sets(self.data.task.name, self._data_dir)
        self.notes = found.notes
        return {name: s for name, s in found.sets.items() if name not in self._own}

    def names(self) -> list[str]:
        """All sets, the task's own splits first."""
        return [*self._own, *self._further]

    def rows(self, name: str) -> Dataset:
        """The rows of a set, no more than the limit."""
        if name not in self._limited:
            own = name in self._own
            rows = self.data.splits[name] if own else self._further[name].rows
            names = self.data.task.label_names if own else self._further[name].label_names
            stratified = names if head_of(self.data.task.head).one_class_per_row else None
            few = self.limit is not None and self.limit < len(rows)
            self._limited[name] = take_subset(rows, self.limit or 1, 0, stratified) if few else rows
        return self._limited[name]

    def few(self) -> Dataset:
        """Rows of the main split for what costs many passes each."""
        rows = self.rows(self.main)
        if self.limit is not None or len(rows) <= FEW:
            return rows
        return take_subset(
            rows, FEW, 0, self.data.task.label_names if head_of(self.data.task.head).one_class_per_row else None
        )

    def kind(self, name: str) -> str:
        """``in_domain``, ``cross_lingual``, ``out_of_domain``, ``adversarial`` or ``annotators``."""
        if name not in self._own:
            return self._further[name].kind
        if name in self.data.out_of_domain:
            return "out_of_domain"
        return "cross_lingual" if self.data.task.language_of(name) not in (None, "en") else "in_domain"

    def class_of_output(self, name: str) -> tuple[int, ...] | None:
        """For each class of the model its class in the set; ``None`` where they are the same."""
        if name in self._own:
            return None
        found = self._further[name].class_of_output
        return None if found is None or found == tuple(range(len(found))) else found

    def has_annotators(self, name: str) -> bool:
        """Whether the rows carry the labels of single annotators, in the model's classes."""
        return "annotator_labels" in self.rows(name).column_names and self.class_of_output(name) is None

    def digest(self, *names: str) -> str:
        """Digest of the rows of some sets."""
        for name in names:
            if name not in self._digests:
                only = TaskData(self.data.task, {name: self.rows(name)}, (), {})
                self._digests[name] = data_digest(only)
        return hashlib.sha256(" ".join(self._digests[name] for name in names).encode()).hexdigest()[:LENGTH]
