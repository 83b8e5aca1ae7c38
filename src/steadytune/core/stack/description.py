"""The methods of a stack as plain values in a checkpoint, and in words what differs between two of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from steadytune.core.authoring.method import Method


def description(methods: Iterable[Method], seed: int) -> dict[str, Any]:
    """The methods with all their settings, and the seed."""
    return {"seed": seed, "methods": [{"name": m.name, **m.settings()} for m in methods]}


def with_new_settings(saved: Mapping[str, Any], methods: Iterable[Method]) -> dict[str, Any]:
    """Settings that a method did not have when the checkpoint was written are as good as at their defaults."""
    now = {m.name: {name: v for name, v in m.settings().items() if name not in m.changed_settings()} for m in methods}
    written = saved.get("methods")
    if not isinstance(written, list) or not all(isinstance(m, dict) for m in written):
        return dict(saved)
    return {**saved, "methods": [{**now.get(m.get("name"), {}), **m} for m in written]}


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs, in words.

    >>> then = {"seed": 0, "methods": [{"name": "smoothness", "weight": 1.0}]}
    >>> differences(then, {"seed": 0, "methods": [{"name": "smoothness", "weight": 3.0}, {"name": "r_drop"}]})
    'smoothness.weight was 1.0, now 3.0; r_drop was not there'
    """
    found = list(_differences(_by_name(saved), _by_name(now)))
    if saved.get("seed") != now.get("seed"):
        found.append(f"the seed was {saved.get('seed')}, now {now.get('seed')}")
    return "; ".join(found) or "in another order"


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{name} was there, now it is not" for name in before if name not in after)
    for name, settings in after.items():
        if name not in before:
            yield f"{name} was not there"
            continue
        for key in dict.fromkeys([*before[name], *settings]):
            if before[name].get(key) != settings.get(key):
                yield f"{name}.{key} was {before[name].get(key)}, now {settings.get(key)}"


def _by_name(described: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    methods = described.get("methods")
    entries = [m for m in methods if isinstance(m, dict)] if isinstance(methods, list) else []
    return {str(m.get("name")): {key: v for key, v in m.items() if key != "name"} for m in entries}
