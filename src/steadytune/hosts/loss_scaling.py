"""Whether a loss heeds ``num_items_in_batch``: asked of the loss itself, because signatures do not tell.

And what a micro-batch weighs in an accumulated batch, where it does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from steadytune.core import randomness
from steadytune.core.heads import IGNORED


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


def share_of_items(
    inputs: Mapping[str, Any],
    items: Tensor | int,
    *,
    shifted: bool,
    copies: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """What to multiply an average over a micro-batch by, so that the micro-batches add up to one average.

    Args:
        inputs: the micro-batch.
        items: supervised items of the accumulated batch, in all processes.
        shifted: whether the items were counted from the second label of each row on, as for a decoder.
        copies: processes whose gradients will be averaged.
        dtype: of the loss; the share is computed in float32 at least.

    Returns:
        A scalar; 1 for a batch that is not split.

    >>> share_of_items({"labels": torch.tensor([1, 0, -100])}, 8, shifted=False)
    tensor(0.2500)
    """
    labels = inputs["shift_labels"] if "shift_labels" in inputs else inputs["labels"]
    if shifted and "shift_labels" not in inputs:
        labels = labels[..., 1:]
    own = labels.ne(IGNORED).sum()
    wide = torch.promote_types(dtype, torch.float32)
    return (own.to(wide) * copies / torch.as_tensor(items, device=own.device).to(wide)).to(dtype)
