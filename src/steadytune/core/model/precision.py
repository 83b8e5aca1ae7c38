"""The precision of a forward pass, as far as it matters to small perturbations."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

logger = logging.getLogger("steadytune")

#: Below this radius the rounding of 16-bit passes is larger than what the perturbation changes.
SMALLEST_RADIUS_IN_16_BIT = 1e-3


def precision_now(embeddings: Tensor) -> torch.dtype:
    """The type that a pass computes in, asked from inside the pass: autocast's if it is on, else the embeddings'."""
    device = embeddings.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else embeddings.dtype


def warn_if_lost_to_rounding(name: str, radius: float, precision: torch.dtype) -> bool:
    """Tell the user when a perturbation is smaller than the rounding of the passes that should feel it."""
    lost = precision in (torch.bfloat16, torch.float16) and radius < SMALLEST_RADIUS_IN_16_BIT
    if lost:
        logger.warning(
            "%s: a radius of %g is lost to rounding in %s (measured: at 1e-5 bf16 rounds about 400 times the signal "
            "away); train in fp32, or use a radius of at least %g.",
            name,
            radius,
            str(precision).removeprefix("torch."),
            SMALLEST_RADIUS_IN_16_BIT,
        )
    return lost
