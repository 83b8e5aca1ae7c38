"""Averages of the weights of a training: exponential (Polyak and Juditsky's form) and equal (SWA, Izmailov 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from .adamw import Weights, copied


def ema(
    start: Mapping[str, Tensor], after: Sequence[Mapping[str, Tensor]], decay: float = 0.999, *, warmup: bool = True
) -> Weights:
    """avg <- d * avg + (1 - d) * w after each update, from the initial weights; with warm-up d is small at first."""
    average = copied(start)
    for t, weights in enumerate(after, start=1):
        d = min(decay, (1 + t) / (10 + t)) if warmup else decay
        for name in average:
            average[name] = d * average[name] + (1.0 - d) * weights[name].to(torch.float64)
    return average


def taken(total: int, start: float = 0.75, every: int = 1) -> list[int]:
    """The updates, counted from 1, after which SWA takes the weights (as in the released code, for its epochs).

    The first is the one that completes the share ``start`` of the training: ceil(start * T), at least 1.
    """
    first = max(1, math.ceil(Fraction(start).limit_denominator(10**6) * total))
    return [t for t in range(1, total + 1) if t >= first and (t - first) % every == 0]


def swa(after: Sequence[Mapping[str, Tensor]], start: float = 0.75, every: int = 1) -> Weights:
    """The mean of the weights after the updates that are taken."""
    chosen = taken(len(after), start, every)
    average: Weights = {}
    for name in after[0]:
        total = torch.zeros_like(after[0][name], dtype=torch.float64)
        for t in chosen:
            total = total + after[t - 1][name].to(torch.float64)
        average[name] = total / len(chosen)
    return average
