"""PGD: training on the worst word embeddings that projected gradient ascent finds (Madry et al., ICLR 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from steadytune.core.authoring import PLAIN_STEP, Cost, Passes, on_a_clean_pass
from steadytune.methods.adversarial_training import AdversarialTraining


@dataclass(frozen=True)
class PGD(AdversarialTraining):
    """The task loss at adversarial word embeddings, ``CE(f(x + delta_K), y)``, in place of the clean one.

    ``delta_K`` comes from ``ascent_steps`` steps up the task loss (equation 2.1; in the L2 ball per sentence, as the
    FreeLB paper runs it). Each step costs a pass that gives no gradient to the weights; only the last one trains.

    Example:
        >>> PGD(ascent_steps=3).total(Cost()).units
        9

    Raises:
        MethodError: a setting is out of range.
    """

    name: ClassVar[str] = "pgd"
    summary: ClassVar[str] = "trains on word embeddings moved against it by K steps"
    paper: ClassVar[str] = "Madry et al., ICLR 2018, eq. 2.1; on embeddings as in FreeLB, Zhu et al., ICLR 2020, eq. 2"
    off_settings: ClassVar[Mapping[str, Any]] = {"step_size": 0.0, "initial_magnitude": 0.0}
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({"ascent_steps": 3}, {"initial_magnitude": 0.0})

    def run(self, passes: Passes) -> Tensor:
        """Climb, then train at the top."""
        delta = self.start(passes)
        for _ in range(self.ascent_steps):
            delta = self.climb(delta, passes.ascent_gradient(delta))
        return passes.forward_backward(delta, part="task") + passes.terms()

    def total(self, terms: Cost) -> Cost:
        """K passes back to the embeddings alone, one that trains, and a clean one if there are terms."""
        ascent = Cost(forwards=1, backwards_to_embeddings=1).times(self.ascent_steps)
        return ascent + PLAIN_STEP + on_a_clean_pass(terms)

    def effect(self) -> str:
        """One line: what the method touches."""
        return f"trains on word embeddings moved by up to {self.radius:g} per sentence, in the worst direction found"
