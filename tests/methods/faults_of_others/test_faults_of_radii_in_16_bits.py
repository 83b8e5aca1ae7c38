"""Faults of others, small radii in 16 bits: our form passes each check, and the faulty form fails it."""

from __future__ import annotations

import pytest
import torch
from helpers import tiny
from helpers.faulty_forms import shown

from steadytune import Stack
from steadytune.core.authoring.method import Method
from steadytune.methods.alum import Alum
from steadytune.methods.r3f import R3F
from steadytune.methods.sam import SAM
from steadytune.methods.smoothness import Smoothness
from steadytune.methods.vat import VirtualAdversarialTraining


def silent(form: Method) -> Method:
    """The same method, which says nothing about the host or the model."""
    quiet = {"check_host": lambda self, **_: None, "check_model": lambda self, training: None}
    return type("Silent", (type(form),), quiet)(**form.settings())


def the_loss_to_rounding_is_said(form: Method, messages: list[str]) -> None:
    for dtype, count in ((torch.bfloat16, 1), (torch.float32, 0)):
        messages.clear()
        network = tiny.bert(dtype=dtype)
        with Stack([form]) as stack:
            stack.prepare(network)
            for _ in range(2):
                stack.backward(network, tiny.batch())
                stack.after_update()
        found = [m for m in messages if m.startswith(f"{form.name}: ") and "rounding" in m]
        assert len(found) == count, f"{count} warnings are due in {dtype}"


@pytest.mark.parametrize(
    "form",
    [Smoothness(), R3F(), Alum(radius=1e-5), VirtualAdversarialTraining(radius=0.1), SAM(rho=1e-3)],
    ids=lambda m: m.name,
)
def test_a_radius_that_16_bits_lose_is_said(form: Method, messages: list[str]) -> None:
    """In bf16 the rounding is 400 times what a radius of 1e-5 changes; elsewhere nothing tells."""
    shown(lambda given: the_loss_to_rounding_is_said(given, messages), form, silent(form), "1 warnings are due")
