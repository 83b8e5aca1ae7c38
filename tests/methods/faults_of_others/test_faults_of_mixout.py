"""Faults of others, Mixout: our form passes each check, and the faulty form fails it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import tiny
from helpers.faulty_forms import double, moved_away, resumes_in_a_plain_loop, shown
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD
from transformers import (
    BertConfig,
    BertForMaskedLM,
)

from steadytune import Stack
from steadytune.core.authoring.training import Attachment, Training
from steadytune.core.state.teacher import copied
from steadytune.errors import HostError
from steadytune.methods import mixout as mixout_file
from steadytune.methods.mixout import Mixout


class WithoutTheFactor(torch.autograd.Function):
    """The mixed weight whose backward pass has the mask and no 1 / (1 - p)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, pretrained: Tensor, keep: Tensor, probability: float) -> Tensor:
        ctx.save_for_backward(keep)
        return pretrained + torch.where(keep, weight - pretrained, 0.0) / (1 - probability)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (keep,) = ctx.saved_tensors
        return gradients[0] * keep, None, None, None


def mixout_s_gradient_is_the_derivative(mixed: Callable[..., Tensor]) -> None:
    """Of the loss that was computed, along a random direction of one mixed weight."""
    network, given, size = double(), tiny.batch(), 1e-5
    p = network.get_parameter("bert.encoder.layer.0.intermediate.dense.weight")
    direction = torch.randn(p.shape, dtype=p.dtype)
    with patch.object(mixout_file, "mixed", mixed), Stack([Mixout(probability=0.9)]) as stack:
        stack.prepare(network)

        def loss(step: float) -> float:
            with torch.no_grad():
                p.add_(direction, alpha=step)
            torch.manual_seed(5)  # the same masks
            value = float(stack.backward(network, given))
            with torch.no_grad():
                p.sub_(direction, alpha=step)
            return value

        expected = (loss(size) - loss(-size)) / (2 * size)
        network.zero_grad()
        loss(0.0)
    found = float((p.grad * direction).sum())
    assert found == pytest.approx(expected, rel=1e-5), "the gradient is not the derivative"


def test_mixout_s_backward_pass_divides_by_the_kept_share() -> None:
    """bloodwass/mixout multiplies the gradient by the mask alone: 10 times too small at p = 0.9."""
    shown(mixout_s_gradient_is_the_derivative, mixout_file.mixed, WithoutTheFactor.apply, "not the derivative")


def one_mask_per_input_column(weight: Tensor, probability: float) -> Tensor:
    return torch.empty(1, weight.shape[1]).bernoulli_(1 - probability).expand_as(weight)


def mixout_draws_for_each_weight(draw: Callable[[Tensor, float], Tensor]) -> None:
    network = nn.Sequential(nn.Linear(48, 48, bias=False))
    with patch.object(mixout_file, "draw_mask", draw), Stack([Mixout(probability=0.5)]) as stack:
        stack.prepare(network)
        pretrained = network[0].weight.detach().clone()
        moved_away(network)
        kept = (network(torch.eye(48)).T.detach() != pretrained).double()
    for dim in (0, 1):
        # 48 fair coins per line: a share of 0.5, give or take 0.07.
        assert float(kept.mean(dim).std()) < 0.15, "whole lines are kept or mixed together"
    assert float(kept.mean()) == pytest.approx(0.5, abs=0.1), "another share"


def test_mixout_s_mask_is_drawn_for_each_weight() -> None:
    """bloodwass/mixout draws one number per input column, for all output rows together."""
    shown(mixout_draws_for_each_weight, mixout_file.draw_mask, one_mask_per_input_column, "whole lines")


class MixLinear(nn.Module):
    """A module of its own, no nn.Linear, with a copy of the weight and the target as a buffer."""

    def __init__(self, linear: nn.Linear, probability: float) -> None:
        super().__init__()
        self.weight, self.probability = nn.Parameter(linear.weight.detach().clone()), probability
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().clone())
        self.register_buffer("target", linear.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        keep = mixout_file.draw_mask(self.weight, self.probability).bool()
        return functional.linear(x, mixout_file.mixed(self.weight, self.target, keep, self.probability), self.bias)


class ReplacesModules(Mixout):
    """Puts a MixLinear in the place of every nn.Linear, and leaves it there."""

    def attach(self, training: Training) -> Attachment:
        for name, module in list(training.model.named_modules()):
            if isinstance(module, nn.Linear):
                training.model.set_submodule(name, MixLinear(module, self.probability))
        return Attachment()


class SwapsForGood(Mixout):
    """Changes the modules' type and never changes it back."""

    def attach(self, training: Training) -> Attachment:
        attachment = super().attach(training)
        attachment.detach = lambda: None  # type: ignore[method-assign]
        training.cleanup.clear()
        return attachment


def mixout_is_not_seen(form: Mixout) -> None:
    network = tiny.bert()
    names, types = list(network.state_dict()), {name: type(m) for name, m in network.named_modules()}
    with Stack([form]) as stack:
        stack.prepare(network)
        optimizer = stack.optimizer(SGD(network.parameters(), lr=0.1))
        stack.backward(network, tiny.batch())
        optimizer.step()
        assert list(network.state_dict()) == names, "other names in the state dict during the training"
    assert list(network.state_dict()) == names, "other names in the state dict after the training"
    assert {name: type(m) for name, m in network.named_modules()} == types, "other types after the training"


@pytest.mark.parametrize(
    ("faulty", "said"),
    [(ReplacesModules, "other names in the state dict during"), (SwapsForGood, "other types after the training")],
)
def test_mixout_leaves_names_and_types_alone(faulty: type[Mixout], said: str) -> None:
    """Neither a target among the state dict's names, nor a module of another type when the training is over."""
    shown(mixout_is_not_seen, Mixout(probability=0.5), faulty(probability=0.5), said)


class ForgetsItsTarget(Mixout):
    """Mixes with the weights that are there when it is attached, as a target outside the checkpoint must."""

    def attach(self, training: Training) -> Attachment:
        now = copied({name: p for name, p in training.parameters().items() if name in training.anchor})
        return super().attach(replace(training, anchor=now))


def test_mixout_s_target_is_the_pretrained_weights_after_a_resume() -> None:
    """bloodwass/mixout keeps the target outside the state dict, so a resumed run mixes with half-trained weights."""
    shown(
        resumes_in_a_plain_loop,
        lambda: [Mixout(probability=0.5)],
        lambda: [ForgetsItsTarget(probability=0.5)],
        "resumed run is another",
    )


def mixout_lives_with_adapters(form: Mixout) -> None:
    """Refused in a sentence where PEFT has frozen what would be mixed; adapters can be put on modules that mix."""
    config = LoraConfig(target_modules=["query", "value"], modules_to_save=["classifier"], r=2)
    adapted = get_peft_model(tiny.bert(), config)
    before = {name: type(m) for name, m in adapted.named_modules()}
    with pytest.raises(HostError, match="frozen, as under PEFT"):
        Stack([form]).prepare(adapted)
    assert {name: type(m) for name, m in adapted.named_modules()} == before
    network = tiny.bert()
    with Stack([form]) as stack:
        stack.prepare(network)
        try:
            adapted = get_peft_model(network, config)
        except ValueError as error:
            raise AssertionError(f"PEFT refuses modules that mix: {error}") from error
        adapted.train()(**tiny.batch()).loss.backward()
        moved = {n for n, p in adapted.named_parameters() if p.grad is not None and bool(p.grad.any())}
        assert any("lora_B" in n for n in moved)
        assert all("lora_" in n or "modules_to_save" in n for n in moved), "frozen weights get gradients"


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mixout_does_not_break_adapters() -> None:
    """A MixLinear is no nn.Linear, so PEFT finds nothing that it could adapt."""
    shown(mixout_lives_with_adapters, Mixout(), ReplacesModules(), "PEFT refuses modules that mix")


def mixout_keeps_heads_tied(form: Mixout) -> None:
    network = tiny.seeded(lambda: BertForMaskedLM(BertConfig(**tiny.sizes(tie_word_embeddings=True))), 0)
    words, given = network.get_input_embeddings(), tiny.batch()
    given["labels"] = given["input_ids"]
    assert network.get_output_embeddings().weight is words.weight
    with Stack([form]) as stack:
        stack.prepare(network)
        optimizer = stack.optimizer(SGD(network.parameters(), lr=0.1))
        for _ in range(2):
            stack.backward(network, given)
            optimizer.step()
            assert network.get_output_embeddings().weight is words.weight, "the head is tied no longer"
    assert network.get_output_embeddings().weight is words.weight, "the head is tied no longer"


def test_mixout_keeps_a_tied_head_tied() -> None:
    """A MixLinear has a weight of its own, so the output embeddings leave the input embeddings."""
    shown(mixout_keeps_heads_tied, Mixout(), ReplacesModules(), "tied no longer")
