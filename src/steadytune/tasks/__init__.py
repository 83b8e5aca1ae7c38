"""What is learned: the known tasks, the user's own files, small subsets of either, and the scores.

Importing this package imports neither torch, transformers, datasets nor pyarrow; loading rows does.
"""

from steadytune.tasks.files.load import load_files
from steadytune.tasks.named.demo import minilm_folder
from steadytune.tasks.named.evaluation_sets import EvaluationSet, EvaluationSets, load_evaluation_sets
from steadytune.tasks.named.registry import load_task, task_names, task_record
from steadytune.tasks.subset import TrainSize, parse_train_size, take_subset
from steadytune.tasks.task import Head, RowCounts, Task, TaskData

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
