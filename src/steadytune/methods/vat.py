"""Virtual adversarial training: the direction found by power iteration (Miyato et al., TPAMI 2018)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from steadytune.core.arithmetic.ascent import ascend_in_l2, gradient_to, sentence_norm
from steadytune.core.authoring import ADVERSARY, Cost, LossMethod, Masks, PerItem, Step, hyperparameter, searched_term

logger = logging.getLogger("steadytune")


@dataclass(frozen=True)
class VirtualAdversarialTraining(LossMethod):
    """How far the output moves when each sentence moves by ``radius`` in the direction that changes it most.

    A random direction of length 1 per sentence, over all its word embeddings, is sharpened by K power iterations
    ``d = g / ||g||_2`` with g the gradient of ``D(f(x), f(x + xi d))`` to d; the term is ``D(f(x), f(x + radius d))``
    (algorithm 1). D is KL(P||Q) one way for classification, per label for multi-label heads, and the squared
    difference for regression. The clean output is a constant in all of them.

    Example:
        >>> VirtualAdversarialTraining(power_iterations=2).cost().units
        7

    Raises:
        MethodError: a setting is out of range.
    """

    name: ClassVar[str] = "vat"
    summary: ClassVar[str] = "stays the same under moves in the most sensitive direction"
    paper: ClassVar[str] = "VAT, Miyato et al., TPAMI 2018, alg. 1"
    claims: ClassVar[frozenset[str]] = frozenset({ADVERSARY})
    strong_settings: ClassVar[Mapping[str, Any]] = {"weight": 3.0, "radius": 1.0}
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({"masks": "fresh", "power_iterations": 2},)

    weight: float = hyperparameter(1.0, "alpha, factor in the loss", low=0, high=1000)
    radius: float = hyperparameter(
        1.0, "epsilon, L2 length of a sentence's perturbation", low=0, high=100, low_open=True
    )
    finite_difference: float = hyperparameter(
        0.1, "xi, L2 length at which the gradient is taken", low=0, high=100, low_open=True
    )
    power_iterations: int = hyperparameter(1, "K, number of power iterations", low=1, high=100, integer=True)
    masks: Masks = hyperparameter("same", "dropout masks of the perturbed passes", choices=("same", "fresh"))

    def term(self, step: Step) -> PerItem:
        """Divergence from the clean output, a constant, to the output at the direction found."""
        clean = step.logits().detach()

        def distance(delta: Tensor) -> PerItem:
            moved = step.logits(delta, masks=self.masks)
            return step.per_item(step.one_way_divergence(clean, moved))

        start = step.normal_noise(1.0)
        sentences = step.sentences()
        direction = start / sentence_norm(start, sentences)
        for _ in range(self.power_iterations):
            moved = (self.finite_difference * direction).requires_grad_(True)
            gradient = gradient_to(distance(moved).total(), moved)
            step.report_non_finite((~torch.isfinite(gradient)).flatten(1).any(1).sum())
            # A step of length 1 from 0 in the unit ball is the gradient divided by its length.
            direction = ascend_in_l2(
                torch.zeros_like(direction), gradient, step_size=1.0, radius=1.0, sentences=sentences
            )
        return distance(self.radius * direction)

    def cost(self) -> Cost:
        """K passes back to the embeddings alone, and one more pass with its backward."""
        return searched_term(self.power_iterations)

    def effect(self) -> str:
        """One line: what the method touches."""
        return f"keeps the output the same when a sentence moves by {self.radius:g} in its most sensitive direction"

    def check_host(self, *, total_updates: int | None, precision: torch.dtype) -> None:  # noqa: ARG002 - base signature
        """Warn where 16-bit rounding swallows what the direction is found from."""
        if precision in (torch.bfloat16, torch.float16) and min(self.radius, self.finite_difference) < 1:
            logger.warning(
                "vat: a length below 1, spread over all word embeddings of a sentence, drowns in the rounding of %s, "
                "so the direction found is partly random; train in fp32, or set radius and finite_difference to at "
                "least 1.",
                str(precision).removeprefix("torch."),
            )
