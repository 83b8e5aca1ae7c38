"""Faults of others, FreeLB: our form passes each check, and the faulty form fails it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from helpers import tiny
from helpers.faulty_forms import ROUNDING, double, gradients_with, shown
from torch import Tensor, nn

from steadytune import Stack
from steadytune.core.arithmetic.ascent import ascend_in_l2
from steadytune.core.authoring.passes import Passes
from steadytune.methods.freelb import FreeLB


class PerturbsPadding(FreeLB):
    """Does not know which tokens are padding."""

    def run(self, passes: Passes) -> Tensor:
        unmasked = {name: tensor for name, tensor in passes.inputs.items() if name != "attention_mask"}
        return super().run(replace(passes, inputs=unmasked))


class DrawsFreshMasks(FreeLB):
    """Lets every pass of the ascent drop something else."""

    def train_on(self, passes: Passes, delta: Tensor, *, share: float = 1.0) -> tuple[Tensor, Tensor]:
        delta = delta.detach().requires_grad_(True)
        loss = passes.forward_backward(delta, part="task", share=share, masks="fresh")
        assert delta.grad is not None
        return loss, delta.grad


def padding_stays_where_it_is(form: FreeLB) -> None:
    """In all K passes the embeddings of padding are the clean ones bit for bit, and those of real tokens are not."""
    network, given, seen = tiny.bert(), tiny.batch(4, extra=3), []
    norm = network.bert.embeddings.LayerNorm
    handle = norm.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].detach()))
    network(**given)
    clean = seen.pop()
    with Stack([form]) as stack:
        stack.prepare(network)
        stack.backward(network, given)
    handle.remove()
    real = given["attention_mask"].bool()
    assert len(seen) == form.ascent_steps
    for embedded in seen:
        assert bool((embedded[real] != clean[real]).any(-1).all())
        assert torch.equal(embedded[~real], clean[~real]), "padding is perturbed"


def test_freelb_leaves_padding_alone() -> None:
    """On some models the gradient at padding is hundreds of times that at a word, and takes the whole norm."""
    shown(padding_stays_where_it_is, FreeLB(ascent_steps=3), PerturbsPadding(ascent_steps=3), "padding is perturbed")


def all_passes_drop_the_same(form: FreeLB) -> None:
    """With a perturbation of 0 the mean over the K passes is the plain gradient; and each layer's mask is one."""
    network, masks = double(dropout=0.3), {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Dropout) and not name.endswith("self.dropout"):
            module.register_forward_hook(lambda _m, _i, out, key=name: masks.setdefault(key, []).append(out != 0))
    found = gradients_with([form], network, tiny.batch())
    assert len(masks) == 6
    for drawn in masks.values():
        assert len(drawn) == form.ascent_steps
        assert not bool(drawn[0].all())
        assert all(torch.equal(mask, drawn[0]) for mask in drawn), "the passes drop different things"
    plain = gradients_with([], double(dropout=0.3), tiny.batch())
    assert tiny.distance(found, plain) < ROUNDING, "attention drops different things"


def test_freelb_drops_the_same_in_all_passes() -> None:
    """The released code needs edited models to use one dropout mask in all K passes; a hook needs none."""
    settings = {"ascent_steps": 3, "step_size": 0.0, "initial_magnitude": 0.0}
    shown(all_passes_drop_the_same, FreeLB(**settings), DrawsFreshMasks(**settings), "the passes drop different")


def without_a_guard(delta: Tensor, gradient: Tensor, *, step_size: float, radius: float) -> Tensor:
    norm = gradient.flatten(1).norm(dim=1).view(-1, 1, 1)
    moved = delta + step_size * gradient / norm
    return moved * (radius / moved.flatten(1).norm(dim=1).view(-1, 1, 1)).clamp_max(1.0)


def a_step_up_stays_finite(climb: Callable[..., Tensor]) -> None:
    """An example without a gradient, or with one whose squares vanish or overflow, does no harm to the others."""
    gradient = torch.randn(4, 3, 8)
    gradient[0] = 0.0
    gradient[1] *= 1e-30
    gradient[2] *= 1e25
    moved = climb(torch.zeros(4, 3, 8), gradient, step_size=0.5, radius=1.0)
    lengths = moved.flatten(1).norm(dim=1)
    assert torch.allclose(lengths, torch.tensor([0.0, 0.5, 0.5, 0.5])), "a step is not finite, or has another length"


def test_the_adversary_stays_finite() -> None:
    """FreeLB's replays are reported to give NaN unless the adversary starts late."""
    shown(a_step_up_stays_finite, ascend_in_l2, without_a_guard, "a step is not finite")
