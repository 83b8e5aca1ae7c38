"""All heads by name: every module in `heads/kinds` is one."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib import import_module

from steadytune.errors import SettingsError, did_you_mean
from steadytune.heads import kinds
from steadytune.heads.head import TaskHead


def _found() -> dict[str, TaskHead]:
    modules = [import_module(f"{kinds.__name__}.{entry.name}") for entry in pkgutil.iter_modules(kinds.__path__)]
    heads: list[TaskHead] = [module.HEAD for module in modules]
    return {head.name: head for head in sorted(heads, key=lambda head: head.name)}


HEADS: Mapping[str, TaskHead] = _found()
#: The heads that files can be for, and that are trained.
FILE_HEADS = tuple(name for name, head in HEADS.items() if head.from_files)


def head_of(name: str) -> TaskHead:
    """Return a head by its name.

    Raises:
        SettingsError: there is none.

    >>> head_of("regression").metrics
    ('pearson', 'spearman')
    """
    if name not in HEADS:
        raise SettingsError(f"unknown head {name!r}; known are {', '.join(HEADS)}.{did_you_mean(name, HEADS)}")
    return HEADS[name]
