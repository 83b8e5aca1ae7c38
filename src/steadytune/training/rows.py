"""The rows of a run: a named task or the user's files. No torch here, so mistakes in files are reported at once."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from steadytune.errors import DataError, SettingsError
from steadytune.heads.registry import head_of
from steadytune.settings.train import TrainSettings
from steadytune.tasks.files.load import check_files, load_files
from steadytune.tasks.held_out import with_test_rows
from steadytune.tasks.named.registry import load_task, task_record
from steadytune.tasks.subset import take_subset
from steadytune.tasks.task import TaskData

if TYPE_CHECKING:
    from datasets import Dataset


#: Where the data sets of named tasks are, unless `--data-dir` says it.
DATA_FOLDER = "STEADYTUNE_DATA"


def check_source(settings: TrainSettings) -> None:
    """Check that one of task and files is given, that the task can be trained and that the files can be opened.

    Raises:
        SettingsError: it is not so.
        DataError: a file is missing, empty or not of the format its name says, its columns are not clear, or its rows
            cannot be used (seen here if it is small); the task is for evaluation only.
    """
    files = {name: getattr(settings, name) for name in ("train_file", "validation_file", "test_file")}
    files = {name: path for name, path in files.items() if path is not None}
    if settings.task is not None and files:
        raise SettingsError(f"--task and --{next(iter(files)).replace('_', '-')}: give one or the other.")
    if settings.task is not None:
        given = next((name for name, value in _of_files(settings).items() if value is not None), None)
        if given is not None:
            raise SettingsError(f"--{given.replace('_', '-')}: is for your own files; --task says it itself.")
        record = task_record(settings.task)
        if record.evaluation_only:
            TaskData(record, {}, (), {}).training_rows()  # says what to train on
    elif settings.train_file is None:
        raise SettingsError("Nothing to learn from: give --task movie-reviews, or your rows with --train-file.")
    if files:
        check_files(**files, **_of_files(settings))


def _of_files(settings: TrainSettings) -> dict[str, Any]:
    """Return how the user's files are to be read."""
    names = ("text_column", "text_pair_column", "label_column", "delimiter", "encoding", "head")
    return {name: getattr(settings, name) for name in names}


def load_data(settings: TrainSettings) -> TaskData:
    """Load the named task or the user's files, reduced to ``train_size`` rows.

    Raises:
        SettingsError: neither a task nor a file is given, or both.
        DataError: a file cannot be used, or there are no rows to train on.
    """
    check_source(settings)
    if settings.task is not None:
        data = load_task(settings.task, settings.data_dir or os.environ.get(DATA_FOLDER) or None)
    else:
        data = load_files(
            settings.train_file or "", settings.validation_file, settings.test_file, **_of_files(settings)
        )
    data.training_rows()
    if "validation" not in data.splits:
        raise DataError(f"{data.task.name}: there are no validation rows, after which training is evaluated.")
    if settings.hold_out:
        data = with_test_rows(data)
    if settings.train_size is not None:
        data.splits["train"] = fewer_rows(data, "train", settings.train_size, settings.seed)
    return replace(data, notes=(*data.notes, _counted(data)))


def _counted(data: TaskData) -> str:
    """Say how many rows were read and rejected, counting a held-out split and its source once, and how many train."""
    counts, train = data.counts, data.counts.get("train")
    parts = [s for s in ("validation", "test") if s in counts and train and counts[s].read == train.read > train.used]
    # a split of the same source as the training rows has none but rows that they have not
    shared = parts if train and train.used + sum(counts[s].used for s in parts) <= train.read else []
    read = sum(c.read for split, c in counts.items() if split not in shared)
    used = sum(c.used for c in counts.values())
    rows = len(data.splits["train"])
    some = f"; training on {rows:,} of {train.used:,}" if train and rows < train.used else ""
    return f"Read {read:,} rows ({read - used or 'none':{',' if read > used else ''}} rejected){some}."


def fewer_rows(data: TaskData, split: str, size: str | int, seed: int) -> Dataset:
    """Return a seeded part of a split; classes keep their proportions, rows of other heads are drawn plainly."""
    names = data.task.label_names if head_of(data.task.head).one_class_per_row else None
    return take_subset(data.splits[split], size, seed, names)
