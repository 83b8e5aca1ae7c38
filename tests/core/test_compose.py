"""Every pair of methods is refused with both names and the way out, or trains; loss terms commute."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from steadytune import Stack
from steadytune.core.authoring.method import LossMethod, Method, StepMethod
from steadytune.core.stack.composition import total_cost
from steadytune.errors import MethodError
from steadytune.methods.registry import REGISTRY, method_classes
from steadytune.testing import tiny
from steadytune.testing.accounting import counted_passes, measured_memory

CLASSES = {m.name: m for m in method_classes()}
PAIRS = list(itertools.combinations(CLASSES, 2))
LOSSES = [name for name, m in CLASSES.items() if issubclass(m, LossMethod)]


def felt(name: str) -> Method:
    return CLASSES[name](**CLASSES[name].strong_settings)


def refused(first: Method, second: Method) -> bool:
    return bool(first.claims & second.claims)


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=map("+".join, PAIRS))
def test_a_pair_is_refused_or_trains(first: str, second: str) -> None:
    pair = [felt(first), felt(second)]
    if refused(*pair):
        for order in (pair, pair[::-1]):
            with pytest.raises(MethodError, match="Keep one of them") as error:
                Stack(order)
            assert first in str(error.value)
            assert second in str(error.value)
            assert "\n" not in str(error.value)
        return
    network = tiny.model(dropout=0.1)
    before = tiny.weights(network)
    losses = tiny.loop(network, pair, updates=2)
    assert all(map(math.isfinite, losses))
    assert tiny.differing(before, tiny.weights(network))
    for name, p in network.named_parameters():
        assert bool(torch.isfinite(p).all()), name


def test_the_pairs_that_are_refused() -> None:
    """The list is short, so that a claim too many is seen."""
    found = {frozenset(pair) for pair in PAIRS if refused(felt(pair[0]), felt(pair[1]))}
    adversarial_steps = {"pgd", "freeat", "freelb"}
    expected = {frozenset(p) for p in itertools.combinations([*adversarial_steps, "sam"], 2)}
    expected |= {
        frozenset({s, other}) for s in adversarial_steps for other in ("smoothness", "vat", "neftune", "r_drop")
    }
    expected |= {frozenset({"smoothness", "vat"}), frozenset({"radam", "recadam"})}
    expected |= {frozenset({"freeze", "gradual_unfreezing"})}
    assert found == expected


@pytest.mark.parametrize(
    ("first", "second"), list(itertools.combinations(LOSSES, 2)), ids=map("+".join, itertools.combinations(LOSSES, 2))
)
def test_loss_terms_commute(first: str, second: str) -> None:
    if refused(felt(first), felt(second)):
        return  # never together
    found = []
    for order in ((first, second), (second, first)):
        network = tiny.model(dropout=0.1, dtype=torch.float64)
        with tiny.one_update(network, [felt(name) for name in order], [tiny.batch()]) as (_, loss, gradients):
            found.append((loss, gradients))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    assert tiny.distance(found[0][1], found[1][1]) < 1e-12


STACKS = [
    ["noisytune", "smoothness", "bregman"],
    ["smoothness", "bregman", "r3f", "r_drop"],
    ["l2_sp", "mixout", "recadam", "wise_ft"],
    ["bregman", "r3f", "freelb"],
    ["bregman", "pgd"],
    ["bregman", "freeat"],
    ["r3f", "bregman", "sam"],
    ["r_drop", "sam"],
    ["alum", "vat", "weight_averaging"],
]


@pytest.mark.parametrize("names", STACKS, ids=map("+".join, STACKS))
def test_the_figures_of_a_stack_are_right(names: list[str]) -> None:
    methods = [felt(name) for name in names]
    total = total_cost(methods)
    found = counted_passes(tiny.model(dropout=0.1), methods)
    for what in ("forwards", "forwards_without_graph", "backwards", "backwards_to_embeddings"):
        assert getattr(found, what) == getattr(total, what), what
    copies, sets = measured_memory(methods)
    assert copies == pytest.approx(total.weight_copies, abs=0.5)
    assert sets == pytest.approx(total.activation_sets, abs=0.5)


def test_every_role_is_there() -> None:
    assert {m.role for m in CLASSES.values()} == {"weights", "loss", "step", "optimizer", "model"}
    assert sum(issubclass(m, StepMethod) for m in CLASSES.values()) == 4
    assert len(REGISTRY) > len(CLASSES)
