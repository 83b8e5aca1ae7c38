"""Random perturbations of the embeddings: zero at padding, and the same however a batch is padded or split."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steadytune.core.model.tap import EmbeddingFacts
from steadytune.errors import HostError


@dataclass(frozen=True)
class Site:
    """Where noise is wanted.

    Attributes:
        seen: shape, type and device of the embeddings.
        mask: ``(batch, length)``, true at the tokens that the model attends to.
        generator: what the numbers are drawn from; ``None`` for the host's own stream, as dropout uses it.
    """

    seen: EmbeddingFacts
    mask: Tensor
    generator: torch.Generator | None = None

    def lengths(self) -> Tensor:
        """``(batch, 1, 1)``, the number of real tokens of each sentence, at least 1."""
        return self.mask.sum(1).clamp_min(1).view(-1, 1, 1).to(_dtype(self.seen))


def token_mask(inputs: Mapping[str, Any], seen: EmbeddingFacts) -> Tensor:
    """``(batch, length)``, true at the tokens that the model attends to.

    Raises:
        HostError: the batch has an attention mask of another shape.
    """
    shape = seen.shape[:2]
    attention = inputs.get("attention_mask")
    if attention is None:
        return torch.ones(shape, dtype=torch.bool, device=seen.device)
    if attention.dim() == 3 and attention.shape[:2].numel() == shape[0]:
        attention = attention.flatten(0, 1)  # multiple choice: each choice is a sentence of its own
    if attention.shape != shape:
        raise HostError(
            f"attention_mask has shape {tuple(attention.shape)} and the embeddings {tuple(shape)}: "
            "a perturbation needs a mask of (batch, length)."
        )
    return attention.to(device=seen.device, dtype=torch.bool)


def sentences(inputs: Mapping[str, Any], seen: EmbeddingFacts) -> Tensor | None:
    """``(batch, length)``, a number for the sentence of each token where ``position_ids`` may pack several in a row.

    A sentence ends where the positions do not go on. ``None`` where each row is one. Padding is in none that counts.

    >>> seen = EmbeddingFacts(torch.Size((1, 5, 2)), torch.float32, torch.device("cpu"), torch.float32)
    >>> sentences({"position_ids": torch.tensor([[0, 1, 2, 0, 1]])}, seen)
    tensor([[0, 0, 0, 1, 1]])
    """
    positions = inputs.get("position_ids")
    if not isinstance(positions, Tensor) or positions.shape != seen.shape[:2]:
        return None
    begins = torch.ones(positions.shape, dtype=torch.bool, device=seen.device)
    begins[:, 1:] = (positions.diff(dim=1) != 1).to(seen.device)
    return begins.flatten().cumsum(0).view(positions.shape) - 1


def normal_noise(site: Site, standard_deviation: float) -> Tensor:
    """Gaussian noise ``(batch, length, width)`` with the given standard deviation, at least float32."""
    return standard_deviation * _at_real_tokens(site, torch.randn)


def uniform_noise(site: Site, half_width: float | Tensor) -> Tensor:
    """Uniform noise in ``(-half_width, half_width)``; the width may differ by sentence, as ``(batch, 1, 1)``."""
    return half_width * _at_real_tokens(site, lambda *shape, **kwargs: 2 * torch.rand(*shape, **kwargs) - 1)


def _at_real_tokens(site: Site, draw: Callable[..., Tensor]) -> Tensor:
    width = site.seen.shape[-1]
    # Rows are drawn for real tokens only, and in blocks of 16 numbers, the unit of torch's CPU generator: so
    # neither padding nor the split into micro-batches changes what a token gets.
    rows = draw(
        int(site.mask.sum()),
        math.ceil(width / 16) * 16,
        generator=site.generator,
        device=site.seen.device,
        dtype=_dtype(site.seen),
    )
    noise = torch.zeros(site.seen.shape, device=site.seen.device, dtype=rows.dtype)
    noise[site.mask] = rows[:, :width]
    return noise


def _dtype(seen: EmbeddingFacts) -> torch.dtype:
    return torch.promote_types(seen.dtype, torch.float32)
