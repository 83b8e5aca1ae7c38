"""How unreduced values become a term of the loss: the host's denominator, never the method's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steadytune.core.arithmetic import randomness


@dataclass(frozen=True)
class PerItem:
    """Unreduced values of a loss term, with one weight per supervised item.

    An item is what the task loss averages over: an example for classification, one output for regression and
    multi-label classification, a labeled token for tagging. Because a method returns values and never a mean,
    a wrong scale cannot be written down.

    Attributes:
        values: non-negative values, any shape.
        weights: same shape; 1 for a supervised item, 0 for an ignored one (label -100).
    """

    values: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        if self.values.shape != self.weights.shape:
            raise ValueError(f"values {tuple(self.values.shape)} and weights {tuple(self.weights.shape)} differ")

    def total(self) -> Tensor:
        """Sum over the supervised items.

        >>> PerItem(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 0.0, 1.0])).total()
        tensor(5.)
        """
        return self.supervised().sum()

    def supervised(self) -> Tensor:
        """The weighted values, 0 for an ignored item."""
        # `where` and not a product: an ignored item that is infinite must not turn the sum into NaN.
        return torch.where(self.weights > 0, self.values * self.weights, self.values.new_zeros(()))

    def count(self) -> Tensor:
        """Number of supervised items, at least 1."""
        return self.weights.sum().clamp_min(1)

    def reduce(self, denominator: Tensor | float | None = None) -> Tensor:
        """Divide the sum by the denominator of the task loss.

        Args:
            denominator: items of the accumulated batch where the host normalizes over it; ``None`` for the items
                of this micro-batch.
        """
        return self.total() / (self.count() if denominator is None else denominator)


def scales_by_items(
    loss: Callable[[dict[str, Any], Tensor], Tensor], model: nn.Module, inputs: dict[str, Any]
) -> bool | None:
    """Whether a loss heeds ``num_items_in_batch``: it is computed for two numbers, because signatures do not tell.

    Runs without gradient or dropout and leaves training mode, random state and inputs as they were.

    Args:
        loss: maps a batch and a number of items to the loss.
        model: the model that the loss runs.
        inputs: one batch.

    Returns:
        ``None`` where this batch tells nothing, because its loss is 0 (no supervised item) or not finite.

    >>> scales_by_items(lambda batch, n: torch.tensor(1.0), nn.Linear(1, 1), {})
    False
    """
    device = next(model.parameters()).device
    state = randomness.RandomState.capture(device)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            # Powers of two, so that a loss that divides by them changes by exactly that factor.
            few, many = (float(loss(dict(inputs), torch.tensor(n, device=device))) for n in (8, 16))
    finally:
        for module, mode in modes.items():
            module.training = mode
        state.restore()
    if few == 0 or not math.isfinite(few):
        return None
    return few != many
