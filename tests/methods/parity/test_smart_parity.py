"""SMART against a slow float64 transcription, over another route: ``inputs_embeds`` of one unpadded example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.one_example import as_function, cut, examples_of
from references import smart as reference
from torch import Tensor, nn

from steadytune import Stack, bregman, smart, smoothness
from steadytune.core.authoring.method import LossMethod
from steadytune.errors import MethodError
from steadytune.methods.bregman import Bregman
from steadytune.methods.smoothness import Smoothness

WORDS = "bert.embeddings.word_embeddings.weight"
DIVERGENCES: dict[int, reference.Divergence] = {3: "symmetric_kl", 1: "squared_difference"}


def bert(labels: int, seed: int = 0) -> nn.Module:
    problem = "regression" if labels == 1 else "single_label_classification"
    return tiny.bert(num_labels=labels, problem_type=problem, dtype=torch.float64, seed=seed)


def move_teacher(stack: Stack, seed: int = 3) -> reference.Theta:
    """Move the stack's only teacher away from the student; returns its weights."""
    generator = torch.Generator().manual_seed(seed)
    teacher: dict[str, Tensor] = tiny.only(stack.teacher_weights().values())
    for tensor in teacher.values():
        tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
    return {name: tensor.clone() for name, tensor in teacher.items()}


# --- one step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [3, 1], ids=["classification", "regression"])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("radius", [1e-5, 1e-2])
def test_one_step(labels: int, steps: int, radius: float, start_noises: list[Tensor], deltas: list[Tensor]) -> None:
    # At 1e-2 the step is smaller than the ball, so that three steps do not all end in its corners.
    eta = 1e-3 if radius < 1e-3 else 4e-3
    # The term is of the order of the squared radius: the factor makes its gradient count beside the task's.
    lambda_s, mu = min(0.01 / radius**2, 1000.0), 2.0
    model = bert(labels)
    batch = tiny.batch(4, labels=labels)
    methods = smart(lambda_s, mu, radius=radius, noise_std=radius, step_size=eta, ascent_steps=steps, masks="fresh")
    stack = Stack(methods)
    stack.prepare(model, total_updates=10)
    teacher = move_teacher(stack)
    loss = stack.loss(model, batch)
    loss.backward()
    logs = stack.take_logs()
    stack.close()

    (noise,), (delta,) = start_noises, deltas
    f, theta = as_function(model), tiny.weights(model)
    expected = reference.smart_step(
        f,
        theta,
        teacher,
        examples_of(batch),
        batch["labels"].tolist(),
        cut(noise, batch),
        radius,
        eta,
        steps,
        lambda_s,
        mu,
        DIVERGENCES[labels],
    )
    padding = batch["attention_mask"] == 0
    assert padding.any()
    assert not delta[padding].any()
    for found, wanted in zip(cut(delta, batch), expected.deltas, strict=True):
        assert 0.5 * radius < float(found.abs().max()) <= radius
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6 * radius)
    # A difference of two outputs that lie 1e-5 apart keeps 10 of 15 digits.
    assert logs["task_loss"] == pytest.approx(expected.task_loss, rel=1e-12)
    assert logs["smoothness"] == pytest.approx(expected.smoothness, rel=1e-7)
    assert logs["bregman"] == pytest.approx(expected.bregman, rel=1e-9)
    assert loss.item() == pytest.approx(expected.total, rel=1e-11)
    assert expected.bregman > 1e-4
    assert tiny.distance(tiny.gradients(model), expected.gradients) < 1e-9
    for name, gradient in tiny.gradients(model).items():
        torch.testing.assert_close(gradient, expected.gradients[name], rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("labels", [3, 1], ids=["classification", "regression"])
@pytest.mark.parametrize("radius", [1e-5, 1e-2])
def test_gradient_of_the_regularizer_alone(
    labels: int, radius: float, start_noises: list[Tensor], deltas: list[Tensor]
) -> None:
    model = bert(labels)
    batch = tiny.batch(3, labels=labels)
    with Stack([smoothness(radius=radius, noise_std=radius)]) as stack:
        stack.prepare(model)
        stack.loss(model, batch).backward()
    with_term = tiny.gradients(model)
    model.zero_grad()
    model(**batch).loss.backward()
    plain = tiny.gradients(model)
    f, examples = as_function(model), examples_of(batch)
    weights = reference.variables(tiny.weights(model))
    value, found = reference.smoothness(
        f, weights, examples, cut(start_noises[0], batch), radius, 1e-3, 1, DIVERGENCES[labels]
    )
    expected = reference.gradients_of(value, weights)
    torch.testing.assert_close(torch.cat(cut(deltas[0], batch)), torch.cat(found), rtol=0, atol=1e-6 * radius)
    largest = max(float(g.abs().max()) for g in expected.values())
    assert largest > 0
    # The difference of two gradients of size 1 is known to 1e-15.
    allowed = 1e-6 * largest + 1e-14
    for name, gradient in expected.items():
        torch.testing.assert_close(with_term[name] - plain[name], gradient, rtol=0, atol=allowed)


@pytest.mark.parametrize("build", [tiny.roberta, tiny.llama])
def test_one_step_on_other_bodies(build: Callable[..., nn.Module], deltas: list[Tensor]) -> None:
    """The definition written with the model's own forward at x + delta, by way of a changed embedding table."""
    model = build(num_labels=3, dtype=torch.float64)
    # No token twice, so that a row of the table is one position of one example.
    ids = torch.arange(5, 5 + 12).reshape(2, 6)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 2])}
    with Stack([smoothness(radius=1e-2, noise_std=1e-2)]) as stack:
        stack.prepare(model)
        stack.loss(model, batch)
        value = stack.take_logs()["smoothness"]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        clean = model(**inputs).logits
        model.get_input_embeddings().weight[ids] += deltas[0]
        perturbed = model(**inputs).logits
    expected = sum(reference.symmetric_kl(p, q) for p, q in zip(perturbed, clean, strict=True)) / 2
    assert value == pytest.approx(float(expected), rel=1e-9)


def test_ablations_add_up() -> None:
    """Table 3: smart minus a half is the other half, and the terms only add."""
    batch = tiny.batch(4, labels=3)

    def loss(*methods: LossMethod) -> float:
        model = bert(3)
        with Stack([methods]) as stack:
            stack.prepare(model, total_updates=10)
            if any(isinstance(m, Bregman) for m in methods):
                move_teacher(stack)
            return stack.loss(model, batch).item()

    settings: dict[str, Any] = {"radius": 1e-2, "noise_std": 1e-2}
    plain = loss()
    whole = loss(*smart(3.0, 2.0, **settings))
    smooth = loss(smoothness(weight=3.0, **settings)) - plain
    proximal = loss(bregman(weight=2.0)) - plain
    assert smooth > 1e-6
    assert proximal > 1e-6
    assert whole == pytest.approx(plain + smooth + proximal, rel=1e-12)
    assert loss(*reversed(smart(3.0, 2.0, **settings))) == pytest.approx(whole, rel=1e-14)
    assert loss(*smart(6.0, 2.0, **settings)) == pytest.approx(whole + smooth, rel=1e-12)
    assert loss(*smart(3.0, 4.0, **settings)) == pytest.approx(whole + proximal, rel=1e-12)


# --- trajectories ---------------------------------------------------------------------------------


def run(
    method: Bregman,
    model: nn.Module,
    batches: list[dict[str, Tensor]],
    *,
    optimizer: str,
    rate: float,
    total: int | None,
) -> reference.Trajectory:
    """What the stack does in a plain loop, in the references' words."""
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    trained = kind(model.parameters(), lr=rate)
    result = reference.Trajectory()
    with Stack([method]) as stack:
        stack.prepare(model, trained, total_updates=total)
        for batch in batches:
            trained.zero_grad()
            stack.loss(model, batch).backward()
            trained.step()
            logs = stack.take_logs()
            result.task_losses.append(logs["task_loss"])
            result.bregmans.append(logs["bregman"])
            result.students.append(tiny.weights(model))
            teacher = tiny.only(stack.teacher_weights().values())
            result.teachers.append({name: t.clone() for name, t in teacher.items()})
    return result


def compare(found: reference.Trajectory, expected: reference.Trajectory) -> None:
    assert len(found.students) == len(expected.students)
    # The third digit of the last differences comes from sums in another order, which Adam's square root enlarges.
    assert found.task_losses == pytest.approx(expected.task_losses, rel=1e-8)
    assert found.bregmans == pytest.approx(expected.bregmans, rel=1e-6, abs=1e-20)
    for name in ("students", "teachers"):
        for ours, theirs in zip(getattr(found, name), getattr(expected, name), strict=True):
            assert tiny.distance(ours, theirs) < 1e-9


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.3), ("adam", 0.01)])
@pytest.mark.parametrize("labels", [3, 1], ids=["classification", "regression"])
def test_momentum_trajectory(optimizer: reference.Optimizer, rate: float, labels: int) -> None:
    model, mu, total = bert(labels), 5.0, 20
    rate = rate / 10 if labels == 1 else rate
    start = tiny.weights(model)
    batches = [tiny.batch(3, seed=seed, labels=labels) for seed in range(total)]
    examples, targets = [examples_of(b) for b in batches], [b["labels"].tolist() for b in batches]
    f, kind = as_function(tiny.clone(model)), DIVERGENCES[labels]
    expected = reference.run_momentum_bregman(f, start, examples, targets, rate, mu, total, kind, optimizer)
    found = run(bregman(weight=mu), model, batches, optimizer=optimizer, rate=rate, total=total)
    compare(found, expected)
    # The comparison can fail: the term acts, the first update has none, and beta switches after the second.
    assert found.bregmans[0] == 0
    assert max(found.bregmans[1:]) > 1e-3
    betas = [reference.momentum_beta(t, total) for t in range(1, total + 1)]
    assert betas[1:3] == [0.99, 0.999]
    without = run(bregman(weight=0), bert(labels), batches, optimizer=optimizer, rate=rate, total=total)
    assert tiny.distance(without.students[-1], expected.students[-1]) > 1e-6
    constant = run(
        bregman(weight=mu, early_fraction=0), bert(labels), batches, optimizer=optimizer, rate=rate, total=None
    )
    assert tiny.distance(constant.teachers[-1], expected.teachers[-1]) > 1e-6


def test_every_update_has_the_beta_of_the_paper() -> None:
    (teacher,) = bregman().teachers()
    for total in (1, 9, 10, 19, 20, 29, 30, 70, 101, 1000, 12345):
        for t in (1, 2, 3, 7, 8, 10, 11, 100, 101, 1234, 1235):
            assert teacher.decay_after(t, total) == reference.momentum_beta(t, total), (t, total)


@pytest.mark.parametrize(("optimizer", "rate"), [("sgd", 0.3), ("adam", 0.01)])
def test_vanilla_trajectory(optimizer: reference.Optimizer, rate: float) -> None:
    model, mu = bert(3), 5.0
    start = tiny.weights(model)
    batches = [tiny.batch(3, seed=seed, labels=3) for seed in range(10)]  # the last block is shorter
    examples, targets = [examples_of(b) for b in batches], [b["labels"].tolist() for b in batches]
    f = as_function(tiny.clone(model))
    expected = reference.run_vanilla_bregman(
        f, start, examples, targets, rate, mu, "symmetric_kl", optimizer, inner_steps=4
    )
    found = run(
        bregman(weight=mu, momentum=False, inner_steps=4), model, batches, optimizer=optimizer, rate=rate, total=None
    )
    compare(found, expected)
    assert [b == 0 for b in found.bregmans] == [t % 4 == 0 for t in range(10)]
    assert max(found.bregmans) > 1e-3
    assert tiny.differences(found.teachers[3], found.students[3]) == []


# --- presets --------------------------------------------------------------------------------------


def test_paper_preset_is_the_paper_s_table() -> None:
    """SMART, section 4.1 and appendix: papers.md, 1.3."""
    first, second = smart.paper()
    assert isinstance(first, Smoothness)
    assert isinstance(second, Bregman)
    assert first.radius == 1e-5  # epsilon
    assert first.noise_std == 1e-5  # sigma
    assert first.step_size == 1e-3  # eta
    assert first.projection == "linf"  # p = infinity
    assert first.ascent_steps == 1  # T of the perturbation
    assert first.weight == 1.0  # lambda_s, of 1, 3 and 5
    assert second.weight == 1.0  # mu
    assert second.inner_steps == 1  # S
    assert second.momentum
    assert second.early_beta == 0.99  # t <= 0.1 T
    assert second.early_fraction == 0.1
    assert second.beta == 0.999  # after
    assert [m.weight for m in smart.paper(5.0, 2.0)] == [5.0, 2.0]


def test_smart_is_the_paper_s_preset() -> None:
    assert [m.settings() for m in smart()] == [m.settings() for m in smart.paper()]
    assert smart() == smart.paper()
    assert (smoothness(), bregman()) == smart.paper()
    assert [m.weight for m in smart(3.0, 2.0)] == [3.0, 2.0]
    assert smart(beta=0.9)[1] == bregman(beta=0.9)
    assert smart(radius=1e-4, masks="same")[0] == smoothness(radius=1e-4, masks="same")


def test_mt_dnn_moves_every_token_by_exactly_1(deltas: list[Tensor]) -> None:
    methods = smart.mt_dnn(weight=2.0)
    assert [type(m) for m in methods] == [Smoothness]
    assert methods[0].weight == 2.0
    model = tiny.bert(num_labels=3)
    batch = tiny.batch(4, labels=3, extra=2)
    with Stack([methods]) as stack:
        stack.prepare(model)
        loss = stack.loss(model, batch)
        loss.backward()
        value = stack.take_logs()
    largest = deltas[0].abs().amax(-1)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(largest[real], torch.ones_like(largest[real]), rtol=1e-6, atol=0)
    assert not largest[~real].any()
    assert value["smoothness"] > 1e-2
    assert loss.item() == pytest.approx(value["task_loss"] + 2 * value["smoothness"], rel=1e-6)


def test_a_start_outside_the_ball_is_refused() -> None:
    with pytest.raises(MethodError, match=r"noise_std \(0.0001\) must be at most smoothness.radius \(1e-05\)"):
        smoothness(noise_std=1e-4)
    assert smoothness(noise_std=1e-4, projection="token").noise_std == 1e-4


@pytest.mark.parametrize(
    ("build", "allowed"),
    [
        (lambda: smoothness(weight=-1), "weight must be between 0 and 1000; got -1"),
        (lambda: smoothness(radius=0), "radius must be above 0 and at most 10; got 0"),
        (lambda: smoothness(step_size=0), "step_size must be above 0 and at most 100; got 0"),
        (lambda: smoothness(ascent_steps=-1), "ascent_steps must be a whole number between 0 and 100; got -1"),
        (lambda: smoothness(ascent_steps=1.0), "ascent_steps must be a whole number between 0 and 100; got 1.0"),
        (lambda: smoothness(masks="new"), "masks must be one of fresh, same; got 'new'"),
        (lambda: smoothness(projection="l2"), "projection must be one of linf, token; got 'l2'"),
        (lambda: bregman(beta=1.0), "beta must be between 0 and 0.999999; got 1.0"),
        (lambda: bregman(momentum=1), "momentum must be one of True, False; got 1"),
        (lambda: bregman(inner_steps=0), "inner_steps must be a whole number between 1 and 100000; got 0"),
    ],
)
def test_settings_out_of_range_are_refused(build: Callable[[], object], allowed: str) -> None:
    with pytest.raises(MethodError) as error:
        build()
    assert allowed in str(error.value)


@pytest.mark.parametrize("method", [*smart(3.0, radius=1e-4), *smart.mt_dnn(), bregman(momentum=False, inner_steps=2)])
def test_settings_build_the_method_again(method: LossMethod) -> None:
    assert type(method)(**method.settings()) == method
    assert type(method)(**method.changed_settings()) == method


def test_bregman_without_effect_is_refused() -> None:
    for settings in ({"momentum": False}, {"beta": 0.0, "early_beta": 0.0}, {"beta": 0.0, "early_fraction": 0.0}):
        with pytest.raises(MethodError, match="no effect"):
            bregman(**settings)
    assert bregman(beta=0.0).early_beta == 0.99
