"""Slanted triangular learning rates: a short rise, a long fall (Howard & Ruder, ACL 2018)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from steadytune.core.authoring import SCHEDULE, OptimizerMethod, hyperparameter


@dataclass(frozen=True)
class SlantedTriangular(OptimizerMethod):
    """The learning rate rises linearly from ``lr / ratio`` to ``lr``, then falls linearly back to ``lr / ratio``.

    With T updates, ``cut = floor(T * cut_fraction)`` and ``t`` updates done, ``p = t / cut`` before the cut and
    ``1 - (t - cut) / (cut * (1 / cut_fraction - 1))`` from there on; the rate is
    ``lr * (1 + p * (ratio - 1)) / ratio`` (equation 3). ``p`` does not fall below 0 and ``cut`` is at least 1.

    Example:
        >>> factor = SlantedTriangular(ratio=4.0).schedule(10)
        >>> [round(factor(t), 3) for t in (0, 1, 5, 10)]
        [0.25, 1.0, 0.667, 0.25]
    """

    name: ClassVar[str] = "slanted_triangular"
    summary: ClassVar[str] = "a short rise and a long fall of the learning rate"
    paper: ClassVar[str] = "ULMFiT, Howard & Ruder, ACL 2018, eq. 3"
    claims: ClassVar[frozenset[str]] = frozenset({SCHEDULE})
    off_settings: ClassVar[Mapping[str, Any]] = {"ratio": 1.0}
    strong_settings: ClassVar[Mapping[str, Any]] = {"cut_fraction": 0.5}

    cut_fraction: float = hyperparameter(0.1, "share of the updates that the rise takes", low=0, high=1, low_open=True)
    ratio: float = hyperparameter(32.0, "how much smaller the lowest rate is than the highest", low=1, high=1e6)

    def schedule(self, total_updates: int) -> Callable[[int], float]:
        """Factor of the learning rate by the number of updates done."""
        # A little more than the product, so that 0.29 * 100 is 29 and not 28.
        cut = max(math.floor(total_updates * self.cut_fraction + 1e-9), 1)
        fall = cut * (1 / self.cut_fraction - 1)

        def factor(done: int) -> float:
            rises = done <= cut or fall == 0
            # Where T * cut_fraction is no whole number the paper's line would run below 0 before the end.
            p = min(done / cut, 1.0) if rises else max(1 - (done - cut) / fall, 0.0)
            return (1 + p * (self.ratio - 1)) / self.ratio

        return factor

    def effect(self) -> str:
        """One line: what the method touches."""
        return (
            f"replaces the schedule: up from lr/{self.ratio:g} over {self.cut_fraction:.0%} of the updates, then down"
        )
