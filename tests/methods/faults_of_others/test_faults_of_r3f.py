"""Faults of others, R3F: our form passes each check, and the faulty form fails it."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny
from helpers.faulty_forms import ROUNDING, at_all_positions, double, gradients_with, shown, tagger, tags
from torch import Tensor, nn

from steadytune import Stack
from steadytune.core.authoring.method import Method
from steadytune.core.authoring.per_item import PerItem
from steadytune.core.authoring.step import Step
from steadytune.methods.r3f import R3F


class SumsAllPositions(R3F):
    """The divergence at every position of the padded batch, summed, as fairseq's rxf has it."""

    def term(self, step: Step) -> PerItem:
        values = super().term(at_all_positions(step)).values
        return PerItem(values.sum().expand_as(values), torch.ones_like(values))


class MeansAllPositions(R3F):
    """The mean over every position of the padded batch."""

    def term(self, step: Step) -> PerItem:
        return super().term(at_all_positions(step))


def only_labeled_positions_count(form: Method) -> None:
    """No gradient reaches the logits of a position without a label, in any pass; more padding changes nothing."""
    found = []
    for extra in (0, 6):
        network, given, logits = tagger(), tags(extra=extra), []

        def keep(_module: nn.Module, _inputs: object, output: Tensor, to: list[Tensor] = logits) -> None:
            output.retain_grad()
            to.append(output)

        network.classifier.register_forward_hook(keep)
        found.append(gradients_with([form], network, given))
        assert len(logits) == 2
        for output in logits:
            assert bool(output.grad[given["labels"] != -100].any())
            assert not bool(output.grad[given["labels"] == -100].any()), "positions without a label count"
    assert tiny.distance(found[1], found[0]) < ROUNDING, "padding counts"


@pytest.mark.parametrize("faulty", [SumsAllPositions, MeansAllPositions])
def test_r3f_leaves_out_positions_without_a_label(faulty: type[R3F]) -> None:
    """fairseq's rxf sums the divergence over all positions, padding included."""
    settings = {"radius": 0.1, "weight": 5.0}
    shown(only_labeled_positions_count, R3F(**settings), faulty(**settings), "positions without a label count")


class SkipsRegression(R3F):
    """Applies nothing to a head that gives a number, as fairseq's rxf does."""

    def term(self, step: Step) -> PerItem:
        found = super().term(step)
        return PerItem(0 * found.values, found.weights) if step.prediction == "regression" else found


def the_term_is_there_in_regression(form: R3F) -> None:
    """Its value is above 0 and its gradient is felt."""
    given = tiny.batch(labels=1)
    with Stack([form]) as stack:
        network = double(num_labels=1)
        stack.prepare(network)
        stack.backward(network, given)
        assert stack.take_logs()["r3f"] > 1e-6, "no term in regression"
    plain = gradients_with([], double(num_labels=1), given)
    assert tiny.distance(tiny.gradients(network), plain) > 1e-4, "no gradient in regression"


def test_r3f_acts_in_regression() -> None:
    """The regression branch of fairseq's rxf computes the task loss alone."""
    shown(the_term_is_there_in_regression, R3F(radius=0.1), SkipsRegression(radius=0.1), "no term in regression")
