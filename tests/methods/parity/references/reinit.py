"""Re-initialized top layers (Zhang et al., ICLR 2021, arXiv 2006.05987), in float64; the draws are arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from .adamw import Weights, copied
from .freeze import layer_of


def redrawn(names: Iterable[str], total_layers: int, layers: int = 1, pooler: bool = True) -> set[str]:
    """Names of the weights that start anew: those of the top layers and of the pooler."""
    chosen: set[str] = set()
    for name in names:
        number = layer_of(name)
        if number is not None and number >= total_layers - layers:
            chosen.add(name)
        if pooler and ".pooler." in name:
            chosen.add(name)
    return chosen


def is_drawn(name: str) -> bool:
    """Whether a weight that starts anew is drawn: a matrix, neither a bias nor part of a LayerNorm."""
    return name.endswith(".weight") and "LayerNorm" not in name


def reinit(
    weights: Mapping[str, Tensor],
    draws: Mapping[str, Tensor],
    standard_deviation: float,
    total_layers: int,
    layers: int = 1,
    pooler: bool = True,
) -> Weights:
    """N(0, 1) draws times the standard deviation for matrices, 0 for biases, 1 and 0 for LayerNorms."""
    changed = copied(weights)
    for name in redrawn(weights, total_layers, layers, pooler):
        if is_drawn(name):
            changed[name] = standard_deviation * draws[name].to(torch.float64)
        elif name.endswith(".bias"):
            changed[name] = torch.zeros_like(changed[name])
        else:
            changed[name] = torch.ones_like(changed[name])
    return changed
