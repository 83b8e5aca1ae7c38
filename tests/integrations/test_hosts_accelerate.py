"""Accelerate as a host: accumulation, items of language models, and checkpoints with the state of the methods."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, set_seed
from helpers import tiny, tiny_language
from torch.utils.data import DataLoader

from steadytune import Stack, bregman, ema, freelb, mixout, noisytune, r_drop, smart, smoothness, swa
from steadytune.core.stack.session import Session
from steadytune.errors import CheckpointError, HostError

EXAMPLE = Path(__file__).parents[2] / "examples" / "accelerate_loop.py"
LARGE: dict[str, Any] = {"radius": 1e-2, "noise_std": 1e-2}


def train(model: torch.nn.Module, methods: list[Any], folder: Path, **settings: Any) -> torch.nn.Module:
    return runpy.run_path(str(EXAMPLE))["train"](
        model, tiny.dataset(12), tiny.collate, methods, folder, learning_rate=1e-2, shuffle=False, cpu=True, **settings
    )


def stateful() -> list[Any]:
    return [noisytune(), smoothness(**LARGE), bregman(early_fraction=0.0, beta=0.8), mixout(), swa(start=0.2)]


@pytest.mark.parametrize("done", [1, 2])
def test_resume_is_bit_exact(done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    whole = train(tiny.bert(dropout=0.1), stateful(), tmp_path / "whole")

    def resumed(name: str) -> dict[str, torch.Tensor]:
        folder = tmp_path / name
        for i in range(done):
            shutil.copytree(tmp_path / "whole" / f"epoch-{i:03}", folder / f"epoch-{i:03}")
        return tiny.weights(train(tiny.bert(dropout=0.1, seed=99), stateful(), folder))

    assert tiny.differences(resumed("again"), tiny.weights(whole)) == []
    monkeypatch.setattr(Session, "_load_teachers", lambda *_: None)  # it can fail
    assert tiny.differences(resumed("amnesic"), tiny.weights(whole)) != []


def in_mid_epoch(folder: Path, *, resume: bool = False, restore: bool = True) -> dict[str, torch.Tensor]:
    """Two shuffled epochs of two updates in the way of docs/guides/hosts.md; saved in the midst of the first."""
    set_seed(1)
    shuffled = DataLoaderConfiguration(use_seedable_sampler=True)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, dataloader_config=shuffled)
    model, stack = tiny.bert(dropout=0.1, seed=5 if resume else 0), Stack(stateful())
    stack.prepare(model, total_updates=4)
    wrapped, optimizer, loader = accelerator.prepare(
        model,
        stack.optimizer(torch.optim.AdamW(model.parameters(), lr=1e-2)),
        DataLoader(tiny.dataset(16), batch_size=4, shuffle=True, collate_fn=tiny.collate),
    )
    accelerator.register_for_checkpointing(stack)
    if resume:
        accelerator.load_state(str(folder))
    first, skip = divmod(stack.updates * 2, len(loader))
    state = torch.get_rng_state()
    for epoch in range(first, 2):
        loader.set_epoch(epoch)
        batches = accelerator.skip_first_batches(loader, skip) if epoch == first and skip else loader
        for i, batch in enumerate(batches):
            if restore and epoch == first and skip and i == 0:
                torch.set_rng_state(state)
            with accelerator.accumulate(wrapped):
                stack.backward(wrapped, batch, backward=accelerator.backward)
                optimizer.step()
                optimizer.zero_grad()
            if stack.updates == 1 and accelerator.sync_gradients and not resume:
                accelerator.save_state(str(folder))
    stack.finish()
    return tiny.weights(model)


def test_a_resume_in_mid_epoch_is_bit_exact_as_documented(tmp_path: Path) -> None:
    whole = in_mid_epoch(tmp_path)
    assert tiny.differences(in_mid_epoch(tmp_path, resume=True), whole) == []
    assert tiny.differences(in_mid_epoch(tmp_path, resume=True, restore=False), whole) != []


def test_a_checkpoint_of_other_methods_is_refused(tmp_path: Path) -> None:
    train(tiny.bert(), [smart(**LARGE)], tmp_path, epochs=1)
    with pytest.raises(CheckpointError, match="was written with other methods") as error:
        train(tiny.bert(), [smart()], tmp_path, epochs=2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "methods",
    [lambda: [], lambda: [smart(5.0, **LARGE)], lambda: [freelb(), ema(0.5)]],
    ids=["plain", "smart", "freelb"],
)
def test_accumulation_is_the_accumulation_of_a_plain_loop(methods: Any, tmp_path: Path) -> None:
    trained = train(tiny.bert(dtype=torch.float64), methods(), tmp_path, gradient_accumulation_steps=3)
    model, rows = tiny.bert(dtype=torch.float64), tiny.dataset(12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    with Stack(methods(), seed=42) as stack:
        stack.prepare(model, optimizer, total_updates=6)
        for i in [0, 2, 4, 6, 8, 10] * 3:
            stack.backward(model, tiny.collate(rows[i : i + 2]), scale=1 / 3)
            if i in (4, 10):
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
        assert stack.updates == 6
    assert tiny.distance(tiny.weights(trained), tiny.weights(model)) < 1e-9


@pytest.mark.parametrize("accumulation", [2, 4])
def test_a_language_model_divides_by_the_items_of_the_update(accumulation: int) -> None:
    """As Accelerate's guide does it: the number of items in the batch, and the loss times the accumulation."""
    words = tiny_language.tokenizer()
    texts = [f"{row['prompt']}{row['completion']}" for row in tiny_language.prompts(8)]

    def collate(rows: list[str]) -> dict[str, torch.Tensor]:
        batch = words(rows, return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}

    def update(parts: int) -> dict[str, torch.Tensor]:
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=parts)
        model = tiny_language.causal(dtype=torch.float64)
        with Stack([smart(5.0, **LARGE)]) as stack:
            stack.prepare(model, total_updates=1)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            wrapped, optimizer, loader = accelerator.prepare(
                model, optimizer, DataLoader(texts, batch_size=8 // parts, collate_fn=collate)
            )
            batches = list(loader)
            items = sum(batch["labels"][:, 1:].ne(-100).sum() for batch in batches)
            for batch in batches:
                with accelerator.accumulate(wrapped):
                    stack.backward(
                        wrapped, {**batch, "num_items_in_batch": items}, scale=parts, backward=accelerator.backward
                    )
                    optimizer.step()
                    optimizer.zero_grad()
            assert stack.updates == 1
        return tiny.weights(model)

    assert tiny.distance(update(accumulation), update(1)) < 1e-6


def test_a_backward_pass_past_accelerate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, missing = tiny.batch(), r"write stack\.backward\(model, batch, backward=accelerator\.backward\)"
    model, alone = tiny.bert(), tiny.bert()
    stack, other = Stack([bregman(momentum=False, inner_steps=2)]), Stack()
    stack.prepare(model)
    other.prepare(alone)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    wrapped, _ = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with accelerator.accumulate(wrapped):
        with pytest.raises(HostError, match=f"not be divided by the 2 micro-batches of an update: {missing}"):
            stack.backward(wrapped, batch)
        stack.backward(wrapped, batch, backward=accelerator.backward)
        stack.backward(wrapped, batch, scale=1 / 2)  # the loop divides itself
        other.backward(alone, batch)  # not Accelerate's model
    with monkeypatch.context() as patch:
        patch.setitem(AcceleratorState._shared_state, "_mixed_precision", "fp16")
        with pytest.raises(HostError, match=f"scaler would be passed by: {missing}"):
            stack.backward(wrapped, batch)
    with accelerator.accumulate(wrapped):  # the update is whole: nothing is left to divide by
        assert accelerator.sync_gradients
    stack.close()


# ---------------------------------------------------------------- the state as a dictionary


def test_the_state_is_plain_and_comes_back(tmp_path: Path) -> None:
    model = tiny.bert(dropout=0.1)
    stack = Stack([*stateful(), r_drop()])
    stack.prepare(model, total_updates=6)
    optimizer = stack.optimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    for i in range(3):
        stack.backward(model, tiny.batch(4, seed=i))
        optimizer.step()
        optimizer.zero_grad()
    torch.save(stack.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    for way in ("load", "prepare"):
        other = Stack([*stateful(), r_drop()])
        if way == "load":
            other.prepare(tiny.bert(dropout=0.1, seed=9), total_updates=6)
            other.load_state_dict(state)
        else:
            other.prepare(tiny.bert(dropout=0.1, seed=9), total_updates=6, resume_from=state)
        assert other.updates == 3
        for ours, theirs in zip(other.copies().values(), stack.copies().values(), strict=True):
            assert torch.equal(ours, theirs)
        own, saved = other._session.tensors, stack._session.tensors
        assert own.keys() == saved.keys()
        assert all(tiny.differences(own[name], saved[name]) == [] for name in own)
        other.close()
    stack.close()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ({"format": 9}, "format 9, and this version reads up to"),
        ({"format": None}, "format None"),
        ({"teachers": [{"no": "such"}]}, "that can be read"),
        ({"weights": []}, "that can be read"),
        ({"description": "{"}, "that can be read"),
        ({"description": "{}"}, "is not what was written"),
        ({"weights": [{}]}, "is not what was written"),
        ({"updates": 1}, "is not what was written"),
        ({"updates": -1}, "that can be read"),
    ],
    ids=str,
)
def test_a_damaged_state_is_refused(damage: dict[str, Any], said: str) -> None:
    stack = Stack([smart()])
    stack.prepare(tiny.bert())
    state = stack.state_dict() | damage
    with pytest.raises(CheckpointError, match=said) as error:
        stack.load_state_dict(state)
    assert "\n" not in str(error.value)
    stack.close()
