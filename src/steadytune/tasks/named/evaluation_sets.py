"""The evaluation sets that belong to a task beyond its own splits: out of domain, adversarial, with annotators.

Classes are matched by name. Where task and set do not have the same three classes of inference, both are taken as
entailment or not: a model of MNLI that predicts neutral or contradiction predicts non-entailment on HANS (McCoy et
al., 2019), and the contradictions of SNLI are not entailment for a model of SciTail.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa

from steadytune.errors import SteadytuneError
from steadytune.heads.columns import LABEL
from steadytune.tasks.named.loading import INSTEAD, load_published
from steadytune.tasks.named.registry import task_names, task_record
from steadytune.tasks.tables import dataset_of
from steadytune.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

SetKind = Literal["out_of_domain", "adversarial", "annotators"]

_ENTAILMENT = "entailment"
_ENTAILED_OR_NOT = (_ENTAILMENT, "not_entailment")
_ANLI: tuple[tuple[str, str, SetKind], ...] = (
    ("anli-r1", "validation", "adversarial"),
    ("anli-r2", "validation", "adversarial"),
    ("anli-r3", "validation", "adversarial"),
)
_INFERENCE: tuple[tuple[str, str, SetKind], ...] = (
    ("hans", "validation", "adversarial"),
    ("adv-mnli", "validation", "adversarial"),
    ("adv-mnli-mismatched", "validation", "adversarial"),
    *_ANLI,
    ("chaosnli-snli", "validation", "annotators"),
    ("chaosnli-mnli", "validation", "annotators"),
)
_FROM_SNLI: tuple[str, str, SetKind] = ("snli", "test", "out_of_domain")
_FROM_MNLI: tuple[str, str, SetKind] = ("mnli", "validation", "out_of_domain")
_FROM_SCITAIL: tuple[str, str, SetKind] = ("scitail", "test", "out_of_domain")
_AX: tuple[str, str, SetKind] = ("ax", "test", "out_of_domain")
_OF_ANLI = (_FROM_SNLI, _FROM_MNLI, *_INFERENCE)

#: The sets of each task: the task that holds the rows, its split, and what it tests.
SETS: dict[str, tuple[tuple[str, str, SetKind], ...]] = {
    "mnli": (_FROM_SNLI, _FROM_SCITAIL, _AX, *_INFERENCE),
    "xnli": (_FROM_SNLI, _FROM_SCITAIL, _AX, *_INFERENCE),
    "snli": (_FROM_MNLI, _FROM_SCITAIL, _AX, *_INFERENCE),
    "anli": tuple(entry for entry in _OF_ANLI if entry not in _ANLI),
    **{name: tuple(entry for entry in _OF_ANLI if entry[0] != name) for name in ("anli-r1", "anli-r2", "anli-r3")},
    "scitail": (_FROM_SNLI, _FROM_MNLI, ("hans", "validation", "adversarial")),
    "rte": (
        _FROM_SCITAIL,
        ("adv-rte", "validation", "adversarial"),
        ("hans", "validation", "adversarial"),
    ),
    "qnli": (("adv-qnli", "validation", "adversarial"),),
    "sst2": (("adv-sst2", "validation", "adversarial"),),
    "qqp": (("adv-qqp", "validation", "adversarial"), ("paws-x", "validation", "adversarial")),
    "paws-x": (("qqp", "validation", "out_of_domain"),),
    "squad": (("mlqa", "validation", "out_of_domain"),),
}


@dataclass(frozen=True)
class EvaluationSet:
    """Rows to evaluate the models of a task on.

    `rows` has the columns of the task's head, with `label` an index of `label_names`. `class_of_output` gives for
    each class of the model its class here; a prediction is right when the class of the highest output is the label,
    and probabilities of outputs with the same class add up. Both are None for heads without classes.
    """

    name: str
    split: str
    kind: SetKind
    rows: Dataset
    label_names: tuple[str, ...] | None
    class_of_output: tuple[int, ...] | None
    citation: str
    found_in: str


@dataclass(frozen=True)
class EvaluationSets:
    """The sets of a task that were found, by name, and one sentence for each that was not."""

    sets: dict[str, EvaluationSet]
    notes: tuple[str, ...]


def load_evaluation_sets(task_name: str, data_dir: str | Path | None = None) -> EvaluationSets:
    """Return the evaluation sets of a task; none for a task without, or for the user's own files.

    Each is looked for as `load_task` looks: folder, cache, Hub. What cannot be found is in `notes`.

    >>> load_evaluation_sets("cola").sets
    {}
    """
    if task_name not in task_names():
        return EvaluationSets({}, ())
    task = task_record(task_name)
    sets: dict[str, EvaluationSet] = {}
    notes: list[str] = []
    for name, split, kind in SETS.get(task_name, ()):
        try:
            sets[name] = _load(task, task_record(name), split, kind, data_dir)
        except SteadytuneError as error:
            notes.append(f"Not evaluated on {name}: {error}".replace(INSTEAD, ""))
    return EvaluationSets(sets, tuple(notes))


def _load(task: Task, of: Task, split: str, kind: SetKind, data_dir: str | Path | None) -> EvaluationSet:
    data = load_published(of, data_dir, splits=(split,))
    labels, relabel, class_of_output = common_classes(task.label_names, of.label_names)
    rows = data.splits[split]
    if relabel is not None:
        rows = _relabeled(rows, relabel)
    return EvaluationSet(of.name, split, kind, rows, labels, class_of_output, of.citation, data.found_in)


def common_classes(
    of_task: tuple[str, ...] | None, of_set: tuple[str, ...] | None
) -> tuple[tuple[str, ...] | None, tuple[int, ...] | None, tuple[int, ...] | None]:
    """Return the classes that a task and a set have in common, the set's classes in them (None: as they are), and
    the task's classes in them.

    >>> common_classes(("entailment", "neutral", "contradiction"), ("entailment", "non-entailment"))
    (('entailment', 'non-entailment'), None, (0, 1, 1))
    >>> common_classes(("entailment", "neutral"), ("entailment", "neutral", "contradiction"))
    (('entailment', 'not_entailment'), (0, 1, 1), (0, 1))
    """
    if of_task is None or of_set is None:
        return of_set, None, None
    if of_task == of_set or _ENTAILMENT not in of_task or _ENTAILMENT not in of_set:
        return of_set, None, tuple(range(len(of_task)))
    relabel, class_of_output = (
        tuple(0 if name == _ENTAILMENT else 1 for name in names) for names in (of_set, of_task)
    )
    unchanged = relabel == tuple(range(len(of_set)))
    return (of_set if unchanged else _ENTAILED_OR_NOT), (None if unchanged else relabel), class_of_output


def _relabeled(rows: Dataset, relabel: tuple[int, ...]) -> Dataset:

    table: pa.Table = rows.with_format("arrow")[:]  # pyright: ignore
    labels = np.asarray(relabel, dtype=np.int64)[table.column(LABEL).to_numpy()]
    table = table.set_column(table.column_names.index(LABEL), LABEL, pa.array(labels))
    return dataset_of(table.replace_schema_metadata(None))
