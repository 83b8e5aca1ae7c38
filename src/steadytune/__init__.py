"""Stable fine-tuning of pretrained transformers on small datasets.

Names are imported when they are first used, so that ``import steadytune`` and the command line's help stay fast.
``__init__.pyi`` has the same names for type checkers and editors; ``tools/docs/generate.py`` writes it.
"""

from __future__ import annotations

from steadytune.models.pooled.auto_classes import register as _register_auto_classes
from steadytune.names import OTHERS, load, public
from steadytune.version import __version__ as __version__


def __getattr__(name: str) -> object:
    if name == "__all__":  # asked for by `from steadytune import *`
        return ["__version__", *public()]
    if name in OTHERS:
        return load(OTHERS[name])
    if name not in public():
        raise AttributeError(f"module 'steadytune' has no attribute {name!r}")
    return load(public()[name])


def __dir__() -> list[str]:
    return sorted(["__version__", *public()])


_register_auto_classes()
