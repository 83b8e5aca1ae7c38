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

    A sentence ends where the positions restart. ``None`` if each row is one sentence. Padding belongs to none.

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


def output_noise(like: Tensor, generator: torch.Generator, mask: Tensor | None = None) -> Tensor:
    """Standard Gaussian noise in the shape of a model's outputs, at least float32, 0 where nothing is supervised.

    Each item draws whole blocks, so that neither the split into micro-batches nor ignored positions change what an
    item gets.

    Args:
        like: the outputs, ``(batch, ..., outputs)``.
        generator: draws the numbers.
        mask: ``(batch, ...)``, true for supervised items, or of the shape of the outputs; ``None`` for all of them.

    >>> whole, split = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    >>> first, second = output_noise(torch.zeros(2, 3), split), output_noise(torch.zeros(1, 3), split)
    >>> torch.equal(output_noise(torch.zeros(3, 3), whole), torch.cat([first, second]))
    True
    """
    noise = torch.zeros(like.shape, device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))
    items = noise.new_ones(noise.shape[:-1], dtype=torch.bool)
    if mask is not None:
        items = mask.to(like.device) if mask.shape == items.shape else mask.to(like.device).any(-1)
    noise[items] = _rows(int(items.sum()), noise, torch.randn, generator)
    return noise if mask is None or mask.shape == items.shape else noise * mask.to(noise)


def uniform_noise(site: Site, half_width: float | Tensor) -> Tensor:
    """Uniform noise in ``(-half_width, half_width)``; the width may differ by sentence, as ``(batch, 1, 1)``."""
    return half_width * _at_real_tokens(site, lambda *shape, **kwargs: 2 * torch.rand(*shape, **kwargs) - 1)


def _at_real_tokens(site: Site, draw: Callable[..., Tensor]) -> Tensor:
    # Rows are drawn for real tokens only, so that padding does not change what a token gets.
    noise = torch.zeros(site.seen.shape, device=site.seen.device, dtype=_dtype(site.seen))
    noise[site.mask] = _rows(int(site.mask.sum()), noise, draw, site.generator)
    return noise


def _rows(count: int, like: Tensor, draw: Callable[..., Tensor], generator: torch.Generator | None) -> Tensor:
    # In blocks of 16 numbers, the unit of torch's CPU generator: so a row gets the same numbers in any split.
    width = like.shape[-1]
    rows = draw(count, math.ceil(width / 16) * 16, generator=generator, device=like.device, dtype=like.dtype)
    return rows[:, :width]


def _dtype(seen: EmbeddingFacts) -> torch.dtype:
    return torch.promote_types(seen.dtype, torch.float32)
