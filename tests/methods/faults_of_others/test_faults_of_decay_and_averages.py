"""Faults of others, layer-wise decay and averages: our form passes each check, and the faulty form fails it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
from helpers import tiny
from helpers.faulty_forms import resumes_in_a_plain_loop, resumes_in_the_trainer, shown
from torch.optim import AdamW

from steadytune import Stack
from steadytune.core.authoring.method import Method
from steadytune.core.authoring.training import Attachment, Training
from steadytune.core.stack.session import Session
from steadytune.methods.bregman import Bregman
from steadytune.methods.layerwise_decay import LayerwiseDecay
from steadytune.methods.weight_averaging import WeightAveraging


class UpsideDown(LayerwiseDecay):
    """Gives the lowest layer the highest rate."""

    def rate(self, lr: Any, *, depth: int, layers: int) -> Any:
        return lr * self.factor**depth


class ForgetsEmbeddings(LayerwiseDecay):
    """Grades the layers, and leaves the rate of the host to whatever is in none."""

    def rate(self, lr: Any, *, depth: int, layers: int) -> Any:
        return lr if depth == 0 else super().rate(lr, depth=depth, layers=layers)


def rates_fall_to_the_embeddings(form: LayerwiseDecay) -> None:
    network = tiny.bert(num_hidden_layers=3)
    with Stack([form]) as stack:
        stack.prepare(network)
        optimizer = stack.optimizer(AdamW(network.parameters(), lr=1.0))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: rates[id(p)] for name, p in network.named_parameters()}
    assert len(rates) == len(found)
    for name, rate in found.items():
        places = {"embeddings": 4, "layer.0": 3, "layer.1": 2, "layer.2": 1, "pooler": 0, "classifier": 0}
        power = next(n for place, n in places.items() if place in name)
        assert rate == pytest.approx(0.5**power), f"{name} has the rate {rate}"


@pytest.mark.parametrize(("faulty", "said"), [(UpsideDown, "embeddings"), (ForgetsEmbeddings, "embeddings")])
def test_layerwise_decay_ends_at_the_embeddings(faulty: type[LayerwiseDecay], said: str) -> None:
    """The factor counts from the head down, and the embeddings come last, with the smallest rate."""
    shown(rates_fall_to_the_embeddings, LayerwiseDecay(factor=0.5), faulty(factor=0.5), f"{said}.* has the rate")


class StartsAgain(WeightAveraging):
    """Copies the weights whenever it is attached."""

    def attach(self, training: Training) -> Attachment:
        return super().attach(replace(training, resumed=False))


@pytest.mark.parametrize("resumes", [resumes_in_a_plain_loop, resumes_in_the_trainer])
def test_an_average_is_kept_over_a_resume(resumes: Callable[[Any], None]) -> None:
    """An average that starts again from the checkpoint's weights ends elsewhere."""
    shown(
        resumes,
        lambda: [WeightAveraging(decay=0.9, warmup=False)],
        lambda: [StartsAgain(decay=0.9, warmup=False)],
        "resumed run is another",
    )


def test_a_teacher_is_kept_over_a_resume() -> None:
    """Losing the teacher at a resume moves the weights by 1e-2 within three steps."""
    loses: AbstractContextManager[Any] = patch.object(Session, "_load_teachers", lambda self, saved: None)

    def check(is_kept: bool) -> None:
        def methods() -> list[Method]:
            return [Bregman(weight=5.0, beta=0.9, early_fraction=0.0)]

        if is_kept:
            resumes_in_a_plain_loop(methods)
            return
        with loses:
            resumes_in_a_plain_loop(methods)

    shown(check, True, False, "resumed run is another")
