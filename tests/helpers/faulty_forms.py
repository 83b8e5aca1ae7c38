"""What the checks of others' faults share: small trainings, and a faulty form that must fail where ours passes."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from helpers import tiny
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from transformers import (
    BertConfig,
    BertForTokenClassification,
    PreTrainedModel,
)

from steadytune import Stack, SteadyTrainer
from steadytune.core.authoring.method import Method
from steadytune.core.authoring.step import Step

Form = TypeVar("Form")
Batch = dict[str, Tensor]
Weights = dict[str, Tensor]

ROUNDING = 1e-9  # of float64
HEAD = ("classifier.weight", "classifier.bias")


def shown(check: Callable[[Form], None], ours: Form, faulty: Form, said: str) -> None:
    """Our form passes the check, and the faulty one fails it for the stated reason, not for another."""
    check(ours)
    with pytest.raises(AssertionError, match=said):
        check(faulty)


def double(**settings: Any) -> PreTrainedModel:
    return tiny.bert(dtype=torch.float64, **settings)


def gradients_with(methods: Sequence[Method], network: nn.Module, *parts: Batch) -> Weights:
    """Gradients of one update from micro-batches, added to those that are there, and the same random numbers."""
    with Stack(methods) as stack:
        stack.prepare(network, total_updates=4)
        stack.optimizer(SGD(network.parameters(), lr=0.1))
        torch.manual_seed(5)
        for given in parts:
            stack.backward(network, given, scale=1 / len(parts))
    return tiny.gradients(network)


def moved_away(network: nn.Module) -> nn.Module:
    """Other initial weights, as of a program that was started again."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1)
    return network


def plain_run(methods: Sequence[Method], folder: Path, first: int, last: int) -> Weights:
    """Updates ``first`` to ``last`` of 4 in a plain loop, from and to the files that a user would write."""
    network = tiny.bert(dropout=0.1)
    if first > 0:
        moved_away(network).load_state_dict(torch.load(folder / "model.pt"))
    stack = Stack(methods)
    # Other examples in the resumed run: only a method that looks at them again can tell.
    data = [tiny.batch(seed=100 + first), tiny.batch(seed=200 + first)]
    stack.prepare(network, total_updates=4, batches=data, resume_from=folder if first > 0 else None)
    optimizer = stack.optimizer(AdamW(network.parameters(), lr=1e-2))
    if first > 0:
        optimizer.load_state_dict(torch.load(folder / "optimizer.pt"))
    for update in range(first, last):
        torch.manual_seed(1000 + update)
        stack.backward(network, tiny.batch(seed=update))
        optimizer.step()
        optimizer.zero_grad()
    if last == 4:
        stack.finish()
        return tiny.weights(network)
    stack.save(folder)
    torch.save(network.state_dict(), folder / "model.pt")
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    stack.close()
    return {}


def resumes_in_a_plain_loop(form: Callable[[], Sequence[Method]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        whole = plain_run(form(), Path(name), 0, 4)
        plain_run(form(), Path(name), 0, 2)
        resumed = plain_run(form(), Path(name), 2, 4)
    assert tiny.differences(resumed, whole) == [], "the plain loop's resumed run is another"


def trainer_run(methods: Sequence[Method], folder: Path, resume: Path | None = None) -> Weights:
    """Four updates of the Trainer with a checkpoint after two, or the last two of them."""
    network = tiny.bert(dropout=0.1)
    trainer = SteadyTrainer(
        model=moved_away(network) if resume else network,
        args=tiny.arguments(folder, max_steps=4, save_strategy="steps", save_steps=2, optim="adamw_torch"),
        train_dataset=tiny.dataset(16),
        data_collator=tiny.collate,
        methods=methods,
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return tiny.weights(network)


def resumes_in_the_trainer(form: Callable[[], Sequence[Method]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        whole = trainer_run(form(), Path(name))
        resumed = trainer_run(form(), Path(name, "again"), Path(name, "checkpoint-2"))
    assert tiny.differences(resumed, whole) == [], "the Trainer's resumed run is another"


def at_all_positions(step: Step) -> Step:
    """The same step without knowing which positions have a label."""
    return dataclasses.replace(step, supervised=None)


def tagger() -> nn.Module:
    config = BertConfig(**tiny.sizes(num_labels=3))
    return tiny.seeded(lambda: BertForTokenClassification(config), 0, torch.float64)


def tags(*, extra: int = 0) -> Batch:
    """Three classes; padding and the first token of each sentence have no label."""
    given = tiny.batch(4, extra=extra)
    labels = torch.where(given["attention_mask"] == 1, given["input_ids"] % 3, -100)
    labels[:, 0] = -100
    return given | {"labels": labels}
