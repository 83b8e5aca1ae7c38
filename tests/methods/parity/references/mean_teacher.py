"""A slow float64 transcription of a mean teacher (Tarvainen and Valpola, 2017, arXiv 1703.01780), to test against.

The teacher starts as the student and follows it after every update, theta' <- beta theta' + (1 - beta) theta (eq. 1).
The consistency cost is l_s between student and teacher, where the paper has the squared difference of their
probabilities; its gradient flows through the student alone. One beta, and one weight: no ramp-up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from references.bert import Kind, Sentence, Step, logits, mean, step, symmetric, task_loss
from references.smart import Theta, constants, variables


@dataclass
class Course:
    """``steps[k]`` is measured before update k, ``students[k]`` and ``teachers[k]`` after it."""

    steps: list[Step] = field(default_factory=list)
    students: list[Theta] = field(default_factory=list)
    teachers: list[Theta] = field(default_factory=list)


def consistency(
    model: BertForSequenceClassification,
    theta: Theta,
    teacher: Theta,
    kind: Kind,
    batch: Sequence[Sentence],
    weight: float,
) -> Step:
    """L + weight * l_s(student, teacher) of one batch, on clean inputs."""
    weights, fixed = variables(theta), constants(teacher)
    items: list[Tensor] = []
    for sentence in batch:
        target = logits(model, fixed, sentence).detach()
        items += symmetric(kind, logits(model, weights, sentence), target)
    return step(task_loss(model, weights, kind, batch), mean(items), weight, weights)


def mean_teacher(
    model: BertForSequenceClassification,
    theta: Theta,
    kind: Kind,
    batches: Sequence[Sequence[Sentence]],
    weight: float,
    beta: float,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
) -> Course:
    """One update per batch, by an optimizer made of plain tensors."""
    names, student = list(theta), list(constants(theta).values())
    trained = optimizer(student)
    teacher = constants(theta)
    result = Course()
    for batch in batches:
        now = dict(zip(names, student, strict=True))
        result.steps.append(consistency(model, now, teacher, kind, batch, weight))
        for name, value in now.items():
            value.grad = result.steps[-1].gradients[name].clone()
        trained.step()
        for name, value in now.items():
            teacher[name] = beta * teacher[name] + (1.0 - beta) * value.detach()
        result.students.append(constants(now))
        result.teachers.append(constants(teacher))
    return result
