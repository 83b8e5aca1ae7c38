"""Spectral normalization of the head, the second half of R4F (Miyato et al., ICLR 2018; Aghajanyan et al., 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from steadytune.core.authoring import Attachment, ModelMethod, Training, hyperparameter
from steadytune.core.model.pretrained import pretrained_parameters
from steadytune.core.model.sharding import laid_like, whole
from steadytune.errors import HostError


@dataclass(frozen=True)
class SpectralNorm(ModelMethod):
    """The last linear module of the new head uses ``W / sigma_max(W)``, so that it stretches nothing.

    ``sigma = u^T W v``, with ``u`` and ``v`` from power iteration (Miyato et al., algorithm 1) and constant for the
    gradient. It holds in training and in evaluation; at the end of the training it is folded into the weight.

    Example:
        >>> SpectralNorm().settings()
        {'power_iterations': 1}

    Raises:
        MethodError: a setting is out of range.
        HostError: the model has no new head with a linear module that trains, or its weight is zero.
    """

    name: ClassVar[str] = "spectral_norm"
    summary: ClassVar[str] = "keeps the spectral norm of the head at 1"
    paper: ClassVar[str] = "R4F, Aghajanyan et al., ICLR 2021; Miyato et al., ICLR 2018, algorithm 1"
    changes_final_weights: ClassVar[bool] = True
    finishes: ClassVar[int] = 2
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({"power_iterations": 3},)
    not_applicable: ClassVar[Mapping[str, str]] = {
        "zero_is_plain": "it has no strength: the head is normalized or it is not"
    }

    power_iterations: int = hyperparameter(1, "power iterations in each training pass", low=1, high=1000, integer=True)

    def check_model(self, training: Training) -> None:
        """Refuse a model without a head that could be normalized.

        Raises:
            HostError: there is none, or its weight is zero.
        """
        head = _head(training)
        if not bool(whole(head.weight).any()):
            raise HostError("spectral_norm cannot normalize a head whose weight is all zero: initialize it first.")

    def attach(self, training: Training) -> Attachment:
        """Let the head normalize its weight."""
        return _Normalising(training, self.power_iterations)

    def effect(self) -> str:
        """One line: what the method touches."""
        return "divides the weight of the head's last linear module by its largest singular value"


class NormalizedLinear(nn.Linear):
    """An ``nn.Linear`` with its weight over its largest singular value; made by a change of a module's class.

    Attributes:
        singular: ``u`` ``(out,)`` and ``v`` ``(in,)``, the singular vectors as known.
    """

    singular: dict[str, Tensor]
    power_iterations: int

    def forward(self, input: Tensor) -> Tensor:
        """The linear map with the normalized weight ``(out, in)``."""
        if self.training and torch.is_grad_enabled():  # a teacher's pass has other weights, and no gradient
            self.iterate()
        return functional.linear(input, normalized(self.weight, self.singular), self.bias)

    @torch.no_grad()
    def iterate(self) -> None:
        """Bring ``u`` and ``v`` nearer to the singular vectors of the weight as it is now."""
        weight = _exact(self.weight)
        with torch.autocast(weight.device.type, enabled=False):
            for _ in range(self.power_iterations):
                v = functional.normalize(weight.T @ self.singular["u"].to(weight.device), dim=0)
                # New tensors, not new values: the graph of an earlier pass may still hold the old ones.
                self.singular |= {"u": functional.normalize(weight @ v, dim=0), "v": v}


def normalized(weight: Tensor, singular: Mapping[str, Tensor]) -> Tensor:
    """``W / (u^T W v)`` in the type of W, computed in at least float32; ``u`` and ``v`` are constants.

    >>> normalized(torch.tensor([[3.0, 0.0]]), {"u": torch.tensor([1.0]), "v": torch.tensor([1.0, 0.0])})
    tensor([[1., 0.]])
    """
    u, v = singular["u"].to(weight.device), singular["v"].to(weight.device)
    # Products of entries and a sum, not a matrix product: autocast leaves these in float32.
    sigma = (weight * (u[:, None] * v)).sum()
    return (weight / sigma).to(weight.dtype)


def _head(training: Training) -> nn.Linear:
    new = training.trainable - pretrained_parameters(training.model)  # re-initialized layers are not the head
    under_peft = hasattr(training.model, "peft_config")  # adapters are linear and new as well, but no head
    found = [
        module
        for name, module in training.model.named_modules()
        if type(module) is nn.Linear
        and f"{name}.weight" in new
        and (not under_peft or ".modules_to_save." in f".{name}.")
        and "forward" not in vars(module)
    ]
    if not found:
        raise HostError(
            f"spectral_norm would have no effect: {type(training.model).__name__} has no new head with a linear "
            "module that trains. Leave it out, or train a model with a task head."
        )
    return found[-1]


class _Normalising(Attachment):
    """The swapped class; ``u`` and ``v`` follow the weight in each training pass and are saved in checkpoints."""

    def __init__(self, training: Training, power_iterations: int) -> None:
        self.head: nn.Linear | None = _head(training)
        self.singular = training.tensors
        if training.resumed:
            # Where a loaded tensor lies in memory may change the last bit of a product with it.
            self.singular |= {name: tensor.clone() for name, tensor in self.singular.items()}
        else:
            u, _, v = torch.linalg.svd(_exact(whole(self.head.weight)), full_matrices=False)
            self.singular |= {"u": u[:, 0].contiguous(), "v": v[0].contiguous()}
        training.cleanup.append(self.detach)
        self.head.__class__ = NormalizedLinear
        vars(self.head).update(singular=self.singular, power_iterations=power_iterations)

    @torch.no_grad()
    def finish(self) -> None:
        """Fold the normalization into the weight."""
        assert self.head is not None  # it follows a training until it is detached
        final = normalized(whole(self.head.weight), self.singular)
        self.head.weight.copy_(laid_like(final, self.head.weight))

    def detach(self) -> None:
        """Make the module plain again."""
        if self.head is not None:
            self.head.__class__ = nn.Linear
            for name in ("singular", "power_iterations"):
                vars(self.head).pop(name, None)
            self.head = None


def _exact(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
