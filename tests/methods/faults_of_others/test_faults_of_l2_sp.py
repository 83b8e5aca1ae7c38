"""Faults of others, L2-SP: our form passes each check, and the faulty form fails it."""

from __future__ import annotations

from dataclasses import replace

import torch
from helpers import tiny
from helpers.faulty_forms import HEAD, double, gradients_with, shown

from steadytune.core.authoring.per_item import PerItem
from steadytune.core.authoring.step import Step
from steadytune.core.state.teacher import copied
from steadytune.methods.l2_sp import L2SP


class PullsTheHeadBack(L2SP):
    """Takes the head's random start for pretrained, as a group that is never excluded does."""

    def term(self, step: Step) -> PerItem:
        start = copied(double().state_dict())
        return super().term(replace(step, anchor={name: start[name] for name in step.parameters()}))


def the_new_head_is_pulled_to_zero(form: L2SP) -> None:
    """At its random start the pull on the head is ``head_weight`` times the head, and on the rest nothing."""
    plain, network = gradients_with([], double(), tiny.batch()), double()
    found = gradients_with([form], network, tiny.batch())
    for name, p in network.named_parameters():
        expected = form.head_weight * p.detach() if name in HEAD else torch.zeros_like(p)
        close = torch.allclose(found[name] - plain[name], expected, rtol=0, atol=1e-12)
        assert close, f"another pull on {name}"
    assert bool(network.get_parameter(HEAD[0]).any())


def test_l2_sp_does_not_pull_a_new_head_to_its_random_start() -> None:
    """In revisit-bert-finetuning the option that excludes the head never takes effect."""
    settings = {"weight": 0.5, "head_weight": 0.3}
    shown(the_new_head_is_pulled_to_zero, L2SP(**settings), PullsTheHeadBack(**settings), "another pull on classifier")
