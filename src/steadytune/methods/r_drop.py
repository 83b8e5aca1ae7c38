"""R-Drop: two dropout masks, one answer (Liang et al., NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from steadytune.core.authoring import TASK_LOSS, Cost, LossMethod, PerItem, Step, Training, hyperparameter
from steadytune.errors import HostError
from steadytune.methods.dropout import dropout_setting, has_dropout

_NO_DROPOUT = "two dropout masks are compared, and the check's model has no dropout, which is refused"


@dataclass(frozen=True)
class RDrop(LossMethod):
    """Each batch runs twice with different dropout masks; both passes learn the task and must agree.

    The loss is ``1/2 (CE1 + CE2) + weight * 1/2 * l_s(f1, f2)`` (equation 4, as the authors' README averages it), with
    ``l_s`` the symmetric KL divergence in nats for classification, per label for multi-label heads, and the squared
    difference for regression. The gradient goes through both passes. With ``weight=0`` the disagreement is measured
    and the loss stays ``CE1``.

    Example:
        >>> RDrop(weight=0.5).changed_settings()
        {'weight': 0.5}

    Raises:
        MethodError: a setting is out of range.
    """

    name: ClassVar[str] = "r_drop"
    summary: ClassVar[str] = "two dropout masks give the same answer"
    paper: ClassVar[str] = "R-Drop, Liang et al., NeurIPS 2021, eq. 4"
    claims: ClassVar[frozenset[str]] = frozenset({TASK_LOSS})
    strong_settings: ClassVar[Mapping[str, Any]] = {"weight": 1.0}
    not_applicable: ClassVar[Mapping[str, str]] = {
        "accumulation": _NO_DROPOUT,
        "padding": _NO_DROPOUT,
        "batch_order": _NO_DROPOUT,
    }

    weight: float = hyperparameter(1.0, "alpha, factor of the disagreement; 0 only measures", low=0, high=1000)

    def check_model(self, training: Training) -> None:
        """Refuse a model without dropout, whose two passes would be equal.

        Raises:
            HostError: nothing in the model drops anything.
        """
        if not has_dropout(training.model):
            raise HostError(
                f"r_drop would have no effect: {type(training.model).__name__} has no dropout, so both passes are "
                f"equal. Load the model with a dropout above 0 ({dropout_setting(training.model)}), or leave r_drop "
                "out."
            )

    def term(self, step: Step) -> PerItem:
        """Half the symmetric divergence of the two passes, per item.

        Raises:
            HostError: the model is in evaluation mode, in which nothing is dropped.
        """
        if not step.plain_model.training:
            raise HostError("r_drop would have no effect: the model is in evaluation mode. Call model.train() first.")
        _, second = step.task(masks="fresh")
        return step.per_item(0.5 * step.divergence(step.logits(), second))

    def task_change(self, step: Step) -> Tensor | None:
        """What turns the task loss of the first pass into the mean of both; nothing where it only measures."""
        if self.weight == 0:
            return None
        second, _ = step.task(masks="fresh")
        return 0.5 * (second - step.task_loss)

    def cost(self) -> Cost:
        """One more pass with its backward."""
        return Cost(forwards=1, backwards=1, activation_sets=1)

    def effect(self) -> str:
        """One line: what the method touches."""
        if self.weight == 0:
            return "measures how far the outputs under two dropout masks differ"
        return "trains on two dropout masks of each batch and keeps their outputs the same"
