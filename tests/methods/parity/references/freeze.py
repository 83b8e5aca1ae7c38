"""AdamW in float64 on some of the weights: the others take no step, decay included."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from torch import Tensor, nn

from .adamw import Settings, Update, Weights, adamw_step, copied, gradients, next_moments, no_moments


def layer_of(name: str) -> int | None:
    """The number of the transformer layer of a weight of BERT or RoBERTa, from 0 at the bottom."""
    found = re.search(r"\.encoder\.layer\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def frozen(names: Iterable[str], layers: int = 1, embeddings: bool = True) -> set[str]:
    """Names of the weights that do not train."""
    stay: set[str] = set()
    for name in names:
        number = layer_of(name)
        if number is not None and number < layers:
            stay.add(name)
        if embeddings and ".embeddings." in name:
            stay.add(name)
    return stay


def train_some(
    model: nn.Module,
    start: Mapping[str, Tensor],
    trainable: Sequence[Collection[str]],
    updates: Sequence[Update],
    settings: Settings,
) -> list[Weights]:
    """The weights after each update, of which update t moves those named in ``trainable[t]``.

    A weight counts its own steps, and has moments only of the gradients since it trains.
    """
    weights, moments, after = copied(start), no_moments(copied(start)), []
    for t, update in enumerate(updates):
        grads = gradients(model, weights, update)
        for name in weights:
            if name not in trainable[t]:
                continue
            setting = settings[name]
            moments[name] = next_moments(moments[name], grads[name], setting)
            weights[name] = adamw_step(weights[name], moments[name], setting, setting.lr)
        after.append(copied(weights))
    return after


def freeze(
    model: nn.Module,
    start: Mapping[str, Tensor],
    updates: Sequence[Update],
    settings: Settings,
    layers: int = 1,
    embeddings: bool = True,
) -> list[Weights]:
    """The weights after each update of AdamW with the lowest layers frozen."""
    moving = set(start) - frozen(start, layers, embeddings)
    return train_some(model, start, [moving] * len(updates), updates, settings)
