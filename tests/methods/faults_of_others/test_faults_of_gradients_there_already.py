"""Faults of others, gradients that are there already: our form passes each check, and the faulty form fails it."""

from __future__ import annotations

import torch
from helpers import tiny
from helpers.faulty_forms import ROUNDING, double, gradients_with, shown
from torch import Tensor

from steadytune.core.authoring.method import Method
from steadytune.core.authoring.passes import Passes
from steadytune.core.authoring.per_item import PerItem
from steadytune.core.authoring.step import Step
from steadytune.methods.pgd import PGD
from steadytune.methods.vat import VirtualAdversarialTraining


class WipesGradients(VirtualAdversarialTraining):
    """Clears the gradients before its own search, as VAT-pytorch does."""

    def term(self, step: Step) -> PerItem:
        step.plain_model.zero_grad()
        return super().term(step)


def gradients_add_up(form: Method) -> None:
    """What an earlier micro-batch left in ``p.grad`` stays, and the new gradients come on top."""
    expected = gradients_with([form], double(), tiny.batch())
    network = double()
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    found = {name: g - 1 for name, g in gradients_with([form], network, tiny.batch()).items()}
    assert tiny.distance(found, expected) < ROUNDING, "accumulated gradients are lost"


def test_vat_keeps_accumulated_gradients() -> None:
    """VAT-pytorch calls ``model.zero_grad()`` in its power iteration, which wipes the task's gradients."""
    shown(gradients_add_up, VirtualAdversarialTraining(), WipesGradients(), "accumulated gradients are lost")


class ClimbsWithFullBackward(PGD):
    """Takes the gradient to the perturbation from a backward pass that reaches the weights too."""

    def run(self, passes: Passes) -> Tensor:
        delta = self.start(passes)
        for _ in range(self.ascent_steps):
            _, gradient = self.train_on(passes, delta)
            delta = self.climb(delta, gradient)
        return passes.forward_backward(delta, part="task")


def the_ascent_spares_the_weights(form: PGD) -> None:
    """Steps of length 0 end at the clean input, whose gradient is the plain one if the ascent has left nothing."""
    found = gradients_with([form], double(), tiny.batch())
    assert tiny.distance(found, gradients_with([], double(), tiny.batch())) < ROUNDING, "the ascent is in p.grad"


def test_the_ascent_leaves_the_gradients_of_the_weights_alone() -> None:
    """A plain ``backward()`` in the ascent adds K gradients of the weights to that at the perturbation found."""
    settings = {"ascent_steps": 3, "step_size": 0.0, "initial_magnitude": 0.0}
    shown(the_ascent_spares_the_weights, PGD(**settings), ClimbsWithFullBackward(**settings), "the ascent is in")
