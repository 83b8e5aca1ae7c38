"""Every method resumes from every checkpoint, in another host, and with its batches split otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from steadytune.core.authoring.method import Method
from steadytune.core.stack.stack import Stack
from steadytune.methods.registry import method_classes
from steadytune.testing import tiny
from steadytune.testing.subject import Subject
from steadytune.testing.surroundings import _trainer

UPDATES = 4
CLASSES = {method.name: method for method in method_classes()}
#: Methods whose state is not in the optimizer, which other hosts keep in ways of their own.
IN_THE_STACK = ("bregman", "weight_averaging", "mixout", "l2_sp", "wise_ft", "noisytune", "r_drop")


def built(name: str) -> list[Method]:
    return [Subject(CLASSES[name], CLASSES[name].strong_settings).build()]


def moved() -> nn.Module:
    """The model with other weights, which a checkpoint must replace."""
    network = tiny.model(dropout=0.1)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1)
    return network


@pytest.mark.long
@pytest.mark.parametrize("name", CLASSES)
def test_every_method_resumes_from_every_checkpoint(name: str, tmp_path: Path) -> None:
    whole = tiny.model(dropout=0.1)
    every = {"save_strategy": "steps", "save_steps": 1, "max_steps": UPDATES}
    _trainer(whole, built(name), tmp_path, **every).train()
    for at in range(1, UPDATES):
        again = moved()
        trainer = _trainer(again, built(name), tmp_path / f"again-{at}", max_steps=UPDATES)
        trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{at}"))
        assert tiny.differing(tiny.weights(again), tiny.weights(whole)) == [], f"from update {at}"


def go_on(
    network: nn.Module, methods: Sequence[Method], state: Any, updates: range, accelerator: Accelerator | None = None
) -> dict[str, Any]:
    """Some updates in a plain loop, or in one of Accelerate; returns the stack's state after them."""
    stack = Stack(methods)
    stack.prepare(network, total_updates=tiny.UPDATES, resume_from=state)
    assert stack.updates == updates.start
    optimizer: Any = torch.optim.SGD(network.parameters(), lr=tiny.LEARNING_RATE)
    wrapped, back = network, torch.Tensor.backward
    if accelerator is not None:
        wrapped, optimizer = accelerator.prepare(network, optimizer)
        back = accelerator.backward
    for update in updates:
        torch.manual_seed(1000 + update)
        stack.backward(wrapped, tiny.batch(seed=update), backward=back)
        optimizer.step()
        optimizer.zero_grad()
    kept = stack.state_dict()
    (stack.finish if updates.stop == tiny.UPDATES else stack.close)()
    return kept


@pytest.mark.parametrize("name", IN_THE_STACK)
def test_a_training_goes_on_in_other_hosts(name: str, tmp_path: Path) -> None:
    whole = tiny.model(dropout=0.1)
    _trainer(whole, built(name), tmp_path, optim="sgd", save_strategy="steps", save_steps=2).train()
    network = moved()
    network.load_state_dict(load_file(tmp_path / "checkpoint-2" / "model.safetensors"))
    go_on_then_stop = go_on(network, built(name), tmp_path / "checkpoint-2", range(2, 4))
    torch.save(go_on_then_stop, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    go_on(network, built(name), state, range(4, tiny.UPDATES), Accelerator(cpu=True))
    assert tiny.distance(tiny.weights(network), tiny.weights(whole)) < 1e-6


@pytest.mark.parametrize("names", [("bregman", "weight_averaging"), ("smoothness",), ("alum",)], ids="+".join)
def test_a_training_goes_on_with_its_batches_split_otherwise(names: tuple[str, ...], tmp_path: Path) -> None:
    methods = [method for name in names for method in built(name)]
    whole, again = tiny.model(), tiny.model()
    _trainer(whole, methods, tmp_path, optim="sgd", save_strategy="steps", save_steps=3).train()
    split = {"optim": "sgd", "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    trainer = _trainer(again, methods, tmp_path / "again", **split)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert trainer.state.global_step == tiny.UPDATES
    assert tiny.distance(tiny.weights(again), tiny.weights(whole)) < 1e-6
