"""What one micro-batch can answer to a method: outputs, perturbed outputs, teacher outputs, noise, items."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steadytune.core import divergence as divergences
from steadytune.core import randomness
from steadytune.core.errors import HostError
from steadytune.core.scaling import PerItem
from steadytune.core.shadow import Shadow, Teacher
from steadytune.core.tap import Tap

Masks = Literal["same", "fresh"]


@dataclass
class CleanPass:
    """What must be known of the clean pass before it runs: the random numbers that it will use."""

    random_state: randomness.RandomState


@dataclass
class PassCounts:
    """How many passes the terms of a step have run, for the tests of the declared costs."""

    perturbed: int = 0
    teacher: int = 0


@dataclass
class Step:
    """One micro-batch in training, asked by the methods; every pass runs once and is remembered.

    Attributes:
        model: the model as the host runs it.
        plain_model: the same without the host's wrapper.
        inputs: the batch without labels.
        labels: the labels, if any.
        clean_logits: output of the clean pass, with its graph; the task loss shares it.
        clean: random state at the start of the clean pass.
        tap: the word embeddings.
        shadows: the teachers' weights.
        stream: gives the seed of the next stream of random numbers.
        noise_generator: generator of the random perturbations, shared by the micro-batches of one update.
    """

    model: nn.Module
    plain_model: nn.Module
    inputs: Mapping[str, Any]
    labels: Tensor | None
    clean_logits: Tensor
    clean: CleanPass
    tap: Tap
    shadows: Mapping[Teacher, Shadow]
    stream: Callable[[], int]
    noise_generator: torch.Generator
    counts: PassCounts = field(default_factory=PassCounts)
    non_finite: list[Tensor] = field(default_factory=list)
    _teacher_logits: dict[tuple[Teacher, Masks], Tensor] = field(default_factory=dict)

    def logits(self, delta: Tensor | None = None, *, masks: Masks = "fresh") -> Tensor:
        """Output of the model; with ``delta``, of a second pass with the word embeddings moved by it.

        Args:
            delta: ``(batch, length, width)`` or ``None`` for the clean pass, which all methods share.
            masks: dropout masks of the second pass: the clean pass's again, or fresh ones.
        """
        if delta is None:
            return self.clean_logits
        self.counts.perturbed += 1
        # Outside the real tokens neither the perturbation nor its gradient exists (on Qwen3 the latter is huge).
        delta = torch.where(self.token_mask().unsqueeze(-1), delta, delta.new_zeros(()))
        with self._masks(masks), self.tap.perturbing(delta):
            return logits_of(self.model(**self.inputs))

    def teacher_logits(self, teacher: Teacher, *, masks: Masks = "same") -> Tensor:
        """Output of the teacher on the clean batch, without gradient; equal questions are answered once."""
        key = (teacher, masks)
        if key not in self._teacher_logits:
            self.counts.teacher += 1
            weights = self.shadows[teacher].weights_like(self.plain_model)
            with torch.no_grad(), self._masks(masks):
                outputs = torch.func.functional_call(self.plain_model, weights, (), dict(self.inputs))
            self._teacher_logits[key] = logits_of(outputs).detach()
        return self._teacher_logits[key]

    def normal_noise(self, standard_deviation: float) -> Tensor:
        """Gaussian noise for the word embeddings: zero at padding, independent of how much padding there is."""
        shape, device = self.tap.seen.shape, self.tap.seen.device
        mask = self.token_mask()
        width = shape[-1]
        # Rows are drawn for real tokens only, and in blocks of 16 numbers, the unit of torch's CPU generator: so
        # neither padding nor the split into micro-batches changes what a token gets.
        rows = torch.randn(
            int(mask.sum()),
            math.ceil(width / 16) * 16,
            generator=self.noise_generator,
            device=device,
            dtype=self._perturbation_dtype(),
        )
        noise = torch.zeros(shape, device=device, dtype=rows.dtype)
        noise[mask] = standard_deviation * rows[:, :width]
        return noise

    def token_mask(self) -> Tensor:
        """``(batch, length)``, true at the tokens that the model attends to."""
        shape = self.tap.seen.shape[:2]
        attention = self.inputs.get("attention_mask")
        if attention is None:
            return torch.ones(shape, dtype=torch.bool, device=self.tap.seen.device)
        if attention.shape != shape:
            raise HostError(
                f"attention_mask has shape {tuple(attention.shape)} and the embeddings {tuple(shape)}: "
                "a perturbation needs a mask of (batch, length)."
            )
        return attention.to(device=self.tap.seen.device, dtype=torch.bool)

    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        """The paper's l_s for what this head predicts: symmetric KL or squared difference, one value per item."""
        return divergences.divergence(
            divergences.prediction_of(self.plain_model, self.clean_logits, self.labels), p, q
        )

    def per_item(self, values: Tensor) -> PerItem:
        """Attach to unreduced values the weights of the supervised items (0 where the label is -100)."""
        labels = self.labels
        if labels is not None and not labels.is_floating_point() and labels.shape == values.shape:
            return PerItem(values, (labels != -100).to(values.dtype))
        return PerItem(values, torch.ones_like(values))

    def report_non_finite(self, examples: Tensor) -> None:
        """Count examples whose perturbation was not finite and has been set to zero."""
        self.non_finite.append(examples.detach())

    def _perturbation_dtype(self) -> torch.dtype:
        return torch.promote_types(self.tap.seen.dtype, torch.float32)

    def _masks(self, masks: Masks) -> Any:
        if masks == "same":
            return randomness.replayed(self.clean.random_state)
        return randomness.fresh(self.stream(), self.tap.seen.device)


def logits_of(outputs: Any) -> Tensor:
    """Take the logits out of a model's output.

    Raises:
        HostError: there are none.
    """
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
    if not isinstance(logits, Tensor):
        raise HostError(
            f"The model returned {type(outputs).__name__} without a tensor named 'logits': "
            "smoothness and Bregman terms compare logits, so they cannot work with this head."
        )
    return logits
