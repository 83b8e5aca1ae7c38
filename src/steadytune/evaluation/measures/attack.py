"""Accuracy when the word embeddings are moved in the worst direction found, against how far they may move."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steadytune.core.arithmetic.ascent import ascend
from steadytune.evaluation.measures.passes import Asked, Batch, at_rest

STEPS = 5


@dataclass(frozen=True)
class AttackedAccuracy:
    """What is left of a classifier at one radius.

    Attributes:
        accuracy: under the attack of this radius alone, 0 to 1.
        robust_accuracy: share of predictions that are right under this and every smaller radius, and clean; at most
            ``accuracy``, and it never rises with the radius.
        non_finite: examples whose attack was not a finite number; they were left unmoved.
    """

    accuracy: float
    robust_accuracy: float
    non_finite: int


@dataclass(frozen=True)
class AttackedError:
    """What is left of a regressor at one radius: mean squared error, and mean of each row's worst so far."""

    error: float
    robust_error: float
    non_finite: int


def embedding_attack(
    model: nn.Module, batches: Iterable[Batch], radii: Sequence[float], *, steps: int = STEPS
) -> dict[float, AttackedAccuracy | AttackedError]:
    """Projected gradient ascent on the task loss, in an L-infinity ball around the embeddings.

    Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018, on embeddings.

    From the clean embeddings, ``steps`` steps, each as long as the radius in its largest entry. All real tokens move,
    special ones too. Radius 0, which is always there, is the clean model.

    Args:
        model: a classifier, tagger, multi-label classifier or regressor.
        batches: with labels; gone through once.
        radii: largest entry of the perturbation, 0 and more.
        steps: more find more.

    Raises:
        HostError: the model has no word embeddings to move.
    """
    radii = sorted({0.0, *radii})
    values: dict[float, list[Tensor]] = {radius: [] for radius in radii}
    worst: dict[float, list[Tensor]] = {radius: [] for radius in radii}
    non_finite = dict.fromkeys(radii, 0)
    is_error = False
    with at_rest(model):
        for batch in batches:
            asked = Asked(model, batch)
            is_error = asked.prediction == "regression"
            so_far: Tensor | None = None
            for radius in radii:
                answer, bad = _attacked(asked, radius, steps)
                non_finite[radius] += bad
                found = asked.losses(answer).double().flatten() if is_error else asked.right(answer)
                join = torch.maximum if is_error else torch.logical_and
                so_far = found if so_far is None else join(so_far, found)
                values[radius].append(found.cpu())
                worst[radius].append(so_far.cpu())
    kind = AttackedError if is_error else AttackedAccuracy
    return {r: kind(_mean(values[r]), _mean(worst[r]), non_finite[r]) for r in radii}


def _attacked(asked: Asked, radius: float, steps: int) -> tuple[Tensor, int]:
    if radius == 0:
        return asked.clean, 0
    delta, bad = ascend(
        lambda d: asked.losses(asked.moved(d)).sum(), asked.zero(), steps=steps, step_size=radius, radius=radius
    )
    with torch.no_grad():
        return asked.moved(delta), int(bad)


def _mean(parts: list[Tensor]) -> float:
    return float(torch.cat(parts).double().mean()) if parts else float("nan")
