"""RAdam (Liu et al., ICLR 2020, arXiv 1908.03265, Algorithm 2) with decoupled weight decay, in float64.

Two choices are the released code's and not Algorithm 2's. The variance is rectified once the approximated
length of the moving average exceeds 5 (``threshold``; the paper: 4, one step earlier at the usual beta2), and
eps is added to sqrt(v) before the bias of v is corrected (the paper has no eps).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .adamw import Moments, Setting, Settings, Update, Weights, copied, gradients, next_moments, no_moments


def length(beta2: float, step: int) -> tuple[float, float]:
    """rho_t and rho_infinity: lengths of the simple moving average which approximates the second moment's."""
    longest = 2.0 / (1.0 - beta2) - 1.0
    return longest - 2.0 * step * beta2**step / (1.0 - beta2**step), longest


def rectification(beta2: float, step: int) -> float:
    """r_t."""
    rho, longest = length(beta2, step)
    return math.sqrt((rho - 4.0) * (rho - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * rho))


def radam_change(moments: Moments, setting: Setting, lr: float, threshold: float = 5.0) -> Tensor:
    """What one step subtracts: lr r_t mhat l_t where the variance is tractable, lr mhat before."""
    corrected_m = moments.m / (1.0 - setting.beta1**moments.step)
    rho, _ = length(setting.beta2, moments.step)
    if rho <= threshold:
        return lr * corrected_m
    adaptive = math.sqrt(1.0 - setting.beta2**moments.step) / (torch.sqrt(moments.v) + setting.eps)
    return lr * rectification(setting.beta2, moments.step) * corrected_m * adaptive


def radam(
    model: nn.Module,
    start: Mapping[str, Tensor],
    updates: Sequence[Update],
    settings: Settings,
    threshold: float = 5.0,
) -> list[Weights]:
    """The weights after each update."""
    weights, moments, after = copied(start), no_moments(copied(start)), []
    for update in updates:
        grads = gradients(model, weights, update)
        for name in weights:
            setting = settings[name]
            moments[name] = next_moments(moments[name], grads[name], setting)
            weights[name] = weights[name] - setting.lr * setting.weight_decay * weights[name]
            weights[name] = weights[name] - radam_change(moments[name], setting, setting.lr, threshold)
        after.append(copied(weights))
    return after
