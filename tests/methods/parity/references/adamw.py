"""AdamW (Loshchilov and Hutter 2019) by hand in float64: the loop which the references of the other methods change.

Weights are mappings from parameter names to tensors; nothing is updated in place. Gradients come from plain
automatic differentiation of the loss of a Transformers model; every number of an update is written out here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]
Batch = dict[str, Tensor]
Update = Sequence[Batch]  # the micro-batches of one optimizer step


@dataclass(frozen=True)
class Setting:
    """What the parameter group of a weight says."""

    lr: float
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


Settings = Mapping[str, Setting]


@dataclass
class Moments:
    """The state of one weight: the steps it has taken, and its two moving averages."""

    step: int
    m: Tensor
    v: Tensor


def copied(weights: Mapping[str, Tensor]) -> Weights:
    return {name: weight.detach().to(torch.float64).clone() for name, weight in weights.items()}


def no_moments(weights: Mapping[str, Tensor]) -> dict[str, Moments]:
    return {name: Moments(0, torch.zeros_like(w), torch.zeros_like(w)) for name, w in weights.items()}


def loss_at(model: nn.Module, weights: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """The loss of the model, with these weights in the place of its own."""
    return torch.func.functional_call(model, dict(weights), (), batch).loss


def gradients(model: nn.Module, weights: Mapping[str, Tensor], update: Update) -> Weights:
    """The gradient of the mean of the losses of the micro-batches of one update."""
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for batch in update:
        leaves = {name: weight.clone().requires_grad_(True) for name, weight in weights.items()}
        loss = loss_at(model, leaves, batch)
        for name, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            total[name] = total[name] + gradient / len(update)
    return total


def next_moments(before: Moments, gradient: Tensor, setting: Setting) -> Moments:
    """m <- b1 m + (1 - b1) g and v <- b2 v + (1 - b2) g^2."""
    return Moments(
        before.step + 1,
        setting.beta1 * before.m + (1.0 - setting.beta1) * gradient,
        setting.beta2 * before.v + (1.0 - setting.beta2) * gradient * gradient,
    )


def adam_change(moments: Moments, setting: Setting, lr: float) -> Tensor:
    """What Adam subtracts: lr * mhat / (sqrt(vhat) + eps), with eps beside the corrected second moment."""
    corrected_m = moments.m / (1.0 - setting.beta1**moments.step)
    corrected_v = moments.v / (1.0 - setting.beta2**moments.step)
    return lr * corrected_m / (torch.sqrt(corrected_v) + setting.eps)


def adamw_step(weight: Tensor, moments: Moments, setting: Setting, lr: float, decayed: Tensor | float = 1.0) -> Tensor:
    """One step with decoupled decay; where ``decayed`` is 0 the weight does not decay."""
    weight = weight - lr * setting.weight_decay * decayed * weight
    return weight - adam_change(moments, setting, lr)


def adamw(
    model: nn.Module,
    start: Mapping[str, Tensor],
    updates: Sequence[Update],
    settings: Settings,
    lr_factors: Sequence[float] | None = None,
) -> list[Weights]:
    """The weights after each update; ``lr_factors[t]`` multiplies all learning rates in update t."""
    weights, moments, after = copied(start), no_moments(copied(start)), []
    for t, update in enumerate(updates):
        factor = 1.0 if lr_factors is None else lr_factors[t]
        grads = gradients(model, weights, update)
        for name in weights:
            setting = settings[name]
            moments[name] = next_moments(moments[name], grads[name], setting)
            weights[name] = adamw_step(weights[name], moments[name], setting, setting.lr * factor)
        after.append(copied(weights))
    return after
