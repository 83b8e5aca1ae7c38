"""Digests of all that determines a run besides its settings: code, data and model. Runs of other digests never mix."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from steadytune.comparison.candidates import identify
from steadytune.settings.fields import determining
from steadytune.settings.train import TrainSettings
from steadytune.support.reading import SETTINGS, read_bytes
from steadytune.tasks.digest import LENGTH
from steadytune.version import __version__

#: Whose code takes part in a run; reports and statistics may change without making runs old.
PARTS = ("core", "methods", "integrations", "tasks", "heads", "models", "training")
PACKAGES = ("torch", "transformers")


@functools.cache
def code_digest() -> str:
    """Digest of this version of steadytune and of the packages that do the arithmetic."""
    digest = hashlib.sha256(__version__.encode())
    root = Path(__file__).parents[1]
    for part in PARTS:
        path = root / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"\n{file.relative_to(root)}\n".encode() + read_bytes(file, SETTINGS))
    for package in PACKAGES:
        digest.update(f"\n{package} {metadata.version(package)}".encode())
    return digest.hexdigest()[:LENGTH]


def run_key(settings: TrainSettings, methods: Sequence[Any], fingerprint: Mapping[str, Any]) -> str:
    """The name of a run: a hash of all that determines it.

    Args:
        settings: of the run.
        methods: the methods as they are built, so that defaults that change make another run.
        fingerprint: digests of code, data and model.
    """
    values = determining(type(settings), settings.model_dump(mode="json"))
    built = [identify(methods), [_foreign_code(type(m)) for m in methods]]
    content = json.dumps([values, built, dict(fingerprint)], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:LENGTH]


@functools.cache
def _foreign_code(kind: type) -> str:
    """Digest of the module of a method that another package brings; ours are in `code_digest`."""
    if kind.__module__.startswith("steadytune."):
        return ""
    try:
        source = inspect.getsource(inspect.getmodule(kind) or kind)
    except (OSError, TypeError):
        source = kind.__qualname__
    return hashlib.sha256(source.encode()).hexdigest()[:LENGTH]
