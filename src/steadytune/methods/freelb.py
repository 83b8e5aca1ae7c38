"""FreeLB: every step of the ascent trains as well, in one larger virtual batch (Zhu et al., ICLR 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from steadytune.core.authoring import PLAIN_STEP, Cost, Passes, on_a_clean_pass
from steadytune.methods.adversarial_training import AdversarialTraining


@dataclass(frozen=True)
class FreeLB(AdversarialTraining):
    """The mean task loss over the K perturbations of an ascent: ``1/K sum_k CE(f(x + delta_k), y)``.

    One backward pass gives both the gradient to the weights, which is accumulated, and the one to the perturbation,
    which is the next step up (algorithm 1). ``delta_0`` is the random start; there is no clean pass.

    Example:
        >>> FreeLB(ascent_steps=3).total(Cost()).units / PLAIN_STEP.units
        3.0

    Raises:
        MethodError: a setting is out of range.
    """

    name: ClassVar[str] = "freelb"
    summary: ClassVar[str] = "pgd with the gradients of all steps in one update"
    paper: ClassVar[str] = "Zhu et al., ICLR 2020, algorithm 1"
    off_settings: ClassVar[Mapping[str, Any]] = {"ascent_steps": 1, "step_size": 0.0, "initial_magnitude": 0.0}
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({"ascent_steps": 3}, {"initial_magnitude": 0.0})

    def run(self, passes: Passes) -> Tensor:
        """Train at each perturbation with a K-th of the loss, and climb with the same gradient."""
        delta = self.start(passes)
        losses: list[Tensor] = []
        for k in range(self.ascent_steps):
            loss, gradient = self.train_on(passes, delta, share=1 / self.ascent_steps)
            losses.append(loss)
            if k + 1 < self.ascent_steps:
                delta = self.climb(delta, gradient)
        return torch.stack(losses).sum() + passes.terms()

    def total(self, terms: Cost) -> Cost:
        """K plain passes, and a clean one if there are terms."""
        return PLAIN_STEP.times(self.ascent_steps) + on_a_clean_pass(terms)

    def effect(self) -> str:
        """One line: what the method touches."""
        return f"trains on {self.ascent_steps} ever worse moves of the word embeddings at once, up to {self.radius:g}"
