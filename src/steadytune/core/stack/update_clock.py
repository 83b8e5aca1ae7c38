"""Counts optimizer updates: which optimizer is watched, when an update begins, and what happens when it has ended."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from steadytune.core.arithmetic import randomness
from steadytune.core.authoring.method import WeightMethod
from steadytune.core.model.sharding import process_rank
from steadytune.core.stack.finite_watch import FiniteWatch
from steadytune.core.stack.session import Session
from steadytune.errors import HostError

logger = logging.getLogger("steadytune")


@dataclass
class Update:
    """The update that is under way.

    Attributes:
        streams: its random numbers.
        has_begun: whether a first pass has run.
        micro_batches: how many have run.
    """

    streams: randomness.Streams
    has_begun: bool = False
    micro_batches: int = 0


class UpdateClock:
    """Watches an optimizer; each of its steps is one update.

    Args:
        session: the model in training.
        finite: looks at the gradients before a step.
        seed: the stack's seed.
        updates: how many are done.
        total: updates of the whole training, where known.
    """

    def __init__(self, session: Session, finite: FiniteWatch, *, seed: int, updates: int, total: int | None) -> None:
        self.session, self.finite, self.seed = session, finite, seed
        self.updates, self.total = updates, total
        self.optimizer: torch.optim.Optimizer | None = None
        self._hooks: list[Any] = []
        self._counts = True
        self._steps = 0  # of the watched optimizer
        self._is_stepping = False
        self._others: dict[int, int] = {}  # steps of the watched optimizer when another one began its own
        self._needs_every_step = any(not isinstance(m, WeightMethod) for m in session.methods)
        self.begin_update()

    def begin_update(self) -> None:
        """Start the next update: its random numbers follow from its number alone."""
        self.now = Update(randomness.Streams(self._derive_seed, self.seed, self.updates))

    def _derive_seed(self, *parts: int | str) -> int:
        # The process is a part of it: its examples are others, so their noise should be.
        return randomness.derive_seed(self.seed, self.updates, process_rank(), *parts)

    def watch(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Count the steps of this optimizer; ``None`` takes the first that steps the model's parameters."""
        self.unhook()
        if optimizer is not None:
            inner = getattr(optimizer, "optimizer", None)  # Accelerate's wrapper takes no hooks
            optimizer = inner if isinstance(inner, torch.optim.Optimizer) else optimizer
            self.optimizer = optimizer
            before, after = optimizer.register_step_pre_hook, optimizer.register_step_post_hook
        else:
            before, after = register_optimizer_step_pre_hook, register_optimizer_step_post_hook
        self._hooks = [
            before(self._before_any_step),
            after(self._after_any_step),
            register_optimizer_step_pre_hook(self._begin_step),
            register_optimizer_step_post_hook(self._end_step),
        ]

    def unhook(self) -> None:
        """Stop watching; safe to call twice."""
        while self._hooks:
            self._hooks.pop().remove()
        self.optimizer = None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Count no steps in a block: those that a step method makes in the middle of a micro-batch."""
        self._counts = False
        try:
            yield
        finally:
            self._counts = True

    def step_in_between(self, update: Callable[[], None] | None) -> None:
        """Step in the middle of a micro-batch, as the host does or, by default, the watched optimizer.

        Raises:
            HostError: neither is known.
        """
        with self.stopped():
            if update is not None:
                update()
            elif self.optimizer is not None:
                self.optimizer.step()
                self.optimizer.zero_grad()
            else:
                raise HostError("The step method updates weights in the middle of a step: prepare(model, optimizer).")

    def before_step(self, *, scaled: bool = False) -> None:
        """Look at the gradients before they become an update; see `Stack.before_step`."""
        if self._counts:
            self.finite.before_step(self.updates + 1, scaled=scaled)

    def after_update(self) -> None:
        """Count one update, and let everything that follows the weights follow."""
        if not self._counts:
            return
        self.updates += 1
        if self.session.methods and self.total is not None and self.updates == self.total + 1:
            logger.warning(
                "Training continues past the %d updates that were planned (total_updates): everything that depends "
                "on the length of the training was planned for those.",
                self.total,
            )
        self.session.after_update(self.updates, self.total)
        self.begin_update()

    def _is_watched(self, optimizer: torch.optim.Optimizer) -> bool:
        if self.optimizer is None:
            own = {id(p) for p in self.session.model.parameters()}
            if any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
                self.optimizer = optimizer
        return optimizer is self.optimizer

    def _before_any_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # it makes the gradients only later
        if closure is None and self._is_watched(optimizer):
            self.before_step(scaled=getattr(optimizer, "found_inf", None) is not None)

    def _begin_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if optimizer is self.optimizer:
            self._is_stepping = True
        elif self._needs_every_step:
            self._others[id(optimizer)] = self._steps

    def _end_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if optimizer is self.optimizer:
            self._steps += 1
            self._is_stepping = False
            return
        # One around the watched optimizer, such as Lookahead, has let it step; one inside of it steps meanwhile.
        is_related = self._others.pop(id(optimizer), None) != self._steps or self._is_stepping
        if self.optimizer is None or not self._counts or is_related:
            return
        mine = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        if any(id(p) in mine for group in optimizer.param_groups for p in group["params"]):
            raise HostError(
                f"Another optimizer ({type(optimizer).__name__}) has stepped the model's weights, and its steps would "
                f"count as no updates: the stack watches the {type(self.optimizer).__name__} from before. Call "
                "stack.optimizer(optimizer) with the new one, or stack.finish() where the training had ended."
            )

    def _after_any_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if not self._is_watched(optimizer):
            return
        if self._counts and not self.now.has_begun and self.session.follows_steps:
            raise HostError(
                "The optimizer stepped, but the stack never saw the forward pass, so its methods had no effect: write "
                "stack.backward(model, batch) in a loop of your own; in a Trainer pass your loss as "
                "compute_loss_func=..., or let compute_loss call super().compute_loss()."
            )
        self.after_update()
