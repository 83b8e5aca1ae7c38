"""The method under check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steadytune.core.authoring.method import Method


@dataclass(frozen=True)
class Subject:
    """A method's class with the settings that it is checked with."""

    method: type[Method]
    settings: Mapping[str, Any]

    def build(self, **changes: Any) -> Method:
        """A new instance."""
        return self.method(**{**self.settings, **changes})
