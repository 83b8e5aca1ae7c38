"""What a `StepMethod` may do with one micro-batch: run it forward and backward, perturbed or not, and update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steadytune.core.arithmetic import noise, randomness
from steadytune.core.arithmetic.ascent import gradient_to
from steadytune.core.authoring.step import Masks
from steadytune.core.model.running_buffers import RunningBuffers
from steadytune.core.model.tap import EmbeddingFacts, Tap

#: What a pass computes: the task loss and all terms, one of the two, or nothing of either.
LossPart = Literal["all", "task", "terms"]


@dataclass
class Passes:
    """One micro-batch as a `StepMethod` sees it.

    The first pass uses the dropout masks of plain training. Every later one replays them (``masks="same"``) or draws
    fresh ones; either way the host's random numbers continue as in plain training.

    Attributes:
        plain_model: the model without the host's wrapper.
        inputs: the batch.
        tap: the word embeddings.
        noise_generator: generator of the random perturbations, shared by the micro-batches of one update.
        has_terms: whether there are loss terms beside the task loss.
        loss: runs the host's forward pass and returns the loss.
        run: runs the host's forward and backward pass and returns the loss, detached.
        limited: a context in which `loss` and `run` compute a part only, times a share.
        buffers: running statistics of the model, which passes after the first leave alone.
        host_update: the host's optimizer step and ``zero_grad``.
        stream: gives the seed of the next fresh dropout masks.
    """

    plain_model: nn.Module
    inputs: Mapping[str, Any]
    tap: Tap
    noise_generator: torch.Generator
    has_terms: bool
    loss: Callable[[], Tensor]
    run: Callable[[], Tensor]
    limited: Callable[[LossPart, float], AbstractContextManager[None]]
    buffers: RunningBuffers
    host_update: Callable[[], None]
    stream: Callable[[], int]
    random_state: randomness.RandomState
    _passes: int = 0
    _seen: EmbeddingFacts | None = field(default=None)

    def forward_backward(
        self, delta: Tensor | None = None, *, part: LossPart = "all", share: float = 1.0, masks: Masks = "same"
    ) -> Tensor:
        """One forward and one backward pass; gradients are added to ``p.grad``, and to ``delta.grad``.

        Args:
            delta: perturbation of the word embeddings, a leaf that requires a gradient if that is wanted.
            part: the task loss with all terms, or one of the two.
            share: factor of the loss.
            masks: dropout masks of a second or later pass: those of the first again, or fresh ones.

        Returns:
            The loss, detached.
        """
        with self._masks(masks), self._perturbed(delta), self.limited(part, share):
            return self.run()

    def ascent_gradient(self, delta: Tensor, *, masks: Masks = "same") -> Tensor:
        """Gradient of the task loss to the perturbation alone; ``p.grad`` of the weights stays as it was."""
        delta = delta.detach().requires_grad_(True)
        with self._masks(masks), self._perturbed(delta), self.limited("task", 1.0):
            return gradient_to(self.loss(), delta)

    def terms(self) -> Tensor | float:
        """Where there are loss terms, run them on a clean pass of their own, and return their loss, detached."""
        return self.forward_backward(part="terms") if self.has_terms else 0.0

    def uniform_start(self, magnitude: float) -> Tensor:
        """``U(-1, 1) * magnitude / sqrt(tokens * width)`` at the real tokens of each sentence (FreeLB)."""
        if magnitude == 0:
            return torch.zeros(self.seen.shape, device=self.seen.device, dtype=self.seen.dtype)
        site = noise.Site(self.seen, noise.token_mask(self.inputs, self.seen), self.noise_generator)
        return noise.uniform_noise(site, magnitude / (site.lengths() * self.seen.shape[-1]).sqrt())

    def update(self) -> None:
        """Step the host's optimizer in the middle of a step, and clear the gradients; it counts as no update."""
        self.host_update()

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that train."""
        return [p for p in self.plain_model.parameters() if p.requires_grad]

    @property
    def seen(self) -> EmbeddingFacts:
        """Shape, type and device of the word embeddings of this batch."""
        if self._seen is None:
            with randomness.replayed(self.random_state):
                self._seen = self.tap.measure(lambda: self.plain_model(**self.inputs))
        return self._seen

    @contextmanager
    def _perturbed(self, delta: Tensor | None) -> Iterator[None]:
        if delta is None:
            yield
            return
        mask = noise.token_mask(self.inputs, self.seen).unsqueeze(-1)
        with self.tap.perturbing(torch.where(mask, delta, delta.new_zeros(()))):
            yield

    @contextmanager
    def _masks(self, masks: Masks) -> Iterator[None]:
        self._passes += 1
        if self._passes == 1:
            with self.buffers.observed():
                yield
            return
        same = masks == "same"
        device = self.random_state.device
        with (
            randomness.replayed(self.random_state) if same else randomness.fresh(self.stream(), device),
            self.buffers.kept(),
        ):
            yield
