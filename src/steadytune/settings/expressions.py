"""How methods are written in one word: ``noisytune+smoothness(radius=0.01, masks=same)``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from steadytune.errors import SettingsError
from steadytune.support.plain_yaml import read_yaml
from steadytune.support.text import excerpt

_WRITTEN = re.compile(r"\s*(?P<name>[^()\s]+)\s*(?:\((?P<settings>[^()]*)\)\s*)?")


def split_outside_brackets(text: str, separator: str) -> list[str]:
    """Split a text at a separator outside brackets, leaving out empty parts.

    >>> split_outside_brackets("none, smoothness(radius=0.01, masks=same),smart", ",")
    ['none', 'smoothness(radius=0.01, masks=same)', 'smart']
    """
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == separator and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def read_candidate(text: str) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Names of the methods, and their settings as ``{"smart.weight": 3}``.

    Raises:
        SettingsError: brackets or an assignment in them cannot be read.

    >>> read_candidate("noisytune+smart(weight=3)")
    (('noisytune', 'smart'), {'smart.weight': 3})
    """
    names: list[str] = []
    settings: dict[str, Any] = {}
    for part in split_outside_brackets(text, "+"):
        found = _WRITTEN.fullmatch(part)
        if found is None:
            raise SettingsError(f"--methods {text}: write {part!r} as method or method(setting=value, ...).")
        names.append(found["name"])
        for assignment in split_outside_brackets(found["settings"] or "", ","):
            key, equals, value = assignment.partition("=")
            if not equals or not key.strip() or not value.strip():
                raise SettingsError(f"--methods {text}: write {assignment!r} as setting=value.")
            name = key.strip() if "." in key else f"{found['name']}.{key.strip()}"
            settings[name] = scalar(value.strip())
    return tuple(names), settings


def candidate_label(names: Sequence[str], settings: Mapping[str, Any]) -> str:
    """Names and settings in one word, as `read_candidate` reads them.

    >>> candidate_label(["noisytune", "smart"], {"smart.weight": 3, "smoothness.radius": 1e-4})
    'noisytune+smart(weight=3,smoothness.radius=0.0001)'
    """
    written = {name: [] for name in names}
    for key, value in settings.items():
        method, _, setting = key.rpartition(".")
        # Of a method that a preset brings along: written with the last name.
        home, shown = (method, setting) if method in written else (names[-1], key)
        written[home].append(f"{shown}={value:g}" if isinstance(value, float) else f"{shown}={value}")
    return "+".join(f"{name}({','.join(values)})" if values else name for name, values in written.items())


BASELINE = "none"


def scalar(text: str, option: str = "--set") -> Any:
    """Read a value as in YAML, and numbers such as 1e-4 that YAML takes for text.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return float(text) if not text.lstrip("+-").isdigit() else int(text)
    except ValueError:
        pass
    try:
        return read_yaml(text, option)
    except SettingsError as error:
        raise SettingsError(f"{option}: the value {excerpt(text)} cannot be read.") from error
