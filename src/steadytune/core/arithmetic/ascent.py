"""Projected gradient ascent on a perturbation of the embeddings (SMART, algorithm 1, lines 6 to 10)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from steadytune.errors import HostError

Projection = Literal["linf", "token"]


def ascend(
    objective: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    steps: int,
    step_size: float,
    radius: float,
    projection: Projection = "linf",
    sentences: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Climb from ``start`` and return where the perturbation ends, detached.

    - ``"linf"`` (the paper): ``delta = clip(delta + eta * g / ||g||_inf, -radius, radius)``, the norm over each whole
      sentence.
    - ``"token"`` (the released code): ``delta = radius * d / ||d||_inf`` with ``d = delta + eta * g``, the norm over
      each token's vector and the gradient as it is.

    Only the gradient to ``delta`` is taken: ``p.grad`` of the weights stays as it was.

    Args:
        objective: maps ``delta`` to the scalar to increase; it is called once per step.
        start: ``(batch, length, width)``.
        steps: number of ascent steps K; with 0 the start itself is projected, and the objective is not asked.
        step_size: eta.
        radius: epsilon, the largest entry that the result may have.
        projection: see above.
        sentences: ``(batch, length)``, the number of each token's sentence; ``None`` where a row is one.

    Returns:
        The perturbation, and how many examples had a non-finite one; theirs is set to zero.

    Raises:
        HostError: the model uses reentrant checkpointing, through which no such gradient can be taken.

    >>> delta, _ = ascend(lambda d: d.sum(), torch.zeros(1, 1, 2), steps=1, step_size=1.0, radius=0.5)
    >>> delta
    tensor([[[0.5000, 0.5000]]])
    """
    delta = start.detach()
    if steps == 0:
        delta = delta.clamp(-radius, radius) if projection == "linf" else radius * delta / _largest(delta, dims=(-1,))
    for _ in range(steps):
        delta.requires_grad_(True)
        gradient = gradient_to(objective(delta), delta)
        delta = delta.detach()
        if projection == "linf":
            direction = gradient / _largest_in_sentence(gradient, sentences)
            delta = (delta + step_size * direction).clamp(-radius, radius)
        else:
            moved = delta + step_size * gradient
            delta = radius * moved / _largest(moved, dims=(-1,))
    return _without_non_finite(delta)


def gradient_to(value: Tensor, delta: Tensor) -> Tensor:
    """Gradient of a scalar to the perturbation alone; ``p.grad`` of the weights stays as it was.

    Raises:
        HostError: the model uses reentrant checkpointing, through which no such gradient can be taken.
    """
    try:
        return torch.autograd.grad(value, delta)[0]
    except RuntimeError as error:
        if "checkpoint" in str(error).lower():
            raise HostError(
                "Reentrant gradient checkpointing gives no gradient to the embeddings: "
                "set gradient_checkpointing_kwargs={'use_reentrant': False}."
            ) from error
        raise


def sentence_norm(x: Tensor, sentences: Tensor | None = None) -> Tensor:
    """L2 norm of each example over all its entries, ``(batch, 1, ..., 1)``, at least the smallest normal number.

    With ``sentences``, the number of each token's sentence, of each sentence: ``(batch, length, 1)``.

    >>> sentence_norm(torch.tensor([[[3.0, 4.0]]])).item()
    5.0
    """
    tiny = torch.finfo(x.dtype).tiny
    if sentences is not None:
        squares = x.new_zeros(sentences.numel()).index_add(0, sentences.flatten(), x.square().sum(-1).flatten())
        return squares.sqrt().clamp_min(tiny)[sentences].unsqueeze(-1)
    norm = x.flatten(1).norm(dim=1).clamp_min(tiny)
    return norm.view(-1, *[1] * (x.dim() - 1))


def ascend_in_l2(
    delta: Tensor, gradient: Tensor, *, step_size: float, radius: float, sentences: Tensor | None = None
) -> Tensor:
    """One step up of length ``step_size``, projected on the L2 ball of each sentence (FreeLB, algorithm 1, line 11).

    An example whose gradient is zero or not finite stays where it is.

    >>> ascend_in_l2(torch.zeros(1, 1, 2), torch.tensor([[[3.0, 4.0]]]), step_size=1.0, radius=0.5)
    tensor([[[0.3000, 0.4000]]])
    """
    gradient, _ = _without_non_finite(gradient)
    # Divided twice: the squares of a tiny gradient would vanish in the norm.
    gradient = gradient / _largest_in_sentence(gradient, sentences)
    moved = delta.detach() + step_size * gradient / sentence_norm(gradient, sentences)
    return moved * (radius / sentence_norm(moved, sentences)).clamp_max(1.0)


def _largest_in_sentence(x: Tensor, sentences: Tensor | None) -> Tensor:
    if sentences is None:
        return _largest(x, dims=tuple(range(1, x.dim())))
    of_tokens = _largest(x, dims=(-1,)).flatten()
    largest = of_tokens.new_zeros(sentences.numel()).scatter_reduce(0, sentences.flatten(), of_tokens, "amax")
    return largest[sentences].unsqueeze(-1)


def _largest(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    # The smallest normal number keeps 0 / 0 (no gradient: stay) away and changes no other quotient.
    return x.abs().amax(dims, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def _without_non_finite(delta: Tensor) -> tuple[Tensor, Tensor]:
    finite = torch.isfinite(delta).flatten(1).all(1)
    keep = finite.view(-1, *[1] * (delta.dim() - 1))
    return torch.where(keep, delta, delta.new_zeros(())), (~finite).sum()
