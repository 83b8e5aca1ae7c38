"""Terms on a random part of the examples or updates: unbiased, however a batch is cut, on every kind of head."""

from __future__ import annotations

import contextlib
import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers import tiny
from helpers.one_example import as_function, cut, examples_of
from references import smart as reference
from torch import Tensor, nn

from benchmarks import frugal
from steadytune import Stack, bregman, smart, smoothness
from steadytune.core.arithmetic.randomness import Streams, derive_seed
from steadytune.core.authoring.cost import Cost
from steadytune.core.authoring.method import LossMethod
from steadytune.core.authoring.per_item import PerItem
from steadytune.core.authoring.step import Step
from steadytune.core.model.rows import part_of_inputs
from steadytune.core.stack.explain import PLAIN_STEP
from steadytune.core.state.mapping import as_mapping, from_mapping
from steadytune.errors import CheckpointError, HostError, MethodError
from steadytune.testing.families import batch_for, build
from steadytune.testing.tiny import move_teachers, noise_by_position

FELT: dict[str, Any] = {"weight": 20.0, "radius": 0.05, "noise_std": 0.02, "step_size": 0.05}


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the terms of the test draw: examples of each micro-batch, and whether the update."""
    chosen: dict[str, Any] = {"examples": [], "update": True}
    monkeypatch.setattr(Streams, "draw_examples", lambda *_: list(chosen["examples"]))
    monkeypatch.setattr(Streams, "draws_update", lambda *_: chosen["update"])
    return chosen


def found(
    model: nn.Module, batch: dict[str, Tensor], *methods: Any, **settings: Any
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one micro-batch, with noise that depends on the place in the sentence alone."""
    model.zero_grad()
    with noise_by_position(), Stack(methods, **settings) as stack:
        stack.prepare(model, total_updates=5)
        move_teachers(stack)
        loss = float(stack.backward(model, batch))
    return loss, tiny.gradients(model)


def mean(results: list[tuple[float, dict[str, Tensor]]]) -> tuple[float, dict[str, Tensor]]:
    gradients = {name: torch.stack([g[name] for _, g in results]).mean(0) for name in results[0][1]}
    return sum(loss for loss, _ in results) / len(results), gradients


# --- the expectation is the whole term ------------------------------------------------------------

HEADS = [
    ("BERT", "classification"),
    ("BERT", "regression"),
    ("BERT", "multi-label"),
    ("BERT", "token classification"),
    ("BERT", "question answering"),
    ("BERT", "multiple choice"),
    ("Llama", "causal LM"),
    ("T5", "seq2seq LM"),
    ("ViT", "classification"),
]


@pytest.mark.parametrize(("family", "head"), HEADS, ids=lambda name: name)
def test_the_mean_over_all_draws_is_the_whole_term(family: str, head: str, draws: dict[str, Any]) -> None:
    model, batch = build(family, head, dtype=torch.float64), batch_for(family, head, rows=4, dtype=torch.float64)
    plain = found(model, batch)
    loss, expected = found(model, batch, smoothness(**FELT))
    assert tiny.distance(expected, plain[1]) > 1e-6, "the term is not felt"
    results = []
    for draws["examples"] in itertools.product((0, 1), (2, 3)):  # one out of each two
        results.append(found(model, batch, smoothness(**FELT, one_in=2)))
        assert tiny.distance(results[-1][1], expected) > 1e-9
    value, gradients = mean(results)
    # The loss of Transformers is in float32 where there is one per token.
    assert value == pytest.approx(loss, rel=1e-6 if "LM" in head else 1e-12)
    assert tiny.distance(gradients, expected) < (1e-6 if "LM" in head else 1e-9)


@pytest.mark.parametrize("memory", ["full", "low"])
def test_the_mean_over_updates_and_examples_is_the_whole_of_smart(memory: str, draws: dict[str, Any]) -> None:
    model, batch = tiny.bert(dtype=torch.float64), tiny.batch(4)
    loss, expected = found(model, batch, smart(**FELT), memory=memory)
    results = []
    for draws["update"], row in itertools.product((True, False, False), range(4)):
        draws["examples"] = [row]
        methods = (smoothness(**FELT, one_in=4, every=3), bregman(every=3))
        results.append(found(model, batch, *methods, memory=memory))
    value, gradients = mean(results)
    assert value == pytest.approx(loss, rel=1e-12)
    assert tiny.distance(gradients, expected) < 1e-11


@pytest.mark.parametrize("labels", [3, 1], ids=["classification", "regression"])
@pytest.mark.parametrize("steps", [0, 2])
def test_one_draw_against_the_reference(
    labels: int, steps: int, start_noises: list[Tensor], deltas: list[Tensor], draws: dict[str, Any]
) -> None:
    model, batch, draws["examples"] = (
        tiny.bert(num_labels=labels, dtype=torch.float64),
        tiny.batch(5, labels=labels),
        [1, 4],
    )
    model.config.problem_type = "regression" if labels == 1 else "single_label_classification"
    with Stack([smoothness(radius=1e-2, noise_std=1e-2, step_size=4e-3, ascent_steps=steps, one_in=2)]) as stack:
        stack.prepare(model)
        stack.backward(model, batch)
        value = stack.take_logs()["smoothness"]
    part = {name: tensor[[1, 4]] for name, tensor in batch.items()}
    divergence = "squared_difference" if labels == 1 else "symmetric_kl"
    starts = [noise.clamp(-1e-2, 1e-2) if steps == 0 else noise for noise in cut(start_noises[0], part)]
    theta = tiny.weights(model)
    expected, moves = reference.smoothness(
        as_function(model), theta, examples_of(part), starts, 1e-2, 4e-3, steps, divergence
    )
    torch.testing.assert_close(torch.cat(cut(deltas[0], part)), torch.cat(moves), rtol=0, atol=1e-8)
    assert value == pytest.approx(float(expected) * 2 * 2 / 5, rel=1e-9)  # two drawn, each for two, of five


# --- the draws ------------------------------------------------------------------------------------


def test_each_example_and_each_update_has_the_same_chance() -> None:
    counts = torch.zeros(8)
    for update in range(2000):
        drawn = Streams(derive_seed, seed=1, update=update).draw_examples("smoothness", 8, 3)
        assert len(drawn) in (2, 3)  # of the third three, one may be the ninth
        counts[drawn] += 1
    assert ((counts / 2000 - 1 / 3).abs() < 0.04).all()  # 4 standard deviations
    updates = [Streams(derive_seed, seed=1, update=u).draws_update("smoothness", 4) for u in range(2000)]
    assert all(sum(updates[i : i + 4]) == 1 for i in range(0, 2000, 4))
    places = torch.tensor([updates[i : i + 4].index(True) for i in range(0, 2000, 4)]).bincount()
    assert ((places / 500 - 1 / 4).abs() < 0.08).all()
    assert [Streams(derive_seed, 1, u).draws_update("bregman", 4) for u in range(2000)] != updates


def test_processes_draw_alike_and_the_seed_counts() -> None:
    """Processes that ran different numbers of passes would wait for each other for ever."""

    def drawn(rank: int, seed: int) -> list[Any]:
        streams = [Streams(lambda *parts: derive_seed(rank, *parts), seed, update) for update in range(8)]
        return [(s.draws_update("smoothness", 2), s.draw_examples("smoothness", 8, 2)) for s in streams]

    assert drawn(0, seed=1) == drawn(1, seed=1)
    assert drawn(0, seed=1) != drawn(0, seed=2)


def test_a_micro_batch_without_a_drawn_example_runs_no_pass(draws: dict[str, Any]) -> None:
    model, batch = tiny.bert(dtype=torch.float64), tiny.batch(3)
    plain = found(model, batch)
    for draws["update"], method in ((True, smoothness(**FELT, one_in=4)), (False, smoothness(**FELT, every=4))):
        with Stack([method]) as stack:
            stack.prepare(model)
            model.zero_grad()
            assert float(stack.backward(model, batch)) == plain[0]
            assert stack.runner.last_passes.perturbed == 0
            assert stack.take_logs()["smoothness"] == 0
        assert tiny.differences(tiny.gradients(model), plain[1]) == []


def test_one_of_several_processes_runs_the_passes_of_the_others(
    draws: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = tiny.bert(dtype=torch.float64), tiny.batch(3)
    plain = found(model, batch)
    monkeypatch.setattr("steadytune.core.authoring.thinning._is_one_of_several_processes", lambda: True)
    with Stack([smoothness(**FELT, one_in=4)]) as stack:
        stack.prepare(model)
        model.zero_grad()
        stack.backward(model, batch)
        assert stack.runner.last_passes.perturbed == 2
        assert stack.take_logs()["smoothness"] == 0
    assert tiny.distance(tiny.gradients(model), plain[1]) < 1e-14
    assert draws["examples"] == []


# --- prices ---------------------------------------------------------------------------------------


def test_prices_by_hand() -> None:
    assert smoothness(one_in=5).cost() == Cost(2 / 5, 0, 1 / 5, 1 / 5, activation_sets=1 / 5)
    assert smoothness(every=5).cost() == Cost(2 / 5, 0, 1 / 5, 1 / 5, activation_sets=1)
    assert smoothness(ascent_steps=0).cost() == Cost(1, 0, 1, 0, activation_sets=1)
    assert bregman(every=4).cost() == Cost(0, 1 / 4, weight_copies=1)
    total = sum((m.cost() for m in (smoothness(one_in=5), bregman(every=5))), start=PLAIN_STEP)
    assert total.units / 3 == pytest.approx(1.4)
    assert "1.40 x a plain step" in str(Stack([smoothness(one_in=5), bregman(every=5)]).explain())


# --- checkpoints ----------------------------------------------------------------------------------


def test_a_checkpoint_from_before_a_setting_existed_is_continued_at_its_default() -> None:
    def saved_without(*names: str) -> dict[str, Any]:
        with Stack([smoothness(radius=0.1)]) as stack:
            stack.prepare(tiny.bert())
            state = from_mapping(stack.state_dict())
        settings = {name: value for name, value in state.description["methods"][0].items() if name not in names}
        return as_mapping(replace(state, description={**state.description, "methods": [settings]}))

    older = saved_without("one_in", "every")
    cases: list[tuple[dict[str, Any], bool]] = [({}, True), ({"every": 2}, False), ({"weight": 2.0}, False)]
    for settings, is_same in cases:
        with Stack([smoothness(radius=0.1, **settings)]) as stack:
            stack.prepare(tiny.bert())
            with contextlib.nullcontext() if is_same else pytest.raises(CheckpointError, match="other methods"):
                stack.load(older)
    with Stack([smoothness()]) as stack:
        stack.prepare(tiny.bert())
        with pytest.raises(CheckpointError, match="other methods"):
            stack.load(saved_without("one_in", "every"))  # its radius is another
        with pytest.raises(CheckpointError, match="other methods"):
            stack.load(saved_without("name"))


# --- refusals -------------------------------------------------------------------------------------


def test_dropout_of_a_batch_is_not_replayed_on_a_part_of_it() -> None:
    with pytest.raises(MethodError, match="masks='fresh', or every"):
        smoothness(one_in=2, masks="same")
    smoothness(every=2, masks="same")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.zeros(3, 2), r"'extra' \(of shape \(3, 2\)\) has no row for each of the 4 examples"),
        ((torch.zeros(4),), r"'extra' \(a tuple\)"),
    ],
)
def test_an_input_without_rows_is_refused(value: Any, said: str) -> None:
    with pytest.raises(HostError, match=said) as error:
        part_of_inputs({"extra": value}, torch.tensor([1]), 4)
    assert "\n" not in str(error.value)


def test_positions_of_three_kinds_are_no_rows() -> None:
    positions = {"position_ids": torch.zeros(3, 3, 5)}
    with pytest.raises(HostError, match="position_ids"):
        part_of_inputs(positions, torch.tensor([1]), 3)
    assert part_of_inputs(positions, torch.arange(3), 3) == positions
    kept = {"position_ids": torch.arange(5)[None], "use_cache": False, "scale": torch.tensor(2.0)}
    assert part_of_inputs(kept, torch.tensor([1]), 3) == kept


@dataclass(frozen=True)
class Curious(LossMethod):
    """Asks a part for what only a whole batch has."""

    name: ClassVar[str] = "curious"
    paper: ClassVar[str] = "a test"
    ask: ClassVar[Any] = None

    def term(self, step: Step) -> PerItem:
        type(self).ask(step.subset(torch.tensor([0, 2])))
        return step.per_item(step.divergence(step.logits(), step.logits()))

    def effect(self) -> str:
        return "nothing"


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda part: part.logits(part.normal_noise(0.1), masks="same"), "cannot be replayed on a part"),
        (lambda part: part.task(), "for a whole batch only"),
    ],
    ids=["masks", "task"],
)
def test_a_part_refuses_what_only_a_whole_batch_has(ask: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Curious, "ask", staticmethod(ask))
    with Stack([Curious()]) as stack:
        stack.prepare(tiny.bert())
        with pytest.raises(HostError, match=said):
            stack.backward(stack._session.model, tiny.batch(3))


def test_other_terms_see_the_whole_batch_after_a_part(draws: dict[str, Any]) -> None:
    """A pass over a part leaves nothing behind that the next method would take for the batch."""

    @dataclass(frozen=True)
    class Other(LossMethod):
        name: ClassVar[str] = "other"
        paper: ClassVar[str] = "a test"

        def term(self, step: Step) -> PerItem:
            return step.per_item(step.divergence(step.logits(step.normal_noise(0.1)), step.logits()))

        def cost(self) -> Cost:
            return Cost(forwards=1, backwards=1, activation_sets=1)

        def effect(self) -> str:
            return "nothing"

    model, batch, draws["examples"] = tiny.bert(dtype=torch.float64), tiny.batch(4), [1]
    alone, together = (
        found(model, batch, *methods)[0] for methods in ([Other()], [smoothness(**FELT, one_in=4), Other()])
    )
    plain, part = found(model, batch)[0], found(model, batch, smoothness(**FELT, one_in=4))[0]
    assert together - part == pytest.approx(alone - plain, rel=1e-12)


# --- what the docs say ----------------------------------------------------------------------------


def test_the_table_of_the_page_is_that_of_the_results() -> None:
    root = Path(__file__).parents[2]
    content = json.loads((root / "benchmarks" / "results" / "frugal.json").read_text(encoding="utf-8"))
    page = (root / "docs" / "methods" / "frugal.md").read_text(encoding="utf-8")
    for line in frugal.table(content):
        assert line in page, "run benchmarks/frugal.py with --summarize --page docs/methods/frugal.md"


def test_the_share_of_a_gain_by_hand() -> None:
    """Half the gain in every seed is half of it however seeds are drawn."""
    plain, full = np.array([1.0, 1.2, 0.9]), np.array([0.5, 0.6, 0.7])
    half = frugal.share_of_gain(plain, full, (plain + full) / 2)
    assert half == {"mean": pytest.approx(0.5), "interval": pytest.approx([0.5, 0.5])}
