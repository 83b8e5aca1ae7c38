"""RAdam: Adam whose first steps are held back while its variance is unreliable (Liu et al., ICLR 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from steadytune.core.authoring import OPTIMIZER, OptimizerMethod, Training
from steadytune.methods.optimizer_groups import adam_groups, require_unused


@dataclass(frozen=True)
class RAdam(OptimizerMethod):
    """Rectified Adam: a warm-up that follows from the moments instead of a schedule.

    While fewer than about five steps stand behind the second moment (at ``beta2 = 0.999``), a step is one of SGD with
    momentum; afterwards each step of Adam is multiplied by the rectification ``r_t`` below 1 (algorithm 2). This is
    ``torch.optim.RAdam`` with decoupled weight decay, made from the host's groups.

    Example:
        >>> from steadytune.core.stack.stack import Stack
        >>> model = torch.nn.Linear(2, 2)
        >>> stack = Stack([RAdam()])
        >>> stack.prepare(model)
        >>> type(stack.optimizer(torch.optim.AdamW(model.parameters(), lr=1e-3))).__name__
        'RAdam'
    """

    name: ClassVar[str] = "radam"
    summary: ClassVar[str] = "Adam with a rectified warm-up"
    paper: ClassVar[str] = "Liu et al., ICLR 2020, algorithm 2"
    claims: ClassVar[frozenset[str]] = frozenset({OPTIMIZER})
    not_applicable: ClassVar[Mapping[str, str]] = {
        "zero_is_plain": "it has no strength: rectification is on or the method is not there"
    }

    def build(self, optimizer: torch.optim.Optimizer, training: Training) -> torch.optim.Optimizer:  # noqa: ARG002
        """Make ``torch.optim.RAdam`` from the host's groups.

        Raises:
            HostError: the host's optimizer is in use already.
        """
        require_unused(optimizer, self.name)
        return torch.optim.RAdam(adam_groups(optimizer), decoupled_weight_decay=True)

    def effect(self) -> str:
        """One line: what the method touches."""
        return "replaces the optimizer by Adam whose early steps are held back until its variance is reliable"
