"""What is learned: the known tasks, the user's own files, small subsets of either, and the scores.

Importing this package imports neither torch, transformers, datasets nor pyarrow; loading rows does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steadytune.tasks.files.load import load_files
    from steadytune.tasks.named.demo import minilm_folder
    from steadytune.tasks.named.evaluation_sets import EvaluationSet, EvaluationSets, load_evaluation_sets
    from steadytune.tasks.named.registry import load_task, task_names, task_record
    from steadytune.tasks.subset import TrainSize, parse_train_size, take_subset
    from steadytune.tasks.task import Head, RowCounts, Task, TaskData

_HOME = {
    "EvaluationSet": "named.evaluation_sets",
    "EvaluationSets": "named.evaluation_sets",
    "Head": "task",
    "RowCounts": "task",
    "Task": "task",
    "TaskData": "task",
    "TrainSize": "subset",
    "load_evaluation_sets": "named.evaluation_sets",
    "load_files": "files.load",
    "load_task": "named.registry",
    "minilm_folder": "named.demo",
    "parse_train_size": "subset",
    "take_subset": "subset",
    "task_names": "named.registry",
    "task_record": "named.registry",
}

__all__ = [
    "EvaluationSet",
    "EvaluationSets",
    "Head",
    "RowCounts",
    "Task",
    "TaskData",
    "TrainSize",
    "load_evaluation_sets",
    "load_files",
    "load_task",
    "minilm_folder",
    "parse_train_size",
    "take_subset",
    "task_names",
    "task_record",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: those that read rows bring pyarrow."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
