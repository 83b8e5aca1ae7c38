"""The slanted triangular learning rate (Howard and Ruder, ACL 2018, Eq. 3).

The paper rounds cut = T * cut_frac down but not the denominator cut (1/cut_frac - 1), so that p falls below 0,
and the learning rate soon too, wherever T * cut_frac is far from whole (T = 19: -0.87 times lr at the end). p is
at least 0 here, which changes nothing where T * cut_frac is whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .adamw import Settings, Update, Weights, adamw


def triangle(t: int, total: int, cut_fraction: float) -> float:
    """p of Eq. 3, as printed; a cut of 0 updates is taken as one."""
    cut = math.floor(total * cut_fraction)
    if cut == 0:
        cut = 1
    if t < cut:
        return t / cut
    return 1.0 - (t - cut) / (cut * (1.0 / cut_fraction - 1.0))


def factor(t: int, total: int, cut_fraction: float = 0.1, ratio: float = 32.0) -> float:
    """What multiplies the learning rate of the update that follows t updates."""
    p = max(0.0, triangle(t, total, cut_fraction))
    return (1.0 + p * (ratio - 1.0)) / ratio


def slanted_triangular(
    model: nn.Module,
    start: Mapping[str, Tensor],
    updates: Sequence[Update],
    settings: Settings,
    cut_fraction: float = 0.1,
    ratio: float = 32.0,
) -> list[Weights]:
    """The weights after each update of AdamW; the updates given are all there are."""
    factors = [factor(t, len(updates), cut_fraction, ratio) for t in range(len(updates))]
    return adamw(model, start, updates, settings, factors)
