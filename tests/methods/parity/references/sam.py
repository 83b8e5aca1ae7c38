"""A slow float64 transcription of SAM and ASAM, to test against.

SAM (Foret et al., ICLR 2021, arXiv 2010.01412, eq. 2 and 3, p = 2): the optimizer gets the gradient of L at
theta + e, e = rho g / ||g||_2, with e as a constant. ASAM (Kwon et al., ICML 2021, arXiv 2102.11600, section 3):
e = rho theta^2 g / ||theta g||_2, which is theirs with T = diag(|theta|); their experiments add eta = 0.01 to T.
The norm is one over all weights together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from references.smart import Theta, constants, gradients_of, variables

Loss = Callable[[Theta], Tensor]


@dataclass
class Sharpness:
    """The numbers of one micro-batch."""

    loss: float  # at theta
    perturbed_loss: float  # at theta + e
    plain: Theta  # the gradients at theta
    perturbation: Theta  # e
    gradients: Theta  # at theta + e


def sam(loss: Loss, theta: Theta, rho: float, adaptive: bool = False) -> Sharpness:
    """``loss`` is the whole objective L of one micro-batch; ``theta`` are the weights that train, and no others."""
    weights = variables(theta)
    value = loss(weights)
    plain = gradients_of(value, weights)
    squares = 0.0
    for name, gradient in plain.items():
        scaled = theta[name].abs() * gradient if adaptive else gradient
        for entry in scaled.reshape(-1).tolist():
            squares += entry * entry
    norm = squares**0.5
    perturbation: Theta = {}
    for name, gradient in plain.items():
        scaled = theta[name] * theta[name] * gradient if adaptive else gradient
        perturbation[name] = rho * scaled / norm if norm > 0.0 else torch.zeros_like(gradient)
    moved = variables({name: theta[name] + perturbation[name] for name in theta})
    perturbed = loss(moved)
    return Sharpness(value.item(), perturbed.item(), plain, perturbation, gradients_of(perturbed, moved))


def train(
    losses: Sequence[Loss],
    theta: Theta,
    rho: float,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
    adaptive: bool = False,
) -> tuple[list[Sharpness], list[Theta]]:
    """One update per loss, from theta and not from theta + e; the weights after each of them."""
    names, student = list(theta), list(constants(theta).values())
    trained = optimizer(student)
    steps: list[Sharpness] = []
    students: list[Theta] = []
    for loss in losses:
        now = dict(zip(names, student, strict=True))
        steps.append(sam(loss, constants(now), rho, adaptive))
        for name, weight in now.items():
            weight.grad = steps[-1].gradients[name].clone()
        trained.step()
        students.append(constants(now))
    return steps, students
