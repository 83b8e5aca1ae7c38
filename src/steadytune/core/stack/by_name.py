"""Methods by their names, with default settings: ``Stack(["noisytune", "smart"])``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

from steadytune import names
from steadytune.errors import MethodError, did_you_mean

if TYPE_CHECKING:
    from steadytune.core.authoring.method import Method


def method_by_name(name: str) -> Method | tuple[Method, ...]:
    """Build a method or a preset by its name in configurations and on the command line.

    Core does not know the methods: `names` finds their source, and this imports the one that is asked for.

    Args:
        name: of a method or preset of steadytune, or of an installed package that offers methods.

    Raises:
        MethodError: there is no such method, or the name comes with settings.

    >>> [m.name for m in method_by_name("smart")]
    ['smoothness', 'bregman']
    """
    homes = names.methods()
    plugins = {} if name in homes else {point.name: point for point in names.plugins()}
    refuse_unknown_name(name, [*homes, *plugins])
    build = plugins[name].load() if name in plugins else names.load(homes[name])
    return cast("Callable[[], Method | tuple[Method, ...]]", build)()


def refuse_unknown_name(name: str, known: Iterable[str]) -> None:
    """Refuse a name that no method has.

    Raises:
        MethodError: with the nearest name, or with what to write instead.
    """
    known = list(known)
    if name in known:
        return
    called, parenthesis, _ = name.partition("(")
    if parenthesis and called in known:
        raise MethodError(f"{name!r} is a name with settings: pass the method itself, {name}, without quotes.")
    several = [part.strip() for part in name.replace("+", ",").split(",")]
    if len(several) > 1 and all(part in known for part in several):
        raise MethodError(f"{name!r} is one text with several names: pass a list, {several}.")
    near = did_you_mean(name, known)
    rest = " `steadytune methods` lists all." if near else f" Known: {', '.join(known)}."
    raise MethodError(f"There is no method {name!r}.{near}{rest}")
