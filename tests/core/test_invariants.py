"""What holds for every method in a plain loop: switched off it is not there, scale and padding do not matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers import tiny
from references import smart as reference
from torch import Tensor, nn
from torch.optim import optimizer as torch_optimizer
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForTokenClassification,
    T5Config,
    T5ForSequenceClassification,
)

from steadytune import Stack, bregman, ema, noisytune, smart, smoothness
from steadytune.core.arithmetic import ascent
from steadytune.core.authoring.cost import PLAIN_STEP, Cost
from steadytune.core.authoring.method import Method, WeightMethod
from steadytune.core.authoring.step import Step
from steadytune.core.model.tap import Tap, word_embedding
from steadytune.errors import CheckpointError, HostError, MethodError
from steadytune.methods.bregman import Bregman

#: Every method and group, by a factor for its weight; the perturbations are large enough to matter.
METHODS: dict[str, Callable[[float], list[Any]]] = {
    "smoothness-fresh": lambda w: [smoothness(weight=w, radius=1e-2, noise_std=1e-2, masks="fresh")],
    "smoothness-same": lambda w: [smoothness(weight=w, radius=1e-2, noise_std=1e-2, masks="same", ascent_steps=2)],
    "bregman": lambda w: [bregman(weight=w)],
    "bregman-vanilla": lambda w: [bregman(weight=w, momentum=False, inner_steps=2)],
    "smart": lambda w: [smart(w, w, radius=1e-2, noise_std=1e-2)],
    "smart.mt_dnn": lambda w: [smart.mt_dnn(w)],
    "noisytune+smart": lambda w: [noisytune(intensity=0.15 * min(w, 1)), smart(w, w, radius=1e-2, noise_std=1e-2)],
}
every_method = pytest.mark.parametrize("methods", METHODS.values(), ids=METHODS.keys())
Build = Callable[[float], list[Any]]


def train(stack: Stack | None, model: nn.Module, updates: int = 5) -> list[float]:
    """A plain loop; without a stack, the same without any of our code."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    if stack is not None:
        stack.prepare(model, optimizer, total_updates=updates)
    losses = []
    torch.manual_seed(7)
    for update in range(updates):
        batch = tiny.batch(4, seed=update)
        optimizer.zero_grad()
        loss = model(**batch).loss if stack is None else stack.loss(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    if stack is not None:
        stack.close()
    return losses


def moved_teacher(stack: Stack) -> None:
    """Move all teachers away from the student, so that a Bregman term has a gradient at once."""
    generator = torch.Generator().manual_seed(3)
    for teacher in stack.teacher_weights().values():
        for tensor in teacher.values():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype))


def gradients(
    methods: list[Any], model: nn.Module, micro_batches: list[dict[str, Tensor]]
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one update with accumulation."""
    model.zero_grad()
    total = 0.0
    with Stack(methods) as stack:
        stack.prepare(model, total_updates=10, perturb=False)
        moved_teacher(stack)
        for batch in micro_batches:
            loss = stack.loss(model, batch) / len(micro_batches)
            loss.backward()
            total += loss.item()
    return total, tiny.gradients(model)


def hooks_of(model: nn.Module) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in model.modules()
    )


# --- switched off ---------------------------------------------------------------------------------


@every_method
def test_weight_0_is_plain_training_bit_for_bit(methods: Build) -> None:
    plain, off, on = (tiny.bert(dropout=0.1) for _ in range(3))
    expected = train(None, plain)
    assert train(Stack(methods(0.0)), off) == expected
    assert tiny.differences(tiny.weights(off), tiny.weights(plain)) == []
    assert train(Stack(methods(5.0)), on) != expected
    assert tiny.differences(tiny.weights(on), tiny.weights(plain)) != []


def test_no_method_is_plain_training_bit_for_bit() -> None:
    plain, off = tiny.bert(dropout=0.1), tiny.bert(dropout=0.1)
    assert train(Stack(), off) == train(None, plain)
    assert tiny.differences(tiny.weights(off), tiny.weights(plain)) == []
    assert str(Stack()) == "plain"


@every_method
def test_same_seed_same_run_and_another_seed_another(methods: Build) -> None:
    runs = []
    for seed in (3, 3, 4):
        model = tiny.bert(dropout=0.1)
        runs.append((train(Stack(methods(1.0), seed=seed), model), tiny.weights(model)))
    assert runs[0][0] == runs[1][0]
    assert tiny.differences(runs[0][1], runs[1][1]) == []
    if "bregman" not in str(Stack(methods(1.0))) or len(Stack(methods(1.0)).methods) > 1:
        assert runs[0][0] != runs[2][0]


@every_method
def test_the_host_draws_as_in_plain_training(methods: Build) -> None:
    model, batch = tiny.bert(dropout=0.1), tiny.batch(4)
    with Stack(methods(1.0)) as stack:
        stack.prepare(model, total_updates=5)
        torch.manual_seed(7)
        plain = model(**batch)
        after = torch.get_rng_state()
        torch.manual_seed(7)
        stack.loss(model, batch)
        assert torch.equal(torch.get_rng_state(), after)
        assert stack.take_logs()["task_loss"] == pytest.approx(plain.loss.item(), rel=1e-7)
        torch.manual_seed(8)
        assert not torch.equal(torch.get_rng_state(), after)


# --- scale, padding, order ------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("width", [16, 20])
def test_accumulation_does_not_matter(methods: Build, width: int, start_noises: list[Tensor]) -> None:
    whole = tiny.batch(8)
    found = {}
    for size in (8, 4, 2, 1):
        model = tiny.bert(dtype=torch.float64, hidden_size=width)
        start_noises.clear()
        micro_batches = [tiny.rows(whole, i, i + size) for i in range(0, 8, size)]
        found[size] = (
            *gradients(methods(1.0), model, micro_batches),
            torch.cat([n[b["attention_mask"].bool()] for n, b in zip(start_noises, micro_batches, strict=True)])
            if start_noises
            else None,
        )
    loss, expected, noise = found[8]
    plain = gradients([], tiny.bert(dtype=torch.float64, hidden_size=width), [whole])
    assert tiny.distance(plain[1], expected) > 1e-6  # the terms count
    for size in (4, 2, 1):
        assert found[size][0] == pytest.approx(loss, rel=1e-10)
        assert tiny.distance(found[size][1], expected) < 1e-10
        assert noise is None or torch.equal(found[size][2], noise)


@every_method
@pytest.mark.parametrize("kind", tiny.ENCODERS)
def test_padding_does_not_matter(methods: Build, kind: str, start_noises: list[Tensor]) -> None:
    def result(extra: int) -> tuple[float, dict[str, Tensor]]:
        model = tiny.ENCODERS[kind](dtype=torch.float64)
        return gradients(methods(1.0), model, [tiny.batch(4, pad=tiny.PAD[kind], extra=extra)])

    loss, expected = result(0)
    for extra in (1, 7):
        found, padded = result(extra)
        assert found == pytest.approx(loss, rel=1e-10)
        assert tiny.distance(padded, expected) < 1e-10
    if start_noises:
        length = start_noises[0].shape[1]
        for noise, extra in zip(start_noises, (0, 1, 7), strict=True):
            assert torch.equal(noise[:, :length], start_noises[0])
            assert not noise[:, length:].any()
            assert noise.shape[1] == length + extra
        real = tiny.batch(4)["attention_mask"].bool()
        assert start_noises[0][real].all()
        assert not start_noises[0][~real].any()


class WithoutAttention(nn.Module):
    """A mean over all positions, padding included: there the output does feel a perturbation."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(tiny.VOCABULARY, tiny.WIDTH)
        self.head = nn.Linear(tiny.WIDTH, 3)

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Mapping[str, Tensor]:
        logits = self.head(self.words(input_ids).mean(1).tanh())
        found = {"logits": logits}
        return found if labels is None else found | {"loss": nn.functional.cross_entropy(logits, labels)}


@pytest.mark.parametrize("projection", ["linf", "token"])
def test_padding_is_not_perturbed_where_the_model_would_feel_it(projection: Any, deltas: list[Tensor]) -> None:
    model, batch = WithoutAttention(), tiny.batch(4, extra=3)
    with Stack([smoothness(projection=projection)]) as stack:
        stack.prepare(model)
        stack.loss(model, batch).backward()
    real = batch["attention_mask"].bool()
    assert deltas[0][real].any(-1).all()
    assert not deltas[0][~real].any()


def test_without_a_mask_every_token_is_real(deltas: list[Tensor]) -> None:
    model, batch = tiny.bert(), tiny.batch(4)
    del batch["attention_mask"]
    with Stack([smoothness()]) as stack:
        stack.prepare(model)
        stack.loss(model, batch).backward()
    assert deltas[0].any(-1).all()


def test_start_noise_is_normal_with_the_given_deviation(start_noises: list[Tensor]) -> None:
    model = tiny.bert()
    with Stack([smoothness(radius=2e-2, noise_std=1e-2)]) as stack:
        stack.prepare(model)
        for _update in range(4):
            for _micro_batch in range(2):
                stack.loss(model, tiny.batch(16))
            stack.after_update()
    drawn = torch.cat([n[n != 0] for n in start_noises])
    assert drawn.numel() > 8000
    assert float(drawn.std()) == pytest.approx(1e-2, rel=0.03)
    assert abs(float(drawn.mean())) < 5e-4
    assert float((drawn.abs() < 1e-2).double().mean()) == pytest.approx(0.683, abs=0.03)
    assert len({float(n.sum()) for n in start_noises}) == len(start_noises)


@every_method
def test_the_order_of_examples_does_not_matter(methods: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_content(self: Step, standard_deviation: float) -> Tensor:
        """Noise of the tokens instead of their places."""
        table = torch.randn(tiny.VOCABULARY, tiny.WIDTH, generator=torch.Generator().manual_seed(0)).double()
        return standard_deviation * table[self.inputs["input_ids"]] * self.token_mask().unsqueeze(-1)

    monkeypatch.setattr(Step, "normal_noise", by_content)
    batch = tiny.batch(6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = {name: tensor[order] for name, tensor in batch.items()}
    loss, expected = gradients(methods(1.0), tiny.bert(dtype=torch.float64), [batch])
    found, permuted = gradients(methods(1.0), tiny.bert(dtype=torch.float64), [shuffled])
    assert found == pytest.approx(loss, rel=1e-10)
    assert tiny.distance(permuted, expected) < 1e-10


def test_same_masks_at_a_vanishing_radius_feel_nothing_and_fresh_ones_the_dropout() -> None:
    def value(masks: Any, dropout: float) -> float:
        model = tiny.bert(dropout=dropout, dtype=torch.float64)
        with Stack([smoothness(radius=1e-9, noise_std=1e-9, masks=masks)]) as stack:
            stack.prepare(model)
            stack.loss(model, tiny.batch(4))
            return stack.take_logs()["smoothness"]

    assert 0 < value("same", 0.1) < 1e-13
    assert 0 < value("fresh", 0.0) < 1e-13
    assert value("fresh", 0.1) > 1e-4


def test_fresh_masks_are_new_in_every_update() -> None:
    model = tiny.bert(dropout=0.1, dtype=torch.float64)
    values = []
    with Stack([smoothness(radius=1e-9, noise_std=1e-9, masks="fresh")]) as stack:
        stack.prepare(model)
        for _ in range(3):
            torch.manual_seed(7)
            stack.loss(model, tiny.batch(4))
            stack.after_update()
            values.append(stack.take_logs()["smoothness"])
    assert len(set(values)) == 3


def test_fresh_masks_are_new_in_every_pass() -> None:
    values = []
    for steps in (1, 2, 3):
        model = tiny.bert(dropout=0.1, dtype=torch.float64)
        with Stack([smoothness(radius=1e-9, noise_std=1e-9, masks="fresh", ascent_steps=steps)]) as stack:
            stack.prepare(model)
            for _ in range(2):
                torch.manual_seed(7)
                stack.loss(model, tiny.batch(4))
                values.append(stack.take_logs()["smoothness"])
    # The last pass of `steps` ascents is pass `steps + 1` of its update; a second micro-batch goes on from there.
    # Two agree: pass 4, which ends both one micro-batch of three ascents and the second of one.
    assert len(set(values)) == 5
    assert values[1] == pytest.approx(values[4], rel=1e-4)


def test_bregman_is_0_at_the_teacher_with_the_same_masks_and_not_with_fresh_ones() -> None:
    def value(masks: Any) -> float:
        model = tiny.bert(dropout=0.1)
        with Stack([bregman(masks=masks)]) as stack:
            stack.prepare(model, total_updates=10)
            stack.loss(model, tiny.batch(4))
            return stack.take_logs()["bregman"]

    assert value("same") == 0
    assert value("fresh") > 1e-4


# --- the model leaves as it came ------------------------------------------------------------------


@every_method
def test_no_gradient_where_none_belongs(methods: Build) -> None:
    model, batch = tiny.bert(), tiny.batch(4)
    before = {name: torch.full_like(p, 0.25) for name, p in model.named_parameters()}
    with Stack(methods(1.0)) as stack:
        stack.prepare(model, total_updates=5)
        for name, p in model.named_parameters():
            p.grad = before[name]
        loss = stack.loss(model, batch)
        for name, p in model.named_parameters():
            assert p.grad is before[name]
            assert bool((p.grad == 0.25).all())
        loss.backward()
        for teacher in stack.teacher_weights().values():
            assert all(t.grad is None and not t.requires_grad for t in teacher.values())
            own = {p.data_ptr() for p in model.parameters()}
            assert all(t.data_ptr() not in own for t in teacher.values())


@every_method
def test_the_model_leaves_without_a_hook(methods: Build) -> None:
    model = tiny.bert(dropout=0.1)
    before, keys, kinds = hooks_of(model), list(model.state_dict()), [type(m) for m in model.modules()]
    train(Stack(methods(1.0)), model, updates=2)
    assert hooks_of(model) == before
    assert list(model.state_dict()) == keys
    assert [type(m) for m in model.modules()] == kinds
    assert all(p.requires_grad for p in model.parameters())
    assert model.training


class BrokenPassError(Exception):
    """Stands for anything that can happen inside a forward pass."""


@every_method
def test_an_exception_inside_a_second_pass_leaves_the_model_as_it_was(methods: Build) -> None:
    model, batch = tiny.bert(dropout=0.1), tiny.batch(4)
    pointers = [p.data_ptr() for p in model.parameters()]
    keys = list(model.state_dict())
    calls = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise BrokenPassError

    with Stack(methods(1.0)) as stack:
        stack.prepare(model, total_updates=5)
        weights = tiny.weights(model)
        torch.manual_seed(7)
        expected = model(**batch).loss
        after = torch.get_rng_state()
        handle = model.classifier.register_forward_hook(fail)
        torch.manual_seed(7)
        with pytest.raises(BrokenPassError):
            stack.loss(model, batch)
        handle.remove()
        assert hooks_of(model) == 0
        assert torch.equal(torch.get_rng_state(), after)
        assert [p.data_ptr() for p in model.parameters()] == pointers
        assert list(model.state_dict()) == keys
        assert tiny.differences(tiny.weights(model), weights) == []
        torch.manual_seed(7)
        assert torch.equal(model(**batch).loss, expected)
        stack.loss(model, batch).backward()  # and it goes on


# --- optimizers -----------------------------------------------------------------------------------


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(**tiny.batch(2)).loss.backward()
    optimizer.step()


def test_updates_are_counted_until_close() -> None:
    before = len(torch_optimizer._global_optimizer_post_hooks)
    model, other = tiny.bert(), tiny.bert()
    optimizer, foreign = (torch.optim.SGD(m.parameters(), lr=0.1) for m in (model, other))
    stack = Stack([ema()])
    stack.prepare(model, total_updates=10)
    step(other, foreign)
    assert stack.updates == 0
    step(model, optimizer)
    step(other, foreign)
    step(model, optimizer)
    assert stack.updates == 2
    second = torch.optim.SGD(model.classifier.parameters(), lr=0.1)
    with pytest.raises(HostError, match="Another optimizer"):
        step(model, second)
    assert stack.updates == 2  # the first optimizer of the model counts
    stack.close()
    stack.close()
    step(model, optimizer)
    assert stack.updates == 2
    assert len(torch_optimizer._global_optimizer_post_hooks) == before


def test_a_given_optimizer_alone_counts() -> None:
    before = len(torch_optimizer._global_optimizer_post_hooks)
    model = tiny.bert()
    optimizer, second = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    stack = Stack([ema()])
    stack.prepare(model, optimizer, total_updates=10)
    with pytest.raises(HostError, match="Another optimizer"):
        step(model, second)
    assert stack.updates == 0
    step(model, optimizer)
    assert stack.updates == 1
    stack.prepare(model, optimizer, total_updates=10)
    assert stack.updates == 0
    step(model, optimizer)
    assert stack.updates == 1  # once, although it was watched twice
    stack.close()
    step(model, optimizer)
    assert stack.updates == 1
    assert not optimizer._optimizer_step_post_hooks
    assert len(torch_optimizer._global_optimizer_post_hooks) == before


# --- costs ----------------------------------------------------------------------------------------


@contextmanager
def counted(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Count passes from outside: calls of the model, gradients that arrive at the embeddings."""
    counts = dict.fromkeys(("forwards", "forwards_without_graph", "backwards", "backwards_to_embeddings"), 0)

    def before_pass(*_: object) -> None:
        counts["forwards" if torch.is_grad_enabled() else "forwards_without_graph"] += 1

    def arrived(_gradient: Tensor) -> None:
        counts["backwards"] += 1

    def embedded(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(arrived)

    grad = torch.autograd.grad

    def to_embeddings(*args: Any, **kwargs: Any) -> Any:
        counts["backwards_to_embeddings"] += 1
        return grad(*args, **kwargs)

    monkeypatch.setattr(ascent.torch.autograd, "grad", to_embeddings)
    handles = [model.register_forward_pre_hook(before_pass)]
    handles.append(model.get_input_embeddings().register_forward_hook(embedded))
    yield counts
    for handle in handles:
        handle.remove()


@every_method
def test_declared_costs_are_the_real_ones(methods: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny.bert(), tiny.batch(4)
    with Stack(methods(1.0)) as stack:
        stack.prepare(model, total_updates=5)
        moved_teacher(stack)
        declared = sum((m.cost() for m in stack.methods), start=PLAIN_STEP)
        with counted(model, monkeypatch) as counts:
            stack.loss(model, batch).backward()
        for name, count in counts.items():
            assert count == getattr(declared, name), name
        teachers = sum(t.numel() for weights in stack.teacher_weights().values() for t in weights.values())
        assert teachers == declared.weight_copies * sum(p.numel() for p in model.parameters())
        assert stack.runner.last_passes.perturbed == declared.forwards - 1
        assert stack.runner.last_passes.teacher == declared.forwards_without_graph
        shown = stack.explain(model)
        assert shown.total == declared
        assert shown.relative_cost == pytest.approx(declared.units / 3)


@dataclass(frozen=True)
class SecondBregman(Bregman):
    name: ClassVar[str] = "second"


@pytest.mark.parametrize(("settings", "teachers"), [({}, 1), ({"beta": 0.9}, 2)])
def test_equal_teachers_are_one_copy_and_one_pass(settings: dict[str, Any], teachers: int) -> None:
    model = tiny.bert()
    with Stack([bregman(), SecondBregman(**settings)]) as stack:
        stack.prepare(model, total_updates=5)
        moved_teacher(stack)
        stack.loss(model, tiny.batch(4))
        assert len(stack.teacher_weights()) == teachers
        assert stack.runner.last_passes.teacher == teachers
        logs = stack.take_logs()
    assert (logs["bregman"] == logs["second"]) is (teachers == 1)


def test_costs_of_the_paper_s_setting() -> None:
    """Each figure by hand: one ascent, a final pass, one pass of the teacher."""
    total = sum((m.cost() for m in smart()), start=PLAIN_STEP)
    assert total == Cost(3, 1, 2, 1, weight_copies=1, activation_sets=1)
    assert total.units == 3 + 1 + 2 * 2 + 1
    assert noisytune().cost() == Cost()


# --- inputs that are not finite, ignored, or of a kind that does not work ------------------------


def test_an_example_that_is_not_finite_gets_no_perturbation_and_is_counted(
    deltas: list[Tensor], messages: list[str]
) -> None:
    ids = [torch.tensor([8, 9, 10]), torch.tensor([7, 11]), torch.tensor([12, 13, 14, 15])]
    batch = tiny.batch_of(ids, [0, 1, 0])
    model = tiny.bert()
    with Stack([smoothness()]) as stack:
        stack.prepare(model)
        stack.loss(model, batch)
        assert "non_finite_perturbations" not in stack.take_logs()
        with torch.no_grad():
            model.get_input_embeddings().weight[7] = float("nan")
        stack.runner.clock.begin_update()  # the same noise again
        stack.loss(model, batch)
        stack.loss(model, batch)
        assert stack.take_logs()["non_finite_perturbations"] == 2
        assert stack.take_logs() == {}
        with torch.no_grad():
            model.get_input_embeddings().weight[7] = 0.0  # a model that is no number is refused at the end
    clean, broken = deltas[0], deltas[1]
    assert clean[1].any()
    assert not broken[1].any()
    for row in (0, 2):
        assert clean[row].any()
        assert torch.equal(broken[row], clean[row])


def test_ignored_examples_weigh_nothing() -> None:
    """An example with the label -100 changes neither the loss nor the gradients."""
    batch = tiny.batch(4)
    ignored = {name: tensor.clone() for name, tensor in batch.items()}
    ignored["labels"][3] = -100
    for methods in METHODS.values():
        loss, expected = gradients(methods(1.0), tiny.bert(dtype=torch.float64), [tiny.rows(batch, 0, 3)])
        found, same = gradients(methods(1.0), tiny.bert(dtype=torch.float64), [ignored])
        assert found == pytest.approx(loss, rel=1e-10)
        assert tiny.distance(same, expected) < 1e-10


def test_tagging_averages_over_the_labeled_tokens(deltas: list[Tensor]) -> None:
    config = BertConfig(**tiny.sizes(num_labels=3))
    model = tiny.seeded(lambda: BertForTokenClassification(config), 0, torch.float64)
    batch = tiny.batch(3)
    labels = torch.where(batch["attention_mask"] == 1, batch["input_ids"] % 3, -100)
    labels[:, 0] = -100
    batch["labels"] = labels
    with Stack([smoothness(radius=1e-2, noise_std=1e-2)]) as stack:
        stack.prepare(model)
        stack.loss(model, batch).backward()
        value = stack.take_logs()["smoothness"]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        clean = model(**inputs).logits
        with Tap(model.get_input_embeddings()).perturbing(deltas[0]):
            perturbed = model(**inputs).logits
    kept = labels != -100
    pairs = zip(perturbed[kept], clean[kept], strict=True)
    expected = sum(float(reference.symmetric_kl(p, q)) for p, q in pairs) / int(kept.sum())
    assert value == pytest.approx(expected, rel=1e-9)


def test_multi_label_heads_have_one_item_per_label() -> None:
    model = tiny.bert(num_labels=3, problem_type="multi_label_classification", dtype=torch.float64)
    batch = tiny.batch(4)
    batch["labels"] = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]]).double()
    with Stack([bregman()]) as stack:
        stack.prepare(model, total_updates=5)
        moved_teacher(stack)
        stack.loss(model, batch).backward()
        value = stack.take_logs()["bregman"]
        (teacher,) = stack.teacher_weights().values()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        p = model(**inputs).logits
        q = torch.func.functional_call(model, teacher, (), inputs).logits
    # As a two-class distribution with the logits (0, z), whose divergence is the references'.
    two = [torch.stack([torch.zeros(12).double(), z.flatten()], 1) for z in (p, q)]
    expected = sum(float(reference.symmetric_kl(a, b)) for a, b in zip(*two, strict=True)) / 12
    assert expected > 1e-4
    assert value == pytest.approx(expected, rel=1e-9)


def t5() -> nn.Module:
    config = T5Config(
        vocab_size=tiny.VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        classifier_dropout=0.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=2,
        num_labels=2,
    )
    return tiny.seeded(lambda: T5ForSequenceClassification(config), 0, torch.float64)


def bart() -> nn.Module:
    config = BartConfig(
        vocab_size=tiny.VOCABULARY,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=40,
        dropout=0.0,
        attention_dropout=0.0,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
        num_labels=2,
    )
    return tiny.seeded(lambda: BartForSequenceClassification(config), 0, torch.float64)


@pytest.mark.parametrize(("build", "pad"), [(t5, 0), (bart, 1)])
def test_encoder_decoders_are_perturbed_in_the_encoder(
    build: Callable[[], Any], pad: int, deltas: list[Tensor]
) -> None:
    model = build()
    ids = [torch.cat([s, torch.tensor([2])]) for s in tiny.sentences(4)]
    batch = tiny.batch_of(ids, [0, 1, 1, 0], pad=pad)
    embedded: list[Tensor] = []
    decoder = model.get_decoder().get_input_embeddings()
    handle = decoder.register_forward_hook(lambda _m, _i, output: embedded.append(output.detach()))
    with Stack(smart(radius=1e-2, noise_std=1e-2)) as stack:
        stack.prepare(model, total_updates=5)
        stack.loss(model, batch).backward()
        logs = stack.take_logs()
    handle.remove()
    assert word_embedding(model) is model.get_encoder().get_input_embeddings()
    assert word_embedding(model) is not decoder
    assert deltas[0].shape == (4, batch["input_ids"].shape[1], 16)
    assert deltas[0][batch["attention_mask"].bool()].abs().max() == pytest.approx(1e-2)
    assert logs["smoothness"] > 0
    assert len(embedded) == 4  # clean, up, perturbed, teacher
    assert all(torch.equal(e, embedded[0]) for e in embedded)


def test_inputs_embeds_is_refused() -> None:
    model, batch = tiny.bert(), tiny.batch(2)
    embeds = {"inputs_embeds": torch.randn(2, 4, tiny.WIDTH), "labels": batch["labels"]}
    for methods in METHODS.values():
        with Stack(methods(1.0)) as stack:
            stack.prepare(model, total_updates=5)
            with pytest.raises(HostError, match="pass token ids"):
                stack.loss(model, embeds)
        assert hooks_of(model) == 0


def test_a_perturbation_that_never_ran_is_an_error() -> None:
    embedding = nn.Embedding(5, 2)
    tap = Tap(embedding)
    with tap.watching():
        embedding(torch.tensor([[1, 2]]))
    with pytest.raises(HostError, match="never ran in the forward pass"), tap.perturbing(torch.ones(1, 2, 2)):
        pass
    assert hooks_of(embedding) == 0


class WithoutLogits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(tiny.VOCABULARY, tiny.WIDTH)

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Mapping[str, Tensor]:
        return {"loss": self.words(input_ids).square().mean()}


class WithoutEmbeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))


def test_models_that_cannot_work_are_named() -> None:
    with Stack([smoothness()]) as stack:
        with pytest.raises(HostError, match=r"call stack\.prepare"):
            stack.loss(tiny.bert(), tiny.batch(2))
        with pytest.raises(HostError, match=r"WithoutEmbeddings .*get_input_embeddings"):
            stack.prepare(WithoutEmbeddings())
        model = WithoutLogits()
        stack.prepare(model)
        with pytest.raises(HostError, match="without a tensor named 'logits'"):
            stack.loss(model, tiny.batch(2))
        assert hooks_of(model) == 0
        assert word_embedding(model) is model.words


def test_bregman_must_know_how_long_the_training_is() -> None:
    model = tiny.bert()
    with Stack(smart()) as stack:
        stack.prepare(model)
        with pytest.raises(HostError, match="total_updates"):
            stack.loss(model, tiny.batch(2))
        stack.prepare(model, total_updates=5)
        stack.loss(model, tiny.batch(2))
    with Stack([bregman(early_fraction=0)]) as stack:
        stack.prepare(model)
        stack.loss(model, tiny.batch(2))


def test_small_radius_in_16_bit_is_warned_of_once(messages: list[str]) -> None:
    model = tiny.bert()
    for radius, warnings in ((1e-5, 1), (1e-2, 0)):
        messages.clear()
        with Stack([smoothness(radius=radius)]) as stack:
            stack.prepare(model)
            for _ in range(2):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = stack.loss(model, tiny.batch(2))
                loss.backward()
        assert len(messages) == warnings
        assert all("radius of 1e-05 is lost to rounding in bfloat16" in m for m in messages)
    messages.clear()
    with Stack([smoothness()]) as stack:
        stack.prepare(model)
        stack.loss(model, tiny.batch(2))
    assert not any("lost to rounding" in message for message in messages)


# --- sets of methods ------------------------------------------------------------------------------


@dataclass(frozen=True)
class OtherWeights(WeightMethod):
    name: ClassVar[str] = "other-weights"
    paper: ClassVar[str] = "none"
    claims: ClassVar[frozenset[str]] = frozenset({"initial weights"})

    def effect(self) -> str:
        return "nothing"

    def transform(self, model: nn.Module, seed: int) -> None:
        return None

    def preview(self, model: nn.Module, seed: int) -> None:
        return None


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ([noisytune(), noisytune(0.1)], "noisytune is in the stack twice"),
        ([smart(), smoothness()], "smoothness is in the stack twice"),
        ([bregman(), smart()], "bregman is in the stack twice"),
        ([noisytune(), OtherWeights()], "noisytune and other-weights cannot train together: both own the initial"),
        ([smart], "smart was not called: write smart()"),
        (["smart", smoothness()], "smoothness is in the stack twice"),
        ([noisytune], "NoisyTune is a class, not a method: write noisytune()"),
    ],
)
def test_conflicts_are_refused_at_construction(methods: list[Any], said: str) -> None:
    with pytest.raises(MethodError) as error:
        Stack(methods)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_groups_and_methods_mix() -> None:
    stack = Stack([noisytune(), [smart()]])
    assert str(stack) == "noisytune + smoothness + bregman"
    assert Stack(["noisytune", ["smart"]]).methods == stack.methods
    assert Stack("smart").methods == smart()
    assert Stack("none").methods == Stack(["none"]).methods == ()
    assert all(isinstance(m, Method) for m in stack.methods)


def test_explain_says_each_figure() -> None:
    model = tiny.bert()
    before = tiny.weights(model)
    text = str(Stack([noisytune(), smart()]).explain(model))
    assert tiny.differences(tiny.weights(model), before) == []
    for part in ("noisytune", "smoothness", "bregman", "3 forward passes with a graph, 1 without", "3.00 x a plain"):
        assert part in text
    assert "noisytune moves" in text


# --- checkpoints in a plain loop ------------------------------------------------------------------


@every_method
def test_a_plain_loop_resumes_bit_for_bit(methods: Build, tmp_path: Path) -> None:
    def loop(stack: Stack, model: nn.Module, optimizer: torch.optim.Optimizer, updates: range) -> None:
        for update in updates:
            optimizer.zero_grad()
            stack.loss(model, tiny.batch(4, seed=update)).backward()
            optimizer.step()

    model = tiny.bert(dropout=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    stack = Stack(methods(1.0), seed=3)
    stack.prepare(model, optimizer, total_updates=30)
    loop(stack, model, optimizer, range(2))  # the schedule switches at 3
    assert stack.save(tmp_path).name == "steadytune.safetensors"
    saved = (tiny.clone(model).state_dict(), tiny.clone(optimizer.state_dict()), torch.get_rng_state())
    loop(stack, model, optimizer, range(2, 5))

    resumed = tiny.bert(dropout=0.1, seed=9)
    resumed.load_state_dict(saved[0])
    again = torch.optim.AdamW(resumed.parameters(), lr=1e-2)
    again.load_state_dict(saved[1])
    other = Stack(methods(1.0), seed=3)
    other.prepare(resumed, again, total_updates=30, resume_from=tmp_path)
    assert other.updates == 2
    assert tiny.differences(tiny.weights(resumed), dict(saved[0])) == []
    torch.set_rng_state(saved[2])
    loop(other, resumed, again, range(2, 5))
    assert tiny.differences(tiny.weights(resumed), tiny.weights(model)) == []
    assert other.teacher_weights().keys() == stack.teacher_weights().keys()
    for key, teacher in stack.teacher_weights().items():
        assert tiny.differences(other.teacher_weights()[key], teacher) == []
    for s in (stack, other):
        s.close()


def test_a_teacher_of_another_model_is_refused(tmp_path: Path) -> None:
    for build, other in ((tiny.bert, tiny.roberta), (tiny.bert, lambda: tiny.bert(num_labels=3))):
        with Stack(smart()) as stack:
            stack.prepare(build(), total_updates=5)
            stack.save(tmp_path)
            with pytest.raises(CheckpointError, match="a teacher of another model"):
                stack.prepare(other(), total_updates=5, resume_from=tmp_path)
