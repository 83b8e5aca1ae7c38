"""What a stack does to a training step and to the weights, in words and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from steadytune.core.authoring.cost import PLAIN_STEP, Cost
from steadytune.core.authoring.method import Method, WeightMethod
from steadytune.core.stack.composition import total_cost


@dataclass(frozen=True)
class MethodExplanation:
    """One method's row: its role, source, settings, cost per step, and what it touches."""

    name: str
    role: str
    paper: str
    settings: Mapping[str, Any]
    cost: Cost
    effect: str

    def __str__(self) -> str:
        settings = ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in self.settings.items())
        return "\n".join(
            (
                f"{self.name}  ({self.role}; {self.paper})",
                f"  {self.effect}",
                f"  settings: {settings}",
                f"  a step with it alone: {in_words(PLAIN_STEP + self.cost)}",
            )
        )


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

    def totals(self) -> str:
        """Passes, arithmetic and memory of a step, in three lines.

        >>> print(Explanation((), PLAIN_STEP, {}).totals().splitlines()[1])
        Arithmetic: 1.00 x a plain step.
        """
        total = self.total
        doubled = total.backwards_through_gradients
        through = f", {doubled:.3g} through a gradient" if doubled else ""
        return (
            f"One micro-batch: {_passes(total.forwards, 'forward')} with a graph, {total.forwards_without_graph:.3g} "
            f"without; {_passes(total.backwards, 'backward')} to the weights, {total.backwards_to_embeddings:.3g} to "
            f"the embeddings alone{through}.\nArithmetic: {self.relative_cost:.2f} x a plain step.\n"
            f"Memory: {_count(total.weight_copies, 'more copy', 'more copies')} of the trainable weights, "
            f"{_count(total.activation_sets, 'more set', 'more sets')} of activations."
        )

    def __str__(self) -> str:
        lines = [*map(str, self.methods), self.totals()]
        lines += [str(report) for report in self.weight_reports.values()]
        return "\n".join(lines)


def explain(
    methods: Sequence[Method],
    model: nn.Module | None,
    seed: int,
    reports: Mapping[str, Any],
    *,
    low_memory: bool = False,
) -> Explanation:
    """Collect the figures; weight methods that have not run on ``model`` yet are previewed."""
    costs = {m.name: total_cost([m], low_memory=low_memory) - PLAIN_STEP for m in methods}
    rows = tuple(MethodExplanation(m.name, m.role, m.paper, m.settings(), costs[m.name], m.effect()) for m in methods)
    total = total_cost(methods, low_memory=low_memory)
    shown = dict(reports)
    for method in methods:
        if isinstance(method, WeightMethod) and method.name not in shown and model is not None:
            shown[method.name] = method.preview(model, seed)
    return Explanation(rows, total, shown)


def in_words(total: Cost) -> str:
    """The cost of a step in a few words.

    >>> in_words(PLAIN_STEP)
    '1.00 x a plain step'
    """
    words = [f"{total.units / PLAIN_STEP.units:.2f} x a plain step"]
    if total.weight_copies:
        words.append(f"{_count(total.weight_copies, 'copy', 'copies')} of the weights")
    if total.activation_sets:
        words.append(f"{_count(total.activation_sets, 'more set', 'more sets')} of activations")
    return ", ".join(words)


def _passes(count: float, kind: str) -> str:
    return f"{count:.3g} {kind} pass" + ("" if count == 1 else "es")


def _count(number: float, one: str, many: str) -> str:
    return f"{number:.3g} {one if number == 1 else many}"
