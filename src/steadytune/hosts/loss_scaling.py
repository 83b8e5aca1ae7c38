"""Whether a loss heeds ``num_items_in_batch``: asked of the loss itself, because signatures do not tell."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from steadytune.core import randomness


def scales_by_items(
    loss: Callable[[dict[str, Any], Tensor], Tensor], model: nn.Module, inputs: dict[str, Any]
) -> bool | None:
    """Compute the loss for two numbers of items and see whether it changes.

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
