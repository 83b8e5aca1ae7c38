"""R3F: the same output under a little random noise on the word embeddings (Aghajanyan et al., ICLR 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from steadytune.core.authoring import Cost, LossMethod, Masks, PerItem, Step, hyperparameter
from steadytune.core.model.precision import warn_if_lost_to_rounding
from steadytune.methods.dropout import warn_if_not_felt

Noise = Literal["uniform", "normal"]


@dataclass(frozen=True)
class R3F(LossMethod):
    """How far the output moves when the word embeddings move at random, without any search for a bad direction.

    For each example ``l_s(f(x + z), f(x))`` with z from U(-radius, radius) or N(0, radius^2) at the real tokens
    (equation 2). ``l_s`` is the symmetric KL divergence for classification and the squared difference for regression,
    in nats or squared units of the target, never negative. Its gradient reaches the weights through both outputs.

    Example:
        >>> R3F(weight=0.7, noise="normal").changed_settings()
        {'weight': 0.7, 'noise': 'normal'}

    Raises:
        MethodError: a setting is out of range.
    """

    name: ClassVar[str] = "r3f"
    summary: ClassVar[str] = "stays the same under random noise on the word embeddings"
    paper: ClassVar[str] = "R3F, Aghajanyan et al., ICLR 2021, eq. 2"
    strong_settings: ClassVar[Mapping[str, Any]] = {"weight": 3.0, "radius": 0.1}
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({"noise": "normal", "masks": "same"},)

    weight: float = hyperparameter(1.0, "lambda, factor in the loss", low=0, high=1000)
    radius: float = hyperparameter(
        1e-5, "sigma, half width of the uniform or std of the normal noise", low=0, high=10, low_open=True
    )
    noise: Noise = hyperparameter("uniform", "distribution of the noise", choices=("uniform", "normal"))
    masks: Masks = hyperparameter("fresh", "dropout masks of the noisy pass", choices=("fresh", "same"))

    def term(self, step: Step) -> PerItem:
        """Divergence between the clean output and the output under noise."""
        draw = step.uniform_noise if self.noise == "uniform" else step.normal_noise
        noisy = step.logits(draw(self.radius), masks=self.masks)
        values = step.per_item(step.divergence(noisy, step.logits()))
        warn_if_not_felt(self, values, step, larger="r3f(radius=1e-1)")
        return values

    def cost(self) -> Cost:
        """One more pass with its backward."""
        return Cost(forwards=1, backwards=1, activation_sets=1)

    def effect(self) -> str:
        """One line: what the method touches."""
        return f"keeps the output the same under {self.noise} noise of {self.radius:g} on the word embeddings"

    def check_host(self, *, total_updates: int | None, precision: torch.dtype) -> None:  # noqa: ARG002 - base signature
        """Warn where 16-bit rounding swallows the noise."""
        warn_if_lost_to_rounding(self.name, self.radius, precision)
