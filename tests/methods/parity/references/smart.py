"""A slow float64 transcription of SMART (Jiang et al., ACL 2020, arXiv 1911.03437), to test against.

The model is a plain function ``f(theta, example, delta)`` of one example: ``theta`` maps names to weights,
``delta`` [L, D] is added to the word embeddings of that example, and the output is [C] (logits; for
regression C = 1). It must be deterministic. "Line" below means a line of the paper's Algorithm 1. All is
float64, one example and one coordinate at a time, and every random draw is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Theta = dict[str, Tensor]
Model = Callable[[Theta, Any, Tensor], Tensor]
Divergence = Literal["symmetric_kl", "squared_difference"]
Optimizer = Literal["sgd", "adam"]


# --- l_s ------------------------------------------------------------------------------------------


def log_probabilities(logits: Tensor) -> Tensor:
    """log softmax of the logits [C] of one example."""
    shifted = logits - logits.detach().max()
    return shifted - torch.log(torch.exp(shifted).sum())


def kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """D_KL(P||Q) = sum_c p_c (log p_c - log q_c), of one example."""
    log_p, log_q = log_probabilities(p_logits), log_probabilities(q_logits)
    total = torch.zeros((), dtype=torch.float64)
    for c in range(len(log_p)):
        total = total + torch.exp(log_p[c]) * (log_p[c] - log_q[c])
    return total


def symmetric_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """l_s for classification: D_KL(P||Q) + D_KL(Q||P), a sum and not a mean, of one example.

    Written as sum_c (p_c - q_c)(log p_c - log q_c), which is that sum with its terms collected by class: the
    classes of either divergence cancel almost entirely when P is close to Q, while here no term is negative.
    At P = Q both the value and the gradient are exactly zero.
    """
    log_p, log_q = log_probabilities(p_logits), log_probabilities(q_logits)
    total = torch.zeros((), dtype=torch.float64)
    for c in range(len(log_p)):
        total = total + (torch.exp(log_p[c]) - torch.exp(log_q[c])) * (log_p[c] - log_q[c])
    return total


def squared_difference(p: Tensor, q: Tensor) -> Tensor:
    """l_s for regression: (p - q)^2, of one example with one output."""
    if p.numel() != 1 or q.numel() != 1:
        raise ValueError("a regression model has one output")
    return (p.reshape(()) - q.reshape(())) ** 2


def measure(divergence: Divergence, p: Tensor, q: Tensor) -> Tensor:
    """l_s(p, q) by the name of the divergence."""
    if divergence == "symmetric_kl":
        return symmetric_kl(p, q)
    if divergence == "squared_difference":
        return squared_difference(p, q)
    raise ValueError(divergence)


# --- Small helpers --------------------------------------------------------------------------------


def clean() -> Tensor:
    """No perturbation: a [1, 1] zero, which broadcasts when it is added to embeddings [L, D]."""
    return torch.zeros((1, 1), dtype=torch.float64)


def constants(theta: Theta) -> Theta:
    """A float64 copy of the weights through which no gradient flows."""
    return {name: weight.detach().to(torch.float64).clone() for name, weight in theta.items()}


def variables(theta: Theta) -> Theta:
    """A float64 copy of the weights by which one may differentiate."""
    return {name: weight.requires_grad_(True) for name, weight in constants(theta).items()}


def gradients_of(value: Tensor, theta: Theta) -> Theta:
    """The gradient of ``value`` by each of the weights, zero for a weight of which it is no function."""
    if not value.requires_grad:
        return {name: torch.zeros_like(weight) for name, weight in theta.items()}
    found = torch.autograd.grad(value, list(theta.values()), allow_unused=True)
    return {
        name: torch.zeros_like(weight) if gradient is None else gradient.detach()
        for (name, weight), gradient in zip(theta.items(), found, strict=True)
    }


def largest(values: Tensor) -> float:
    """The l-infinity norm over all the entries of [L, D]: the whole sentence, not one token at a time."""
    norm = 0.0
    for row in values.tolist():
        for value in row:
            norm = max(norm, abs(value))
    return norm


def project(delta: Tensor, epsilon: float) -> Tensor:
    """The nearest point of the ball ||delta||_inf <= epsilon, coordinate by coordinate (end of line 9)."""
    rows = [[min(max(value, -epsilon), epsilon) for value in row] for row in delta.tolist()]
    return torch.tensor(rows, dtype=torch.float64).reshape(delta.shape)


# --- R_s: lines 6 to 9, and Section 1.1 -----------------------------------------------------------


def ascend(
    f: Model,
    theta: Theta,
    example: Any,
    start_noise: Tensor,
    epsilon: float,
    eta: float,
    steps: int,
    divergence: Divergence,
) -> Tensor:
    """Lines 6 to 9 for one example, where ``delta`` is x~ - x: the perturbation [L, D] that they end with.

    The starting point x + nu is not projected before the first step (line 6 does not), so the gradient of the
    first step is taken at nu itself; with no steps nu is returned as it is. A gradient which is zero
    everywhere moves nothing, and the point is then projected like any other.
    """
    weights = constants(theta)
    delta = start_noise.detach().to(torch.float64).clone()  # line 6: x~_i <- x_i + nu_i
    target = f(weights, example, torch.zeros_like(delta)).detach()  # f(x_i; theta), a constant in line 8
    for _ in range(steps):  # line 7
        point = delta.clone().requires_grad_(True)
        # Line 8: the gradient g_i by x~_i of l_s(f(x_i), f(x~_i)). Its factor 1/|B| cancels below.
        loss = measure(divergence, target, f(weights, example, point))
        gradient = gradients_of(loss, {"point": point})["point"]
        # Line 8: g~_i <- g_i / ||g_i||_inf.
        norm = largest(gradient)
        direction = gradient / norm if norm > 0.0 else torch.zeros_like(gradient)
        # Line 9: x~_i <- projection of x~_i + eta g~_i.
        delta = project(delta + eta * direction, epsilon)
    return delta


def smoothness_at(
    f: Model, theta: Theta, examples: Sequence[Any], deltas: Sequence[Tensor], divergence: Divergence
) -> Tensor:
    """R_s = (1/n) sum_i l_s(f(x~_i; theta), f(x_i; theta)) at given x~_i = x_i + delta_i.

    The deltas are constants; theta is a variable in both of the outputs.
    """
    total = torch.zeros((), dtype=torch.float64)
    for example, delta in zip(examples, deltas, strict=True):
        shift = delta.detach()
        total = total + measure(divergence, f(theta, example, shift), f(theta, example, torch.zeros_like(shift)))
    return total / len(examples)


def smoothness(
    f: Model,
    theta: Theta,
    examples: Sequence[Any],
    start_noises: Sequence[Tensor],
    epsilon: float,
    eta: float,
    steps: int,
    divergence: Divergence,
) -> tuple[Tensor, list[Tensor]]:
    """R_s with the inner maximum approximated by lines 6 to 9: its value (differentiable) and the deltas."""
    deltas = [
        ascend(f, theta, example, noise, epsilon, eta, steps, divergence)
        for example, noise in zip(examples, start_noises, strict=True)
    ]
    return smoothness_at(f, theta, examples, deltas, divergence), deltas


# --- D_Breg, L and the whole objective (3) --------------------------------------------------------


def bregman(f: Model, theta: Theta, theta_reference: Theta, examples: Sequence[Any], divergence: Divergence) -> Tensor:
    """D_Breg(theta, theta_ref) = (1/n) sum_i l_s(f(x_i; theta), f(x_i; theta_ref)), on clean inputs.

    The reference is a constant.
    """
    reference = constants(theta_reference)
    total = torch.zeros((), dtype=torch.float64)
    for example in examples:
        target = f(reference, example, clean()).detach()
        total = total + measure(divergence, f(theta, example, clean()), target)
    return total / len(examples)


def task_loss(
    f: Model, theta: Theta, examples: Sequence[Any], labels: Sequence[Any], divergence: Divergence
) -> Tensor:
    """L = (1/n) sum_i l(f(x_i; theta), y_i), with the l which goes with the divergence.

    Cross entropy with the symmetric divergence (classification), squared error with the squared difference
    (regression).
    """
    total = torch.zeros((), dtype=torch.float64)
    for example, label in zip(examples, labels, strict=True):
        output = f(theta, example, clean())
        if divergence == "symmetric_kl":
            total = total - log_probabilities(output)[int(label)]
        elif divergence == "squared_difference":
            total = total + (output.reshape(()) - float(label)) ** 2
        else:
            raise ValueError(divergence)
    return total / len(examples)


@dataclass
class Objective:
    """L + lambda_s R_s + mu D_Breg, and its three terms without their weights (all differentiable)."""

    total: Tensor
    task_loss: Tensor
    smoothness: Tensor
    bregman: Tensor


def objective(
    f: Model,
    theta: Theta,
    theta_reference: Theta,
    examples: Sequence[Any],
    labels: Sequence[Any],
    deltas: Sequence[Tensor],
    lambda_s: float,
    mu: float,
    divergence: Divergence,
) -> Objective:
    """F(theta) + mu D_Breg(theta, theta_ref), F = L + lambda_s R_s, at given (constant) deltas."""
    loss = task_loss(f, theta, examples, labels, divergence)
    smooth = smoothness_at(f, theta, examples, deltas, divergence)
    breg = bregman(f, theta, theta_reference, examples, divergence)
    return Objective(loss + lambda_s * smooth + mu * breg, loss, smooth, breg)


@dataclass
class SmartStep:
    """The numbers of one training step (lines 5 to 11, up to the optimizer's update)."""

    deltas: list[Tensor]
    task_loss: float
    smoothness: float
    bregman: float
    total: float
    gradients: Theta  # of the whole objective, at constant deltas and a constant reference


def smart_step(
    f: Model,
    theta: Theta,
    theta_reference: Theta,
    examples: Sequence[Any],
    labels: Sequence[Any],
    start_noises: Sequence[Tensor],
    epsilon: float,
    eta: float,
    steps: int,
    lambda_s: float,
    mu: float,
    divergence: Divergence,
) -> SmartStep:
    """Lines 5 to 10, then the gradient by theta of objective (3), which line 11 hands to the optimizer."""
    deltas = [
        ascend(f, theta, example, noise, epsilon, eta, steps, divergence)
        for example, noise in zip(examples, start_noises, strict=True)
    ]
    weights = variables(theta)
    value = objective(f, weights, theta_reference, examples, labels, deltas, lambda_s, mu, divergence)
    return SmartStep(
        deltas=deltas,
        task_loss=value.task_loss.item(),
        smoothness=value.smoothness.item(),
        bregman=value.bregman.item(),
        total=value.total.item(),
        gradients=gradients_of(value.total, weights),
    )


# --- The proximal point iterations: lines 1 to 14 -------------------------------------------------


def momentum_beta(t: int, total: int) -> float:
    """beta of update t (counted from 1) of ``total``: 0.99 for t <= 0.1 T, then 0.999.

    The comparison is made in whole numbers, 10 t <= T.
    """
    if t < 1:
        raise ValueError("updates are counted from 1")
    return 0.99 if 10 * t <= total else 0.999


def sgd_update(theta: Theta, gradients: Theta, learning_rate: float) -> Theta:
    """theta <- theta - lr g."""
    return {name: theta[name] - learning_rate * gradients[name] for name in theta}


@dataclass
class AdamState:
    """The running averages of Adam: the gradient's, the squared gradient's, and how many there were."""

    first: Theta = field(default_factory=dict)
    second: Theta = field(default_factory=dict)
    count: int = 0


def adam_update(theta: Theta, gradients: Theta, learning_rate: float, state: AdamState) -> Theta:
    """Adam (Kingma and Ba, 2015, Algorithm 1) with bias correction, (0.9, 0.999), 1e-8 and no weight decay.

    The state is changed in place.
    """
    beta1, beta2, tiny = 0.9, 0.999, 1e-8
    state.count += 1
    updated: Theta = {}
    for name, weight in theta.items():
        gradient = gradients[name]
        first = state.first.get(name, torch.zeros_like(weight))
        second = state.second.get(name, torch.zeros_like(weight))
        first = beta1 * first + (1.0 - beta1) * gradient
        second = beta2 * second + (1.0 - beta2) * gradient * gradient
        state.first[name], state.second[name] = first, second
        first_unbiased = first / (1.0 - math.pow(beta1, state.count))
        second_unbiased = second / (1.0 - math.pow(beta2, state.count))
        updated[name] = weight - learning_rate * first_unbiased / (torch.sqrt(second_unbiased) + tiny)
    return updated


@dataclass
class Trajectory:
    """The weights after each update: entry k belongs to update t = k + 1.

    ``students[k]`` is theta_t, and ``teachers[k]`` the reference after that update, which the next one will
    use (theta~_{t+1} of line 14). ``task_losses[k]`` and ``bregmans[k]`` were measured before the update, at
    theta_{t-1} and with the reference that update t used.
    """

    students: list[Theta] = field(default_factory=list)
    teachers: list[Theta] = field(default_factory=list)
    task_losses: list[float] = field(default_factory=list)
    bregmans: list[float] = field(default_factory=list)


def bregman_update(
    f: Model,
    student: Theta,
    teacher: Theta,
    examples: Sequence[Any],
    labels: Sequence[Any],
    learning_rate: float,
    mu: float,
    divergence: Divergence,
    optimizer: Optimizer,
    state: AdamState,
    trajectory: Trajectory,
) -> Theta:
    """Line 11 on L + mu D_Breg (no smoothness term): the student after one update on one batch."""
    weights = variables(student)
    loss = task_loss(f, weights, examples, labels, divergence)
    breg = bregman(f, weights, teacher, examples, divergence)
    gradients = gradients_of(loss + mu * breg, weights)
    trajectory.task_losses.append(loss.item())
    trajectory.bregmans.append(breg.item())
    if optimizer == "sgd":
        return sgd_update(student, gradients, learning_rate)
    if optimizer == "adam":
        return adam_update(student, gradients, learning_rate, state)
    raise ValueError(optimizer)


def run_momentum_bregman(
    f: Model,
    theta0: Theta,
    batches: Sequence[Sequence[Any]],
    labels: Sequence[Sequence[Any]],
    learning_rate: float,
    mu: float,
    total: int,
    divergence: Divergence,
    optimizer: Optimizer = "sgd",
) -> Trajectory:
    """MBPP with S = 1: one update per batch, with the moving average of the student as the reference.

    ``total`` is T, by which beta changes; there may be fewer batches than that. Line 13 is read as
    theta_t <- theta-bar_{S+1} (as printed, S = 1 would never update anything), and line 14 alike.
    """
    student = constants(theta0)  # line 3 at t = 1
    teacher = constants(theta0)  # line 1: theta~_1 <- theta_0
    state = AdamState()
    result = Trajectory()
    for t, (examples, targets) in enumerate(zip(batches, labels, strict=True), start=1):  # line 2
        student = bregman_update(  # lines 4 to 13
            f, student, teacher, examples, targets, learning_rate, mu, divergence, optimizer, state, result
        )
        beta = momentum_beta(t, total)
        teacher = {  # line 14: theta~_{t+1} <- (1 - beta) theta_t + beta theta~_t
            name: (1.0 - beta) * student[name] + beta * teacher[name] for name in student
        }
        result.students.append(constants(student))
        result.teachers.append(constants(teacher))
    return result


def run_vanilla_bregman(
    f: Model,
    theta0: Theta,
    batches: Sequence[Sequence[Any]],
    labels: Sequence[Sequence[Any]],
    learning_rate: float,
    mu: float,
    divergence: Divergence,
    optimizer: Optimizer = "sgd",
    *,
    inner_steps: int,
) -> Trajectory:
    """VBPP: the reference is theta_t, the iterate at the start of each block of S inner updates (line 3).

    Every inner update takes the next batch (line 5 samples one for each s). The reference is copied from the
    student after each S updates, and the optimizer's state lives on from block to block. A last block may be
    shorter than S.
    """
    student = constants(theta0)
    teacher = constants(theta0)
    state = AdamState()
    result = Trajectory()
    for done, (examples, targets) in enumerate(zip(batches, labels, strict=True), start=1):
        student = bregman_update(
            f, student, teacher, examples, targets, learning_rate, mu, divergence, optimizer, state, result
        )
        if done % inner_steps == 0:
            teacher = constants(student)
        result.students.append(constants(student))
        result.teachers.append(constants(teacher))
    return result
