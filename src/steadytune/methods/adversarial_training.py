"""What PGD, FreeAT and FreeLB share: a perturbation of the word embeddings in an L2 ball per sentence."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from steadytune.core.arithmetic.ascent import ascend_in_l2
from steadytune.core.authoring import (
    ADVERSARY,
    BACKWARD,
    TASK_EMBEDDINGS,
    TASK_LOSS,
    Passes,
    StepMethod,
    hyperparameter,
)


@dataclass(frozen=True)
class AdversarialTraining(StepMethod):
    """Base of the methods that train on adversarial word embeddings in place of the clean ones.

    The perturbation starts at ``U(-1, 1) * initial_magnitude / sqrt(tokens * width)`` and climbs by
    ``step_size * g / ||g||_2``, projected on ``||delta||_2 <= radius``; norms are taken over each whole sentence.
    """

    claims: ClassVar[frozenset[str]] = frozenset({BACKWARD, ADVERSARY, TASK_EMBEDDINGS, TASK_LOSS})
    strong_settings: ClassVar[Mapping[str, Any]] = {"step_size": 1.0, "initial_magnitude": 1.0, "radius": 2.0}

    ascent_steps: int = hyperparameter(2, "K, number of passes that give a gradient", low=1, high=100, integer=True)
    step_size: float = hyperparameter(0.1, "alpha, L2 length of an ascent step per sentence", low=0, high=100)
    initial_magnitude: float = hyperparameter(0.1, "size of the uniform start per sentence", low=0, high=100)
    radius: float = hyperparameter(
        0.3, "epsilon, largest L2 norm of the perturbation of a sentence", low=0, high=100, low_open=True
    )

    @abstractmethod
    def run(self, passes: Passes) -> Tensor:
        """Leave the gradients of one micro-batch in ``p.grad`` and return its loss, detached."""

    def start(self, passes: Passes) -> Tensor:
        """Random start of the perturbation, ``(batch, length, width)``, zero at padding."""
        return passes.uniform_start(self.initial_magnitude)

    def climb(self, delta: Tensor, gradient: Tensor) -> Tensor:
        """One ascent step, detached; a sentence whose gradient is zero or not finite stays."""
        return ascend_in_l2(delta, gradient, step_size=self.step_size, radius=self.radius)

    def train_on(self, passes: Passes, delta: Tensor, *, share: float = 1.0) -> tuple[Tensor, Tensor]:
        """Train the weights at ``delta``; the same backward pass gives its gradient.

        Returns:
            ``share`` times the task loss, detached, and the gradient to ``delta``.
        """
        delta = delta.detach().requires_grad_(True)
        loss = passes.forward_backward(delta, part="task", share=share)
        assert delta.grad is not None  # the pass has refused a model that never runs its word embeddings
        return loss, delta.grad
