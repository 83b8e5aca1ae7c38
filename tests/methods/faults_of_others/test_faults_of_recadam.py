"""Faults of others, RecAdam: our form passes each check, and the faulty form fails it."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import torch
from helpers import tiny
from helpers.faulty_forms import moved_away, shown
from torch import nn
from torch.optim import AdamW, Optimizer

from steadytune import Stack
from steadytune.core.authoring.training import Training
from steadytune.methods.optimizer_groups import adam_groups
from steadytune.methods.recadam import RecAdam, RecAdamOptimizer


def recadam_comes_nearer_every_step(pull: Callable[[RecAdamOptimizer, float], float]) -> None:
    """Weights away from the pretrained ones, no gradient of the task, lr * gamma = 2.5 and the task's share near 0."""
    network = nn.Linear(8, 8)
    with patch.object(RecAdamOptimizer, "_pull", pull), Stack([RecAdam(anchor_strength=5000.0)]) as stack:
        stack.prepare(network, total_updates=1000)
        optimizer = stack.optimizer(AdamW(network.parameters(), lr=5e-4, weight_decay=0.0))
        pretrained = tiny.weights(network)
        moved_away(network)
        before = tiny.distance(tiny.weights(network), pretrained)
        for _ in range(8):
            for p in network.parameters():
                p.grad = torch.zeros_like(p)
            optimizer.step()
            after = tiny.distance(tiny.weights(network), pretrained)
            assert after <= before, "a step leads away from the pretrained weights"
            before = after


def test_recadam_does_not_overshoot() -> None:
    """The released update multiplies the distance by 1 - lr * gamma * (1 - lambda), below -1 for lr * gamma > 2."""
    shown(recadam_comes_nearer_every_step, RecAdamOptimizer._pull, lambda _self, share: share, "a step leads away")


class PairsByOrder(RecAdam):
    """Takes the pretrained weights in the order of the model, whatever the order of the groups."""

    def build(self, optimizer: Optimizer, training: Training) -> Optimizer:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        anchors = dict(zip(parameters, training.anchor.values(), strict=True))
        return RecAdamOptimizer(adam_groups(optimizer), self, anchors.get)


def recadam_pulls_each_weight_home(form: RecAdam) -> None:
    """With groups in another order than the model, as where the groups differ in weight decay or learning rate."""
    network = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    with Stack([form]) as stack:
        stack.prepare(network, total_updates=1000)
        groups = [{"params": [layer.weight]} for layer in reversed(network)]
        optimizer = stack.optimizer(AdamW(groups, lr=1e-3, weight_decay=0.0))
        pretrained = tiny.weights(network)
        moved_away(network)
        for p in network.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert tiny.distance(tiny.weights(network), pretrained) < 1e-6, "a weight is pulled to that of another"


def test_recadam_pairs_weights_by_name() -> None:
    """The released code walks through two models side by side, which needs groups in the order of the model."""

    settings = {"anchor_strength": 1000.0}
    shown(recadam_pulls_each_weight_home, RecAdam(**settings), PairsByOrder(**settings), "pulled to that of another")
