"""How the states of a text's tokens become one vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the real tokens.

    Args:
        states: ``(rows, tokens, hidden)``.
        mask: ``(rows, tokens)``, 1 for real tokens.

    >>> mean(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
    tensor([[2.]])
    """
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def largest(states: Tensor, mask: Tensor) -> Tensor:
    """Return the largest state of the real tokens in each dimension."""
    return states.masked_fill(mask.unsqueeze(-1) == 0, torch.finfo(states.dtype).min).amax(1)


def first(states: Tensor, mask: Tensor) -> Tensor:
    """Return the state of the first real token, on whichever side the padding is."""
    return states[torch.arange(len(states), device=states.device), mask.to(torch.int64).argmax(1)]


def last(states: Tensor, mask: Tensor) -> Tensor:
    """Return the state of the last real token, on whichever side the padding is.

    >>> last(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
    tensor([[3.]])
    """
    places = torch.arange(mask.shape[1], device=mask.device)
    return states[torch.arange(len(states), device=states.device), (mask.to(torch.int64) * places).argmax(1)]


POOLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mean": mean, "max": largest, "first": first, "last": last}


def pooled(states: Tensor, mask: Tensor, pooling: str, *, normalize: bool) -> Tensor:
    """Return one vector for each row: ``(rows, hidden)``.

    A normalized vector has the length sqrt(hidden): its entries are then of the size that a new head expects.
    """
    vectors = POOLINGS[pooling](states, mask)
    if not normalize:
        return vectors
    return torch.nn.functional.normalize(vectors, dim=-1) * vectors.shape[-1] ** 0.5
