"""Mixout (Lee et al., ICLR 2020, arXiv 1909.11299, Eq. 6) inside AdamW, in float64; the masks are arguments.

W~ = (M W + (1 - M) W0 - p W0) / (1 - p), M ~ Bernoulli(1 - p) for each entry. The gradient with respect to W is
that with respect to W~ times M / (1 - p). (The released code draws one mask for each column of W, an input
neuron, and leaves the factor 1 / (1 - p) out of the gradient.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .adamw import Settings, Update, Weights, adamw_step, copied, gradients, next_moments, no_moments


def mixed(weight: Tensor, pretrained: Tensor, mask: Tensor, probability: float) -> Tensor:
    """The matrix a layer uses in one training forward, entry by entry."""
    rows: list[list[float]] = []
    for row in range(weight.shape[0]):
        entries: list[float] = []
        for column in range(weight.shape[1]):
            w, w0 = float(weight[row, column]), float(pretrained[row, column])
            source = w if float(mask[row, column]) == 1.0 else w0
            entries.append((source - probability * w0) / (1.0 - probability))
        rows.append(entries)
    return torch.tensor(rows, dtype=torch.float64)


def mixout_gradients(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    pretrained: Mapping[str, Tensor],
    masks: Sequence[Mapping[str, Tensor]],
    probability: float,
    update: Update,
) -> Weights:
    """Gradients with respect to the unmixed weights; ``masks[i]`` are those of micro-batch i, by name."""
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for batch, drawn in zip(update, masks, strict=True):
        used = copied(weights)
        for name, mask in drawn.items():
            used[name] = mixed(weights[name], pretrained[name], mask, probability)
        grads = gradients(model, used, [batch])
        for name, gradient in grads.items():
            through = drawn[name].to(torch.float64) / (1.0 - probability) if name in drawn else 1.0
            total[name] = total[name] + gradient * through / len(update)
    return total


def mixout(
    model: nn.Module,
    start: Mapping[str, Tensor],
    pretrained: Mapping[str, Tensor],
    masks: Sequence[Sequence[Mapping[str, Tensor]]],
    probability: float,
    updates: Sequence[Update],
    settings: Settings,
) -> list[Weights]:
    """The unmixed weights after each update; ``masks[t][i][name]`` is what a layer drew in micro-batch i."""
    weights, moments, after = copied(start), no_moments(copied(start)), []
    anchors = copied(pretrained)
    for t, update in enumerate(updates):
        grads = mixout_gradients(model, weights, anchors, masks[t], probability, update)
        for name in weights:
            setting = settings[name]
            moments[name] = next_moments(moments[name], grads[name], setting)
            weights[name] = adamw_step(weights[name], moments[name], setting, setting.lr)
        after.append(copied(weights))
    return after
