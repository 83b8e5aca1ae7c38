"""Child-Tuning (Xu et al., EMNLP 2021, arXiv 2109.05687, Algorithm 1) inside AdamW, in float64.

F: the gradient of every weight is multiplied by a fresh Bernoulli(p) mask and by 1/p in every update. D: the
masks are fixed, the share p of largest Fisher information among all entries of the transformer layers, without
the factor 1/p; all other weights train. The random masks of F are arguments here.

In both, weight decay acts on the entries of the child only (the released code decays every entry). And Fisher
information is not clipped here: the released code first clips the gradient of each tensor to its max_grad_norm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .adamw import Batch, Settings, Update, Weights, adamw_step, copied, gradients, next_moments, no_moments


def fisher(model: nn.Module, weights: Mapping[str, Tensor], batches: Sequence[Batch]) -> Weights:
    """The mean over batches of the squared gradient of the loss of a batch, entry by entry (Eq. 6)."""
    weights = copied(weights)
    information = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for batch in batches:
        grads = gradients(model, weights, [batch])
        for name in weights:
            information[name] = information[name] + grads[name] * grads[name] / len(batches)
    return information


def in_a_layer(name: str) -> bool:
    """Whether a weight of BERT or RoBERTa is part of a transformer layer (the released code: 'layer' in name)."""
    return ".encoder.layer." in name


def child_network(information: Mapping[str, Tensor], share: float) -> Weights:
    """The masks of D: 1 at the round(share * n) largest of the n entries of all layers, and everywhere outside."""
    ranked: list[tuple[float, str, int]] = []
    masks: Weights = {}
    for name, values in information.items():
        if in_a_layer(name):
            masks[name] = torch.zeros_like(values)
            for index, value in enumerate(values.reshape(-1).tolist()):
                ranked.append((value, name, index))
        else:
            masks[name] = torch.ones_like(values)
    ranked.sort(key=lambda entry: entry[0], reverse=True)
    for _, name, index in ranked[: round(share * len(ranked))]:
        masks[name].reshape(-1)[index] = 1.0
    return masks


def child_tuning(
    model: nn.Module,
    start: Mapping[str, Tensor],
    masks: Sequence[Mapping[str, Tensor]],
    scale: float,
    updates: Sequence[Update],
    settings: Settings,
) -> list[Weights]:
    """The weights after each update, given its masks and the factor of the gradients (F: 1/p, D: 1)."""
    weights, moments, after = copied(start), no_moments(copied(start)), []
    for t, update in enumerate(updates):
        grads = gradients(model, weights, update)
        for name in weights:
            mask = masks[t][name].to(torch.float64)
            if mask.shape != weights[name].shape:
                raise ValueError(f"{name}: mask of shape {tuple(mask.shape)} for {tuple(weights[name].shape)}")
            setting = settings[name]
            moments[name] = next_moments(moments[name], grads[name] * mask * scale, setting)
            weights[name] = adamw_step(weights[name], moments[name], setting, setting.lr, decayed=mask)
        after.append(copied(weights))
    return after
