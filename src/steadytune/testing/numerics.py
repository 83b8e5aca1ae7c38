"""Checks of what a method computes: nothing at zero strength, and the same however a batch is cut."""

from __future__ import annotations

import math

import torch

from steadytune.testing import tiny
from steadytune.testing.subject import Subject

#: Relative difference of gradients in float64 that rounding explains.
ROUNDING = 1e-9


def is_felt(subject: Subject) -> None:
    """With its strong settings the weights after three updates differ from plain training."""
    plain, network = tiny.model(dropout=0.1), tiny.model(dropout=0.1)
    tiny.loop(plain, None)
    tiny.loop(network, [subject.build()])
    assert tiny.differing(tiny.weights(network), tiny.weights(plain)), "training is as without the method"


def zero_is_plain(subject: Subject) -> None:
    """At its ``off_settings`` losses and weights are those of plain training, bit for bit, with dropout on."""
    assert subject.method.off_settings, "no off_settings are declared"
    plain, network = tiny.model(dropout=0.1), tiny.model(dropout=0.1)
    expected = tiny.loop(plain, None)
    found = tiny.loop(network, [subject.build(**subject.method.off_settings)])
    assert found == expected, f"losses {found} instead of {expected}"
    assert tiny.differing(tiny.weights(network), tiny.weights(plain)) == []


def host_randomness(subject: Subject) -> None:
    """After a micro-batch the host's random state is what plain training leaves."""
    network, given = tiny.model(dropout=0.1), tiny.batch()
    torch.manual_seed(5)
    network(**given)
    expected = torch.get_rng_state()
    with tiny.one_update(network, [subject.build()], [given]):
        assert torch.equal(torch.get_rng_state(), expected)


def accumulation(subject: Subject) -> None:
    """Eight examples at once, in twos and in fours give one gradient, and one update."""
    whole, found = tiny.batch(8), {}
    for size in (8, 4, 2):
        network = tiny.model(dtype=torch.float64)
        parts = [tiny.rows(whole, i, i + size) for i in range(0, 8, size)]
        with tiny.one_update(network, [subject.build()], parts) as (_, loss, gradients):
            found[size] = (loss, gradients)
    loss, expected = found[8]
    for size in (4, 2):
        assert math.isclose(found[size][0], loss, rel_tol=ROUNDING), f"loss {found[size][0]} instead of {loss}"
        assert tiny.distance(found[size][1], expected) < ROUNDING


def padding(subject: Subject) -> None:
    """Columns of padding more than needed change neither loss nor gradients."""
    found = []
    for extra in (0, 5):
        network = tiny.model(dtype=torch.float64)
        with tiny.one_update(network, [subject.build()], [tiny.batch(padding=extra)]) as (_, loss, gradients):
            found.append((loss, gradients))
    assert math.isclose(found[0][0], found[1][0], rel_tol=ROUNDING)
    assert tiny.distance(found[1][1], found[0][1]) < ROUNDING


def batch_order(subject: Subject) -> None:
    """The same examples in another order give the same loss and gradients."""
    whole, order = tiny.batch(6), torch.tensor([3, 0, 5, 1, 4, 2])
    found = []
    for given in (whole, {name: tensor[order] for name, tensor in whole.items()}):
        network = tiny.model(dtype=torch.float64)
        with (
            tiny.noise_by_position(),
            tiny.all_examples_drawn(),
            tiny.one_update(network, [subject.build()], [given]) as (_, loss, gradients),
        ):
            found.append((loss, gradients))
    assert math.isclose(found[0][0], found[1][0], rel_tol=ROUNDING)
    assert tiny.distance(found[1][1], found[0][1]) < ROUNDING


def gradient_checkpointing(subject: Subject) -> None:
    """Running layers again in the backward pass changes no gradient, dropout included."""
    found = []
    for checkpointing in (False, True):
        network = tiny.model(dropout=0.1, dtype=torch.float64)
        if checkpointing:
            tiny.enable_checkpointing(network)
        with tiny.one_update(network, [subject.build()], [tiny.batch()]) as (_, loss, gradients):
            found.append((loss, gradients))
    assert math.isclose(found[0][0], found[1][0], rel_tol=ROUNDING)
    assert tiny.distance(found[1][1], found[0][1]) < ROUNDING


def bf16(subject: Subject) -> None:
    """A model in bfloat16 trains three updates; losses and weights stay finite and keep their type."""
    network = tiny.model(dropout=0.1, dtype=torch.bfloat16)
    losses = tiny.loop(network, [subject.build()])
    assert all(map(math.isfinite, losses)), f"losses {losses}"
    for name, p in network.named_parameters():
        assert p.dtype is torch.bfloat16, f"{name} is {p.dtype}"
        assert bool(torch.isfinite(p).all()), f"{name} is not finite"
