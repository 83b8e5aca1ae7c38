"""A shadow: a second copy of the trainable weights, moved toward the model after each update (a teacher)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steadytune.core.model.sharding import exchanged, is_sharded_model, laid_like, own_part


@dataclass(frozen=True)
class Teacher:
    """Which average of the weights a method compares with; methods with equal keys share one copy.

    After update ``t`` (counted from 1): ``teacher = (1 - beta) * weights + beta * teacher``, with ``early_beta`` for
    ``t <= early_fraction * total``. With ``every = S`` one such step is taken each S updates (SMART's inner steps);
    with both betas 0 the teacher is the iterate at the start of the S inner steps.

    Attributes:
        beta: decay of the average, 0 to 1 (1 excluded).
        early_beta: decay during the first part of the training.
        early_fraction: length of that part, as a fraction of all updates.
        every: optimizer updates per step of the average.
    """

    beta: float = 0.999
    early_beta: float = 0.99
    early_fraction: float = 0.1
    every: int = 1

    @property
    def needs_total(self) -> bool:
        """Whether the total number of updates must be known."""
        return self.early_fraction > 0 and self.early_beta != self.beta

    def is_due(self, update: int) -> bool:
        """Whether the average moves after this update (counted from 1)."""
        return update % self.every == 0

    def decay_after(self, update: int, total_updates: int | None) -> float:
        """The decay to use after this update.

        >>> [Teacher().decay_after(t, 100) for t in (1, 10, 11)]
        [0.99, 0.99, 0.999]
        """
        if not self.needs_total or total_updates is None:
            return self.beta
        iteration, iterations = update // self.every, total_updates // self.every
        return self.early_beta if iteration <= self.early_fraction * iterations else self.beta


class Shadow:
    """The copy itself, at least float32 whatever the model's type, so that a slow average does not round away.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> shadow = Shadow(model)
        >>> with torch.no_grad():
        ...     _ = model.weight.add_(1.0)
        >>> shadow.step(model, decay=0.0)
        >>> bool(torch.equal(shadow.tensors["weight"], model.weight))
        True
    """

    def __init__(self, model: nn.Module) -> None:
        self.tensors = copied(trainable(model))

    @torch.no_grad()
    def step(self, model: nn.Module, decay: float) -> None:
        """Move toward the model's weights: ``shadow = decay * shadow + (1 - decay) * weights``, in one fused pass."""
        weights = dict(model.named_parameters())  # by name: what trains may change during the training
        shadows = [own_part(tensor) for tensor in self.tensors.values()]
        targets = [own_part(weights[name].detach()).to(s.dtype) for name, s in zip(self.tensors, shadows, strict=True)]
        if decay == 0:
            torch._foreach_copy_(shadows, targets)  # pyright: ignore[reportPrivateImportUsage]
        else:
            torch._foreach_lerp_(shadows, targets, 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def outputs(self, model: nn.Module, inputs: Mapping[str, Any]) -> Any:
        """What the model returns with the copy in place of its own weights, without gradient.

        Under FSDP2 the parts are exchanged, because its passes gather from those whatever the module holds.
        """
        if is_sharded_model(model):
            with exchanged(model, self.tensors):
                return model(**inputs)
        return torch.func.functional_call(model, self.weights_like(model), (), dict(inputs))

    def weights_like(self, model: nn.Module) -> dict[str, Tensor]:
        """The copy in the types of the model, as ``torch.func.functional_call`` takes it."""
        weights = dict(model.named_parameters())
        return {name: tensor.to(weights[name].dtype) for name, tensor in self.tensors.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite the copy with saved tensors, or leave it as it is.

        Raises:
            KeyError: a tensor is missing.
            ValueError: a tensor has another shape.
        """
        for name, own in self.tensors.items():
            if tensors[name].shape != own.shape:
                raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(own.shape)}")
        for name, own in self.tensors.items():
            own.copy_(laid_like(tensors[name], own))


def copied(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached copies by name, at least float32, so that differences to them do not round away.

    >>> copied({"w": torch.ones(1, dtype=torch.bfloat16)})["w"].dtype
    torch.float32
    """
    return {
        name: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True) for name, p in parameters.items()
    }


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trainable parameters by name, tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
