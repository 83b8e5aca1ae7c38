"""RecAdam (Chen et al., EMNLP 2020, arXiv 2004.12651, Algorithm 1), in float64.

As in the released code eps is added to sqrt(v) before the bias of v is corrected, the pull to the pretrained
weight acts on the weight which the task's gradient has just moved, the decay on what the pull leaves, and t is
1 in the first update. ``clamp=True`` keeps the pull lr (1 - lambda) gamma at most 1, where it puts the weight on
its anchor; the released code does not (``False``): above 1 it overshoots the anchor, above 2 it diverges.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .adamw import Moments, Setting, Settings, Update, Weights, copied, gradients, next_moments, no_moments


def annealing(t: int, slope: float, midpoint: float) -> float:
    """lambda(t) = 1 / (1 + exp(-k (t - t0))), the weight of the target task."""
    exponent = -slope * (t - midpoint)
    if exponent > 0.0:  # the same number, without an exponential that could overflow
        return math.exp(-exponent) / (1.0 + math.exp(-exponent))
    return 1.0 / (1.0 + math.exp(exponent))


def adam_change(moments: Moments, setting: Setting, lr: float) -> Tensor:
    """u = lr sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)."""
    step = lr * math.sqrt(1.0 - setting.beta2**moments.step) / (1.0 - setting.beta1**moments.step)
    return step * moments.m / (torch.sqrt(moments.v) + setting.eps)


def recadam_step(
    weight: Tensor,
    anchor: Tensor | None,
    moments: Moments,
    setting: Setting,
    lr: float,
    gamma: float,
    slope: float,
    midpoint: float,
    clamp: bool,
) -> Tensor:
    """One step of one weight; ``anchor=None`` for a weight that was not pretrained, which takes plain Adam."""
    change = adam_change(moments, setting, lr)
    if anchor is None:
        weight = weight - change
    else:
        task = annealing(moments.step, slope, midpoint)
        pull = lr * (1.0 - task) * gamma
        if clamp:
            pull = min(1.0, pull)
        weight = weight - task * change
        weight = weight - pull * (weight - anchor)
    return weight - lr * setting.weight_decay * weight


def recadam(
    model: nn.Module,
    start: Mapping[str, Tensor],
    anchors: Mapping[str, Tensor],
    updates: Sequence[Update],
    settings: Settings,
    gamma: float = 5000.0,
    slope: float = 0.5,
    midpoint: float = 250.0,
    clamp: bool = True,
) -> list[Weights]:
    """The weights after each update; weights whose names ``anchors`` lacks are not pulled."""
    weights, moments, after = copied(start), no_moments(copied(start)), []
    pretrained = copied(anchors)
    for update in updates:
        grads = gradients(model, weights, update)
        for name in weights:
            setting = settings[name]
            moments[name] = next_moments(moments[name], grads[name], setting)
            weights[name] = recadam_step(
                weights[name],
                pretrained.get(name),
                moments[name],
                setting,
                setting.lr,
                gamma,
                slope,
                midpoint,
                clamp,
            )
        after.append(copied(weights))
    return after
