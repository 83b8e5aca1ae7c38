"""Faults of others, SAM: our form passes each check, and the faulty form fails it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from helpers import tiny
from helpers.faulty_forms import (
    ROUNDING,
    Batch,
    double,
    gradients_with,
    resumes_in_a_plain_loop,
    resumes_in_the_trainer,
    shown,
)
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Optimizer

from steadytune import Stack, SteadyTrainer
from steadytune.core.authoring.method import OPTIMIZER, Method, OptimizerMethod
from steadytune.core.authoring.passes import Passes
from steadytune.core.authoring.training import Training
from steadytune.errors import HostError
from steadytune.methods.pgd import PGD
from steadytune.methods.sam import SAM


class Wrapper(Optimizer):
    """As davda54/sam is built: the real optimizer is an attribute, and the state dict is the wrapper's own."""

    def __init__(self, base: Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base = base

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)


@dataclass(frozen=True)
class Wraps(OptimizerMethod):
    """Puts the host's optimizer into a wrapper."""

    name: ClassVar[str] = "wraps"
    paper: ClassVar[str] = "none"
    claims: ClassVar[frozenset[str]] = frozenset({OPTIMIZER})

    def build(self, optimizer: Optimizer, training: Training) -> Optimizer:
        return Wrapper(optimizer)

    def effect(self) -> str:
        return "nothing good"


@pytest.mark.parametrize("resumes", [resumes_in_a_plain_loop, resumes_in_the_trainer])
def test_sam_keeps_the_optimizer_s_moments(resumes: Callable[[Any], None]) -> None:
    """davda54/sam saves a state dict without the moments of the optimizer inside, so a resume starts them anew."""
    shown(resumes, lambda: [SAM()], lambda: [SAM(), Wraps()], "resumed run is another")


class TakesParts(SAM):
    """Moves the weights for each micro-batch by itself."""

    whole_batch: ClassVar[bool] = False


def sam_is_that_of_the_whole_batch(form: SAM) -> None:
    """In micro-batches it gives the gradient of the whole batch, or it is refused in a sentence."""
    whole = tiny.batch(8)
    expected, found, refusal = gradients_with([form], double(), whole), {}, ""
    try:
        found = gradients_with([form], double(), tiny.rows(whole, 0, 4), tiny.rows(whole, 4, 8))
    except HostError as error:
        refusal = str(error)
    if "set gradient accumulation to 1" in refusal:
        return
    assert tiny.distance(found, expected) < ROUNDING, "accumulation gives another gradient"


def test_sam_refuses_what_it_cannot_accumulate() -> None:
    """davda54/sam trains in silence on another perturbation for each micro-batch."""
    shown(sam_is_that_of_the_whole_batch, SAM(rho=0.5), TakesParts(rho=0.5), "accumulation gives another")


class BackwardOfItsOwn(SAM):
    """Calls `loss.backward()` where the host would scale the loss first."""

    def run(self, passes: Passes) -> Tensor:
        def run() -> Tensor:
            loss = passes.loss()
            loss.backward()
            return loss.detach()

        return super().run(replace(passes, run=run))


def sam_feels_no_gradient_scaler(form: SAM) -> None:
    """With a GradScaler and clipping in the loop the weights move as with clipping alone."""
    moves = []
    for scale in (None, 2.0**12):
        network, given = tiny.bert(), tiny.batch()
        before = tiny.weights(network)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        scaler.scale(torch.zeros(()))  # it begins to work with the first loss that it sees
        with Stack([form]) as stack:
            stack.prepare(network)
            optimizer = stack.optimizer(SGD(network.parameters(), lr=0.5))
            loss = stack.backward(network, given, backward=lambda x, by=scaler: by.scale(x).backward())
            assert float(loss) < 10
            scaler.unscale_(optimizer)
            clip_grad_norm_(network.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
        assert stack.updates == 1
        moves.append({name: p - before[name] for name, p in tiny.weights(network).items()})
    assert tiny.distance(moves[1], moves[0]) < 1e-4, "the weights move otherwise with a gradient scaler"


def test_sam_works_with_a_gradient_scaler() -> None:
    """A SAM that runs its backward passes by itself leaves the scaler out."""
    shown(sam_feels_no_gradient_scaler, SAM(rho=0.5), BackwardOfItsOwn(rho=0.5), "with a gradient scaler")


def a_skipped_step_does_no_harm(form: Method) -> None:
    """A gradient that overflows in 16 bits makes the scaler skip the optimizer's step; the next batch trains."""
    network, overflows = tiny.bert(), True
    network.classifier.weight.register_hook(lambda g: g * float("inf") if overflows else g)
    scaler = torch.amp.GradScaler("cpu")
    with Stack([form]) as stack:
        stack.prepare(network)
        optimizer = stack.optimizer(SGD(network.parameters(), lr=0.1))
        before = tiny.weights(network)
        for done in (0, 1):
            refusal = ""
            try:
                stack.backward(network, tiny.batch(), backward=lambda x: scaler.scale(x).backward())
            except HostError as error:
                refusal = str(error)
            assert not refusal, f"refused after a skipped step: {refusal}"
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            assert stack.updates == done
            assert (tiny.differences(tiny.weights(network), before) == []) == overflows
            overflows = False


@pytest.mark.parametrize("form", [PGD(), SAM()], ids=["pgd", "sam"])
def test_training_goes_on_after_a_skipped_step(form: Method) -> None:
    """The scaler of fp16 training skips steps as a matter of course, at first nearly always."""
    a_skipped_step_does_no_harm(form)


def clipped_by_the_host(network: nn.Module, given: Batch, limit: float) -> None:
    with Stack([SAM(rho=0.5)]) as stack:
        stack.prepare(network)
        optimizer = stack.optimizer(SGD(network.parameters(), lr=1.0))
        stack.backward(network, given)
        clip_grad_norm_(network.parameters(), limit)
        optimizer.step()


def clipped_by_the_trainer(network: nn.Module, given: Batch, limit: float) -> None:
    rows = [{name: tensor[i] for name, tensor in given.items()} for i in range(len(given["labels"]))]
    with tempfile.TemporaryDirectory() as folder:
        settings = {"optim": "sgd", "learning_rate": 1.0, "max_steps": 1, "max_grad_norm": limit}
        SteadyTrainer(
            model=network,
            args=tiny.arguments(folder, **settings),
            train_dataset=rows,
            data_collator=tiny.collate,
            methods=[SAM(rho=0.5)],
        ).train()


def clipped_before_the_closure(network: nn.Module, given: Batch, limit: float) -> None:
    """The loop clips after its own backward pass, and the step runs a second one in a closure."""
    weights = list(network.parameters())
    network(**given).loss.backward()
    clip_grad_norm_(weights, limit)
    length = torch.stack([p.grad.norm() for p in weights]).norm()
    moves = [0.5 * p.grad / length for p in weights]
    with torch.no_grad():
        for p, move in zip(weights, moves, strict=True):
            p.add_(move)
    network.zero_grad()
    network(**given).loss.backward()
    with torch.no_grad():
        for p, move in zip(weights, moves, strict=True):
            p.sub_(move + p.grad)


def sam_s_step_is_clipped(train: Callable[[nn.Module, Batch, float], None]) -> None:
    network, limit = tiny.bert(), 0.05
    before = tiny.weights(network)
    train(network, tiny.batch(), limit)
    moved = torch.cat([(p - before[name]).flatten() for name, p in tiny.weights(network).items()])
    assert float(moved.norm()) == pytest.approx(limit, rel=1e-3), "the step is not clipped"


@pytest.mark.parametrize("ours", [clipped_by_the_host, clipped_by_the_trainer])
def test_sam_s_gradient_is_what_is_clipped(ours: Callable[[nn.Module, Batch, float], None]) -> None:
    """Where SAM's second pass hides in the step, the host clips the gradient of the first one."""
    shown(sam_s_step_is_clipped, ours, clipped_before_the_closure, "not clipped")
