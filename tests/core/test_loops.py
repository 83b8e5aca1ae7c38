"""Loops that would train something else than is meant, in silence: each is refused in one line, or left as it is."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import tiny
from torch import nn

from steadytune import Stack, bregman, ema, freelb, mixout, neftune, noisytune, r_drop, sam, smoothness
from steadytune.core.authoring import LossMethod, Method, StepMethod
from steadytune.errors import HostError
from steadytune.methods.registry import method_classes

PASSES = [m for m in method_classes() if issubclass(m, LossMethod | StepMethod)]


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def refused(action: Callable[[], Any]) -> str:
    with pytest.raises(HostError) as error:
        action()
    assert "\n" not in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- optimizers


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("method", [bregman(early_fraction=0.0), ema(), sam()], ids=lambda m: m.name)
def test_an_optimizer_made_anew_in_the_middle_is_refused(method: Method, given: bool) -> None:
    model, batch = tiny.bert(), tiny.batch()
    first = adamw(model)
    with Stack([method]) as stack:
        stack.prepare(model, first if given else None)
        stack.backward(model, batch)
        first.step()
        first.zero_grad()
        second = adamw(model)
        stack.backward(model, batch)
        assert "Another optimizer (AdamW) has stepped the model's weights" in refused(second.step)
        second.zero_grad()
        stack.optimizer(second)  # as the message says
        stack.backward(model, batch)
        second.step()
        assert stack.updates == 2


def test_optimizers_of_other_weights_and_around_each_other_are_none_of_our_business() -> None:
    class Around(torch.optim.SGD):
        """Lets another optimizer step, as Lookahead does."""

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            inner.step()

    model, batch = tiny.bert(), tiny.batch()
    head = list(model.classifier.parameters())
    inner = torch.optim.AdamW([p for p in model.parameters() if all(p is not h for h in head)], lr=1e-3)
    of_head, around = torch.optim.SGD(head, lr=1e-3), Around(inner.param_groups[0]["params"], lr=1.0)
    for watched in (inner, around):
        with Stack([bregman(early_fraction=0.0)]) as stack:
            stack.prepare(model, watched)
            for _ in range(2):
                stack.backward(model, batch)
                of_head.step()
                around.step()
                inner.zero_grad()
            assert stack.updates == 2


# ---------------------------------------------------------------- copies of the model


@pytest.mark.parametrize("method", [neftune(alpha=50.0), mixout(0.9)], ids=lambda m: m.name)
def test_a_copy_of_the_model_is_plain(method: Method) -> None:
    model, batch = tiny.bert(), tiny.batch()
    with Stack([method]) as stack:
        stack.prepare(model)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.5)  # mixout goes back to the pretrained weights
        plain = model(**batch).logits
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        copies = [copy.deepcopy(model), torch.load(file, weights_only=False)]
        assert not torch.equal(model(**batch).logits, plain)  # the model itself is as random as before
    expected = model(**batch).logits
    for other in copies:
        assert type(other.classifier) is nn.Linear
        assert torch.equal(other(**batch).logits, expected)


# ---------------------------------------------------------------- running statistics


class Statistics(nn.Module):
    """A head with all that a forward pass moves: running means of two kinds, counters, a power iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(tiny.WIDTH)
        self.instance = nn.InstanceNorm1d(1, track_running_stats=True)
        self.linear = nn.utils.parametrizations.spectral_norm(nn.Linear(tiny.WIDTH, 2))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.linear(self.instance(self.norm(x)[:, None])[:, 0])


def with_statistics() -> Any:
    model = tiny.bert(dropout=0.1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model.classifier = Statistics()  # type: ignore[assignment]
    return model.train()


def one_update(methods: list[Method], memory: Any = "full") -> dict[str, torch.Tensor]:
    model = with_statistics()
    torch.manual_seed(3)
    with Stack(methods, memory=memory) as stack:
        stack.prepare(model, total_updates=4)
        stack.optimizer(torch.optim.SGD(model.parameters(), lr=0.0))
        stack.backward(model, tiny.batch())
    return {name: b.clone() for name, b in model.classifier.named_buffers()}


@pytest.mark.parametrize("memory", ["full", "low"])
@pytest.mark.parametrize("off", [False, True])
@pytest.mark.parametrize("method", PASSES, ids=lambda m: m.name)
def test_extra_passes_leave_running_statistics_alone(method: type[Method], off: bool, memory: str) -> None:
    settings = method.off_settings if off else method.strong_settings
    if method.name in ("pgd", "freeat", "freelb") and not off:
        settings = {**settings, "step_size": 1e-9, "initial_magnitude": 0.0}  # else the trained pass itself is moved
    found, expected = one_update([method(**settings)], memory), one_update([])
    assert found["norm.num_batches_tracked"] == 1
    assert found["calls"] == 1
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-5), name


# ---------------------------------------------------------------- models that cannot train, or changed


def test_a_model_that_changed_since_prepare_is_refused() -> None:
    def resize(model: Any) -> None:
        model.resize_token_embeddings(tiny.VOCABULARY + 3, mean_resizing=False)

    def assign(model: Any) -> None:
        model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)

    for change, said in ((resize, "resized embeddings?"), (assign, "load_state_dict(assign=True)?")):
        for methods in ([bregman(early_fraction=0.0)], [neftune()], [smoothness()]):
            model = tiny.bert()
            with Stack(methods) as stack:
                stack.prepare(model)
                change(model)
                assert said in refused(lambda m=model, s=stack: s.backward(m, tiny.batch()))


@pytest.mark.parametrize("methods", [[], [smoothness()], [noisytune()], [ema()]], ids=str)
def test_a_model_that_cannot_train_is_refused(methods: list[Method]) -> None:
    frozen = tiny.bert().requires_grad_(False)
    assert "None of the weights of the BertForSequenceClassification train" in refused(
        lambda: Stack(methods).prepare(frozen)
    )
    with torch.inference_mode():
        loaded = tiny.bert()
        assert "torch.inference_mode()" in refused(lambda: Stack(methods).prepare(tiny.bert()))
    assert "torch.inference_mode()" in refused(lambda: Stack(methods).prepare(loaded))


@pytest.mark.parametrize("methods", [[], [smoothness()], [freelb()], [ema()]], ids=str)
def test_a_step_that_cannot_train_is_refused(methods: list[Method]) -> None:
    model, batch = tiny.bert(), tiny.batch()
    with Stack(methods) as stack:
        stack.prepare(model)
        for where in (torch.no_grad, torch.inference_mode):
            with where():
                assert f"torch.{where.__name__}()" in refused(lambda: stack.backward(model, batch))
        nothing = {name: tensor[:0] for name, tensor in batch.items()}
        assert "The batch has no rows" in refused(lambda: stack.backward(model, nothing))
        stack.backward(model, batch)


def test_r_drop_runs_its_second_pass_on_copies_of_the_statistics() -> None:
    found, expected = one_update([r_drop(weight=3.0)]), one_update([])
    assert torch.equal(found["norm.running_mean"], expected["norm.running_mean"])
