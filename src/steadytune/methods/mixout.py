"""Mixout: in each training pass, random weights are the pretrained ones again (Lee et al., ICLR 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from steadytune.core.authoring import Attachment, Cost, ModelMethod, Training, hyperparameter
from steadytune.core.model.copying import PlainWhenCopied
from steadytune.core.model.sharding import whole
from steadytune.errors import HostError


@dataclass(frozen=True)
class Mixout(ModelMethod):
    """Dropout toward the pretrained weights: ``((M W + (1 - M) W0) - p W0) / (1 - p)`` in place of each W.

    A new ``M`` is drawn for each weight matrix in each forward pass, entry by entry, 1 with probability ``1 - p``, so
    that the mean over masks is W (equation 5). It acts on the weight matrices of the pretrained ``nn.Linear`` modules,
    in training mode alone; biases, embeddings and a new head are not mixed.

    Example:
        >>> Mixout(probability=0.9).changed_settings()
        {'probability': 0.9}

    Raises:
        MethodError: a setting is out of range.
        HostError: the model has no pretrained linear module that trains.
    """

    name: ClassVar[str] = "mixout"
    summary: ClassVar[str] = "resets random weights to the pretrained ones, like dropout"
    paper: ClassVar[str] = "Lee et al., ICLR 2020, eq. 5"
    keeps_pretrained: ClassVar[bool] = True
    off_settings: ClassVar[Mapping[str, Any]] = {"probability": 0.0}
    not_applicable: ClassVar[Mapping[str, str]] = {
        "accumulation": "each forward pass draws its own mask, as dropout does, so a micro-batch has one of its own",
        "host_randomness": "the masks come from the host's random numbers, as those of dropout do",
        "lora": "under PEFT the pretrained weights are frozen, so there is nothing to mix; it is refused",
    }

    probability: float = hyperparameter(0.7, "p, share of the weights that are the pretrained ones", low=0, high=0.99)

    def check_model(self, training: Training) -> None:
        """Refuse a model of which nothing would be mixed.

        Raises:
            HostError: the model has no pretrained linear module that trains.
        """
        if not _mixable(training):
            raise HostError(
                f"mixout would have no effect: {type(training.model).__name__} has no pretrained nn.Linear module "
                "that trains (GPT-2 uses Conv1D, for one). Leave it out; l2_sp pulls weights of every kind."
            )

    def attach(self, training: Training) -> Attachment:
        """Let the pretrained linear modules mix their weights."""
        return _Mixing(training, self.probability)

    def cost(self) -> Cost:
        """No further pass; a copy of the pretrained weights."""
        return Cost(weight_copies=1)

    def effect(self) -> str:
        """One line: what the method touches."""
        return f"sets {self.probability:.0%} of the pretrained weights back to their old values, at random, per pass"


class MixedLinear(PlainWhenCopied, nn.Linear):
    """An ``nn.Linear`` that mixes its weight in training mode; a module becomes one by a change of its class."""

    plain: ClassVar[type[nn.Module]] = nn.Linear
    own: ClassVar[tuple[str, ...]] = ("pretrained", "probability")
    pretrained: Tensor
    probability: float

    def forward(self, input: Tensor) -> Tensor:
        """The linear map with the mixed weight ``(out, in)``."""
        if not self.training or self.probability == 0:
            return super().forward(input)
        keep = draw_mask(self.weight, self.probability).bool()

        def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return functional.linear(x, mixed(weight, self.pretrained, keep, self.probability), bias)

        # The backward pass computes the mixed weight again: else a copy of all weights would wait for it.
        return checkpoint(linear, input, self.weight, self.bias, use_reentrant=False, preserve_rng_state=False)


def mixed(weight: Tensor, pretrained: Tensor, keep: Tensor, probability: float) -> Tensor:
    """The mixed weight in the type of ``weight``, computed in at least float32.

    ``W0 + M (W - W0) / (1 - p)`` is equation 5, reordered; its gradient to W is ``M / (1 - p)``.

    >>> mixed(torch.tensor([3.0, 3.0]), torch.tensor([1.0, 1.0]), torch.tensor([True, False]), 0.5)
    tensor([5., 1.])
    """
    anchor = pretrained.to(weight.device)
    return (anchor + torch.where(keep, weight - anchor, 0.0) / (1 - probability)).to(weight.dtype)


def draw_mask(weight: Tensor, probability: float) -> Tensor:
    """1 where the current weight is kept, 0 where the pretrained one is taken; from the host's random numbers."""
    return torch.empty_like(weight, requires_grad=False).bernoulli_(1 - probability)


def _mixable(training: Training) -> dict[str, nn.Linear]:
    """The modules to mix by the name of their weight; one whose ``forward`` was replaced would not feel it."""
    return {
        f"{name}.weight".removeprefix("."): module
        for name, module in training.model.named_modules()
        if type(module) is nn.Linear
        and f"{name}.weight".removeprefix(".") in training.anchor
        and "forward" not in vars(module)
    }


class _Mixing(Attachment):
    """The swapped classes. The pretrained weights are plain attributes: as buffers, DDP would send them every pass."""

    def __init__(self, training: Training, probability: float) -> None:
        self.anchor = training.anchor
        self._taken: dict[str, Tensor] = {}
        self.modules = _mixable(training)
        training.cleanup.append(self.detach)
        for name, module in self.modules.items():
            module.__class__ = MixedLinear
            vars(module).update(pretrained=self.anchor[name], probability=probability)

    def before_update(self, update: int, total_updates: int | None) -> None:  # noqa: ARG002 - base signature
        """Reread the pretrained weights: loading a checkpoint has replaced them."""
        for name, module in self.modules.items():
            if self._taken.get(name) is not self.anchor[name]:
                self._taken[name] = self.anchor[name]
                # A pass has the full weight at hand under FSDP2 too, and needs the full pretrained one.
                vars(module)["pretrained"] = whole(self.anchor[name])

    def detach(self) -> None:
        """Make the modules plain again."""
        for module in self.modules.values():
            module.__class__ = nn.Linear
            for name in ("pretrained", "probability"):
                vars(module).pop(name, None)
        self.modules = {}
