"""ALUM: adversarial smoothness at a layer of one's choice (Liu et al., 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from steadytune.core.authoring import Cost, LossMethod, Masks, PerItem, Step, hyperparameter, searched_term
from steadytune.core.model.precision import warn_if_lost_to_rounding
from steadytune.errors import MethodError
from steadytune.methods.dropout import warn_if_not_felt
from steadytune.methods.smoothness import worst_divergence


@dataclass(frozen=True)
class Alum(LossMethod):
    """How far the output moves when the output of one transformer layer moves a little, in the worst direction found.

    For each example ``l_s(f(h + delta), f(h))``, with h the output of layer number ``layer`` and delta from K steps of
    projected gradient ascent from a Gaussian start (algorithm 1, lines 4 to 8). ``l_s`` is the symmetric KL divergence
    for classification and the squared difference for regression. Its gradient reaches the weights through both
    outputs. At the word embeddings it is the term ``smoothness``.

    Example:
        >>> Alum(layer=2).site()
        2

    Raises:
        MethodError: a setting is out of range, or the start lies outside the ball.
    """

    name: ClassVar[str] = "alum"
    summary: ClassVar[str] = "smoothness at the output of a hidden layer"
    paper: ClassVar[str] = "ALUM, Liu et al., arXiv 2004.08994, alg. 1"
    strong_settings: ClassVar[Mapping[str, Any]] = {"weight": 3.0, "radius": 0.1, "noise_std": 0.1, "step_size": 0.1}
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({"layer": 2, "masks": "same", "ascent_steps": 2},)
    not_applicable: ClassVar[Mapping[str, str]] = {
        "gradient_checkpointing": "a layer that runs again would run unmoved, so the perturbation of one is refused"
    }

    weight: float = hyperparameter(1.0, "alpha, factor in the loss", low=0, high=1000)
    layer: int = hyperparameter(
        1, "number of the layer whose output moves, from the bottom", low=1, high=1000, integer=True
    )
    radius: float = hyperparameter(1e-5, "epsilon, largest entry of the perturbation", low=0, high=10, low_open=True)
    noise_std: float = hyperparameter(1e-5, "sigma, std of the Gaussian start", low=0, high=10, low_open=True)
    step_size: float = hyperparameter(1e-3, "eta, length of an ascent step", low=0, high=100, low_open=True)
    ascent_steps: int = hyperparameter(1, "K, number of ascent steps", low=1, high=100, integer=True)
    masks: Masks = hyperparameter("fresh", "dropout masks of the perturbed passes", choices=("fresh", "same"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise_std > self.radius:
            raise MethodError(
                f"alum.noise_std ({self.noise_std:g}) must be at most alum.radius ({self.radius:g}): "
                "the start must lie inside the ball that the perturbation is projected on."
            )

    def site(self) -> int:
        """The layer whose output is perturbed."""
        return self.layer

    def term(self, step: Step) -> PerItem:
        """Divergence between the clean output and the output at the worst perturbation found."""
        values = worst_divergence(
            step,
            step.normal_noise(self.noise_std, site=self.layer),
            steps=self.ascent_steps,
            step_size=self.step_size,
            radius=self.radius,
            masks=self.masks,
            site=self.layer,
        )
        warn_if_not_felt(self, values, step, larger="alum(radius=1e-2, noise_std=1e-3, step_size=1e-1)")
        return values

    def cost(self) -> Cost:
        """K passes up, each back to the perturbed layer alone, and one more pass with its backward."""
        return searched_term(self.ascent_steps)

    def effect(self) -> str:
        """One line: what the method touches."""
        return (
            f"keeps the output the same when that of layer {self.layer} moves by up to {self.radius:g} in the worst "
            "direction"
        )

    def check_host(self, *, total_updates: int | None, precision: torch.dtype) -> None:  # noqa: ARG002 - base signature
        """Warn where 16-bit rounding swallows the perturbation."""
        warn_if_lost_to_rounding(self.name, self.radius, precision)
