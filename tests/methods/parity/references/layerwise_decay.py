"""Layer-wise learning rate decay (Howard and Ruder 2018; as in Zhang et al. 2021), of AdamW in float64."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .adamw import Setting, Settings, Update, Weights, adamw


def depth(name: str, layers: int) -> int:
    """How often the factor applies to a weight of BERT or RoBERTa: 0 above the layers, layers + 1 at the bottom."""
    found = re.search(r"\.encoder\.layer\.(\d+)\.", name)
    if found:
        number = int(found.group(1)) + 1  # the layers are numbered from 1 at the bottom
        return layers + 1 - number
    if ".embeddings." in name:
        return layers + 1
    return 0


def decayed(settings: Settings, layers: int, factor: float = 0.95) -> dict[str, Setting]:
    """The settings of the host with the learning rate of each weight times factor^k."""
    changed: dict[str, Setting] = {}
    for name, setting in settings.items():
        lr = setting.lr
        for _ in range(depth(name, layers)):
            lr = lr * factor
        changed[name] = Setting(lr, setting.weight_decay, setting.beta1, setting.beta2, setting.eps)
    return changed


def layerwise_decay(
    model: nn.Module,
    start: Mapping[str, Tensor],
    updates: Sequence[Update],
    settings: Settings,
    layers: int,
    factor: float = 0.95,
    lr_factors: Sequence[float] | None = None,
) -> list[Weights]:
    """The weights after each update of AdamW with these learning rates (which the weight decay uses too)."""
    return adamw(model, start, updates, decayed(settings, layers, factor), lr_factors)
