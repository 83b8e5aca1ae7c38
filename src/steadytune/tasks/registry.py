"""The tasks known by name. The user's own files are loaded with `load_files` instead."""

from __future__ import annotations

from collections.abc import Callable

from steadytune.core.errors import SettingsError, did_you_mean
from steadytune.tasks.demo import MOVIE_REVIEWS, movie_reviews
from steadytune.tasks.locations import excerpt
from steadytune.tasks.sources import FORMATS
from steadytune.tasks.task import Task, TaskData

_TASKS: dict[str, tuple[Task, Callable[[], TaskData]]] = {
    MOVIE_REVIEWS.name: (MOVIE_REVIEWS, movie_reviews),
}


def task_names() -> tuple[str, ...]:
    """Return the names of the known tasks.

    >>> task_names()
    ('movie-reviews',)
    """
    return tuple(_TASKS)


def task_record(name: str) -> Task:
    """Return the record of a known task, without its rows; raises SettingsError for an unknown name.

    >>> task_record("movie-reviews").label_names
    ('negative', 'positive')
    """
    return _entry(name)[0]


def load_task(name: str) -> TaskData:
    """Return a known task with its rows.

    Raises SettingsError for an unknown name or a missing optional extra, DataError for rows that cannot be used.

    >>> load_task("movie-review")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    steadytune.core.errors.SettingsError: unknown task 'movie-review'; ... Did you mean 'movie-reviews'?
    """
    return _entry(name)[1]()


def _entry(name: str) -> tuple[Task, Callable[[], TaskData]]:
    if name not in _TASKS:
        is_file = name.lower().endswith(tuple(FORMATS))
        hint = " A file of your own is given as train_file." if is_file else did_you_mean(name, _TASKS)
        raise SettingsError(f"unknown task {excerpt(name)}; known are {', '.join(_TASKS)}.{hint}")
    return _TASKS[name]
