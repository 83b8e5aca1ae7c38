"""Freezing: the embeddings and the lowest layers stay as they were pretrained (Lee et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from steadytune.core.authoring import TRAINABLE, Attachment, ModelMethod, Training, hyperparameter
from steadytune.core.model.layers import depths, layer_lists
from steadytune.errors import HostError


@dataclass(frozen=True)
class Freeze(ModelMethod):
    """The embeddings and the ``layers`` lowest transformer layers do not train.

    They keep their dropout. In an encoder-decoder both halves count from their own bottom.

    Example:
        >>> print(Freeze(layers=2).effect())
        keeps the 2 lowest layers and the embeddings as they are
    """

    name: ClassVar[str] = "freeze"
    summary: ClassVar[str] = "keeps the embeddings and the lowest layers as they are"
    paper: ClassVar[str] = "Lee et al., 2019, arXiv:1911.03090"
    claims: ClassVar[frozenset[str]] = frozenset({TRAINABLE})
    #: Attaches first, so that no average is kept of what is frozen; it has nothing to do at the end.
    finishes: ClassVar[int] = -1
    off_settings: ClassVar[Mapping[str, Any]] = {"layers": 0, "embeddings": False}
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({"layers": 2, "embeddings": False},)
    not_applicable: ClassVar[Mapping[str, str]] = {
        "memory_is_counted": "it only saves memory: what is frozen has neither gradients nor moments"
    }

    layers: int = hyperparameter(1, "transformer layers to freeze, from the bottom", low=0, high=1000, integer=True)
    embeddings: bool = hyperparameter(True, "freeze the embeddings", choices=(True, False))

    def frozen(self, training: Training) -> list[str]:
        """Names of the parameters that would train and are to be frozen."""
        found = depths(training.model).items()
        return [name for name, depth in found if name in training.trainable and self._is_in(depth)]

    def _is_in(self, depth: int) -> bool:
        return self.embeddings if depth == 0 else depth <= self.layers

    def check_model(self, training: Training) -> None:
        """Refuse settings that freeze more layers than there are, nothing, or everything."""
        model = type(training.model).__name__
        count = max(len(module) for _, module in layer_lists(training.model))
        if self.layers > count:
            raise HostError(f"freeze.layers is {self.layers}, and {model} has {count} layers.")
        frozen = self.frozen(training)
        if not frozen and (self.layers > 0 or self.embeddings):
            raise HostError(f"freeze would have no effect: what it would freeze in {model} does not train anyway.")
        renewed = sorted(name for name in frozen if name not in training.pretrained)
        if renewed and hasattr(training.model, "base_model") and not hasattr(training.model, "peft_config"):
            raise HostError(f"freeze would freeze {renewed[0]}, which reinit re-initializes: freeze fewer layers.")
        if training.trainable and training.trainable <= set(frozen):
            raise HostError(f"freeze would leave nothing of {model} to train: lower freeze.layers.")

    def attach(self, training: Training) -> Attachment:
        """Take the gradient away until training ends."""
        return _Frozen(training, self.frozen(training))

    def effect(self) -> str:
        """One line: what the method touches."""
        layers = {0: [], 1: ["the lowest layer"]}.get(self.layers, [f"the {self.layers} lowest layers"])
        parts = layers + (["the embeddings"] if self.embeddings else [])
        return f"keeps {' and '.join(parts) or 'nothing'} as they are"


class _Frozen(Attachment):
    def __init__(self, training: Training, names: list[str]) -> None:
        self._training, self._names, self._is_checked = training, names, False
        training.cleanup.append(self.detach)
        for p in self._parameters():
            p.requires_grad_(False)
            p.grad = None  # one that is left over would still move it

    def _parameters(self) -> list[nn.Parameter]:
        """Looked up by name: FSDP2 makes new ones when it wraps the model."""
        by_name = self._training.parameters()
        return [by_name[name] for name in self._names]

    def before_update(self, update: int, total_updates: int | None) -> None:  # noqa: ARG002 - base signature
        """Check once, when the host has set the model up."""
        if self._names and not self._is_checked:
            require_gradients_to_flow(self._training.model, "freeze")
            self._is_checked = True

    def detach(self) -> None:
        """Let everything train again."""
        for p in self._parameters():
            p.requires_grad_(True)


def require_gradients_to_flow(model: nn.Module, method: str) -> None:
    """Refuse reentrant checkpointing over frozen embeddings: every layer would silently get no gradient.

    Args:
        model: the model, as it is about to train.
        method: the name of the method, for the message.

    Raises:
        HostError: that is what the model does.
    """
    if getattr(model, "_require_grads_hook", None) is not None or getattr(model, "_require_grads_hooks", None):
        return
    for module in model.modules():
        settings = getattr(getattr(module, "_gradient_checkpointing_func", None), "keywords", {})
        if getattr(module, "gradient_checkpointing", False) and settings.get("use_reentrant", False):
            raise HostError(
                f"Under reentrant gradient checkpointing no gradient passes a frozen part, so {method} would stop the "
                "layers above too: set gradient_checkpointing_kwargs={'use_reentrant': False}."
            )
