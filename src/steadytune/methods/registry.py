"""Methods by name, for configurations and the command line; names and settings are checked with suggestions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from steadytune.core.authoring import Method
from steadytune.core.stack.by_name import refuse_unknown_name
from steadytune.core.stack.composition import PLAIN, conflicts
from steadytune.errors import MethodError, did_you_mean
from steadytune.methods.entry import Built, Entry, plugins
from steadytune.names import load, methods

#: The methods and presets of this folder, which declare themselves; `all_methods` adds those of other packages.
REGISTRY: dict[str, Entry] = {
    name: Entry.of(name, cast("Callable[..., Built]", load(home))) for name, home in methods().items()
}


def all_methods() -> dict[str, Entry]:
    """Return every method by name: ours, then those that installed packages offer as entry points."""
    return REGISTRY | {entry.name: entry for entry in plugins(frozenset(REGISTRY))}


def method_classes(names: Sequence[str] = ()) -> list[type[Method]]:
    """The classes behind names; all classes of `all_methods` without any.

    Raises:
        MethodError: a name is unknown.
    """
    known = all_methods()
    for name in names:
        refuse_unknown_name(name, known)
    entries = [known[name] for name in names] if names else list(known.values())
    return list(dict.fromkeys(type(method) for entry in entries for method in entry.methods()))


def build_methods(
    names: Sequence[str], settings: Mapping[str, Mapping[str, Any]] | None = None, *, refuse_conflicts: bool = True
) -> list[Method]:
    """Build methods by name.

    Args:
        names: names out of `all_methods`; ``["none"]`` or nothing is plain training.
        settings: per name, settings that differ from the defaults.
        refuse_conflicts: raise when two of them cannot train together.

    Raises:
        MethodError: a name or a setting is unknown or out of range, a setting belongs to no method in use, or two
            methods conflict.

    >>> [m.name for m in build_methods(["noisytune", "smart"], {"smart": {"weight": 3.0}})]
    ['noisytune', 'smoothness', 'bregman']
    """
    known = all_methods()
    if list(names) == [PLAIN]:
        names = []
    for name in names:
        if name == PLAIN:
            raise MethodError(f"{PLAIN!r} stands for no method at all: leave it out, or give it alone.")
        refuse_unknown_name(name, known)
    built: dict[str, Method] = {}
    source: dict[str, str] = {}
    rest = dict(settings or {})
    for name in names:
        one_or_more = _build(known[name], rest.pop(name, {}))
        for method in [one_or_more] if isinstance(one_or_more, Method) else one_or_more:
            if method.name in built:
                both = f"{source[method.name]} and {name}" if source[method.name] != name else f"{name} twice"
                raise MethodError(f"Conflict between {both}: {method.name} can be there once. Leave one of them out.")
            built[method.name], source[method.name] = method, name
    for name, values in rest.items():
        if name not in built:  # a half of an alias may be set by its own name: bregman.beta under smart
            given = [*names, *built]
            in_use = ", ".join(dict.fromkeys(given)) or "none"
            raise MethodError(f"Settings for {name!r}, not in use (methods: {in_use}).{did_you_mean(name, given)}")
        _refuse_unknown(name, values, known[name].settings())
        built[name] = replace(built[name], **values)
    if refuse_conflicts:
        for reason in conflicts(list(built.values())):
            raise MethodError(reason)
    return list(built.values())


def _build(entry: Entry, settings: Mapping[str, Any]) -> Built:
    _refuse_unknown(entry.name, settings, entry.settings())
    return entry.build(**settings)


def _refuse_unknown(method: str, settings: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in settings:
        if name not in known:
            raise MethodError(
                f"{method} has no setting {name!r}.{did_you_mean(name, known)} Its settings: {', '.join(known)}."
            )
