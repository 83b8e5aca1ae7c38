"""The optimizer, schedule, model and weight methods against slow float64 transcriptions, through the plain loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from helpers import tiny
from references import adamw as adamw_reference
from references import child_tuning as child_reference
from references import freeze as freeze_reference
from references import gradual_unfreezing as unfreezing_reference
from references import layerwise_decay as layerwise_reference
from references import mixout as mixout_reference
from references import radam as radam_reference
from references import recadam as recadam_reference
from references import reinit as reinit_reference
from references import slanted_triangular as slanted_reference
from references import spectral_norm as spectral_reference
from references import weight_averaging as averaging_reference
from references import wise_ft as wise_reference
from references.adamw import Batch, Setting, Update, Weights
from scipy import stats
from torch import Tensor, nn

from steadytune import (
    Stack,
    child_tuning,
    ema,
    freeze,
    gradual_unfreezing,
    layerwise_decay,
    mixout,
    noisytune,
    radam,
    recadam,
    reinit,
    slanted_triangular,
    spectral_norm,
    swa,
    weight_averaging,
    wise_ft,
)
from steadytune.methods import child_tuning as child_file
from steadytune.methods import mixout as mixout_file

LABELS = 3
DECAY = 0.1
BETAS = (0.9, 0.99)  # not the defaults, to see that those of the host are taken
EPS = 1e-7
TOLERANCE = 1e-9
HEAD = ("classifier.weight", "classifier.bias")


# --- the host -------------------------------------------------------------------------------------


def pretrained(**settings: Any) -> nn.Module:
    """A model whose vectors have a spread, as after pretraining."""
    model = tiny.bert(dtype=torch.float64, **{"num_labels": LABELS} | settings)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:
                p.add_(0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model


def batches(count: int, seed: int = 0, labels: int = LABELS) -> list[Update]:
    """Data of some updates; every second one accumulates two micro-batches."""
    updates: list[Update] = []
    for t in range(count):
        update = [tiny.batch(4, seed=seed + 2 * t, labels=labels)]
        if t % 2 == 1:
            update.append(tiny.batch(3, seed=seed + 2 * t + 1, labels=labels))
        updates.append(update)
    return updates


def plain(name: str) -> str:
    """The name of a weight without what a parametrization adds to it."""
    return name.replace("parametrizations.weight.original", "weight")


def decays(name: str) -> bool:
    return not name.endswith("bias") and "LayerNorm" not in name


def setting_of(name: str, lr: float) -> Setting:
    """The two groups of the host: matrices decay, the others do not, at half the learning rate."""
    return Setting(lr if decays(name) else lr / 2, DECAY if decays(name) else 0.0, *BETAS, EPS)


def settings_of(weights: Mapping[str, Tensor], lr: float) -> dict[str, Setting]:
    return {name: setting_of(name, lr) for name in weights}


def host_optimizer(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    named = [(plain(name), p) for name, p in model.named_parameters()]
    groups = [
        {"params": [p for name, p in named if decays(name)], "weight_decay": DECAY, "lr": lr},
        {"params": [p for name, p in named if not decays(name)], "weight_decay": 0.0, "lr": lr / 2},
    ]
    return torch.optim.AdamW(groups, betas=BETAS, eps=EPS)


def weights_of(model: nn.Module) -> Weights:
    return {plain(name): p.detach().clone() for name, p in model.named_parameters()}


@dataclass
class Training:
    """What a training left behind."""

    start: Weights  # after prepare()
    after: list[Weights]  # after each update
    finished: Weights
    rates: list[list[float]]  # of the groups, in each update


def train(
    methods: Sequence[Any],
    model: nn.Module,
    updates: Sequence[Update],
    lr: float,
    *,
    seed: int = 0,
    data: Sequence[Batch] | None = None,
    last: Callable[[Stack], None] | None = None,
) -> Training:
    """The loop of the manual; ``last`` is called before the end of the training."""
    stack = Stack(list(methods), seed=seed)
    more = {} if data is None else {"batches": data}
    stack.prepare(model, total_updates=len(updates), **more)
    start = weights_of(model)
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    optimizer = stack.optimizer(host_optimizer(model, lr))
    scheduler = stack.scheduler(optimizer)
    after: list[Weights] = []
    rates: list[list[float]] = []
    for update in updates:
        for batch in update:
            stack.backward(model, batch, scale=1 / len(update))
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        optimizer.zero_grad()
        after.append(weights_of(model))
    if last is not None:
        last(stack)
    stack.finish()
    assert list(dict(model.named_parameters())) == list(after[-1])  # nothing is left in the model
    return Training(start, after, weights_of(model), rates)


# --- comparisons ----------------------------------------------------------------------------------


def largest_difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    assert set(first) == set(second)
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def assert_equal(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> None:
    """Equal by name, in units of the largest change that there should be."""
    assert set(actual) == set(expected) == set(start)
    change = largest_difference(expected, start)
    assert change > 0
    for name, weight in expected.items():
        assert actual[name].dtype == torch.float64
        error = float((actual[name] - weight).abs().max()) / change
        assert error <= TOLERANCE, f"{name}: off by {error:.1e} of the largest change"


def assert_trajectory(actual: Sequence[Weights], expected: Sequence[Weights], start: Mapping[str, Tensor]) -> None:
    assert len(actual) == len(expected) >= 5
    for after, reference in zip(actual, expected, strict=True):
        assert_equal(after, reference, start)


def assert_differ(
    first: Sequence[Weights], second: Sequence[Weights], start: Mapping[str, Tensor], names: str = ""
) -> None:
    """The last weights of two references are far enough apart for a test to tell them from each other."""
    change = largest_difference(first[-1], start)
    distances = [float((first[-1][n] - second[-1][n]).abs().max()) for n in start if names in n]
    assert max(distances) > 1e-4 * change


def body_of(weights: Mapping[str, Tensor]) -> Weights:
    """All weights but those of the new head."""
    assert set(HEAD) <= set(weights)
    return {name: weight for name, weight in weights.items() if name not in HEAD}


# --- radam ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [1e-3, 1e-2])
def test_radam(lr: float) -> None:
    updates = batches(9)
    run = train([radam()], pretrained(), updates, lr)
    model, settings = pretrained(), settings_of(run.start, lr)
    expected = radam_reference.radam(model, run.start, updates, settings)
    assert_trajectory(run.after, expected, run.start)
    # The updates cover both branches, and where the one ends is felt.
    lengths = [radam_reference.length(BETAS[1], t)[0] for t in range(1, 10)]
    assert lengths[3] < 4 < lengths[4] < 5 < lengths[5]
    for threshold in (4.0, math.inf):
        assert_differ(expected, radam_reference.radam(model, run.start, updates, settings, threshold), run.start)
    assert_differ(expected, adamw_reference.adamw(model, run.start, updates, settings), run.start)


# --- recadam --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lr", "gamma", "slope", "midpoint"),
    [(1e-3, 50.0, 0.5, 4), (1e-2, 20.0, 2.0, 3), (1e-3, 5000.0, 0.5, 4), (2e-5, 5000.0, 0.5, 250)],
)
def test_recadam(lr: float, gamma: float, slope: float, midpoint: int) -> None:
    updates = batches(7)
    method = recadam(anchor_strength=gamma, slope=slope, midpoint=midpoint)
    run = train([method], pretrained(), updates, lr)
    model, settings = pretrained(), settings_of(run.start, lr)
    anchors = body_of(run.start)

    def reference(anchors: Weights, **changes: Any) -> list[Weights]:
        chosen: dict[str, Any] = {"gamma": gamma, "slope": slope, "midpoint": midpoint} | changes
        return recadam_reference.recadam(model, run.start, anchors, updates, settings, **chosen)

    expected = reference(anchors)
    assert_trajectory(run.after, expected, run.start)
    assert_differ(expected, reference({}), run.start, "bert.")  # no anchor at all
    assert_differ(expected, reference(anchors | {HEAD[0]: run.start[HEAD[0]]}), run.start, "classifier")
    if midpoint < 100:
        assert_differ(expected, reference(anchors, midpoint=midpoint + 1), run.start, "bert.")


def test_recadam_s_defaults_are_the_paper_s() -> None:
    updates = batches(5)
    run = train([recadam()], pretrained(), updates, 2e-5)
    expected = recadam_reference.recadam(
        pretrained(), run.start, body_of(run.start), updates, settings_of(run.start, 2e-5), 5000.0, 0.5, 250.0
    )
    assert_trajectory(run.after, expected, run.start)


def test_recadam_stays_bounded_where_the_released_code_diverges() -> None:
    lr, updates = 1e-3, batches(12)  # lr * gamma = 5: each step of the released code multiplies the distance by -4
    run = train([recadam(anchor_strength=5000, midpoint=20)], pretrained(), updates, lr)
    anchors, settings = body_of(run.start), settings_of(run.start, lr)

    def reference(clamp: bool) -> list[Weights]:
        return recadam_reference.recadam(
            pretrained(), run.start, anchors, updates, settings, 5000.0, 0.5, 20.0, clamp=clamp
        )

    def distance(weights: Weights) -> float:
        return max(float((weights[name] - anchor).abs().max()) for name, anchor in anchors.items())

    assert_trajectory(run.after, reference(clamp=True), run.start)
    released = reference(clamp=False)
    assert distance(released[-1]) > 1.0
    largest = max(float(anchor.abs().max()) for anchor in anchors.values())
    for after in run.after:
        assert 0 < distance(after) <= lr * DECAY * largest * (1 + 1e-9)  # the decay that follows the pull


def test_recadam_pulls_to_the_weights_before_noise_and_leaves_new_layers_alone() -> None:
    lr, updates = 1e-3, batches(6)
    before = weights_of(pretrained())
    run = train(
        [noisytune(), reinit(layers=1), recadam(anchor_strength=50, midpoint=4)], pretrained(), updates, lr, seed=5
    )
    new = reinit_reference.redrawn(before, total_layers=2)
    moved = {name for name in before if not torch.equal(before[name], run.start[name])}
    assert new < moved  # and noise moved others
    anchors = {name: weight for name, weight in body_of(before).items() if name not in new}
    settings = settings_of(before, lr)

    def reference(anchors: Weights) -> list[Weights]:
        return recadam_reference.recadam(pretrained(), run.start, anchors, updates, settings, 50.0, 0.5, 4.0)

    expected = reference(anchors)
    assert_trajectory(run.after, expected, run.start)
    assert_differ(expected, reference({name: run.start[name] for name in anchors}), run.start)
    assert_differ(expected, reference(body_of(before)), run.start)


# --- child_tuning ---------------------------------------------------------------------------------


@pytest.fixture
def child_masks(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Tensor]]:
    """The masks that child_tuning draws in the test: those of each weight, in order."""
    seen: dict[str, list[Tensor]] = {}
    draw = child_file.draw_mask

    def recorded(name: str, *args: Any, **kwargs: Any) -> Tensor:
        mask = draw(name, *args, **kwargs)
        seen.setdefault(plain(name), []).append(mask.detach().clone())
        return mask

    monkeypatch.setattr(child_file, "draw_mask", recorded)
    return seen


def by_update(drawn: Mapping[str, list[Tensor]], names: Mapping[str, Tensor], count: int) -> list[Weights]:
    """One mask for each weight in each update, the new head's included, whatever the accumulation."""
    assert set(drawn) == set(names)
    assert {len(masks) for masks in drawn.values()} == {count}
    return [{name: drawn[name][t] for name in names} for t in range(count)]


@pytest.mark.parametrize(("lr", "share"), [(1e-3, 0.3), (1e-2, 0.6)])
def test_child_tuning_f(lr: float, share: float, child_masks: dict[str, list[Tensor]]) -> None:
    updates = batches(6)
    run = train([child_tuning(variant="F", share=share)], pretrained(), updates, lr)
    masks = by_update(child_masks, run.start, len(updates))
    values = torch.cat([mask.reshape(-1).double() for update in masks for mask in update.values()])
    assert set(values.unique().tolist()) == {0.0, 1.0}
    assert float(values.mean()) == pytest.approx(share, abs=5 * (share * (1 - share) / values.numel()) ** 0.5)
    for first, second in pairwise(masks):
        assert tiny.differences(first, second) != []

    settings = settings_of(run.start, lr)
    expected = child_reference.child_tuning(pretrained(), run.start, masks, 1 / share, updates, settings)
    assert_trajectory(run.after, expected, run.start)
    unscaled = child_reference.child_tuning(pretrained(), run.start, masks, 1.0, updates, settings)
    assert_differ(expected, unscaled, run.start)  # eps does not hide the factor
    undecayed = {n: Setting(s.lr, 0.0, s.beta1, s.beta2, s.eps) for n, s in settings.items()}
    without = child_reference.child_tuning(pretrained(), run.start, masks, 1 / share, updates, undecayed)
    assert_differ(expected, without, run.start)
    shifted = [masks[-1], *masks[:-1]]
    assert_differ(
        expected,
        child_reference.child_tuning(pretrained(), run.start, shifted, 1 / share, updates, settings),
        run.start,
    )


def test_child_tuning_f_is_a_function_of_the_seed() -> None:
    updates = batches(5)

    def end(seed: int) -> Weights:
        torch.manual_seed(seed + 7)
        return train([child_tuning()], pretrained(), updates, 1e-3, seed=seed).after[-1]

    torch.manual_seed(99)
    again = train([child_tuning(variant="F", share=0.3)], pretrained(), updates, 1e-3, seed=1).after[-1]
    assert tiny.differences(end(1), again) == []
    assert tiny.differences(end(1), end(2)) != []


@pytest.mark.parametrize(("lr", "share"), [(1e-3, 0.25), (1e-2, 0.5)])  # exactly so many of the 4448 entries
def test_child_tuning_d(lr: float, share: float) -> None:
    updates, data = batches(6), [update[0] for update in batches(3, seed=50)]
    run = train([child_tuning(variant="D", share=share)], pretrained(), updates, lr, data=data)
    assert tiny.differences(run.start, weights_of(pretrained())) == []
    information = child_reference.fisher(pretrained(), run.start, data)
    child = child_reference.child_network(information, share)
    inside = {name: mask for name, mask in child.items() if child_reference.in_a_layer(name)}
    assert sum(int(mask.sum()) for mask in inside.values()) == share * sum(m.numel() for m in inside.values())

    settings = settings_of(run.start, lr)

    def reference(mask: Weights, scale: float = 1.0) -> list[Weights]:
        masks = [mask] * len(updates)
        return child_reference.child_tuning(pretrained(), run.start, masks, scale, updates, settings)

    expected = reference(child)
    assert_trajectory(run.after, expected, run.start)
    for name, mask in inside.items():
        outside = mask == 0
        assert torch.equal(run.after[-1][name][outside], run.start[name][outside])  # no decay either
    of_first = child_reference.child_network(child_reference.fisher(pretrained(), run.start, data[:1]), share)
    assert tiny.differences(child, of_first) != []  # all batches count


# --- learning rates -------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [1e-3, 1e-2])
@pytest.mark.parametrize(("layers", "factor"), [(2, 0.5), (3, 0.95)])
def test_layerwise_decay(lr: float, layers: int, factor: float) -> None:
    def build() -> nn.Module:
        return pretrained(num_hidden_layers=layers)

    updates = batches(5)
    run = train([layerwise_decay(factor=factor)], build(), updates, lr)
    settings = settings_of(run.start, lr)
    expected = layerwise_reference.layerwise_decay(build(), run.start, updates, settings, layers, factor)
    assert_trajectory(run.after, expected, run.start)
    wanted = {
        (setting.lr, setting.weight_decay)
        for setting in layerwise_reference.decayed(settings, layers, factor).values()
    }
    assert len(wanted) == 2 * (layers + 2)
    for rate in run.rates[0]:
        assert any(rate == pytest.approx(lr, rel=1e-12) for lr, _ in wanted)
    assert_differ(expected, adamw_reference.adamw(build(), run.start, updates, settings), run.start)
    off_by_one = layerwise_reference.layerwise_decay(build(), run.start, updates, settings, layers + 1, factor)
    assert_differ(expected, off_by_one, run.start)


def test_layerwise_decay_s_default() -> None:
    updates = batches(5)
    run = train([layerwise_decay()], pretrained(), updates, 1e-3)
    settings = settings_of(run.start, 1e-3)
    expected = layerwise_reference.layerwise_decay(pretrained(), run.start, updates, settings, 2, 0.95)
    assert_trajectory(run.after, expected, run.start)


@pytest.mark.parametrize("lr", [1e-3, 1e-2])
@pytest.mark.parametrize(
    ("total", "cut_fraction", "ratio"),
    [(10, 0.2, 32.0), (20, 0.1, 32.0), (7, 0.5, 8.0), (19, 0.1, 32.0), (5, 0.1, 32.0)],
    ids=["whole", "defaults", "floored", "floored, below 0 as printed", "no cut"],
)
def test_slanted_triangular(lr: float, total: int, cut_fraction: float, ratio: float) -> None:
    updates = batches(total)
    run = train([slanted_triangular(cut_fraction=cut_fraction, ratio=ratio)], pretrained(), updates, lr)
    for t, (decaying, other) in enumerate(run.rates):
        factor = slanted_reference.factor(t, total, cut_fraction, ratio)
        assert decaying == pytest.approx(lr * factor, rel=1e-12)
        assert other == pytest.approx(lr / 2 * factor, rel=1e-12)
    settings = settings_of(run.start, lr)
    expected = slanted_reference.slanted_triangular(pretrained(), run.start, updates, settings, cut_fraction, ratio)
    assert_trajectory(run.after, expected, run.start)


def test_slanted_triangular_s_defaults() -> None:
    run = train([slanted_triangular()], pretrained(), batches(20), 1e-3)
    factors = [rates[0] / 1e-3 for rates in run.rates]
    assert factors == pytest.approx([slanted_reference.factor(t, 20, 0.1, 32.0) for t in range(20)], rel=1e-12)
    assert factors[0] == pytest.approx(1 / 32)
    assert factors[2] == pytest.approx(1.0)


def test_learning_rates_stay_within_the_triangle_for_every_length() -> None:
    model = pretrained()
    for total in range(1, 45):
        stack = Stack([slanted_triangular()])
        stack.prepare(model, total_updates=total)
        optimizer = stack.optimizer(torch.optim.AdamW(model.parameters(), lr=1.0))
        scheduler = stack.scheduler(optimizer)
        assert scheduler is not None
        for _ in range(total):
            assert 1 / 32 * (1 - 1e-12) <= optimizer.param_groups[0]["lr"] <= 1
            optimizer.step()
            scheduler.step()
        stack.close()


def test_layerwise_decay_under_a_slanted_triangle() -> None:
    lr, updates = 1e-2, batches(10)
    run = train([layerwise_decay(factor=0.5), slanted_triangular(cut_fraction=0.2)], pretrained(), updates, lr)
    factors = [slanted_reference.factor(t, 10, 0.2, 32.0) for t in range(10)]
    expected = layerwise_reference.layerwise_decay(
        pretrained(), run.start, updates, settings_of(run.start, lr), 2, 0.5, factors
    )
    assert_trajectory(run.after, expected, run.start)


# --- mixout ---------------------------------------------------------------------------------------

LINEAR = ("query", "key", "value", "dense")


def is_mixed(name: str) -> bool:
    """Whether a weight of BERT is that of a pretrained linear layer."""
    return name.startswith("bert.") and name.endswith(".weight") and name.split(".")[-2] in LINEAR


@dataclass
class Mixing:
    """Records the masks of mixout by the names of the weights; a repeated name begins another forward."""

    model: nn.Module
    forwards: list[Weights]

    def add(self, weight: Tensor, mask: Tensor) -> None:
        owners = [plain(n) for n, p in self.model.named_parameters() if p.data_ptr() == weight.data_ptr()]
        name = tiny.only(owners)
        if not self.forwards or name in self.forwards[-1]:
            self.forwards.append({})
        self.forwards[-1][name] = mask.detach().clone()


@pytest.fixture
def mixing(monkeypatch: pytest.MonkeyPatch) -> Mixing:
    seen = Mixing(pretrained(), [])
    draw = mixout_file.draw_mask

    def recorded(weight: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        mask = draw(weight, *args, **kwargs)
        seen.add(weight, mask)
        return mask

    monkeypatch.setattr(mixout_file, "draw_mask", recorded)
    return seen


@pytest.mark.parametrize(("lr", "probability"), [(1e-3, 0.7), (1e-2, 0.2)])
def test_mixout(lr: float, probability: float, mixing: Mixing) -> None:
    updates = batches(6)
    evaluated: list[Tensor] = []

    def evaluate(stack: Stack) -> None:
        mixing.model.eval()
        with torch.no_grad():
            evaluated.append(mixing.model(**updates[0][0]).logits)
        mixing.model.train()

    run = train([mixout(probability=probability)], mixing.model, updates, lr, last=evaluate)
    mixed = {name for name in run.start if is_mixed(name)}
    assert len(mixed) == 13
    assert len(mixing.forwards) == sum(map(len, updates))  # none of them in the evaluation
    assert all(set(masks) == mixed for masks in mixing.forwards)
    values = torch.cat([mask.reshape(-1).double() for masks in mixing.forwards for mask in masks.values()])
    assert set(values.unique().tolist()) == {0.0, 1.0}
    spread = (probability * (1 - probability) / values.numel()) ** 0.5
    assert float(values.mean()) == pytest.approx(1 - probability, abs=5 * spread)
    for first, second in pairwise(mixing.forwards):
        assert {name for name in mixed if not torch.equal(first[name], second[name])}

    drawn, masks = iter(mixing.forwards), []
    for update in updates:
        masks.append([next(drawn) for _ in update])
    model, settings = pretrained(), settings_of(run.start, lr)
    expected = mixout_reference.mixout(model, run.start, run.start, masks, probability, updates, settings)
    assert_trajectory(run.after, expected, run.start)
    assert_equal(run.finished, expected[-1], run.start)
    assert_differ(expected, adamw_reference.adamw(model, run.start, updates, settings), run.start)
    with torch.no_grad():
        logits = torch.func.functional_call(model, expected[-1], (), updates[0][0]).logits
    torch.testing.assert_close(evaluated[0], logits, rtol=1e-9, atol=1e-10)  # the weights as they are


def test_mixout_mixes_with_the_weights_before_noise_and_not_into_new_layers(mixing: Mixing) -> None:
    lr, updates = 1e-3, batches(5)
    before = weights_of(mixing.model)
    run = train([noisytune(), reinit(), mixout()], mixing.model, updates, lr, seed=5)
    new = reinit_reference.redrawn(before, total_layers=2)
    assert all(set(masks) == {name for name in before if is_mixed(name)} - new for masks in mixing.forwards)
    drawn, masks = iter(mixing.forwards), []
    for update in updates:
        masks.append([next(drawn) for _ in update])
    model, settings = pretrained(), settings_of(run.start, lr)
    expected = mixout_reference.mixout(model, run.start, before, masks, 0.7, updates, settings)
    assert_trajectory(run.after, expected, run.start)
    noisy = mixout_reference.mixout(model, run.start, run.start, masks, 0.7, updates, settings)
    assert_differ(expected, noisy, run.start)


# --- spectral_norm --------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [1e-3, 1e-2])
@pytest.mark.parametrize("count", [1, 6])
def test_spectral_norm(lr: float, count: int) -> None:
    updates, model = batches(count), pretrained()
    start = weights_of(model)

    def refresh(stack: Stack) -> None:
        stack.backward(model, updates[0][0])  # u and v of the last weights
        model.zero_grad()

    # So many iterations are exact to the last digits.
    run = train([spectral_norm(power_iterations=300)], model, updates, lr, last=refresh)
    settings = settings_of(start, lr)
    trained = spectral_reference.spectral_norm(pretrained(), start, HEAD[0], updates, settings)
    divided = trained[-1] | {HEAD[0]: spectral_reference.normalized(trained[-1][HEAD[0]])}
    assert_equal(run.finished, divided, start)
    assert float(torch.linalg.matrix_norm(run.finished[HEAD[0]], 2)) == pytest.approx(1.0, rel=1e-9)
    assert_differ(trained, adamw_reference.adamw(pretrained(), start, updates, settings), start, "bert.")


def test_spectral_norm_takes_one_power_iteration_in_each_training_forward() -> None:
    """Every sigma is that of one more iteration, from the vectors of the weight that the training began with."""
    model = pretrained(num_labels=2)
    batch = tiny.batch(4)
    head = model.get_submodule("classifier")
    assert isinstance(head, nn.Linear)
    with torch.no_grad():  # two singular values so close that iterations before the training do not end the story
        left, values, right = torch.linalg.svd(head.weight, full_matrices=False)
        head.weight.copy_(left @ torch.diag(values.new_tensor([1.0, 0.97])) @ right)
    start = left[:, 0].tolist()
    bias = weights_of(model)[HEAD[1]]
    sigmas: list[float] = []

    def measure(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        undivided = inputs[0].detach() @ weight.T
        ratios = undivided / (output.detach() - bias)
        assert float(ratios.std() / ratios.mean().abs()) < 1e-9
        sigmas.append(float(ratios.mean()))

    stack = Stack([spectral_norm()], seed=0)
    stack.prepare(model, total_updates=5)
    with torch.no_grad():  # from the singular vectors of one matrix to those of another
        head.weight.add_(0.3 * torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0)).double())
    weight = weights_of(model)[HEAD[0]]
    hook = head.register_forward_hook(measure)
    for _ in range(5):
        stack.backward(model, batch)
        model.eval()
        model(**batch)  # takes no iteration
        model.train()
    hook.remove()
    stack.close()
    assert sigmas[1::2] == pytest.approx(sigmas[::2], rel=1e-12)

    expected = [spectral_reference.power_iterations(weight, start, count)[0] for count in range(1, 6)]
    assert sigmas[::2] == pytest.approx(expected, rel=1e-8)
    assert min(b - a for a, b in pairwise(expected)) > 1e-7  # so that one iteration more or less is seen


def test_spectral_norm_takes_the_last_matrix_of_the_head_and_keeps_the_predictions() -> None:
    model = tiny.roberta(dtype=torch.float64, num_labels=LABELS)
    before = weights_of(model)
    batch = tiny.batch(4, labels=LABELS, pad=1)

    def predictions() -> Tensor:
        model.eval()
        with torch.no_grad():
            logits = model(**batch).logits
        model.train()
        return logits

    original = predictions()
    stack = Stack([spectral_norm()], seed=0)
    stack.prepare(model, total_updates=5)
    stack.backward(model, batch)
    divided = predictions()
    stack.finish()
    model.zero_grad()
    after = weights_of(model)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"classifier.out_proj.weight"}
    ratios = before["classifier.out_proj.weight"] / after["classifier.out_proj.weight"]
    assert float(ratios.std() / ratios.mean()) < 1e-9
    torch.testing.assert_close(predictions(), divided, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(original, divided, rtol=1e-3)


# --- freezing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [1e-3, 1e-2])
@pytest.mark.parametrize(
    ("chosen", "layers", "embeddings"),
    [({}, 1, True), ({"layers": 2, "embeddings": False}, 2, False), ({"layers": 0, "embeddings": True}, 0, True)],
)
def test_freeze(lr: float, chosen: dict[str, Any], layers: int, embeddings: bool) -> None:
    updates, model = batches(6), pretrained()
    run = train([freeze(**chosen)], model, updates, lr)
    assert tiny.differences(run.start, weights_of(pretrained())) == []
    settings = settings_of(run.start, lr)
    expected = freeze_reference.freeze(pretrained(), run.start, updates, settings, layers, embeddings)
    assert_trajectory(run.after, expected, run.start)
    still = freeze_reference.frozen(run.start, layers, embeddings)
    assert still == set(run.start) - set(tiny.differences(run.start, run.after[-1])) != set()
    assert all(p.requires_grad for p in model.parameters())  # as before the training


@pytest.mark.parametrize("lr", [1e-3, 1e-2])
@pytest.mark.parametrize(
    ("chosen", "until", "total", "schedule"),
    [
        ({}, 1 / 3, 9, [1, 2, 3]),
        ({"until": 0.5}, 0.5, 12, [2, 4, 6]),
        ({"until": 0.5}, 0.5, 7, [2, 3, 4]),
        ({"until": 1.0}, 1.0, 8, [3, 6, 8]),
    ],
)
def test_gradual_unfreezing(lr: float, chosen: dict[str, Any], until: float, total: int, schedule: list[int]) -> None:
    updates, model = batches(total), pretrained()
    run = train([gradual_unfreezing(**chosen)], model, updates, lr)
    assert [unfreezing_reference.first_update(j, 2, total, until) for j in range(3)] == schedule
    settings = settings_of(run.start, lr)
    expected = unfreezing_reference.gradual_unfreezing(pretrained(), run.start, updates, settings, 2, until)
    assert_trajectory(run.after, expected, run.start)
    groups = ["bert.encoder.layer.1.", "bert.encoder.layer.0.", "bert.embeddings."]
    for prefix, first in zip(groups, schedule, strict=True):
        for t, after in enumerate(run.after):
            names = [name for name in after if name.startswith(prefix)]
            assert all(torch.equal(after[n], run.start[n]) for n in names) == (t < first)
    assert all(p.requires_grad for p in model.parameters())


# --- at the end -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lr", [1e-3, 1e-2])
@pytest.mark.parametrize(
    ("method", "decay"),
    [(weight_averaging(kind="ema", decay=0.7), 0.7), (ema(), 0.999)],
    ids=["0.7", "preset"],
)
def test_ema(lr: float, method: Any, decay: float) -> None:
    updates = batches(6)
    run = train([method], pretrained(), updates, lr)
    settings = settings_of(run.start, lr)
    trained = adamw_reference.adamw(pretrained(), run.start, updates, settings)
    assert_trajectory(run.after, trained, run.start)  # the average does not touch the training
    assert_equal(run.finished, averaging_reference.ema(run.start, trained, decay), run.start)


@pytest.mark.parametrize("lr", [1e-3, 1e-2])
@pytest.mark.parametrize(
    ("method", "start", "every", "taken"),
    [
        (swa(), 0.75, 1, [6, 7, 8]),
        (weight_averaging(kind="swa", start=0.5), 0.5, 1, [4, 5, 6, 7, 8]),
        (weight_averaging(kind="swa", start=0.25, every=3), 0.25, 3, [2, 5, 8]),
        (weight_averaging(kind="swa", start=0.0), 0.0, 1, [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
    ids=["preset", "0.5", "every 3rd", "all"],
)
def test_swa(lr: float, method: Any, start: float, every: int, taken: list[int]) -> None:
    updates = batches(8)
    assert averaging_reference.taken(len(updates), start, every) == taken
    run = train([method], pretrained(), updates, lr)
    settings = settings_of(run.start, lr)
    trained = adamw_reference.adamw(pretrained(), run.start, updates, settings)
    assert_trajectory(run.after, trained, run.start)
    expected = averaging_reference.swa(trained, start, every)
    assert_equal(run.finished, expected, run.start)
    assert_differ([expected], [averaging_reference.swa(trained, (taken[0] + 1) / 8, every)], run.start)


@pytest.mark.parametrize("lr", [1e-3, 1e-2])
@pytest.mark.parametrize(("chosen", "alpha"), [({}, 0.5), ({"alpha": 0.8}, 0.8), ({"alpha": 0.0}, 0.0)])
def test_wise_ft(lr: float, chosen: dict[str, Any], alpha: float) -> None:
    updates = batches(5)
    run = train([wise_ft(**chosen)], pretrained(), updates, lr)
    trained = adamw_reference.adamw(pretrained(), run.start, updates, settings_of(run.start, lr))
    assert_trajectory(run.after, trained, run.start)
    expected = wise_reference.wise_ft(trained[-1], body_of(run.start), alpha)
    assert_equal(run.finished, expected, run.start)
    assert tiny.differences(run.after[-1], run.finished) == [name for name in run.start if name not in HEAD]


def test_wise_ft_goes_back_to_the_weights_before_noise_and_keeps_new_layers() -> None:
    lr, updates = 1e-3, batches(5)
    before = weights_of(pretrained())
    run = train([noisytune(), reinit(), wise_ft(alpha=0.25)], pretrained(), updates, lr, seed=5)
    trained = adamw_reference.adamw(pretrained(), run.start, updates, settings_of(before, lr))
    new = reinit_reference.redrawn(before, total_layers=2)
    anchors = {name: weight for name, weight in body_of(before).items() if name not in new}
    expected = wise_reference.wise_ft(trained[-1], anchors, 0.25)
    assert_equal(run.finished, expected, run.start)
    noisy = {name: run.start[name] for name in anchors}
    assert_differ([expected], [wise_reference.wise_ft(trained[-1], noisy, 0.25)], run.start)


# --- reinit ---------------------------------------------------------------------------------------

RANGE = 0.05


def worn(**settings: Any) -> nn.Module:
    """A model far from its initialization."""
    model = pretrained(num_hidden_layers=3, initializer_range=RANGE, **settings)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4.0)
    return model


def reinitialized(seed: int = 5, **settings: Any) -> Weights:
    model = worn()
    stack = Stack([reinit(**settings)], seed=seed)
    stack.prepare(model, total_updates=5)
    stack.close()
    return weights_of(model)


@pytest.mark.parametrize(
    ("chosen", "layers", "pooler"),
    [({}, 1, True), ({"layers": 2, "pooler": False}, 2, False), ({"layers": 3}, 3, True)],
)
def test_reinit(chosen: dict[str, Any], layers: int, pooler: bool) -> None:
    before, after = weights_of(worn()), reinitialized(**chosen)
    new = reinit_reference.redrawn(before, 3, layers, pooler)
    assert set(tiny.differences(before, after)) == new
    drawn = {name: after[name] / RANGE for name in new if reinit_reference.is_drawn(name)}
    expected = reinit_reference.reinit(before, drawn, RANGE, 3, layers, pooler)
    for name, weight in expected.items():
        torch.testing.assert_close(after[name], weight, rtol=1e-14, atol=0)
    values = torch.cat([values.reshape(-1) for values in drawn.values()])
    assert values.numel() >= 2048
    assert stats.kstest(values.numpy(), "norm").pvalue > 1e-3
    for name, first in drawn.items():  # each with draws of its own
        assert not any(torch.equal(first, other) for n, other in drawn.items() if n != name)


def test_reinit_is_a_function_of_the_seed() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = reinitialized(5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert tiny.differences(first, reinitialized(5)) == []
    new = {name for name in first if reinit_reference.is_drawn(name)} & reinit_reference.redrawn(first, 3)
    assert set(tiny.differences(first, reinitialized(6))) == new
