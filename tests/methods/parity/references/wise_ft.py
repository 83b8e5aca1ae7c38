"""WiSE-FT (Wortsman et al., CVPR 2022): between the pretrained and the trained weights, in float64."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .adamw import Weights, copied


def wise_ft(trained: Mapping[str, Tensor], anchors: Mapping[str, Tensor], alpha: float = 0.5) -> Weights:
    """(1 - alpha) w0 + alpha w; a weight which ``anchors`` lacks was not pretrained, and stays as it is."""
    weights = copied(trained)
    for name, anchor in anchors.items():
        weights[name] = (1.0 - alpha) * anchor.detach().to(torch.float64) + alpha * weights[name]
    return weights
