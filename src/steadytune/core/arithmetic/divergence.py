"""The distance l_s between two outputs of a model, chosen by what the head predicts (SMART, section 2.1).

All of them are computed in at least float32 and return one value per item, without any mean.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from steadytune.core.arithmetic.chunked_divergence import by_position
from steadytune.core.model.outputs import Prediction


def symmetric_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(P||Q) + KL(Q||P) of two categorical distributions, a sum and not a mean, in nats.

    Equals ``sum_c (p_c - q_c) (log p_c - log q_c)``, which is never negative and is exactly 0 for equal logits.

    Args:
        p_logits: ``(..., classes)``.
        q_logits: ``(..., classes)``.

    Returns:
        ``(...)``, at least float32; gradients flow to both arguments.

    >>> symmetric_kl(torch.zeros(1, 3), torch.zeros(1, 3))
    tensor([0.])
    """
    log_p = functional.log_softmax(_at_least_float32(p_logits), dim=-1)
    log_q = functional.log_softmax(_at_least_float32(q_logits), dim=-1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(-1)


def bernoulli_symmetric_kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """KL(P||Q) + KL(Q||P) of independent yes/no labels, one value per label, in nats.

    >>> bernoulli_symmetric_kl(torch.zeros(2, 3), torch.zeros(2, 3)).shape
    torch.Size([2, 3])
    """
    p_logits, q_logits = _at_least_float32(p_logits), _at_least_float32(q_logits)
    # log-odds differ by exactly the difference of the logits: (p - q) (logit p - logit q).
    return (p_logits.sigmoid() - q_logits.sigmoid()) * (p_logits - q_logits)


def squared_difference(p: Tensor, q: Tensor) -> Tensor:
    """(p - q)^2 for every output of a regression head.

    >>> squared_difference(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
    tensor([[4.]])
    """
    return (_at_least_float32(p) - _at_least_float32(q)).square()


def divergence(prediction: Prediction, p: Tensor, q: Tensor) -> Tensor:
    """The paper's l_s for the given kind of prediction, one value per item."""
    if prediction == "regression":
        return squared_difference(p, q)
    if prediction == "multi_label":
        return bernoulli_symmetric_kl(p, q)
    return symmetric_kl(p, q)


def one_way_divergence(prediction: Prediction, p: Tensor, q: Tensor) -> Tensor:
    """KL(P||Q) of classes or yes/no labels, the squared difference of numbers; one value per item, in nats.

    >>> one_way_divergence("classification", torch.zeros(1, 2), torch.zeros(1, 2))
    tensor([0.])
    """
    if prediction == "regression":
        return squared_difference(p, q)
    p, q = _at_least_float32(p), _at_least_float32(q)
    if prediction == "multi_label":
        yes = p.sigmoid() * (functional.logsigmoid(p) - functional.logsigmoid(q))
        return yes + (-p).sigmoid() * (functional.logsigmoid(-p) - functional.logsigmoid(-q))
    log_p, log_q = functional.log_softmax(p, dim=-1), functional.log_softmax(q, dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def of_items(prediction: Prediction, p: Tensor, q: Tensor, counted: Tensor | None, *, one_way: bool = False) -> Tensor:
    """`divergence` or `one_way_divergence`, zero where nothing is supervised; one prediction per position in chunks.

    Args:
        prediction: how the outputs are compared.
        p: ``(batch, ..., outputs)``.
        q: as ``p``.
        counted: ``(batch, ...)``, true where a prediction is supervised; ``None`` for everywhere.
        one_way: KL(P||Q) alone.
    """
    if prediction != "classification" or p.dim() < 3 or counted is None:
        return (one_way_divergence if one_way else divergence)(prediction, p, q)
    return by_position(p, q, counted, one_way=one_way)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
