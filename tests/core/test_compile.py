"""torch.compile: perturbations act, the numbers are those of the eager model, and nothing is compiled for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import ranks
from torch import nn
from torch._dynamo.utils import counters

from steadytune.core.stack.stack import Stack
from steadytune.testing import tiny

UPDATES = 4
#: One of each way in which a method touches a pass: both kinds of tap, a teacher, a changed module, moved weights.
pytestmark = pytest.mark.long

SUBJECTS = ["smoothness", "alum", "bregman", "freelb", "mixout", "sam"]


def compiled(network: nn.Module, backend: str) -> nn.Module:
    return torch.compile(network, backend=backend)  # pyright: ignore[reportReturnType]


def compiled_in_place(network: nn.Module, backend: str) -> nn.Module:
    network.compile(backend=backend)
    return network


def plain(network: nn.Module, backend: str) -> nn.Module:
    return network


def train(
    subject: str,
    wrap: Callable[[nn.Module, str], nn.Module],
    *,
    before: bool = False,
    backend: str = "eager",
    updates: int = UPDATES,
) -> tuple[dict[str, torch.Tensor], list[int]]:
    """The weights after a few updates on batches of growing length, and the graphs that there were after each."""
    torch._dynamo.reset()
    counters.clear()
    name, settings = ranks.SUBJECTS[subject]
    network: Any = tiny.model(dtype=torch.float64, problem_type="single_label_classification")
    network.config.problem_type = "single_label_classification"  # else the first pass writes it, and is compiled again
    graphs = []
    with Stack([ranks.METHODS[name](**settings)]) as stack:
        wrapped = wrap(network, backend) if before else network
        stack.prepare(wrapped, total_updates=UPDATES)
        wrapped = wrapped if before else wrap(network, backend)
        optimizer = stack.optimizer(torch.optim.SGD(network.parameters(), lr=0.05))
        for update in range(updates):
            torch.manual_seed(update)
            stack.backward(wrapped, tiny.batch(seed=update, longest=6 + update, padding=update))
            optimizer.step()
            optimizer.zero_grad()
            graphs.append(counters["stats"]["unique_graphs"])
    return tiny.weights(network), graphs


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_compiled_model_trains_as_the_eager_one(subject):
    expected, _ = train(subject, plain)
    found, graphs = train(subject, compiled)
    assert tiny.distance(found, expected) < 1e-12
    assert graphs[0] > 0
    assert graphs[1:] == [graphs[1]] * (UPDATES - 1), "compiled anew after the second update"
    assert graphs[-1] <= 12


@pytest.mark.parametrize(("wrap", "before"), [(compiled, True), (compiled_in_place, False)])
def test_it_does_not_matter_when_and_how_the_model_is_compiled(wrap, before):
    expected, _ = train("smoothness", plain)
    found, graphs = train("smoothness", wrap, before=before)
    assert tiny.distance(found, expected) < 1e-12
    assert graphs[1:] == [graphs[1]] * (UPDATES - 1)


def test_a_compiled_backward_pass_gives_the_same_gradients():
    """``aot_eager`` traces the backward pass as well: the ascent runs through it."""
    expected, _ = train("smoothness", plain, updates=1)
    found, _ = train("smoothness", compiled, backend="aot_eager", updates=1)
    assert tiny.distance(found, expected) < 1e-9
