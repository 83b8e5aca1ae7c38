"""What a micro-batch weighs in an accumulated batch, where the loss does not heed ``num_items_in_batch``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from steadytune.core.model.outputs import IGNORED


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
