"""A slow float64 transcription of ALUM (Liu et al., 2020, arXiv 2004.08994, Algorithm 1), to test against.

The inner maximum is that of SMART: from Gaussian noise, K steps along the gradient of l_s(f(h + d), f(h)) divided by
its largest entry in the sentence, each followed by the projection on ||d||_inf <= radius. The clean output is a
constant in the ascent; the term has a gradient through both outputs. Here h is the output of any layer of the
encoder; the paper perturbs the word embeddings (layer 0). h is a function of the weights too, while d is a constant.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from transformers import BertForSequenceClassification

from references.bert import Kind, Sentence, Step, hidden, mean, rest, step, symmetric, task_loss, total
from references.smart import Theta, constants, gradients_of, largest, project, variables


def ascend(
    model: BertForSequenceClassification,
    theta: Theta,
    kind: Kind,
    sentence: Sentence,
    noise: Tensor,
    layer: int,
    radius: float,
    step_size: float,
    ascent_steps: int,
) -> Tensor:
    """d [L, W] of one sentence. A gradient which is zero everywhere moves nothing."""
    weights = constants(theta)
    state = hidden(model, weights, sentence, layer).detach()
    clean = rest(model, weights, state, layer).detach()
    delta = noise.clone()
    for _ in range(ascent_steps):
        point = delta.clone().requires_grad_(True)
        distance = total(symmetric(kind, rest(model, weights, state + point, layer), clean))
        gradient = gradients_of(distance, {"point": point})["point"]
        norm = largest(gradient)
        if norm > 0.0:
            delta = delta + step_size * gradient / norm
        delta = project(delta, radius)
    return delta


def alum(
    model: BertForSequenceClassification,
    theta: Theta,
    kind: Kind,
    batch: Sequence[Sentence],
    noises: Sequence[Tensor],
    layer: int,
    radius: float,
    step_size: float,
    ascent_steps: int,
    weight: float,
) -> Step:
    """``noises`` [L, W] are the starting points themselves, draws of N(0, noise_std^2)."""
    deltas = [
        ascend(model, theta, kind, sentence, noise, layer, radius, step_size, ascent_steps)
        for sentence, noise in zip(batch, noises, strict=True)
    ]
    weights = variables(theta)
    items: list[Tensor] = []
    for sentence, delta in zip(batch, deltas, strict=True):
        state = hidden(model, weights, sentence, layer)
        items += symmetric(kind, rest(model, weights, state + delta, layer), rest(model, weights, state, layer))
    return step(task_loss(model, weights, kind, batch), mean(items), weight, weights, deltas)
