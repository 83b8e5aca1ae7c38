"""L2-SP: weight decay toward the pretrained weights instead of zero (Li et al., ICML 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from steadytune.core.authoring import Cost, LossMethod, PerItem, Step, hyperparameter


@dataclass(frozen=True)
class L2SP(LossMethod):
    """Half the squared distance of the weights to the pretrained ones, and of a new head to zero.

    ``weight / 2 * sum ||w - w0||^2 + head_weight / 2 * sum ||w||^2`` (section 3), the first sum over all pretrained
    parameters that train, biases and LayerNorm included, the second over new ones: head and re-initialized layers.
    It counts once per update whatever the batch size. ``head_weight`` is absolute; ``weight=0`` switches both off.

    Example:
        >>> L2SP(weight=0.01).changed_settings()
        {'weight': 0.01}

    Raises:
        MethodError: a setting is out of range.
    """

    name: ClassVar[str] = "l2_sp"
    summary: ClassVar[str] = "a penalty on the distance to the pretrained weights"
    paper: ClassVar[str] = "L2-SP, Li et al., ICML 2018, sec. 3"
    keeps_pretrained: ClassVar[bool] = True
    strong_settings: ClassVar[Mapping[str, Any]] = {"weight": 1.0}
    not_applicable: ClassVar[Mapping[str, str]] = {
        "lora": "no pretrained weight trains under LoRA, so the distance to the pretrained weights is refused there"
    }

    not_sharded: ClassVar[str] = (
        "its gradient would go past FSDP2, which sums up gradients by itself; recadam and wise_ft keep near the "
        "pretrained weights there"
    )

    weight: float = hyperparameter(0.1, "alpha, pull to the pretrained weights; 0: both off", low=0, high=1000)
    head_weight: float = hyperparameter(0.01, "beta, pull of the new head to zero", low=0, high=1000)

    def term(self, step: Step) -> PerItem:
        """The penalty divided by ``weight``, so that the loss contains it as in the paper."""
        device = step.clean_logits.device
        pretrained = head = torch.zeros((), device=device)
        with torch.set_grad_enabled(self.weight > 0 and torch.is_grad_enabled()):
            for name, p in step.parameters().items():
                if not p.requires_grad:
                    continue
                if name in step.anchor:
                    pretrained = pretrained + half_square(p, step.anchor[name]).to(device)
                else:
                    head = head + half_square(p, None).to(device)
            share = self.head_weight / self.weight if self.weight > 0 else 0.0
            return step.per_update(pretrained + share * head)

    def cost(self) -> Cost:
        """No pass; a copy of the pretrained weights."""
        return Cost(weight_copies=1)

    def effect(self) -> str:
        """One line: what the method touches."""
        return "pulls each trained weight toward its pretrained value, and a new head toward zero"


class _HalfSquare(torch.autograd.Function):
    """``1/2 ||w - w0||^2`` that keeps no difference for its backward pass: autograd alone would keep every one."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, anchor: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.anchor = anchor  # a constant: it needs no place among the saved tensors
        return 0.5 * _difference(weight, anchor).square().sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (weight,) = ctx.saved_tensors
        return (gradients[0] * _difference(weight, ctx.anchor)).to(weight.dtype), None


def half_square(weight: Tensor, anchor: Tensor | None) -> Tensor:
    """``1/2 ||w - w0||^2`` as a scalar of at least float32; without an anchor w0 is 0.

    >>> half_square(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0]))
    tensor(2.)
    """
    return _HalfSquare.apply(weight, anchor)  # pyright: ignore[reportReturnType]


def _difference(weight: Tensor, anchor: Tensor | None) -> Tensor:
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return exact if anchor is None else exact - anchor
