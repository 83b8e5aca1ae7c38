"""What a training adds up on the device until somebody logs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Tally:
    """Means and counts by name, without waiting for a device until they are taken.

    Example:
        >>> tally = Tally()
        >>> for loss in (1.0, 2.0):
        ...     tally.record("task_loss", torch.tensor(loss))
        ...     tally.count("non_finite_perturbations", torch.tensor(0))
        >>> tally.take()
        {'task_loss': 1.5}
    """

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}
        self._counts: dict[str, Tensor] = {}

    def record(self, name: str, value: Tensor, share: Tensor | float = 1.0) -> None:
        """Add a value, of which the mean is wanted.

        Args:
            name: of what.
            value: a scalar.
            share: what part of a whole it is: 1, less for a part of an update, 0 for what is added to a value before.
        """
        if name not in self._sums:
            zero = value.new_zeros((), dtype=torch.float64)
            self._sums[name] = (zero, zero.clone())
        total, count = self._sums[name]
        total += value
        count += share

    def count(self, name: str, number: Tensor) -> None:
        """Add a number of cases, logged only if it is not 0."""
        if name in self._counts:
            self._counts[name] += number
        else:
            self._counts[name] = number.detach().to(torch.int64, copy=True)

    def take(self) -> dict[str, float]:
        """The means and the counts since the last call."""
        # What was recorded of no items at all has a share, and so a sum, of 0.
        found = {name: float(total / count if count else total) for name, (total, count) in self._sums.items()}
        found |= {name: float(number) for name, number in self._counts.items() if number > 0}
        self.clear()
        return found

    def state(self) -> dict[str, Any]:
        """All of it as plain numbers, for a checkpoint."""
        sums = {name: [float(total), float(count)] for name, (total, count) in self._sums.items()}
        return {"sums": sums, "counts": {name: int(number) for name, number in self._counts.items()}}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from what `state` returned.

        >>> first, second = Tally(), Tally()
        >>> first.record("task_loss", torch.tensor(1.0))
        >>> second.load(first.state(), torch.device("cpu"))
        >>> second.take()
        {'task_loss': 1.0}
        """
        self.clear()
        for name, pair in state["sums"].items():
            total, count = torch.tensor(pair, dtype=torch.float64, device=device).unbind()
            self._sums[name] = (total.clone(), count.clone())
        self._counts |= {name: torch.tensor(number, device=device) for name, number in state["counts"].items()}

    def clear(self) -> None:
        """Forget everything."""
        self._sums.clear()
        self._counts.clear()
