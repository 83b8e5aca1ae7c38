"""What a stack does to a training step and to the weights, in words and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from steadytune.core.composition import total_cost
from steadytune.core.cost import PLAIN_STEP, Cost
from steadytune.core.method import Method, WeightMethod


@dataclass(frozen=True)
class MethodExplanation:
    """One method's row: its role, source, settings, cost per step, and what it touches."""

    name: str
    role: str
    paper: str
    settings: Mapping[str, Any]
    cost: Cost
    effect: str


@dataclass(frozen=True)
class Explanation:
    """The whole stack's figures; ``print`` shows them as a table.

    Attributes:
        methods: one entry per method.
        total: cost of one micro-batch with all methods, the plain step included.
        weight_reports: per weight method, how far it moves (or moved) each tensor.
    """

    methods: tuple[MethodExplanation, ...]
    total: Cost
    weight_reports: Mapping[str, Any]

    @property
    def relative_cost(self) -> float:
        """Arithmetic of a step relative to a plain one, e.g. 2.67 for the smoothness regularizer.

        >>> Explanation((), PLAIN_STEP, {}).relative_cost
        1.0
        """
        return self.total.units / PLAIN_STEP.units

    def __str__(self) -> str:
        lines = []
        for m in self.methods:
            changed = ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in m.settings.items())
            lines += [f"{m.name}  ({m.role}; {m.paper})", f"  {m.effect}", f"  settings: {changed}"]
        lines += [
            f"One micro-batch: {self.total.forwards} forward passes with a graph, "
            f"{self.total.forwards_without_graph} without; {self.total.backwards} backward passes to the weights, "
            f"{self.total.backwards_to_embeddings} to the embeddings alone.",
            f"Arithmetic: {self.relative_cost:.2f} x a plain step. Memory: {self.total.weight_copies} more copies of "
            f"the trainable weights, {self.total.activation_sets} more sets of activations.",
        ]
        lines += [str(report) for report in self.weight_reports.values()]
        return "\n".join(lines)


def explain(methods: Sequence[Method], model: nn.Module | None, seed: int, reports: Mapping[str, Any]) -> Explanation:
    """Collect the figures; weight methods that have not run on ``model`` yet are previewed."""
    rows = tuple(MethodExplanation(m.name, m.role, m.paper, m.settings(), m.cost(), m.effect()) for m in methods)
    total = total_cost(methods)
    shown = dict(reports)
    for method in methods:
        if isinstance(method, WeightMethod) and method.name not in shown and model is not None:
            shown[method.name] = method.preview(model, seed)
    return Explanation(rows, total, shown)
