"""Gradual unfreezing: the head trains first, then one more layer at a time from the top (Howard & Ruder, ACL 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from steadytune.core.authoring import TRAINABLE, Attachment, ModelMethod, Training, hyperparameter
from steadytune.core.model.layers import depths, layer_lists
from steadytune.errors import HostError
from steadytune.methods.freeze import require_gradients_to_flow


@dataclass(frozen=True)
class GradualUnfreezing(ModelMethod):
    """At first only the head and the pooler train; layers join from the top at equal intervals, the embeddings last.

    With T updates and n layers, group ``j`` (0 for the top layer, n for the embeddings) trains from update
    ``ceil((j + 1) * until * T / (n + 1))`` on, counted from 0; everything trains after ``until`` of the training.

    Example:
        >>> [GradualUnfreezing(until=0.5).first_update(depth, layers=2, total_updates=12) for depth in (3, 2, 1, 0)]
        [0, 2, 4, 6]
    """

    name: ClassVar[str] = "gradual_unfreezing"
    summary: ClassVar[str] = "layers join the training one by one from the top"
    paper: ClassVar[str] = "ULMFiT, Howard & Ruder, ACL 2018, section 3.3"
    claims: ClassVar[frozenset[str]] = frozenset({TRAINABLE})
    leaves_weights_out: ClassVar[bool] = True
    off_settings: ClassVar[Mapping[str, Any]] = {"until": 0.0}
    strong_settings: ClassVar[Mapping[str, Any]] = {"until": 0.5}
    not_applicable: ClassVar[Mapping[str, str]] = {
        "memory_is_counted": "it only saves memory at first: what is frozen has neither gradients nor moments"
    }

    until: float = hyperparameter(1 / 3, "share of the updates after which everything trains", low=0, high=1)

    def first_update(self, depth: int, *, layers: int, total_updates: int) -> int:
        """The first update, from 0, in which parameters of this depth train."""
        group = max(layers - depth, -1)  # above the layers: -1, from the start
        return math.ceil((group + 1) * self.until * total_updates / (layers + 1) - 1e-9)

    def check_model(self, training: Training) -> None:
        """Refuse a model in which nothing could train at first."""
        layers = _layers(training)
        if not any(depth > layers and name in training.trainable for name, depth in depths(training.model).items()):
            raise HostError(
                f"gradual_unfreezing begins with what lies above the layers, and nothing there trains in "
                f"{type(training.model).__name__}: use a model with a head, or freeze(layers=...)."
            )

    def check_host(self, *, total_updates: int | None, precision: torch.dtype) -> None:  # noqa: ARG002 - base signature
        """Refuse a loop that does not say how long it is."""
        _known(total_updates)

    def attach(self, training: Training) -> Attachment:
        """Nothing is frozen before the first update: the host's optimizer must hold every weight."""
        return _Unfreezing(training, self)

    def effect(self) -> str:
        """One line: what the method touches."""
        return f"trains the head first, then one more layer at a time, and everything after {self.until:.0%} of it"


class _Unfreezing(Attachment):
    steers_updates = True

    def __init__(self, training: Training, method: GradualUnfreezing) -> None:
        self._training, self._method = training, method
        self._layers, self._depths, self._is_checked = _layers(training), depths(training.model), False

    def before_update(self, update: int, total_updates: int | None) -> None:
        """Freeze what is not due yet; what is frozen has no gradient, so that no decay moves it either."""
        total = _known(total_updates)
        if not self._is_checked and self._method.until > 0:
            require_gradients_to_flow(self._training.model, self._method.name)
        self._is_checked = True
        for name, p in self._training.parameters().items():
            if name in self._training.trainable:
                first = self._method.first_update(self._depths[name], layers=self._layers, total_updates=total)
                p.requires_grad_(update >= first)
                if update < first:
                    p.grad = None

    def detach(self) -> None:
        """Let everything train again."""
        for name, p in self._training.parameters().items():
            if name in self._training.trainable:
                p.requires_grad_(True)


def _layers(training: Training) -> int:
    return max(len(module) for _, module in layer_lists(training.model))


def _known(total_updates: int | None) -> int:
    if total_updates is None:
        raise HostError(
            "gradual_unfreezing divides the training among the layers and must know its length: "
            "pass total_updates to stack.prepare()."
        )
    return total_updates
