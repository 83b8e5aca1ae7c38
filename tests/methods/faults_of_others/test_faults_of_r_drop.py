"""Faults of others, R-Drop: our form passes each check, and the faulty form fails it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.faulty_forms import (
    ROUNDING,
    Batch,
    Weights,
    at_all_positions,
    double,
    gradients_with,
    shown,
    tagger,
    tags,
)
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    Trainer,
)

from steadytune import SteadyTrainer
from steadytune.core.arithmetic.divergence import symmetric_kl
from steadytune.core.authoring.method import Method
from steadytune.core.authoring.per_item import PerItem
from steadytune.core.authoring.step import Step
from steadytune.methods.r_drop import RDrop
from steadytune.testing.tiny import one_update


class RunsTwiceAlways(Trainer):
    """Both passes in evaluation as well, and their losses added."""

    def __init__(self, *args: Any, methods: Sequence[Method], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        first, second = model(**inputs), model(**inputs)
        loss = first.loss + second.loss + symmetric_kl(first.logits, second.logits).mean()
        return (loss, first) if return_outputs else loss


def evaluation_is_plain(build: Callable[..., Trainer]) -> None:
    """One pass per batch, and the loss is the cross-entropy."""
    network, calls = tiny.bert(dropout=0.1), []
    data = tiny.dataset(16, seed=3)
    with tempfile.TemporaryDirectory() as folder:
        arguments = tiny.arguments(folder, per_device_eval_batch_size=4)
        trainer = build(
            model=network, args=arguments, eval_dataset=data, data_collator=tiny.collate, methods=[RDrop(weight=5.0)]
        )
        handle = network.register_forward_pre_hook(lambda *_: calls.append(1))
        metrics = trainer.evaluate()
        handle.remove()
    whole = tiny.collate(data)
    with torch.no_grad():
        logits = network.eval()(whole["input_ids"], whole["attention_mask"]).logits
    expected = float(functional.cross_entropy(logits, whole["labels"]))
    assert len(calls) == 4, "evaluation runs the model more than once per batch"
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-5), "the evaluation loss is another"


def test_r_drop_is_plain_in_evaluation() -> None:
    """The released code runs every batch twice in evaluation and reports the loss of training."""
    shown(evaluation_is_plain, SteadyTrainer, RunsTwiceAlways, "more than once per batch")


class FixedDropout(nn.Module):
    """Stands for dropout: what it drops depends on the pass, the place in the sentence and the feature alone."""

    def __init__(self, passes: list[int], number: int) -> None:
        super().__init__()
        self.p, self.passes, self.number = 0.25, passes, number

    def forward(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(2 * self.number + len(self.passes) % 2)
        kept = torch.rand(40, x.shape[-1], generator=generator) >= self.p
        return x * (kept[: x.shape[1]] if x.dim() == 3 else kept[0]) / (1 - self.p)


def with_fixed_dropout(network: nn.Module) -> nn.Module:
    """The two passes of each micro-batch drop different things, always the same ones."""
    passes: list[int] = []
    network.register_forward_pre_hook(lambda *_: passes.append(1))
    for number, (name, module) in enumerate(list(network.named_modules())):
        if isinstance(module, nn.Dropout) and not name.endswith("self.dropout"):
            network.set_submodule(name, FixedDropout(passes, number))
    return network


def r_drop_s_update(form: RDrop, network: nn.Module, *parts: Batch) -> Weights:
    with one_update(with_fixed_dropout(network), [form], parts) as (stack, _, gradients):
        assert stack.take_logs()["r_drop"] > 1e-3
    return gradients


class SumsOverTheBatch(RDrop):
    """Adds the divergences up, beside a task loss that is a mean."""

    def term(self, step: Step) -> PerItem:
        found = super().term(at_all_positions(step))
        return PerItem(found.values.sum().expand_as(found.values), torch.ones_like(found.values))


class CountsPadding(RDrop):
    """The mean over all positions, whether they have a label or not."""

    def term(self, step: Step) -> PerItem:
        return super().term(at_all_positions(step))


class ComparesNeighbors(RDrop):
    """Takes the two passes of a doubled batch apart at the wrong place."""

    def term(self, step: Step) -> PerItem:
        _, second = step.task(masks="fresh")
        return step.per_item(0.5 * step.divergence(step.logits(), second.roll(1, 0)))


def r_drop_does_not_depend_on_accumulation(form: RDrop) -> None:
    whole = tiny.batch(8)
    expected = r_drop_s_update(form, double(), whole)
    assert tiny.distance(expected, gradients_with([], double(), whole)) > 1e-2
    for size in (4, 2):
        found = r_drop_s_update(form, double(), *(tiny.rows(whole, i, i + size) for i in range(0, 8, size)))
        assert tiny.distance(found, expected) < ROUNDING, "micro-batches give another gradient"


def r_drop_does_not_depend_on_padding(form: RDrop) -> None:
    for build, batch in (
        (double, lambda extra: tiny.batch(4, extra=extra)),
        (tagger, lambda extra: tags(extra=extra)),
    ):
        expected, found = (r_drop_s_update(form, build(), batch(extra)) for extra in (0, 6))
        assert tiny.distance(found, expected) < ROUNDING, "padding counts"


def r_drop_does_not_depend_on_the_order(form: RDrop) -> None:
    whole, order = tiny.batch(6), torch.tensor([3, 0, 5, 1, 4, 2])
    expected = r_drop_s_update(form, double(), whole)
    found = r_drop_s_update(form, double(), {name: tensor[order] for name, tensor in whole.items()})
    assert tiny.distance(found, expected) < ROUNDING, "the order of the examples counts"


@pytest.mark.parametrize(
    ("check", "faulty", "said"),
    [
        (r_drop_does_not_depend_on_accumulation, SumsOverTheBatch, "micro-batches give another gradient"),
        (r_drop_does_not_depend_on_padding, SumsOverTheBatch, "padding counts"),
        (r_drop_does_not_depend_on_padding, CountsPadding, "padding counts"),
        (r_drop_does_not_depend_on_the_order, ComparesNeighbors, "the order of the examples counts"),
    ],
)
def test_r_drop_does_not_depend_on_how_a_batch_is_cut(
    check: Callable[[RDrop], None], faulty: type[RDrop], said: str
) -> None:
    """The released files disagree on sum and mean; what the contract cannot check is checked with fixed dropout."""
    shown(check, RDrop(weight=2.0), faulty(weight=2.0), said)
