"""How a single value is read: as in YAML, and numbers such as 1e-4."""

from __future__ import annotations

from typing import Any

from steadytune.errors import SettingsError
from steadytune.support.plain_yaml import read_yaml
from steadytune.support.text import excerpt


def scalar(text: str) -> Any:
    """Read a value as in YAML, and numbers such as 1e-4 that YAML takes for text.

    Raises:
        SettingsError: it cannot be read.
    """
    try:
        return float(text) if not text.lstrip("+-").isdigit() else int(text)
    except ValueError:
        pass
    try:
        return read_yaml(text, "--set")
    except SettingsError as error:
        raise SettingsError(f"--set: the value {excerpt(text)} cannot be read.") from error
