"""Slow float64 transcriptions of three methods of adversarial training, to test against.

``pgd`` is K-PGD (Madry et al., ICLR 2018), ``freeat`` FreeAT (Shafahi et al., NeurIPS 2019, arXiv 1904.12843,
Algorithm 1) and ``freelb`` FreeLB (Zhu et al., ICLR 2020, arXiv 1909.11764, Algorithm 1), all three with FreeLB's
perturbations: delta [L, W] of the word embeddings of a sentence, in the L2 ball of the whole sentence. Dropout is
out of it. The uniform draws of the start are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from references.bert import Kind, Sentence, add, l2, task_loss
from references.smart import Theta, constants, gradients_of, variables


@dataclass(frozen=True)
class Ascent:
    """The settings of the perturbation."""

    steps: int
    step_size: float
    radius: float
    initial_magnitude: float


@dataclass
class Adversarial:
    """The numbers of one micro-batch."""

    losses: list[float]  # CE at delta_0, delta_1, ..., before any division by K
    deltas: list[list[Tensor]]  # of each sentence in each of these passes
    gradients: Theta  # what the weights are trained with


@dataclass
class Replays:
    """The numbers of FreeAT on one batch."""

    losses: list[float]
    deltas: list[list[Tensor]]
    students: list[Theta]  # the weights after each replay
    gradients: list[Theta]  # that each replay's update was made with


def start(unit_noise: Tensor, ascent: Ascent) -> Tensor:
    """delta_0 of one sentence, from draws of U(-1, 1) [L, W]: they are scaled by the root of their number."""
    return unit_noise * ascent.initial_magnitude / unit_noise.numel() ** 0.5


def climb(delta: Tensor, gradient: Tensor, ascent: Ascent) -> Tensor:
    """One step of a fixed length, then back to the ball along its radius. A zero gradient moves nothing."""
    norm = l2(gradient)
    if norm > 0.0:
        delta = delta + ascent.step_size * gradient / norm
    size = l2(delta)
    if size > ascent.radius:
        delta = delta * ascent.radius / size
    return delta


def both_gradients(
    model: BertForSequenceClassification,
    theta: Theta,
    kind: Kind,
    batch: Sequence[Sentence],
    deltas: Sequence[Tensor],
) -> tuple[float, Theta, list[Tensor]]:
    """CE at x + delta, its gradients by the weights, and those by each sentence's delta."""
    weights = variables(theta)
    points = variables({str(number): delta for number, delta in enumerate(deltas)})
    loss = task_loss(model, weights, kind, batch, list(points.values()))
    found = gradients_of(loss, weights | points)
    return loss.item(), {name: found[name] for name in weights}, [found[number] for number in points]


def pgd(
    model: BertForSequenceClassification,
    theta: Theta,
    kind: Kind,
    batch: Sequence[Sentence],
    unit_noises: Sequence[Tensor],
    ascent: Ascent,
) -> Adversarial:
    """K steps of ascent, and only the pass at delta_K trains."""
    deltas = [start(unit, ascent) for unit in unit_noises]
    losses: list[float] = []
    seen: list[list[Tensor]] = []
    for _ in range(ascent.steps):
        loss, _unused, slopes = both_gradients(model, theta, kind, batch, deltas)
        losses.append(loss)
        seen.append(deltas)
        deltas = [climb(delta, slope, ascent) for delta, slope in zip(deltas, slopes, strict=True)]
    loss, gradients, _slopes = both_gradients(model, theta, kind, batch, deltas)
    return Adversarial([*losses, loss], [*seen, deltas], gradients)


def freelb(
    model: BertForSequenceClassification,
    theta: Theta,
    kind: Kind,
    batch: Sequence[Sentence],
    unit_noises: Sequence[Tensor],
    ascent: Ascent,
) -> Adversarial:
    """The mean of the gradients at delta_0, ..., delta_(K-1): K passes, none of them clean."""
    deltas = [start(unit, ascent) for unit in unit_noises]
    losses: list[float] = []
    seen: list[list[Tensor]] = []
    gradients = {name: torch.zeros_like(weight) for name, weight in theta.items()}
    for _ in range(ascent.steps):
        loss, found, slopes = both_gradients(model, theta, kind, batch, deltas)
        losses.append(loss)
        seen.append(deltas)
        gradients = add(gradients, found, 1.0 / ascent.steps)
        deltas = [climb(delta, slope, ascent) for delta, slope in zip(deltas, slopes, strict=True)]
    return Adversarial(losses, seen, gradients)


def freeat(
    model: BertForSequenceClassification,
    theta: Theta,
    kind: Kind,
    batches: Sequence[Sequence[Sentence]],
    unit_noises: Sequence[Sequence[Tensor]],
    ascent: Ascent,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
) -> list[Replays]:
    """K replays of each batch, each with an update of the weights; delta lives through the replays of a batch.

    One optimizer, made of plain tensors, lives through all the batches. The gradient by delta is that of the pass
    which gave the weights theirs, at the weights before their update.
    """
    names, student = list(theta), list(constants(theta).values())
    trained = optimizer(student)
    result: list[Replays] = []
    for batch, units in zip(batches, unit_noises, strict=True):
        replays = Replays([], [], [], [])
        deltas = [start(unit, ascent) for unit in units]
        for _ in range(ascent.steps):
            now = dict(zip(names, student, strict=True))
            loss, gradients, slopes = both_gradients(model, now, kind, batch, deltas)
            for name, weight in now.items():
                weight.grad = gradients[name].clone()
            trained.step()
            replays.losses.append(loss)
            replays.deltas.append(deltas)
            replays.gradients.append(gradients)
            replays.students.append(constants(now))
            deltas = [climb(delta, slope, ascent) for delta, slope in zip(deltas, slopes, strict=True)]
        result.append(replays)
    return result
