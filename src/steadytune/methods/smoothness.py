"""The smoothness-inducing adversarial regularizer, the first half of SMART (Jiang et al., ACL 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from steadytune.core.arithmetic.ascent import Projection, ascend
from steadytune.core.authoring import (
    ADVERSARY,
    Cost,
    LossMethod,
    Masks,
    PerItem,
    Step,
    hyperparameter,
    searched_term,
    thinned,
)
from steadytune.core.model.precision import warn_if_lost_to_rounding
from steadytune.errors import MethodError
from steadytune.methods.dropout import warn_if_not_felt


def worst_divergence(
    step: Step,
    start: Tensor,
    *,
    steps: int,
    step_size: float,
    radius: float,
    masks: Masks,
    projection: Projection = "linf",
    site: int = 0,
) -> PerItem:
    """l_s between the clean output and the output at the worst perturbation found, with gradient through both.

    Args:
        step: the micro-batch.
        start: where the ascent begins, ``(batch, length, width)``.
        steps: number of ascent steps K; with 0 the start itself, projected.
        step_size: eta.
        radius: epsilon.
        masks: dropout masks of the perturbed passes.
        projection: as in `ascend`.
        site: 0 moves the word embeddings, ``k`` the output of transformer layer ``k``.
    """
    clean = step.logits()
    target = clean.detach()

    def distance(delta: Tensor) -> Tensor:
        return step.per_item(step.divergence(step.logits(delta, masks=masks, site=site), target)).total()

    delta, non_finite = ascend(
        distance,
        start,
        steps=steps,
        step_size=step_size,
        radius=radius,
        projection=projection,
        sentences=step.sentences(site),
    )
    step.report_non_finite(non_finite)
    return step.per_item(step.divergence(step.logits(delta, masks=masks, site=site), clean))


@dataclass(frozen=True)
class Smoothness(LossMethod):
    """R_s: how far the output moves when the word embeddings move a little, in the worst direction found.

    For each example, ``l_s(f(x + delta), f(x))``, with ``delta`` from K steps of projected gradient ascent (equation 1
    and algorithm 1, lines 6 to 10) from a Gaussian start. ``l_s`` is the symmetric KL divergence for classification
    and the squared difference for regression. Its gradient reaches the weights through both outputs.

    ``one_in`` and ``every`` make it cheaper without bias: the term of a random part of the examples or updates,
    weighed so that its expectation is the whole term.

    Example:
        >>> Smoothness(weight=3.0, radius=1e-4).changed_settings()
        {'weight': 3.0, 'radius': 0.0001}
        >>> Smoothness().cost().units, Smoothness(one_in=5).cost().units
        (5, 1.0)

    Raises:
        MethodError: a setting is out of range, the start lies outside the ball, or masks are to be replayed on a part
            of a batch.
    """

    name: ClassVar[str] = "smoothness"
    summary: ClassVar[str] = "same outputs under small adversarial moves of embeddings"
    paper: ClassVar[str] = "SMART, Jiang et al., ACL 2020, eq. 1"
    claims: ClassVar[frozenset[str]] = frozenset({ADVERSARY})
    strong_settings: ClassVar[Mapping[str, Any]] = {"radius": 1e-2, "noise_std": 1e-2, "step_size": 1e-2}
    variants: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"masks": "same", "ascent_steps": 2},
        {"projection": "token", "radius": 0.1},
        {"ascent_steps": 0, "one_in": 2, "every": 2, "weight": 4.0},
    )

    weight: float = hyperparameter(1.0, "lambda_s, factor in the loss (paper: 1, 3 or 5)", low=0, high=1000)
    radius: float = hyperparameter(1e-5, "epsilon, largest entry of the perturbation", low=0, high=10, low_open=True)
    noise_std: float = hyperparameter(1e-5, "sigma, std of the Gaussian start", low=0, high=10, low_open=True)
    step_size: float = hyperparameter(1e-3, "eta, length of an ascent step", low=0, high=100, low_open=True)
    ascent_steps: int = hyperparameter(
        1, "K, number of ascent steps; 0: the random start, as in R3F", low=0, high=100, integer=True
    )
    masks: Masks = hyperparameter("fresh", "dropout masks of the perturbed passes", choices=("fresh", "same"))
    projection: Projection = hyperparameter(
        "linf", "linf: the paper's ball; token: each token rescaled to the radius", choices=("linf", "token")
    )

    one_in: int = hyperparameter(
        1, "apply the term to 1 in N examples, drawn at random, weighted by N", low=1, high=1000, integer=True
    )
    every: int = hyperparameter(
        1, "apply the term in 1 of N updates, drawn at random, weighted by N", low=1, high=1000, integer=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.one_in > 1 and self.masks == "same":
            raise MethodError(
                "smoothness.masks='same' repeats the dropout of a whole batch, and one_in takes a part of it: set "
                "masks='fresh', or every=... in place of one_in."
            )
        if self.projection == "linf" and self.noise_std > self.radius:
            raise MethodError(
                f"smoothness.noise_std ({self.noise_std:g}) must be at most smoothness.radius ({self.radius:g}): "
                "the start must lie inside the ball that the perturbation is projected on."
            )

    def term(self, step: Step) -> PerItem:
        """Divergence between the clean output and the output at the worst perturbation found."""
        return thinned(step, self._whole_term, one_in=self.one_in, every=self.every)

    def _whole_term(self, step: Step) -> PerItem:
        values = worst_divergence(
            step,
            step.normal_noise(self.noise_std),
            steps=self.ascent_steps,
            step_size=self.step_size,
            radius=self.radius,
            masks=self.masks,
            projection=self.projection,
        )
        warn_if_not_felt(self, values, step, larger="smoothness(radius=1e-2, noise_std=1e-3, step_size=1e-1)")
        return values

    def cost(self) -> Cost:
        """K passes up, each back to the embeddings alone, and one more pass with its backward; of a part, a part."""
        return searched_term(self.ascent_steps).thinned(self.one_in, self.every)

    def effect(self) -> str:
        """One line: what the method touches."""
        return f"keeps the output the same when word embeddings move by up to {self.radius:g} in the worst direction"

    def check_host(self, *, total_updates: int | None, precision: torch.dtype) -> None:  # noqa: ARG002 - base signature
        """Warn where 16-bit rounding swallows the perturbation."""
        warn_if_lost_to_rounding(self.name, self.radius, precision)
