"""Methods by name, for configurations and the command line; names and settings are checked with suggestions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from steadytune.core.errors import MethodError, did_you_mean
from steadytune.core.method import Method
from steadytune.methods.bregman import Bregman
from steadytune.methods.noisytune import NoisyTune
from steadytune.methods.presets import smart
from steadytune.methods.smoothness import Smoothness

Built = Method | tuple[Method, ...]


@dataclass(frozen=True)
class Entry:
    """A name and what builds it."""

    name: str
    build: Callable[..., Built]
    summary: str

    def settings(self) -> tuple[str, ...]:
        """Names of the settings that the builder takes."""
        names = []
        for parameter in inspect.signature(self.build).parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                # `smart` passes what it does not name to the smoothness regularizer.
                names += [f.name for f in fields(Smoothness) if f.name not in names]
            else:
                names.append(parameter.name)
        return tuple(names)

    def methods(self) -> tuple[Method, ...]:
        """What the entry stands for, with default settings."""
        built = self.build()
        return (built,) if isinstance(built, Method) else built


REGISTRY: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("noisytune", NoisyTune, "noise on the pretrained weights, once, before training"),
        Entry("smart", smart, "smoothness + bregman, the paper's defaults"),
        Entry("smart.paper", smart.paper, "the same with every setting of the paper written out"),
        Entry(
            "smart.mt_dnn",
            smart.mt_dnn,
            "the perturbation of the released code: radius 1 per token, no bregman",
        ),
        Entry("smoothness", Smoothness, "stays the same under small adversarial moves of the word embeddings"),
        Entry("bregman", Bregman, "stays near a moving average of its own past"),
    )
}


def build_methods(names: Sequence[str], settings: Mapping[str, Mapping[str, Any]] | None = None) -> list[Method]:
    """Build methods by name.

    Args:
        names: names out of `REGISTRY`; ``["none"]`` or nothing is plain training.
        settings: per name, settings that differ from the defaults.

    Raises:
        MethodError: a name or a setting is unknown or out of range, or a setting belongs to no method in use.

    >>> [m.name for m in build_methods(["noisytune", "smart"], {"smart": {"weight": 3.0}})]
    ['noisytune', 'smoothness', 'bregman']
    """
    if list(names) == ["none"]:
        names = []
    for name in names:
        if name == "none":
            raise MethodError("'none' stands for no method at all: leave it out, or give it alone.")
        if name not in REGISTRY:
            raise MethodError(
                f"There is no method {name!r}.{did_you_mean(name, REGISTRY)} Known: {', '.join(REGISTRY)}."
            )
    built: dict[str, Method] = {}
    source: dict[str, str] = {}
    rest = dict(settings or {})
    for name in names:
        one_or_more = _build(REGISTRY[name], rest.pop(name, {}))
        for method in [one_or_more] if isinstance(one_or_more, Method) else one_or_more:
            if method.name in built:
                both = f"{source[method.name]} and {name}" if source[method.name] != name else f"{name} twice"
                raise MethodError(f"Conflict between {both}: {method.name} can be there once. Leave one of them out.")
            built[method.name], source[method.name] = method, name
    for name, values in rest.items():
        if name not in built:  # a half of an alias may be set by its own name: bregman.beta under smart
            known = [*names, *built]
            in_use = ", ".join(dict.fromkeys(known)) or "none"
            raise MethodError(f"Settings for {name!r}, not in use (methods: {in_use}).{did_you_mean(name, known)}")
        _refuse_unknown(name, values, REGISTRY[name].settings())
        built[name] = replace(built[name], **values)
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
