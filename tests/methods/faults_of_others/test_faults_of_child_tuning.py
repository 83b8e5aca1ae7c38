"""Faults of others, Child-Tuning: our form passes each check, and the faulty form fails it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.faulty_forms import resumes_in_a_plain_loop, shown
from torch.optim import SGD, AdamW, Optimizer

from steadytune import Stack
from steadytune.core.authoring.training import Training
from steadytune.methods import child_tuning as child_file
from steadytune.methods.child_tuning import ChildTuning
from steadytune.methods.fisher import fisher_information, largest


class ChoosesAgain(ChildTuning):
    """Looks at the data on every start."""

    def build(self, optimizer: Optimizer, training: Training) -> Optimizer:
        return super().build(optimizer, replace(training, resumed=False))


def test_child_tuning_keeps_its_child_over_a_resume() -> None:
    """The released code computes the mask on every start, so a resumed run trains other weights."""
    shown(
        resumes_in_a_plain_loop,
        lambda: [ChildTuning(variant="D")],
        lambda: [ChoosesAgain(variant="D")],
        "resumed run is another",
    )


class MasksGradientsAlone(ChildTuning):
    """Chooses the child and masks gradients, and leaves weight decay to the optimizer."""

    def build(self, optimizer: Optimizer, training: Training) -> Optimizer:
        names = child_file._in_layers(training)
        training.tensors.update(largest(fisher_information(training, names, self.name), self.share))

        def mask(*_: Any) -> None:
            for name, kept in training.tensors.items():
                p = training.parameters()[name]
                p.grad = p.grad * kept

        training.cleanup.append(optimizer.register_step_pre_hook(mask).remove)
        return optimizer


def child_tuning_leaves_the_rest(form: ChildTuning, build: Callable[..., Optimizer]) -> None:
    """What is outside the child keeps every bit under weight decay, and the child does not."""
    network, given = tiny.bert(), tiny.batch()
    before = tiny.weights(network)
    with Stack([form]) as stack:
        stack.prepare(network, batches=[given])
        optimizer = stack.optimizer(build(network.parameters(), lr=1e-2, weight_decay=0.1))
        child = {name: kept.clone() for name, kept in stack._session.tensors["child_tuning"].items()}
        for _ in range(3):
            stack.backward(network, given)
            optimizer.step()
            optimizer.zero_grad()
    assert len(child) > 20
    for name, kept in child.items():
        moved = network.get_parameter(name).detach() != before[name]
        assert not bool((moved & ~kept).any()), "weights outside the child moved"
        assert not bool(kept.any()) or bool(moved.any())


@pytest.mark.parametrize("build", [AdamW, torch.optim.Adam, SGD])
def test_weight_decay_does_not_move_what_child_tuning_masks(build: Callable[..., Optimizer]) -> None:
    """The released code masks gradients, and weight decay still moves every weight."""
    shown(
        lambda form: child_tuning_leaves_the_rest(form, build),
        ChildTuning(variant="D"),
        MasksGradientsAlone(variant="D"),
        "outside the child moved",
    )
