"""A slow float64 transcription of VAT (Miyato et al., TPAMI 2018, arXiv 1704.03976, Algorithm 1), to test against.

The direction d starts as normalized Gaussian noise and is replaced K times by the normalized gradient, by d, of
D(f(x), f(x + xi d)): a power iteration for the first eigenvector of D's Hessian (their eq. 12). The term is
D(f(x), f(x + epsilon d)). In both the clean output is a constant; D is KL(P||Q), one way. The perturbation is that
of a whole sentence: its norm is over tokens and coordinates together (as in the released code for text).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from references.bert import Kind, Sentence, Step, l2, logits, mean, one_way, step, task_loss, total
from references.smart import Theta, constants, gradients_of, variables


def direction(
    model: BertForSequenceClassification,
    theta: Theta,
    kind: Kind,
    sentence: Sentence,
    noise: Tensor,
    finite_difference: float,
    power_iterations: int,
) -> Tensor:
    """d [L, W], of norm 1. A zero gradient shows no direction, and leaves d as it is."""
    weights = constants(theta)
    clean = logits(model, weights, sentence).detach()
    d = noise / l2(noise)
    for _ in range(power_iterations):
        point = d.clone().requires_grad_(True)
        distance = total(one_way(kind, clean, logits(model, weights, sentence, finite_difference * point)))
        gradient = gradients_of(distance, {"point": point})["point"]
        norm = l2(gradient)
        if norm > 0.0:
            d = gradient / norm
    return d


def vat(
    model: BertForSequenceClassification,
    theta: Theta,
    kind: Kind,
    batch: Sequence[Sentence],
    noises: Sequence[Tensor],
    radius: float,
    finite_difference: float,
    power_iterations: int,
    weight: float,
) -> Step:
    """``noises`` [L, W] are draws of N(0, 1), of which only the direction counts."""
    deltas = [
        radius * direction(model, theta, kind, sentence, noise, finite_difference, power_iterations)
        for sentence, noise in zip(batch, noises, strict=True)
    ]
    weights = variables(theta)
    items: list[Tensor] = []
    for sentence, delta in zip(batch, deltas, strict=True):
        with torch.no_grad():
            clean = logits(model, weights, sentence)
        items += one_way(kind, clean, logits(model, weights, sentence, delta))
    return step(task_loss(model, weights, kind, batch), mean(items), weight, weights, deltas)
