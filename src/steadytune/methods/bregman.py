"""Bregman proximal point optimization, the second half of SMART (Jiang et al., ACL 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from steadytune.core.authoring import Cost, LossMethod, Masks, PerItem, Step, hyperparameter, thinned
from steadytune.core.state.teacher import Teacher
from steadytune.errors import HostError, MethodError


@dataclass(frozen=True)
class Bregman(LossMethod):
    """D_Breg: how far the output is from that of an average of the weights so far, on clean inputs.

    ``l_s(f(x; theta), f(x; teacher))`` per example (equation 3). With momentum the teacher is an exponential moving
    average of the weights, starting at the weights the training starts from (algorithm 1, line 14); without, it is
    the iterate at the start of the ``inner_steps`` updates (the vanilla form, line 3). With ``every`` the term is
    there in a random part of the updates, weighed so that its expectation is the whole term; the teacher follows all.

    The teacher uses the student's dropout masks by default, so that the term is exactly zero while the two have equal
    weights, as in the paper's algebra. One inner step is one optimizer update, on a batch of its own (line 5).

    Example:
        >>> Bregman(momentum=False, inner_steps=4).teachers()
        (Teacher(beta=0.0, early_beta=0.0, early_fraction=0.0, every=4),)

    Raises:
        MethodError: a setting is out of range, or the term would have no effect.
    """

    name: ClassVar[str] = "bregman"
    summary: ClassVar[str] = "stays near a moving average of its own past"
    paper: ClassVar[str] = "SMART, Jiang et al., ACL 2020, eq. 3"
    strong_settings: ClassVar[Mapping[str, Any]] = {"weight": 5.0}
    variants: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"momentum": False, "inner_steps": 2},
        {"masks": "fresh", "every": 2},
    )

    weight: float = hyperparameter(1.0, "mu, factor in the loss", low=0, high=1000)
    beta: float = hyperparameter(0.999, "decay of the average", low=0, high=0.999999)
    early_beta: float = hyperparameter(0.99, "decay during the first part of training", low=0, high=0.999999)
    early_fraction: float = hyperparameter(0.1, "length of the first part, of all updates", low=0, high=1)
    momentum: bool = hyperparameter(True, "false: compare with the last iterate", choices=(True, False))
    inner_steps: int = hyperparameter(1, "S, updates per step of the teacher", low=1, high=100_000, integer=True)
    masks: Masks = hyperparameter("same", "dropout masks of the teacher's pass", choices=("same", "fresh"))
    every: int = hyperparameter(
        1, "apply the term in 1 of N updates, drawn at random, weighted by N", low=1, high=1000, integer=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        decays = (self.beta, self.early_beta) if self._is_scheduled else (self.beta,)
        copies_at_once = not self.momentum or max(decays) == 0
        if copies_at_once and self.inner_steps == 1:
            raise MethodError(
                "bregman would have no effect: without momentum and with inner_steps=1 the teacher always equals the "
                "student. Set inner_steps to 2 or more, or momentum=True with a beta above 0."
            )

    @property
    def _is_scheduled(self) -> bool:
        return self.early_fraction > 0

    def teachers(self) -> tuple[Teacher, ...]:
        """The average that the term compares with."""
        if not self.momentum:
            return (Teacher(0.0, 0.0, 0.0, self.inner_steps),)
        if not self._is_scheduled:
            return (Teacher(self.beta, self.beta, 0.0, self.inner_steps),)
        return (Teacher(self.beta, self.early_beta, self.early_fraction, self.inner_steps),)

    def term(self, step: Step) -> PerItem:
        """Divergence between the student's and the teacher's output."""
        return thinned(step, self._whole_term, one_in=1, every=self.every)

    def _whole_term(self, step: Step) -> PerItem:
        (teacher,) = self.teachers()
        return step.per_item(step.divergence(step.logits(), step.teacher_logits(teacher, masks=self.masks)))

    def cost(self) -> Cost:
        """One pass of the teacher, without a graph, and a copy of the trainable weights."""
        return Cost(forwards_without_graph=1, weight_copies=1).thinned(one_in=1, every=self.every)

    def effect(self) -> str:
        """One line: what the method touches."""
        if not self.momentum:
            return f"keeps the output near that of the weights {self.inner_steps} updates ago or less"
        return "keeps the output near that of a moving average of the weights"

    def check_host(self, *, total_updates: int | None, precision: torch.dtype) -> None:  # noqa: ARG002 - base signature
        """Refuse a loop that does not say how long it is, which the schedule of beta needs."""
        if total_updates is None and self.teachers()[0].needs_total:
            raise HostError(
                f"bregman switches beta from {self.early_beta:g} to {self.beta:g} after {self.early_fraction:.0%} of "
                "the updates: pass total_updates to stack.prepare(), or set early_fraction=0 for one beta."
            )
