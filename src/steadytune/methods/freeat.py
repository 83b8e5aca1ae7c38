"""FreeAT: the same batch is replayed, and each replay moves both weights and perturbation (Shafahi et al., 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from steadytune.core.authoring import PLAIN_STEP, Cost, Passes, on_a_clean_pass
from steadytune.methods.adversarial_training import AdversarialTraining


@dataclass(frozen=True)
class FreeAT(AdversarialTraining):
    """Adversarial training for free: K replays of each batch, with an optimizer step on the weights after each one.

    One backward pass gives both the gradient to the weights and the one to the perturbation (algorithm 1). The last
    of the K optimizer steps is the training loop's own, the others are taken in between and count as no update. The
    perturbation is carried from replay to replay and restarts with each batch.

    Example:
        >>> FreeAT(ascent_steps=4).whole_batch
        True

    Raises:
        MethodError: a setting is out of range.
    """

    name: ClassVar[str] = "freeat"
    summary: ClassVar[str] = "pgd with an update of the weights after each step"
    paper: ClassVar[str] = "Shafahi et al., NeurIPS 2019, algorithm 1"
    whole_batch: ClassVar[bool] = True
    updates_within: ClassVar[bool] = True
    off_settings: ClassVar[Mapping[str, Any]] = {"ascent_steps": 1, "step_size": 0.0, "initial_magnitude": 0.0}
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({"ascent_steps": 3}, {"initial_magnitude": 0.0})
    not_applicable: ClassVar[Mapping[str, str]] = {
        "accumulation": "it updates the weights between the passes of a batch, so it needs the whole batch of an "
        "update at once; accumulation is refused"
    }

    def run(self, passes: Passes) -> Tensor:
        """Replay the batch; the weights move between replays, and the host takes the last step."""
        delta = self.start(passes)
        losses: list[Tensor] = []
        for k in range(self.ascent_steps):
            loss, gradient = self.train_on(passes, delta)
            losses.append(loss)
            if k + 1 < self.ascent_steps:
                passes.update()
                delta = self.climb(delta, gradient)
        return torch.stack(losses).mean() + passes.terms()

    def total(self, terms: Cost) -> Cost:
        """K plain passes, and a clean one if there are terms; the steps of the optimizer are not counted."""
        return PLAIN_STEP.times(self.ascent_steps) + on_a_clean_pass(terms)

    def effect(self) -> str:
        """One line: what the method touches."""
        return f"updates the weights {self.ascent_steps} times per batch, on ever worse moves of the word embeddings"
