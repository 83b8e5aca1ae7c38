"""``memory="low"``: the gradient of a step with one graph at a time, so that the activations of one pass suffice.

A term compares the clean output with that of another pass, so two graphs are alive together. Here the clean pass runs
twice. First without a graph: each term gets its outputs as a leaf and runs its own backward pass at once, which leaves
in the leaf what the term asks of the clean output. Then with a graph, on the same dropout masks: the gradient of the
task loss and the collected one go through it together. The numbers are those of one backward pass, for the price of
one forward pass more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from steadytune.core.arithmetic.randomness import RandomState, replayed, require_replay
from steadytune.core.authoring.method import LossMethod
from steadytune.core.authoring.step import Step
from steadytune.core.model.wrappers import gradients_not_exchanged
from steadytune.errors import HostError, MethodError

#: ``"full"`` keeps the graphs of all passes for one backward pass; ``"low"`` runs one for each graph.
Memory = Literal["full", "low"]


def checked(memory: str) -> Memory:
    """The value, if it is one.

    Raises:
        MethodError: it is not.

    >>> checked("low")
    'low'
    """
    for known in get_args(Memory):
        if memory == known:
            return known
    raise MethodError(f"memory must be 'full' or 'low'; got {memory!r}.")


def parts_of(methods: Sequence[LossMethod]) -> list[tuple[LossMethod, ...]]:
    """The terms of a step in groups of which each keeps one graph; empty where no term has a graph of its own.

    >>> from steadytune import bregman, r3f, smoothness
    >>> [[m.name for m in part] for part in parts_of([smoothness(), bregman(), r3f()])]
    [['smoothness', 'bregman'], ['r3f']]
    >>> parts_of([bregman()])
    []
    """
    graphs = [m for m in methods if m.cost().activation_sets > 0]
    others = tuple(m for m in methods if m not in graphs)
    return [(m, *others) if i == 0 else (m,) for i, m in enumerate(graphs)]


@dataclass
class SplitStep:
    """One micro-batch, each part of it a backward pass: the groups of terms, then the clean pass.

    Attributes:
        groups: as `parts_of` makes them.
        now: number of the part that runs; ``len(groups)`` is the clean pass.
        task: the host's loss and outputs, without a graph, for the groups after the first.
        step: what the terms ask; its clean outputs and its task loss are leaves.
        loss: of the group that runs, as the stack has returned it to the host.
        value: of all terms so far, with their weights.
    """

    groups: Sequence[tuple[LossMethod, ...]]
    now: int = 0
    task: tuple[Tensor, Any] | None = None
    step: Step | None = None
    loss: Tensor | None = None
    value: Tensor | None = None
    leaves: tuple[Tensor, ...] = field(default=(), repr=False)

    @property
    def is_clean(self) -> bool:
        """Whether the terms are done, and the clean pass runs with its graph."""
        return self.now == len(self.groups)

    def begin(self, step: Step, outputs: Any) -> None:
        """Let the terms see the clean pass as leaves, which collect what they ask of it."""
        self.task = (step.task_loss, outputs)
        step.clean_logits = step.clean_logits.detach().requires_grad_()
        step.task_loss = step.task_loss.detach().requires_grad_()
        self.step, self.leaves = step, (step.clean_logits, step.task_loss)

    def collect(self, total: Tensor, share: float) -> Tensor:
        """Note the value of a group, and return its loss, which has a gradient even where no term of it has."""
        value = total.detach()
        self.value = value if self.value is None else self.value + value
        self.loss = (total + 0.0 * self.leaves[1]) * share
        return self.loss

    def own_share(self, loss: Tensor) -> Tensor:
        """Return the terms' part of a loss that a host has computed from the stack's.

        What else is in it, such as a penalty of the host's own, comes with the clean pass.

        Raises:
            HostError: it was not made of that.
        """
        if self.loss is None or loss is self.loss:
            return loss
        (factor,) = torch.autograd.grad(loss, self.loss, retain_graph=True, allow_unused=True)
        if factor is None:
            raise HostError("memory='low': compute_loss returned a loss without the terms of the methods in it.")
        return self.loss * factor


class LowMemory:
    """Runs the micro-batches of a stack in parts.

    Args:
        methods: the loss methods, or none where all graphs are kept for one backward pass.
    """

    def __init__(self, methods: Sequence[LossMethod]) -> None:
        self.groups = parts_of(methods)
        self.step: SplitStep | None = None
        self._repeats = False

    def run(self, run: Callable[[], Tensor], *, model: nn.Module | None, device: torch.device) -> Tensor:
        """Run all parts of a micro-batch through the host, and return the loss of the whole.

        Args:
            run: the host's forward and backward pass.
            model: as the host runs it; DDP then exchanges gradients once, in the clean pass.
            device: of the random numbers.
        """
        require_replay(device)
        state = RandomState.capture(device)
        step = self.step = SplitStep(self.groups)
        try:
            for step.now in range(len(self.groups)):
                with ExitStack() as around:
                    if step.now > 0:
                        around.enter_context(replayed(state))
                    if model is not None:
                        around.enter_context(gradients_not_exchanged(model))
                    run()
                    step.loss = None
            step.now, step.task = len(self.groups), None
            with replayed(state):
                return run()
        finally:
            self.step = None

    def refuse_own_backward(self) -> None:
        """Refuse a loop that runs the backward pass itself.

        Raises:
            HostError: it does.
        """
        if self.groups and self.step is None:
            raise HostError(
                "memory='low' runs the backward passes itself: write `stack.backward(model, batch)` in place of "
                "`stack.loss(model, batch).backward()` or stack.add_terms(), or use memory='full'."
            )

    def join(self, logits: Tensor, task_loss: Tensor, *, with_task: bool, share: float) -> Tensor:
        """The loss of the clean pass: its backward pass takes along what the terms have collected.

        Args:
            logits: of the clean pass, with its graph.
            task_loss: the same.
            with_task: whether the task loss itself counts.
            share: factor of the loss.

        Raises:
            HostError: the clean pass gave other outputs when it ran again.
        """
        assert self.step is not None and self.step.value is not None  # noqa: PT018 - the terms have run
        first, first_loss = self.step.leaves
        if not self._repeats and not _are_close(logits, first):
            raise HostError(
                "memory='low' runs the clean pass twice, and the second time it gave other outputs: something in the "
                "model is random beyond torch's generators, or a compiled pass draws otherwise without a graph. Use "
                "memory='full'."
            )
        self._repeats = True  # to look again would wait for the device in every step
        value = self.step.value.to(task_loss.device)
        terms: Any = _Collected.apply(logits, task_loss, value, first.grad, first_loss.grad)
        total = task_loss + terms if with_task else terms
        return total * share if share != 1 else total


class _Collected(torch.autograd.Function):
    """The value of the terms; its backward pass hands on gradients that are known, and scaled as the host scales."""

    @staticmethod
    def forward(ctx: Any, _logits: Tensor, _task_loss: Tensor, value: Tensor, *known: Tensor | None) -> Tensor:
        ctx.known = known
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
        to_logits, to_task_loss = ctx.known
        return to_logits, to_task_loss, None, None, None


def _are_close(found: Tensor, expected: Tensor) -> bool:
    """Whether two outputs of a pass differ by rounding alone, be it of 16 bits; other dropout masks do more."""
    apart = torch.linalg.vector_norm(found.detach() - expected.detach(), dtype=torch.float64)
    size = torch.linalg.vector_norm(expected.detach(), dtype=torch.float64)
    return not bool(apart > 0.05 * size)
