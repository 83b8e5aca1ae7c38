"""One measurement that can be made: what determines it, and what makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """A part that can be measured.

    Attributes:
        settings: all that determines it, besides the model; plain values.
        measure: does it.
    """

    settings: dict[str, Any]
    measure: Callable[[], Any]
