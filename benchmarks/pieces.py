"""How long each kind of pass takes by itself, and what an update would take that did nothing but its passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.counting import BACKWARD, FORWARD, TO_EMBEDDINGS, WITHOUT_GRAPH
from benchmarks.training import Plain

OPTIMIZER = "optimizer"
#: Calls whose name begins so are pieces, not loops.
MARK = "piece: "


def calls(loop: Plain) -> dict[str, Callable[[], object]]:
    """What to time, by name: a backward pass only together with its forward pass, of which it is the rest."""

    def forward() -> Tensor:
        with loop.setting.autocast():
            return loop.model(**loop.batch).loss

    def forward_and_backward() -> None:
        forward().backward()

    def forward_and_backward_to_embeddings() -> None:
        found: list[Tensor] = []

        def keep(_module: Any, _inputs: object, output: Tensor) -> Tensor:
            found.append(output.detach().requires_grad_())
            return found[0]

        model: Any = loop.model
        handle = model.get_input_embeddings().register_forward_hook(keep)
        loss = forward()
        handle.remove()
        torch.autograd.grad(loss, found[0])

    loop.update()  # the optimizer has its moments from here on
    forward_and_backward()  # and finds gradients
    return {
        MARK + FORWARD: forward,
        MARK + WITHOUT_GRAPH: torch.no_grad()(forward),
        MARK + BACKWARD: forward_and_backward,
        MARK + TO_EMBEDDINGS: forward_and_backward_to_embeddings,
        MARK + OPTIMIZER: loop.optimizer.step,
    }


def seconds_alone(taken: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Of each round, the seconds of each kind of pass, and of the optimizer's step."""
    names: tuple[str, ...] = (FORWARD, WITHOUT_GRAPH, BACKWARD, TO_EMBEDDINGS, OPTIMIZER)
    each = zip(*(taken[MARK + name] for name in names), strict=True)
    rounds: list[dict[str, float]] = [dict(zip(names, some, strict=True)) for some in each]
    for one in rounds:
        for name in (BACKWARD, TO_EMBEDDINGS):
            one[name] -= one[FORWARD]
    return rounds


def sums(alone: Sequence[Mapping[str, float]], passes: Mapping[str, float]) -> list[float]:
    """Of each round, the seconds of these passes and one step of the optimizer.

    >>> sums([{"forwards": 1.0, "backwards": 2.0, "optimizer": 0.5}], {"forwards": 2, "backwards": 1})
    [4.5]
    """
    return [one[OPTIMIZER] + sum(one[name] * count for name, count in passes.items()) for one in alone]
