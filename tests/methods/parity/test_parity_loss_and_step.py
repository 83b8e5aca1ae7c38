"""Loss and step methods against slow float64 transcriptions, over another route: one unpadded sentence at a time.

What the library draws is recorded and handed to the references, divided by the scale that it was drawn at: they
apply the scale which the method should have. What the model is shown is recorded behind the word embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from helpers import tiny
from references import adversarial_training as adversarial
from references import alum as alum_reference
from references import bert as reference
from references import l2_sp as l2_sp_reference
from references import mean_teacher as mean_teacher_reference
from references import neftune as neftune_reference
from references import r3f as r3f_reference
from references import r_drop as r_drop_reference
from references import sam as sam_reference
from references import vat as vat_reference
from references.bert import Kind, Sentence
from references.smart import Theta
from torch import Tensor, nn
from transformers import BertForSequenceClassification

import steadytune
from steadytune import Stack, alum, freeat, freelb, l2_sp, mean_teacher, neftune, pgd, r3f, r_drop, sam, vat
from steadytune.core.arithmetic import noise as noise_file
from steadytune.errors import HostError

KINDS: dict[str, Kind] = {
    "two": "classification",
    "three": "classification",
    "regression": "regression",
    "multi_label": "multi_label",
}
OUTPUTS = {"two": 2, "three": 3, "regression": 1, "multi_label": 3}
PROBLEMS = {
    "classification": "single_label_classification",
    "regression": "regression",
    "multi_label": "multi_label_classification",
}
HEAD = ("classifier.weight", "classifier.bias")

every_task = pytest.mark.parametrize("task", KINDS)


# --- models, batches, and what is seen of the library ---------------------------------------------------


@dataclass
class Draw:
    """One draw of embedding noise: what it was called with and what it gave."""

    kind: str
    scale: float | Tensor
    noise: Tensor

    def unit(self, batch: dict[str, Tensor]) -> list[Tensor]:
        """Of each sentence the draws [L, W] before they were scaled."""
        assert self.noise.dtype == torch.float64
        assert not self.noise[batch["attention_mask"] == 0].any()
        unit = cut(self.noise / self.scale, batch)
        everything = torch.cat(unit)
        if self.kind == "uniform":
            assert 0.9 < float(everything.abs().max()) <= 1.0
        else:
            assert 1.5 < float(everything.abs().max()) < 6.0
        assert len(everything.unique()) == everything.numel()
        return unit


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[Draw]:
    """All the embedding noise of the test, in order."""
    seen: list[Draw] = []

    def record(kind: str) -> None:
        draw: Callable[..., Tensor] = getattr(noise_file, f"{kind}_noise")

        def recorded(site: Any, *scale: Any, **named: Any) -> Tensor:
            noise = draw(site, *scale, **named)
            seen.append(Draw(kind, tiny.only([*scale, *named.values()]), noise.detach().clone()))
            return noise

        monkeypatch.setattr(noise_file, f"{kind}_noise", recorded)

    record("normal")
    record("uniform")
    return seen


def build(task: str, **settings: Any) -> BertForSequenceClassification:
    return tiny.bert(num_labels=OUTPUTS[task], problem_type=PROBLEMS[KINDS[task]], dtype=torch.float64, **settings)


def batch_for(task: str, count: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Sentences of different lengths, with two columns of padding more than they need."""
    batch = tiny.batch(count, seed=seed, labels=OUTPUTS[task], extra=2)
    if task == "multi_label":
        generator = torch.Generator().manual_seed(seed)
        batch["labels"] = torch.randint(2, (count, OUTPUTS[task]), generator=generator).double()
    assert len(set(batch["attention_mask"].sum(1).tolist())) > 1
    return batch


def sentences_of(batch: dict[str, Tensor]) -> list[Sentence]:
    lengths = batch["attention_mask"].sum(1).tolist()
    return [
        Sentence(ids[:length], label)
        for ids, length, label in zip(batch["input_ids"], lengths, batch["labels"], strict=True)
    ]


def cut(padded: Tensor, batch: dict[str, Tensor]) -> list[Tensor]:
    """The real tokens of each sentence of a padded ``(batch, length, width)``."""
    lengths = batch["attention_mask"].sum(1).tolist()
    return [row[:length] for row, length in zip(padded, lengths, strict=True)]


def inputs_of(module: nn.Module) -> list[Tensor]:
    """What the module is given in all of its forward passes from now on, in order."""
    seen: list[Tensor] = []
    module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].detach().clone()))
    return seen


def embeddings_seen(model: BertForSequenceClassification) -> list[Tensor]:
    """Word, position and token type embeddings of every pass, with whatever was added to them."""
    return inputs_of(model.bert.embeddings.LayerNorm)


def clean_embeddings(theta: Theta, batch: dict[str, Tensor]) -> Tensor:
    """What `embeddings_seen` sees where nothing is added."""
    words = theta[reference.WORDS][batch["input_ids"]]
    positions = theta[reference.EMBEDDINGS + "position_embeddings.weight"][: words.shape[1]]
    return words + positions + theta[reference.EMBEDDINGS + "token_type_embeddings.weight"][0]


def assert_pass_at(seen: Tensor, theta: Theta, batch: dict[str, Tensor], deltas: Sequence[Tensor]) -> None:
    """One pass was made at these perturbations, and with untouched padding."""
    found = seen - clean_embeddings(theta, batch)
    assert float(found[batch["attention_mask"] == 0].abs().max()) < 1e-14
    for ours, theirs in zip(cut(found, batch), deltas, strict=True):
        size = float(theirs.abs().max())
        assert size > 0
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * size + 1e-14)


def passes_off(seen: Sequence[Tensor], theta: Theta, batch: dict[str, Tensor]) -> list[Tensor]:
    """Those passes which were not clean."""
    clean = clean_embeddings(theta, batch)
    return [inputs for inputs in seen if float((inputs - clean).abs().max()) > 1e-13]


def assert_same(found: Theta, expected: Theta, tolerance: float = 1e-9) -> None:
    """Every tensor to ``tolerance`` of its own largest entry, or of a thousandth of the largest of all."""
    assert set(found) == set(expected)
    sizes = {name: float(tensor.abs().max()) for name, tensor in expected.items()}
    floor = 1e-3 * max(sizes.values())
    assert floor > 0
    for name, tensor in expected.items():
        allowed = tolerance * max(sizes[name], floor)
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=allowed, msg=lambda text, n=name: f"{n}: {text}")


def assert_term_counts(step: reference.Step, weight: float) -> None:
    """The term is felt in the gradients by more than a comparison lets pass."""
    whole = max(float(g.abs().max()) for g in step.gradients.values())
    assert weight * max(float(g.abs().max()) for g in step.term_gradients.values()) > 1e-3 * whole


@dataclass
class Outcome:
    """What one micro-batch gave."""

    loss: float
    gradients: Theta
    logs: dict[str, float]
    theta: Theta  # before it


def one_step(methods: Any, model: BertForSequenceClassification, *batches: dict[str, Tensor]) -> Outcome:
    """One update's gradients, of one batch or accumulated over several; the loss is the last one's."""
    theta = tiny.weights(model)
    loss = torch.zeros(())
    with Stack(methods, seed=0) as stack:
        stack.prepare(model, total_updates=5)
        stack.optimizer(sgd(trainable(model)))
        for batch in batches:
            loss = stack.backward(model, batch, scale=1 / len(batches))
        logs = stack.take_logs()
    assert tiny.differences(tiny.weights(model), theta) == []
    return Outcome(float(loss), tiny.gradients(model), logs, theta)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def sgd(weights: list[Any]) -> torch.optim.Optimizer:
    return torch.optim.SGD(weights, lr=0.1)


def adamw(weights: list[Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(weights, lr=3e-3, weight_decay=0.1)


both_optimizers = pytest.mark.parametrize("optimizer", [sgd, adamw])


# --- loss terms -----------------------------------------------------------------------------------------


@every_task
@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_r3f(task: str, kind: str, draws: list[Draw]) -> None:
    model, batch, weight = build(task), batch_for(task), 100.0
    seen = embeddings_seen(model)
    found = one_step([r3f(weight=weight, radius=1e-2, noise=kind)], model, batch)
    draw = tiny.only(draws)
    assert draw.kind == kind
    expected = r3f_reference.r3f(
        build(task), found.theta, KINDS[task], sentences_of(batch), draw.unit(batch), 1e-2, weight
    )
    assert_term_counts(expected, weight)
    assert_pass_at(tiny.only(passes_off(seen, found.theta, batch)), found.theta, batch, expected.deltas)
    assert found.logs["r3f"] == pytest.approx(expected.term, rel=1e-9)
    assert found.loss == pytest.approx(expected.loss, rel=1e-9)
    assert_same(found.gradients, expected.gradients)


@every_task
def test_r3f_at_its_own_radius(task: str, draws: list[Draw]) -> None:
    model, batch = build(task), batch_for(task)
    found = one_step([r3f()], model, batch)
    expected = r3f_reference.r3f(
        build(task), found.theta, KINDS[task], sentences_of(batch), tiny.only(draws).unit(batch), 1e-5, 1.0
    )
    # A difference of two outputs that lie 1e-5 apart keeps 10 of 15 digits.
    assert expected.term > 0
    assert found.logs["r3f"] == pytest.approx(expected.term, rel=1e-7)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)


@every_task
@pytest.mark.parametrize("weight", [2.0, 0.0])
def test_r_drop(task: str, weight: float) -> None:
    """The only dropout is the one before the classifier: its masks are what went out by what came in."""
    model, batch = build(task, classifier_dropout=0.4), batch_for(task)
    masks: list[Tensor] = []
    model.dropout.register_forward_hook(
        lambda _module, inputs, output: masks.append((output / inputs[0]).detach().clone())
    )
    found = one_step([r_drop(weight=weight)], model, batch)
    # Two passes, or one of twice the batch.
    first, second = torch.cat(masks).reshape(2, 4, tiny.WIDTH)
    assert not torch.equal(first, second)
    expected = r_drop_reference.r_drop(
        build(task), found.theta, KINDS[task], sentences_of(batch), list(first), list(second), weight
    )
    assert expected.term > 1e-3
    assert found.logs["r_drop"] == pytest.approx(expected.term, rel=1e-9)
    assert found.loss == pytest.approx(expected.loss, rel=1e-9)
    assert_same(found.gradients, expected.gradients)


@every_task
@pytest.mark.parametrize(("iterations", "finite_difference"), [(1, 0.1), (3, 0.1), (1, 0.5)])
def test_vat(task: str, iterations: int, finite_difference: float, draws: list[Draw]) -> None:
    model, batch, weight = build(task), batch_for(task), 2.0
    seen = embeddings_seen(model)
    method = vat(weight=weight, radius=0.7, finite_difference=finite_difference, power_iterations=iterations)
    found = one_step([method], model, batch)
    draw = tiny.only(draws)
    assert draw.kind == "normal"
    expected = vat_reference.vat(
        build(task),
        found.theta,
        KINDS[task],
        sentences_of(batch),
        draw.unit(batch),
        0.7,
        finite_difference,
        iterations,
        weight,
    )
    assert_term_counts(expected, weight)
    perturbed = passes_off(seen, found.theta, batch)
    assert len(perturbed) == iterations + 1
    assert_pass_at(perturbed[-1], found.theta, batch, expected.deltas)
    assert found.logs["vat"] == pytest.approx(expected.term, rel=1e-9)
    assert found.loss == pytest.approx(expected.loss, rel=1e-9)
    assert_same(found.gradients, expected.gradients)


@every_task
@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("steps", [1, 3])
def test_alum(task: str, layer: int, steps: int, draws: list[Draw]) -> None:
    radius, step_size, weight = 2e-2, 8e-3, 100.0
    model, batch = build(task), batch_for(task)
    # Where the output of the layer goes: behind the word embeddings nothing else is added to what is seen below.
    site = [model.bert.embeddings.LayerNorm, model.bert.encoder.layer[1], model.bert.pooler][layer]
    seen = inputs_of(site)
    method = alum(weight=weight, layer=layer, radius=radius, noise_std=1e-2, step_size=step_size, ascent_steps=steps)
    found = one_step([method], model, batch)
    draw = tiny.only(draws)
    assert draw.kind == "normal"
    starts = [1e-2 * unit for unit in draw.unit(batch)]
    whole, sentences = build(task), sentences_of(batch)
    expected = alum_reference.alum(
        whole, found.theta, KINDS[task], sentences, starts, layer, radius, step_size, steps, weight
    )
    assert_term_counts(expected, weight)
    assert max(float(d.abs().max()) for d in expected.deltas) <= radius
    fixed = {name: weight.detach() for name, weight in found.theta.items()}
    clean = [reference.hidden(whole, fixed, sentence, layer) for sentence in sentences]
    if layer == 0:
        clean = cut(clean_embeddings(fixed, batch), batch)
    off = [[ours - theirs for ours, theirs in zip(cut(inputs, batch), clean, strict=True)] for inputs in seen]
    perturbed = [deltas for deltas in off if float(torch.cat(deltas).abs().max()) > 1e-12]
    assert len(perturbed) == steps + 1
    for ours, theirs in zip(perturbed[0], starts, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * radius)
    for ours, theirs in zip(perturbed[-1], expected.deltas, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * radius)
    assert found.logs["alum"] == pytest.approx(expected.term, rel=1e-9)
    assert found.loss == pytest.approx(expected.loss, rel=1e-9)
    assert_same(found.gradients, expected.gradients)


def freeze_some(model: BertForSequenceClassification) -> None:
    for name, weight in model.named_parameters():
        weight.requires_grad_(not name.startswith(("bert.embeddings", "bert.encoder.layer.0.attention")))


def train_on_penalty(
    batches: Sequence[dict[str, Tensor]], frozen: bool, weight: float
) -> tuple[Theta, Theta, float, BertForSequenceClassification]:
    """One update with L2-SP of weights that have left their anchor: weights before, after, and the last loss."""
    model = build("three")
    if frozen:
        freeze_some(model)
    loss = torch.zeros(())
    with Stack([l2_sp(weight=weight, head_weight=0.7)], seed=0) as stack:
        stack.prepare(model, total_updates=5)
        move(model)
        theta = tiny.weights(model)
        optimizer = stack.optimizer(sgd(trainable(model)))
        for batch in batches:
            loss = stack.backward(model, batch, scale=1 / len(batches))
        optimizer.step()
    return theta, tiny.weights(model), float(loss), model


def move(model: nn.Module) -> None:
    """Move the trainable weights, as training would."""
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for weight in trainable(model):
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("weight", [0.3, 0.0])
def test_l2_sp(frozen: bool, parts: int, weight: float) -> None:
    """By the weights after the update, wherever in it the penalty was added."""
    batches = [batch_for("three", seed=seed) for seed in range(parts)]
    theta, after, loss, model = train_on_penalty(batches, frozen, weight)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert (len(trained) < len(theta)) == frozen
    anchor = tiny.weights(build("three"))
    whole = build("three")
    gradients = {name: torch.zeros_like(theta[name]) for name in trained}
    values: list[float] = []
    for batch in batches:
        value, found = task_gradients(whole, theta, sentences_of(batch))
        gradients = reference.add(gradients, {name: found[name] for name in trained}, 1 / parts)
        values.append(value)
    if weight > 0:
        penalty = l2_sp_reference.l2_sp({name: theta[name] for name in trained}, anchor, HEAD, weight, 0.7)
        assert penalty.value > 0.1
        assert float(penalty.gradients["classifier.weight"].abs().max()) > 1e-2
        gradients = reference.add(gradients, penalty.gradients)
        values[-1] += penalty.value
    steps = {name: (theta[name] - after[name]) / 0.1 for name in trained}
    assert_same(steps, gradients)
    if parts == 1:
        assert loss == pytest.approx(values[-1], rel=1e-9)
    for name in set(theta) - set(trained):
        assert torch.equal(theta[name], after[name])


def task_gradients(
    model: BertForSequenceClassification, theta: Theta, sentences: Sequence[Sentence]
) -> tuple[float, Theta]:
    """CE of three classes, and its gradients."""
    value, gradients, _ = adversarial.both_gradients(model, theta, "classification", sentences, zeros(sentences))
    return value, gradients


def zeros(sentences: Sequence[Sentence]) -> list[Tensor]:
    return [torch.zeros((len(s.ids), tiny.WIDTH), dtype=torch.float64) for s in sentences]


@every_task
@both_optimizers
def test_mean_teacher(task: str, optimizer: Callable[[list[Any]], torch.optim.Optimizer]) -> None:
    model, weight, beta = build(task), 3.0, 0.9
    batches = [batch_for(task, count=3, seed=seed) for seed in range(6)]
    expected = mean_teacher_reference.mean_teacher(
        build(task),
        tiny.weights(model),
        KINDS[task],
        [sentences_of(batch) for batch in batches],
        weight,
        beta,
        optimizer,
    )
    with Stack([mean_teacher(weight=weight, beta=beta)], seed=0) as stack:
        stack.prepare(model, total_updates=len(batches))
        trained = stack.optimizer(optimizer(trainable(model)))
        for batch, step, student in zip(batches, expected.steps, expected.students, strict=True):
            loss = float(stack.backward(model, batch))
            trained.step()
            trained.zero_grad()
            assert loss == pytest.approx(step.loss, rel=1e-8)
            assert tiny.distance(tiny.weights(model), student) < 1e-8
        teacher = tiny.only(stack.teacher_weights().values())
        assert tiny.distance({name: teacher[name] for name in expected.teachers[-1]}, expected.teachers[-1]) < 1e-8
    assert expected.steps[0].term == 0
    assert max(step.term for step in expected.steps) > 1e-4


# --- adversarial training ---------------------------------------------------------------------------------

# The first step stays within the ball, the later ones leave it.
ASCENT = adversarial.Ascent(steps=3, step_size=0.1, radius=0.18, initial_magnitude=0.1)
SETTINGS: dict[str, Any] = {"ascent_steps": 3, "step_size": 0.1, "radius": 0.18, "initial_magnitude": 0.1}


def start_noise(draws: Sequence[Draw], batch: dict[str, Tensor]) -> list[Tensor]:
    draw = tiny.only(draws)
    assert draw.kind == "uniform"
    return draw.unit(batch)


def norms(deltas: Sequence[Tensor]) -> list[float]:
    return [reference.l2(delta) for delta in deltas]


@every_task
def test_pgd(task: str, draws: list[Draw]) -> None:
    model, batch = build(task), batch_for(task)
    seen = embeddings_seen(model)
    found = one_step([pgd(**SETTINGS)], model, batch)
    expected = adversarial.pgd(
        build(task), found.theta, KINDS[task], sentences_of(batch), start_noise(draws, batch), ASCENT
    )
    assert len(seen) == 4
    for inputs, deltas in zip(seen, expected.deltas, strict=True):
        assert_pass_at(inputs, found.theta, batch, deltas)
    assert max(norms(expected.deltas[1])) < 0.17
    assert norms(expected.deltas[3]) == pytest.approx([0.18] * 4)
    assert expected.losses[-1] > expected.losses[0] + 1e-3
    assert found.loss == pytest.approx(expected.losses[-1], rel=1e-9)
    assert_same(found.gradients, expected.gradients)


@every_task
def test_freelb(task: str, draws: list[Draw]) -> None:
    model, batch = build(task), batch_for(task)
    seen = embeddings_seen(model)
    found = one_step([freelb(**SETTINGS)], model, batch)
    expected = adversarial.freelb(
        build(task), found.theta, KINDS[task], sentences_of(batch), start_noise(draws, batch), ASCENT
    )
    assert len(seen) == 3
    for inputs, deltas in zip(seen, expected.deltas, strict=True):
        assert_pass_at(inputs, found.theta, batch, deltas)
    assert expected.losses[-1] > expected.losses[0] + 1e-3
    assert found.loss == pytest.approx(sum(expected.losses) / 3, rel=1e-9)
    assert_same(found.gradients, expected.gradients)


@pytest.mark.parametrize("method", ["pgd", "freelb"])
def test_adversarial_training_accumulates(method: str, draws: list[Draw]) -> None:
    """Each micro-batch has a perturbation of its own, and gradients are divided by their number."""
    model, batches = build("three"), [batch_for("three", seed=seed) for seed in range(2)]
    found = one_step([{"pgd": pgd, "freelb": freelb}[method](**SETTINGS)], model, *batches)
    assert len(draws) == 2
    gradients = {name: torch.zeros_like(weight) for name, weight in found.theta.items()}
    for batch, draw in zip(batches, draws, strict=True):
        part = {"pgd": adversarial.pgd, "freelb": adversarial.freelb}[method](
            build("three"), found.theta, "classification", sentences_of(batch), draw.unit(batch), ASCENT
        )
        gradients = reference.add(gradients, part.gradients, 0.5)
    assert_same(found.gradients, gradients)


@pytest.mark.parametrize("method", ["pgd", "freelb"])
@pytest.mark.parametrize("task", ["three", "regression"])
def test_adversarial_training_with_a_term(method: str, task: str, draws: list[Draw]) -> None:
    """The term is that of the clean input, with its own noise, and no other task loss is added for it."""
    weight, radius = 100.0, 1e-2
    model, batch = build(task), batch_for(task)
    step = {"pgd": pgd, "freelb": freelb}[method](**SETTINGS)
    found = one_step([step, r3f(weight=weight, radius=radius, noise="normal")], model, batch)
    (start,), (noise,) = ([draw for draw in draws if draw.kind == kind] for kind in ("uniform", "normal"))
    sentences, whole = sentences_of(batch), build(task)
    expected = {"pgd": adversarial.pgd, "freelb": adversarial.freelb}[method](
        whole, found.theta, KINDS[task], sentences, start.unit(batch), ASCENT
    )
    term = r3f_reference.r3f(whole, found.theta, KINDS[task], sentences, noise.unit(batch), radius, weight)
    assert_term_counts(term, weight)
    assert found.logs["r3f"] == pytest.approx(term.term, rel=1e-9)
    assert_same(found.gradients, reference.add(expected.gradients, term.term_gradients, weight))


@every_task
@both_optimizers
def test_freeat(task: str, optimizer: Callable[[list[Any]], torch.optim.Optimizer], draws: list[Draw]) -> None:
    model = build(task)
    theta, seen = tiny.weights(model), embeddings_seen(model)
    batches = [batch_for(task, seed=seed) for seed in range(2)]
    students: list[Theta] = []
    gradients: list[Theta] = []
    losses: list[float] = []
    with Stack([freeat(**SETTINGS)], seed=0) as stack:
        stack.prepare(model, total_updates=2)
        trained = stack.optimizer(optimizer(trainable(model)))
        for batch in batches:
            losses.append(float(stack.backward(model, batch)))
            students.append(tiny.weights(model))
            gradients.append(tiny.gradients(model))
            trained.step()
            trained.zero_grad()
            students.append(tiny.weights(model))
    assert [draw.kind for draw in draws] == ["uniform"] * 2
    expected = adversarial.freeat(
        build(task),
        theta,
        KINDS[task],
        [sentences_of(batch) for batch in batches],
        [draw.unit(batch) for draw, batch in zip(draws, batches, strict=True)],
        ASCENT,
        optimizer,
    )
    assert len(seen) == 6
    before = theta
    # Adam divides by the root of a small second moment, and the second batch starts from the first one's weights.
    tolerance = 1e-9 if optimizer is sgd else 1e-7
    for number, (batch, replays) in enumerate(zip(batches, expected, strict=True)):
        for inputs, deltas, student in zip(
            seen[3 * number : 3 * number + 3], replays.deltas, replays.students, strict=True
        ):
            found = cut(inputs - clean_embeddings(before, batch), batch)
            torch.testing.assert_close(torch.cat(found), torch.cat(deltas), rtol=0, atol=0.1 * tolerance)
            before = student
        assert tiny.distance(students[2 * number], replays.students[1]) < tolerance
        assert_same(gradients[number], replays.gradients[2], tolerance)
        assert tiny.distance(students[2 * number + 1], replays.students[2]) < tolerance
        # One of the replays' losses, or their mean: which of them is reported is not part of the algorithm.
        reported = [*replays.losses, sum(replays.losses) / 3]
        assert min(abs(losses[number] - value) for value in reported) < 1e-8
    assert tiny.distance(students[0], theta) > 1e-4


# --- sharpness --------------------------------------------------------------------------------------------


def task_loss_of(task: str, batch: dict[str, Tensor], fixed: Theta | None = None) -> sam_reference.Loss:
    whole, sentences = build(task), sentences_of(batch)
    return lambda theta: reference.task_loss(whole, (fixed or {}) | theta, KINDS[task], sentences)


@every_task
@both_optimizers
@pytest.mark.parametrize("adaptive", [False, True])
def test_sam(task: str, optimizer: Callable[[list[Any]], torch.optim.Optimizer], adaptive: bool) -> None:
    model, rho = build(task), 0.5 if adaptive else 0.05
    theta = tiny.weights(model)
    batches = [batch_for(task, seed=seed) for seed in range(2)]
    steps, students = sam_reference.train(
        [task_loss_of(task, batch) for batch in batches], theta, rho, optimizer, adaptive
    )
    with Stack([sam(rho=rho, adaptive=adaptive)], seed=0) as stack:
        stack.prepare(model, total_updates=2)
        trained = stack.optimizer(optimizer(trainable(model)))
        for batch, step, student in zip(batches, steps, students, strict=True):
            before = tiny.weights(model)
            loss = float(stack.backward(model, batch))
            assert tiny.differences(tiny.weights(model), before) == []
            assert loss == pytest.approx(step.loss, rel=1e-6)
            assert_same(tiny.gradients(model), step.gradients, 1e-6)
            trained.step()
            trained.zero_grad()
            # The root of Adam's second moment makes more of a small gradient's error.
            assert tiny.distance(tiny.weights(model), student) < (1e-6 if optimizer is sgd else 1e-5)
    assert tiny.distance(steps[0].plain, steps[0].gradients) > 1e-2


def test_asam_is_the_adaptive_preset() -> None:
    method = steadytune.asam()
    assert (method.rho, method.adaptive) == (0.5, True)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_of_some_weights(adaptive: bool) -> None:
    """The norm is that of the weights which train, and the others stay where they are."""
    model, batch, rho = build("three"), batch_for("three"), 0.2
    freeze_some(model)
    found = one_step([sam(rho=rho, adaptive=adaptive)], model, batch)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    loss = task_loss_of("three", batch, found.theta)
    expected = sam_reference.sam(loss, {name: found.theta[name] for name in names}, rho, adaptive)
    assert_same({name: found.gradients[name] for name in names}, expected.gradients, 1e-6)
    whole = sam_reference.sam(loss, found.theta, rho, adaptive)
    assert tiny.distance({name: whole.gradients[name] for name in names}, expected.gradients) > 1e-4


def test_sam_and_freeat_refuse_accumulation() -> None:
    """Their perturbation, or their updates in between, belong to a whole batch."""
    for method in (sam(), freeat()):
        model, batches = build("three"), [batch_for("three", seed=seed) for seed in range(2)]
        with pytest.raises(HostError, match=rf"{method.name} needs the whole batch of an update"):
            one_step([method], model, *batches)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_climbs_on_the_terms_too(adaptive: bool) -> None:
    """L is the task loss and all terms: here the distance from the anchor, of weights that have left it."""
    rho, alpha, beta = 0.2, 0.5, 0.3
    model, batch = build("three"), batch_for("three")
    anchor = tiny.weights(model)
    with Stack([sam(rho=rho, adaptive=adaptive), l2_sp(weight=alpha, head_weight=beta)], seed=0) as stack:
        stack.prepare(model, total_updates=5)
        move(model)
        theta = tiny.weights(model)
        optimizer = stack.optimizer(sgd(trainable(model)))
        stack.backward(model, batch)
        optimizer.step()
    task = task_loss_of("three", batch)

    def whole(weights: Theta) -> Tensor:
        value = task(weights)
        for name, weight in weights.items():
            if name in HEAD:
                value = value + beta / 2 * (weight**2).sum()
            else:
                value = value + alpha / 2 * ((weight - anchor[name]) ** 2).sum()
        return value

    expected = sam_reference.sam(whole, theta, rho, adaptive)
    steps = {name: (theta[name] - weight) / 0.1 for name, weight in tiny.weights(model).items()}
    assert_same(steps, expected.gradients, 1e-6)
    other = sam_reference.sam(task, theta, rho, adaptive)
    penalty = l2_sp_reference.l2_sp(theta, anchor, HEAD, alpha, beta)
    assert tiny.distance(reference.add(other.gradients, penalty.gradients), expected.gradients) > 1e-4


# --- noise --------------------------------------------------------------------------------------------------


@every_task
def test_neftune(task: str, draws: list[Draw]) -> None:
    model, batch = build(task), batch_for(task)
    seen = embeddings_seen(model)
    found = one_step([neftune(alpha=3.0)], model, batch)
    expected = neftune_reference.neftune(
        build(task), found.theta, KINDS[task], sentences_of(batch), start_noise(draws, batch), 3.0
    )
    assert_pass_at(tiny.only(seen), found.theta, batch, expected.deltas)
    assert abs(expected.term) > 1e-3
    assert found.loss == pytest.approx(expected.loss, rel=1e-9)
    assert_same(found.gradients, expected.gradients)


def test_neftune_leaves_evaluation_alone(draws: list[Draw]) -> None:
    model, batch = build("three"), batch_for("three")
    plain = model.eval()(**batch).logits
    model.train()
    with Stack([neftune()], seed=0) as stack:
        stack.prepare(model, total_updates=5)
        stack.optimizer(sgd(trainable(model)))
        stack.backward(model, batch)
        assert len(draws) == 1
        assert torch.equal(model.eval()(**batch).logits, plain)
    assert torch.equal(model.train()(**batch).logits, plain)
    assert len(draws) == 1


# --- defaults -----------------------------------------------------------------------------------------------

FREELB_ON_MNLI = {"ascent_steps": 2, "step_size": 0.1, "initial_magnitude": 0.1, "radius": 0.3}


@pytest.mark.parametrize(
    ("build_method", "expected"),
    [
        (r3f, {"weight": 1.0, "radius": 1e-5, "noise": "uniform", "masks": "fresh"}),
        (r_drop, {"weight": 1.0}),
        (
            vat,
            {"weight": 1.0, "radius": 1.0, "finite_difference": 0.1, "power_iterations": 1, "masks": "same"},
        ),
        (
            alum,
            {
                "weight": 1.0,
                "layer": 1,
                "radius": 1e-5,
                "noise_std": 1e-5,
                "step_size": 1e-3,
                "ascent_steps": 1,
                "masks": "fresh",
            },
        ),
        (l2_sp, {"weight": 0.1, "head_weight": 0.01}),
        (mean_teacher, {"weight": 1.0, "beta": 0.999, "early_fraction": 0.0, "masks": "fresh"}),
        (pgd, FREELB_ON_MNLI),
        (freelb, FREELB_ON_MNLI),
        (freeat, FREELB_ON_MNLI),
        (sam, {"rho": 0.05, "adaptive": False, "masks": "fresh"}),
        (neftune, {"alpha": 5.0}),
    ],
)
def test_defaults(build_method: Callable[[], object], expected: dict[str, Any]) -> None:
    method = build_method()
    assert {name: getattr(method, name) for name in expected} == expected
