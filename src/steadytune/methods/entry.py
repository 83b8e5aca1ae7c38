"""One entry of the registry, and the entries that other packages bring."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields
from importlib.metadata import EntryPoint, entry_points

from steadytune.core.authoring.method import Method

logger = logging.getLogger("steadytune")

Built = Method | tuple[Method, ...]

#: The group of entry points under which a package offers its methods.
GROUP = "steadytune.methods"


@dataclass(frozen=True)
class Entry:
    """A name and what builds it.

    Attributes:
        name: as written in configurations and on the command line.
        build: a method's class, or a function that returns one method or several.
        summary: a few words for tables.
        open_settings: the class that takes what the function does not name itself.
    """

    name: str
    build: Callable[..., Built]
    summary: str
    open_settings: type[Method] | None = None

    def settings(self) -> tuple[str, ...]:
        """Names of the settings that the builder takes."""
        names = []
        for parameter in inspect.signature(self.build).parameters.values():
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                names.append(parameter.name)
            elif self.open_settings is not None:
                names += [f.name for f in fields(self.open_settings) if f.name not in names]
        return tuple(names)

    def methods(self) -> tuple[Method, ...]:
        """What the entry stands for, with default settings."""
        built = self.build()
        return (built,) if isinstance(built, Method) else built


def plugins(taken: Collection[str]) -> Iterator[Entry]:
    """The methods that installed packages offer under the entry point group ``steadytune.methods``.

    One that cannot be loaded, or that takes a name that exists, is left out with a warning, so that a fault of one
    package does not stop the others.

    Args:
        taken: names that are not free.
    """
    for point in entry_points(group=GROUP):
        reason = "the name is taken" if point.name in taken else ""
        try:
            found = None if reason else point.load()
            if found is not None and not (inspect.isclass(found) and issubclass(found, Method)):
                reason = f"{point.value} is not a class that extends Method"
            elif found is not None and found.name != point.name:
                reason = f"its name is {found.name!r}"
            elif found is not None:
                yield Entry(point.name, found, (inspect.getdoc(found) or "").split("\n")[0])
        except Exception as error:  # whatever the other package does while it is imported
            reason = f"{type(error).__name__}: {error}"
        if reason:
            logger.warning("Method %s of %s is left out: %s.", point.name, _package(point), reason)


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
