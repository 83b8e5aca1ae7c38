"""What a verb of the command line is, and how the verbs are found: each is one file in `cli/verbs`.

A file says in plain text at its top what `steadytune --help` shows of it: ``SUMMARY``, ``PANEL``, ``EXAMPLE``. This is
read without importing the file, because what it imports takes longer than showing the help. When the verb is called,
its file is imported for the rest: ``Options``, a class of settings with what can be asked for; ``SETTINGS``, where
the verb has settings that a configuration file can give, too; and ``run``, which does the work.
"""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steadytune.settings.fields import Settings

FOLDER = Path(__file__).with_name("verbs")

TRAINING, RESULTS, BEFORE, LOOKING = "Train", "Look at results", "Before training", "What there is"
#: The groups of `steadytune --help`, in their order.
PANELS = (BEFORE, TRAINING, RESULTS, LOOKING)


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
        name: as it is written; the name of its file.
        summary: one sentence, shown in both helps.
        panel: the group it is listed in.
        example: shown below its help.
        place: where in its group it is listed, first the smallest.
    """

    name: str
    summary: str
    panel: str
    example: str
    place: int = 50

    def module(self) -> ModuleType:
        """Its file, imported."""
        return importlib.import_module(f"steadytune.cli.verbs.{self.name}")

    def options(self) -> type[Settings]:
        """What can be asked for on the command line alone."""
        return self.module().Options

    def settings(self) -> type[Settings] | None:
        """What a configuration file could say as well; ``None`` where the verb has no settings of that kind."""
        return getattr(self.module(), "SETTINGS", None)

    def run(self) -> Callable[..., None]:
        """The function that does it: takes the options, after the settings where there are some."""
        return self.module().run


@functools.cache
def verbs() -> tuple[Verb, ...]:
    """All verbs, in the order in which they are listed."""
    found = [_read(file) for file in FOLDER.glob("*.py") if file.stem != "__init__"]
    return tuple(sorted(found, key=lambda verb: (PANELS.index(verb.panel), verb.place, verb.name)))


def _read(file: Path) -> Verb:
    """What a verb's file says at its top."""
    said: dict[str, Any] = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)):
                said[name.lower()] = value
    known = {name: said[name] for name in ("summary", "panel", "example", "place") if name in said}
    return Verb(file.stem, **known)
