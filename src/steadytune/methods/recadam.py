"""RecAdam: Adam that recalls the pretrained weights, less and less during training (Chen et al., EMNLP 2020)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from steadytune.core.authoring import OPTIMIZER, Cost, OptimizerMethod, Training, hyperparameter
from steadytune.methods.optimizer_groups import adam_groups, require_unused

logger = logging.getLogger("steadytune")


@dataclass(frozen=True)
class RecAdam(OptimizerMethod):
    """Adam on the task, plus a pull back to the pretrained weights that fades out.

    With ``lambda(t) = 1 / (1 + exp(-slope (t - midpoint)))``, ``t`` the steps that a weight has taken, from 1, and
    ``u`` the step of Adam, a pretrained weight moves by ``-lambda(t) u`` and then back by the share
    ``min(1, lr (1 - lambda(t)) anchor_strength)`` of its distance to its pretrained value; other weights move by
    ``-u`` (section 4). The decoupled weight decay of the host's groups follows.

    Example:
        >>> [round(RecAdam(midpoint=100, slope=0.1).task_share(t), 2) for t in (1, 100, 200)]
        [0.0, 0.5, 1.0]
    """

    name: ClassVar[str] = "recadam"
    summary: ClassVar[str] = "Adam that slowly lets go of the pretrained weights"
    paper: ClassVar[str] = "RecAdam, Chen et al., EMNLP 2020, eq. 8"
    claims: ClassVar[frozenset[str]] = frozenset({OPTIMIZER})
    keeps_pretrained: ClassVar[bool] = True
    strong_settings: ClassVar[Mapping[str, Any]] = {"anchor_strength": 20.0, "slope": 1.0, "midpoint": 2.0}
    not_applicable: ClassVar[Mapping[str, str]] = {
        "zero_is_plain": "no setting gives AdamW bit for bit: the annealing always acts, and the decay comes last",
        "lora": "under PEFT no pretrained weight trains, so it is refused",
    }

    anchor_strength: float = hyperparameter(5000.0, "gamma, pull to the pretrained weights", low=0, high=1e6)
    slope: float = hyperparameter(0.5, "k, speed of the annealing, per update", low=0, high=100, low_open=True)
    midpoint: float = hyperparameter(250.0, "t0, update at which task and recall weigh the same", low=0, high=1e7)

    def task_share(self, update: int) -> float:
        """Lambda, the weight of the task, 0 to 1, in the update of this number (from 1)."""
        x = self.slope * (update - self.midpoint)
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

    def build(self, optimizer: torch.optim.Optimizer, training: Training) -> torch.optim.Optimizer:
        """Make the optimizer from the host's groups.

        Raises:
            HostError: the host's optimizer is in use already.
        """
        require_unused(optimizer, self.name)

        def anchor(p: nn.Parameter) -> Tensor | None:
            return training.anchor.get(training.name_of(p) or "")

        return RecAdamOptimizer(adam_groups(optimizer), self, anchor)

    def check_host(self, *, total_updates: int | None, precision: torch.dtype) -> None:  # noqa: ARG002 - base signature
        """Warn where the training ends before the task has half its weight."""
        if total_updates is not None and self.midpoint >= total_updates:
            logger.warning(
                "recadam.midpoint is %g and the training has %d updates: the task would have nearly no weight to the "
                "end. Set midpoint to a third of the updates or less.",
                self.midpoint,
                total_updates,
            )

    def cost(self) -> Cost:
        """A copy of the pretrained weights; two more element-wise operations per weight."""
        return Cost(weight_copies=1)

    def effect(self) -> str:
        """One line: what the method touches."""
        return (
            f"replaces the optimizer by Adam that pulls to the pretrained weights until about update {self.midpoint:g}"
        )


class RecAdamOptimizer(torch.optim.Optimizer):
    """The optimizer of `RecAdam`; its state dict holds the moments alone, not the pretrained weights.

    Args:
        groups: parameter groups with lr, betas, eps and weight_decay.
        method: the settings.
        anchor: gives the pretrained value of a parameter, ``None`` for one that has none.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], method: RecAdam, anchor: Callable[[nn.Parameter], Tensor | None]
    ) -> None:
        self._method, self._anchor, self._has_warned = method, anchor, False
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, group)
        return loss

    def _move(self, p: nn.Parameter, group: dict[str, Any]) -> None:
        update, state, lr = self._adam(p, group), self.state[p], float(group["lr"])
        anchor = self._anchor(p)
        # At least float32, so that a small pull does not round away.
        if anchor is None:
            moved = p.to(update.dtype) - update
        else:
            share = self._method.task_share(state["step"])
            moved = p.to(update.dtype) - share * update
            moved -= self._pull(lr * (1 - share) * self._method.anchor_strength) * (moved - anchor.to(moved.dtype))
        if group["weight_decay"] != 0:
            moved -= lr * group["weight_decay"] * moved
        p.copy_(moved)

    def _adam(self, p: nn.Parameter, group: dict[str, Any]) -> Tensor:
        """Update the moments and return the step of Adam, times the learning rate."""
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        state["step"] += 1
        first, second, gradient = state["exp_avg"], state["exp_avg_sq"], p.grad
        assert gradient is not None  # the caller has looked
        first.mul_(beta1).add_(gradient, alpha=1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        size = float(group["lr"]) * math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
        wide = torch.promote_types(p.dtype, torch.float32)
        return size * first.to(wide) / (second.to(wide).sqrt() + group["eps"])

    def _pull(self, share: float) -> float:
        """The share of the way back to the pretrained weight, at most all of it."""
        if share > 1 and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "recadam: lr * (1 - lambda) * anchor_strength is %.3g, and above 1 the pull would overshoot the "
                "pretrained weights: it is held at 1. Lower the learning rate or anchor_strength.",
                share,
            )
        return min(1.0, share)
