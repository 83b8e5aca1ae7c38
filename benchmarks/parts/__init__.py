"""The parts of the benchmark, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.rows import Row
from benchmarks.setting import Setting


@dataclass(frozen=True)
class Found:
    """What a part measured.

    Attributes:
        rows: figures beside their targets.
        details: what stands behind them, as plain values.
    """

    rows: list[Row]
    details: dict[str, Any] = field(default_factory=dict)


Part = Callable[[Setting], Found]
