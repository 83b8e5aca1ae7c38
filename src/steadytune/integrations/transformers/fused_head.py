"""Trainers whose language-model head returns the log-probability of each label and no logits: TRL's `SFTTrainer`.

Such a trainer calls ``model(..., fused_lm_head=True)``. Terms of the loss compare logits, so while there are any the
model's own head answers instead, in the same form; the task loss is the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from steadytune.core.arithmetic.chunked_divergence import CHUNK_ENTRIES
from steadytune.core.model.outputs import IGNORED


@dataclass
class LabelScores:
    """What a fused head returns, ``(batch, length - 1)`` each, zero where there is no label.

    Attributes:
        log_probs: log-probability of each label, with its graph.
        entropy: of each prediction, in nats.
        is_top1: whether the label is the most likely token.
        label_mask: where there is a label.
        loss: mean negative log-probability.
        aux_loss: of the router of a mixture of experts, where the model returns one.
    """

    log_probs: Tensor
    entropy: Tensor
    is_top1: Tensor
    label_mask: Tensor
    loss: Tensor
    aux_loss: Tensor | None = None


def label_scores(logits: Tensor, labels: Tensor, aux_loss: Tensor | None = None) -> LabelScores:
    """Score the label after each position, as a fused head does.

    Args:
        logits: ``(batch, length, vocabulary)``.
        labels: ``(batch, length)``, not shifted.
        aux_loss: handed on.

    >>> scores = label_scores(torch.zeros(1, 3, 4), torch.tensor([[1, 2, -100]]))
    >>> scores.log_probs.exp(), scores.label_mask
    (tensor([[0.2500, 1.0000]]), tensor([[ True, False]]))
    """
    targets = labels[:, 1:].to(logits.device)
    mask = targets != IGNORED
    of_labels = logits[:, :-1][mask]
    wide = torch.promote_types(logits.dtype, torch.float32)
    found = -functional.cross_entropy(of_labels.to(wide), targets[mask], reduction="none")
    entropy, is_top1 = _certainty(of_labels.detach(), targets[mask], wide)

    def placed(values: Tensor) -> Tensor:
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    log_probs = placed(found)
    return LabelScores(
        log_probs=log_probs,
        entropy=placed(entropy),
        is_top1=placed(is_top1),
        label_mask=mask,
        loss=-log_probs.sum() / mask.sum().clamp_min(1),
        aux_loss=aux_loss,
    )


def _certainty(logits: Tensor, targets: Tensor, wide: torch.dtype) -> tuple[Tensor, Tensor]:
    """Entropy, and whether the target is the most likely, without a copy of all the logits."""
    entropies, hits = [logits.new_zeros(0, dtype=wide)], [targets.new_zeros(0, dtype=torch.bool)]
    size = max(1, CHUNK_ENTRIES // logits.shape[-1])
    for chunk, target in zip(logits.split(size), targets.split(size), strict=True):
        log_p = functional.log_softmax(chunk, dim=-1, dtype=wide)
        entropies.append(-(log_p.exp() * log_p).sum(-1))
        hits.append(chunk.argmax(-1) == target)
    return torch.cat(entropies), torch.cat(hits)


class WithLogits:
    """Stands for a model with a fused head: answers through its own head, and keeps the output with the logits.

    Attributes:
        model: the model as the trainer runs it.
        outputs: of the first pass, with ``logits``.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.outputs: Any = None

    def __call__(self, *, fused_lm_head: bool = False, **inputs: Any) -> Any:
        """Run the model through its own head first; later, without gradients, as the trainer asks for its figures."""
        if self.outputs is not None and not torch.is_grad_enabled():
            return self.model(fused_lm_head=fused_lm_head, **inputs)
        labels = inputs.pop("labels") if fused_lm_head else None
        outputs = self.model(**inputs)
        if self.outputs is None:
            self.outputs = outputs
        if labels is None:
            return outputs
        return label_scores(outputs.logits, labels, getattr(outputs, "aux_loss", None))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def has_fused_head(model: nn.Module) -> bool:
    """Whether a trainer has given the model a head that returns no logits.

    >>> has_fused_head(nn.Linear(1, 1))
    False
    """
    base = getattr(model, "get_base_model", None)
    inner: Any = base() if callable(base) else model
    forward = inner.forward
    code = getattr(getattr(forward, "__func__", forward), "__code__", None)
    return code is not None and "fused_lm_head" in code.co_varnames


@contextmanager
def uncounted(trainer: Any) -> Iterator[None]:
    """Leave the figures that TRL collects in each pass (tokens, entropy, accuracy) as they were before a block."""
    metrics, tokens = getattr(trainer, "_metrics", None), getattr(trainer, "_total_train_tokens", None)
    if metrics is None or tokens is None:
        yield
        return
    before = {mode: {name: list(values) for name, values in found.items()} for mode, found in metrics.items()}
    try:
        yield
    finally:
        trainer._total_train_tokens = tokens
        for mode, found in metrics.items():
            found.clear()
            found.update(before[mode])
