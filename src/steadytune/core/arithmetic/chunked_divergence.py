"""The divergence of one prediction per position, a few positions at a time, so that a large vocabulary fits.

Beside the two outputs and their gradients, which are as large as themselves, no more than a few chunks of
``CHUNK_ENTRIES`` numbers are held: nothing of the size of the outputs is copied to float32 or kept for the backward
pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

#: Numbers in a chunk of positions: 16 MiB in float32.
CHUNK_ENTRIES = 1 << 22


def by_position(p_logits: Tensor, q_logits: Tensor, counted: Tensor, *, one_way: bool = False) -> Tensor:
    """KL(P||Q) + KL(Q||P), or the first of the two alone, at the positions that count, and 0 elsewhere, in nats.

    Args:
        p_logits: ``(..., classes)``.
        q_logits: ``(..., classes)``.
        counted: ``(...)``, true at the positions that count.
        one_way: KL(P||Q) alone.

    Returns:
        ``(...)``, at least float32; gradients, of the first order, flow to both arguments.

    >>> by_position(torch.zeros(1, 2, 3), torch.ones(1, 2, 3), torch.tensor([[True, False]]))
    tensor([[0., 0.]])
    """
    classes = p_logits.shape[-1]
    rows = counted.reshape(-1).nonzero().squeeze(-1)
    found: Any = _Chunked.apply(p_logits.reshape(-1, classes), q_logits.reshape(-1, classes), rows, one_way)
    return found.new_zeros(counted.numel()).index_copy(0, rows, found).view(counted.shape)


class _Chunked(torch.autograd.Function):
    """The value at each row, and its gradient computed from the outputs again."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor, rows: Tensor, one_way: bool) -> Tensor:
        ctx.save_for_backward(p, q, rows)
        ctx.one_way = one_way
        values = [_kl(log_p, log_q, one_way) for _, log_p, log_q in _chunks(p, q, rows)]
        return torch.cat(values) if values else p.new_zeros(0, dtype=_computed_in(p))

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator hides the names
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None]:
        p, q, rows = ctx.saved_tensors
        to_p = torch.zeros_like(p) if ctx.needs_input_grad[0] else None
        to_q = torch.zeros_like(q) if ctx.needs_input_grad[1] else None
        done = 0
        for chunk, log_p, log_q in _chunks(p, q, rows):
            outer = gradients[0][done : done + len(chunk)].unsqueeze(-1)
            done += len(chunk)
            if to_p is not None:
                to_p[chunk] = (outer * _gradient_to_p(log_p, log_q, ctx.one_way)).to(p.dtype)
            if to_q is not None:
                to_q[chunk] = (outer * _gradient_to_q(log_p, log_q, ctx.one_way)).to(q.dtype)
        return to_p, to_q, None, None


def _chunks(p: Tensor, q: Tensor, rows: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for chunk in rows.split(max(1, CHUNK_ENTRIES // p.shape[-1])):
        if len(chunk) > 0:
            yield chunk, _log_probabilities(p[chunk]), _log_probabilities(q[chunk])


def _kl(log_p: Tensor, log_q: Tensor, one_way: bool) -> Tensor:
    weight = log_p.exp() if one_way else log_p.exp() - log_q.exp()
    return (weight * (log_p - log_q)).sum(-1)


def _gradient_to_p(log_p: Tensor, log_q: Tensor, one_way: bool) -> Tensor:
    p = log_p.exp()
    gradient = p * (log_p - log_q)
    gradient -= p * gradient.sum(-1, keepdim=True)  # of KL(P||Q)
    return gradient if one_way else gradient + p - log_q.exp()


def _gradient_to_q(log_p: Tensor, log_q: Tensor, one_way: bool) -> Tensor:
    q = log_q.exp()
    if one_way:
        return q - log_p.exp()
    gradient = q * (log_q - log_p)
    gradient -= q * gradient.sum(-1, keepdim=True)  # of KL(Q||P)
    return gradient + q - log_p.exp()


def _log_probabilities(logits: Tensor) -> Tensor:
    return functional.log_softmax(logits, dim=-1, dtype=_computed_in(logits))


def _computed_in(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)
