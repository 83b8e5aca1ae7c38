"""Gradual unfreezing (Howard and Ruder, ACL 2018, section 3.3), by updates in the place of epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from torch import Tensor, nn

from .adamw import Settings, Update, Weights
from .freeze import layer_of, train_some


def first_update(group: int, layers: int, total: int, until: float = 1 / 3) -> int:
    """The update, counted from 0, from which a group trains: ceil((j + 1) * until * T / (n + 1)).

    ``until`` is read as the simple fraction it is meant to be, so that no rounding gets into the ceiling.
    """
    exact = Fraction(until).limit_denominator(10**6)
    return math.ceil((group + 1) * exact * total / (layers + 1))


def group_of(name: str, layers: int) -> int | None:
    """The group of a weight: 0 is the top layer, ``layers`` the embeddings; none for head and pooler."""
    number = layer_of(name)
    if number is not None:
        return layers - 1 - number
    if ".embeddings." in name:
        return layers
    return None


def trainable(names: Iterable[str], update: int, layers: int, total: int, until: float = 1 / 3) -> set[str]:
    """Names of the weights that train in one update, counted from 0."""
    moving: set[str] = set()
    for name in names:
        group = group_of(name, layers)
        if group is None or update >= first_update(group, layers, total, until):
            moving.add(name)
    return moving


def gradual_unfreezing(
    model: nn.Module,
    start: Mapping[str, Tensor],
    updates: Sequence[Update],
    settings: Settings,
    layers: int,
    until: float = 1 / 3,
) -> list[Weights]:
    """The weights after each update of AdamW; the updates given are all there are."""
    total = len(updates)
    moving = [trainable(start, t, layers, total, until) for t in range(total)]
    return train_some(model, start, moving, updates, settings)
