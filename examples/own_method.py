"""A method of your own, in one file: the answer should stay the same under random noise.

Offer it to steadytune in your package's pyproject.toml, and it has a name everywhere, also on the command line:

    [project.entry-points."steadytune.methods"]
    own_method = "own_method:OwnMethod"

Then `python -m steadytune.testing own_method` checks it against everything that our own methods must hold, and
`steadytune train --methods own_method` trains with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from steadytune.core.authoring import Cost, LossMethod, PerItem, Step, hyperparameter


@dataclass(frozen=True)
class OwnMethod(LossMethod):
    """The output moves little when the word embeddings move at random."""

    name: ClassVar[str] = "own_method"
    paper: ClassVar[str] = "an example"
    strong_settings: ClassVar[Mapping[str, Any]] = {"radius": 0.05}

    radius: float = hyperparameter(1e-3, "standard deviation of the move", low=0, high=10, low_open=True)

    def term(self, step: Step) -> PerItem:
        """Divergence between the clean output and the output at a random move."""
        moved = step.logits(step.normal_noise(self.radius), masks="same")
        return step.per_item(step.divergence(moved, step.logits()))

    def cost(self) -> Cost:
        """One more forward and backward pass, whose activations are kept beside those of the clean pass."""
        return Cost(forwards=1, backwards=1, activation_sets=1)

    def effect(self) -> str:
        """One line: what the method touches."""
        return f"keeps the output the same under random moves of size {self.radius:g}"
