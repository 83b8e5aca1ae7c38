"""Entries of the registry: how a preset declares itself, and what other packages bring."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields
from functools import wraps
from importlib.metadata import EntryPoint
from typing import Any, TypeVar, cast

from steadytune import names
from steadytune.core.authoring import Method

logger = logging.getLogger("steadytune")

Built = Method | tuple[Method, ...]
Function = TypeVar("Function", bound=Callable[..., Built])


@dataclass(frozen=True)
class Entry:
    """A name and what builds it.

    Attributes:
        name: as written in configurations and on the command line.
        build: a method's class, or a function that returns one method or several.
        summary: a few words for tables.
        open_settings: the class that takes the settings that the function does not name itself.
    """

    name: str
    build: Callable[..., Built]
    summary: str
    open_settings: type[Method] | None = None

    @classmethod
    def of(cls, name: str, build: Callable[..., Built]) -> Entry:
        """Make the entry of a method's class, or of a preset."""
        if inspect.isclass(build) and issubclass(build, Method):
            return cls(name, build, build.summary or (inspect.getdoc(build) or "").split("\n")[0])
        facts = _PRESETS[getattr(build, "__func__", build if inspect.isfunction(build) else type(build).__call__)]
        return cls(name, build, *facts)

    def settings(self) -> tuple[str, ...]:
        """Return the names of the settings that the builder takes."""
        names = []
        for parameter in inspect.signature(self.build).parameters.values():
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                names.append(parameter.name)
            elif self.open_settings is not None:
                names += [f.name for f in fields(self.open_settings) if f.name not in names]
        return tuple(names)

    def methods(self) -> tuple[Method, ...]:
        """Build the methods of the entry with default settings."""
        built = self.build()
        return (built,) if isinstance(built, Method) else built


_PRESETS: dict[Callable[..., Built], tuple[str, type[Method] | None]] = {}


def preset(summary: str, *, takes: type[Method] | None = None) -> Callable[[Function], Function]:
    """Declare a function of a module in this folder as a preset, which gets the function's name everywhere.

    A class whose one instance is the preset declares its ``__call__``, and each variant as a method of its own.

    Args:
        summary: a few words for tables.
        takes: the class that takes the settings that the function does not name itself.
    """

    def declare(function: Function) -> Function:
        name = function.__qualname__.removeprefix("_").lower().removesuffix(".__call__")

        @wraps(function)
        def build(*args: Any, **settings: Any) -> Built:
            built = function(*args, **settings)
            for method in (built,) if isinstance(built, Method) else built:
                method.made_by(name)
            return built

        _PRESETS[build] = (summary, takes)
        return cast("Function", build)

    return declare


def plugins(taken: Collection[str]) -> Iterator[Entry]:
    """Yield the methods that installed packages offer under the entry point group ``steadytune.methods``.

    One that cannot be loaded, or that takes a name that exists, is left out with a warning, so that a fault of one
    package does not stop the others.

    Args:
        taken: names that are not free.
    """
    for point in names.plugins():
        reason = "the name is taken" if point.name in taken else ""
        try:
            found = None if reason else point.load()
            if found is not None and not (inspect.isclass(found) and issubclass(found, Method)):
                reason = f"{point.value} is not a class that extends Method"
            elif found is not None and found.name != point.name:
                reason = f"its name is {found.name!r}"
            elif found is not None:
                yield Entry.of(point.name, found)
        except Exception as error:  # whatever the other package does while it is imported
            reason = f"{type(error).__name__}: {error}"
        if reason:
            logger.warning("Method %s of %s is left out: %s.", point.name, _package(point), reason)


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
