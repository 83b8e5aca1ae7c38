"""Faults of others, NoisyTune: our form passes each check, and the faulty form fails it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import tiny
from helpers.faulty_forms import HEAD, shown
from torch import nn

from steadytune import perturb_weights


def two_line_recipe(network: nn.Module) -> None:
    with torch.no_grad():
        for p in network.parameters():
            p.add_((torch.rand(p.shape) - 0.5) * 0.15 * torch.std(p))


def noise_stays_where_it_belongs(perturb: Callable[[nn.Module], Any], what: str) -> None:
    network = tiny.bert(num_labels=1)
    with torch.no_grad():
        network.get_input_embeddings().weight[0] = 0.25
    before = tiny.weights(network)
    perturb(network)
    after, words = tiny.weights(network), "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(after[words], before[words])
    if what == "finite":
        assert all(bool(torch.isfinite(p).all()) for p in after.values()), "a weight is not finite"
    elif what == "padding":
        assert torch.equal(after[words][0], before[words][0]), "the row of the padding token moved"
    else:
        assert torch.equal(after[HEAD[0]], before[HEAD[0]]), "the new head moved"


@pytest.mark.filterwarnings("ignore:std")
@pytest.mark.parametrize(
    ("what", "said"), [("finite", "is not finite"), ("padding", "the padding token moved"), ("head", "head moved")]
)
def test_noisytune_spares_what_has_no_spread_padding_and_the_head(what: str, said: str) -> None:
    """The recipe of two lines gives NaN for a bias of one entry, and moves the pad row and the fresh head."""
    shown(lambda form: noise_stays_where_it_belongs(form, what), perturb_weights, two_line_recipe, said)
