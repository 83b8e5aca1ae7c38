"""The formats of data files, one module each: a module here that has a `FORMAT` is a format, and nothing lists it."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from steadytune.tasks.files.formats.format import Format


@cache
def formats() -> tuple[Format, ...]:
    """Return the known formats, in the order in which messages name them.

    >>> [format.name for format in formats()]
    ['csv', 'tsv', 'json lines', 'json', 'parquet', 'conll', 'squad', 'xlsx']
    """
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    known = [entry for module in modules for entry in getattr(module, "FORMATS", ())]
    return tuple(sorted(known, key=lambda entry: entry.order))


def extensions() -> tuple[str, ...]:
    """Return the extensions of all formats.

    >>> extensions()[:3]
    ('.csv', '.tsv', '.jsonl')
    """
    return tuple(dict.fromkeys(extension for found in formats() for extension in found.extensions))


def format_for(extension: str, head: bytes) -> Format | None:
    """Return the format of an extension; of several, the one that the first bytes look like."""
    fitting = [found for found in reversed(formats()) if extension in found.extensions]
    return next((found for found in fitting if found.looks_like(head)), None)
