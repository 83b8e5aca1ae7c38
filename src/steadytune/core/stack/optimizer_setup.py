"""Hands the host's optimizer to the methods that change it, and refuses to train where that was forgotten."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.optim.lr_scheduler import LambdaLR

from steadytune.core.authoring.method import OPTIMIZER, OptimizerMethod
from steadytune.core.stack.arguments import require_optimizer, require_total_updates
from steadytune.core.stack.session import Session
from steadytune.errors import HostError


class OptimizerSetup:
    """What one training has made of its optimizer.

    Args:
        methods: the methods that change the optimizer or its schedule.
    """

    def __init__(self, methods: Sequence[OptimizerMethod]) -> None:
        self._methods = methods
        self._schedulers = [m for m in methods if m.schedule(1) is not None]
        self._is_built = self._is_scheduled = False

    def build(self, optimizer: torch.optim.Optimizer, session: Session) -> torch.optim.Optimizer:
        """See `Stack.optimizer`."""
        require_optimizer(optimizer, session.model)
        if self._is_built and self._methods:
            raise HostError(
                f"stack.optimizer() was called before, and {self._methods[0].name} would change the optimizer twice: "
                "call it once after each stack.prepare()."
            )
        for method in sorted(self._methods, key=lambda m: OPTIMIZER not in m.claims):
            optimizer = method.build(optimizer, session.training(method))
        self._is_built = True
        return optimizer

    def schedule(self, optimizer: torch.optim.Optimizer, total: int | None) -> LambdaLR | None:
        """See `Stack.scheduler`."""
        if not self._schedulers:
            return None
        if total is None:
            raise HostError("A learning-rate schedule needs the length of the training: prepare(total_updates=...).")
        require_total_updates(total)
        schedule = self._schedulers[0].schedule(total)
        assert schedule is not None  # it has one for every length
        self._is_scheduled = True
        return LambdaLR(optimizer, schedule)

    def refuse_bare(self) -> None:
        """Refuse to train with an optimizer that a method was to change and has not been given.

        Raises:
            HostError: the optimizer or its scheduler is not the methods'.
        """
        if self._methods and not self._is_built:
            raise HostError(
                f"{self._methods[0].name} changes the optimizer, and has not been given it: after "
                "stack.prepare(model) write `optimizer = stack.optimizer(optimizer)`."
            )
        if self._schedulers and not self._is_scheduled:
            raise HostError(
                f"{self._schedulers[0].name} sets the learning rate, and has no scheduler: write `scheduler = "
                "stack.scheduler(optimizer)` and step it after each update."
            )
