"""Layer-wise learning-rate decay: the lower a layer, the smaller its steps (Howard & Ruder, ACL 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from steadytune.core.authoring import OptimizerMethod, Training, hyperparameter
from steadytune.core.model.layers import depths, layer_lists
from steadytune.errors import HostError
from steadytune.methods.optimizer_groups import require_unused


@dataclass(frozen=True)
class LayerwiseDecay(OptimizerMethod):
    """Gives each layer the learning rate of the layer above it times ``factor``.

    The head, the pooler and whatever lies above the layers keep the host's rate; layer ``i`` of ``n`` (``n`` on top)
    has ``lr * factor ** (n + 1 - i)`` and the embeddings ``lr * factor ** (n + 1)``. Each of the host's groups is
    split by depth and keeps its weight decay and everything else.

    Example:
        >>> LayerwiseDecay(factor=0.5).rate(1.0, depth=0, layers=2)
        0.125
    """

    name: ClassVar[str] = "layerwise_decay"
    summary: ClassVar[str] = "smaller learning rates for lower layers"
    paper: ClassVar[str] = "Howard & Ruder, ACL 2018, section 3.2; Zhang et al., ICLR 2021"
    off_settings: ClassVar[Mapping[str, Any]] = {"factor": 1.0}
    strong_settings: ClassVar[Mapping[str, Any]] = {"factor": 0.5}

    factor: float = hyperparameter(0.95, "learning rate of a layer relative to the next", low=0, high=1, low_open=True)

    def rate(self, lr: Any, *, depth: int, layers: int) -> Any:
        """The learning rate at a depth: 0 for embeddings, 1 to ``layers`` from the bottom up, more above."""
        return lr * self.factor ** (layers + 1 - depth)

    def check_model(self, training: Training) -> None:
        """Refuse a model whose layers cannot be told apart."""
        if _layers(training) < 2:
            raise HostError(
                f"layerwise_decay has nothing to grade in {type(training.model).__name__}: it has one layer, or one "
                "that is shared. Leave it out, or lower the learning rate."
            )

    def build(self, optimizer: torch.optim.Optimizer, training: Training) -> torch.optim.Optimizer:
        """Split the groups of the host's optimizer by depth, in place, the head's first.

        Raises:
            HostError: the optimizer is in use already.
        """
        require_unused(optimizer, self.name)
        layers, by_name = _layers(training), depths(training.model)
        depth = {p: by_name[name] for name, p in training.parameters().items()}
        split = []
        for group in optimizer.param_groups:
            settings = {name: value for name, value in group.items() if name not in ("params", "param_names")}
            # What is not of the model counts as above the layers.
            for at in sorted({depth.get(p, layers + 1) for p in group["params"]}, reverse=True):
                members = [p for p in group["params"] if depth.get(p, layers + 1) == at]
                split.append({**settings, "params": members, "lr": self.rate(group["lr"], depth=at, layers=layers)})
        optimizer.param_groups[:] = split
        return optimizer

    def effect(self) -> str:
        """One line: what the method touches."""
        return f"multiplies the learning rate by {self.factor:g} per layer, from the head down to the embeddings"


def _layers(training: Training) -> int:
    return max(len(module) for _, module in layer_lists(training.model))
