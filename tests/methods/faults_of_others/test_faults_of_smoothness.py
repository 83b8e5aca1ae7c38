"""Faults of others, the smoothness term: our form passes each check, and the faulty form fails it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import tiny
from helpers.faulty_forms import Batch, double, shown
from torch import Tensor, nn
from torch.nn import functional

from steadytune import Stack
from steadytune.core.arithmetic import noise
from steadytune.core.arithmetic.ascent import ascend
from steadytune.core.arithmetic.divergence import symmetric_kl
from steadytune.core.authoring.method import Method
from steadytune.core.model.tap import Tap, word_embedding
from steadytune.methods.r3f import R3F
from steadytune.methods.smoothness import Smoothness
from steadytune.methods.vat import VirtualAdversarialTraining


def difference_of_log_odds(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """What mt-dnn's "stable" divergence amounts to: ``2 sum_c p_c (logit p_c - logit q_c)``."""
    p, q = (functional.softmax(logits, -1).clamp(1e-6, 1 - 1e-6) for logits in (p_logits, q_logits))
    return 2 * (p * (torch.logit(p) - torch.logit(q)).detach()).sum(-1)


def with_constant_targets(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """The right value, each direction of the KL divergence with a constant target."""
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    there = (log_q.exp().detach() * (log_q.detach() - log_p)).sum(-1)
    return there + (log_p.exp().detach() * (log_p.detach() - log_q)).sum(-1)


def never_negative(form: Callable[[Tensor, Tensor], Tensor]) -> None:
    """For pairs that are near each other, as those of a perturbation are."""
    p, direction = torch.randn(2, 2000, 3, generator=torch.Generator().manual_seed(0))
    values = form(p, p + 0.1 * direction)
    share = float((values < 0).double().mean())
    assert share == 0, f"negative for {share:.0%} of the pairs"
    assert bool((form(p, p.clone()).abs() < 1e-12).all()), "not 0 for equal outputs"


def whole_gradient(form: Callable[[Tensor, Tensor], Tensor]) -> None:
    """The gradient is the derivative of the value, in a direction that moves both outputs."""
    generator, size = torch.Generator().manual_seed(0), 1e-5
    p, q, dp, dq = torch.randn(4, 20, 3, generator=generator, dtype=torch.float64)
    slope = (form(p + size * dp, q + size * dq) - form(p - size * dp, q - size * dq)).sum() / (2 * size)
    p.requires_grad_(True)
    q.requires_grad_(True)
    form(p, q).sum().backward()
    found = float((p.grad * dp + q.grad * dq).sum())
    assert found == pytest.approx(float(slope), rel=1e-6), "a part of the gradient is missing"


def test_the_divergence_is_one() -> None:
    """mt-dnn's ``stable_kl`` is negative for nearly half of all pairs of three classes."""
    shown(never_negative, symmetric_kl, difference_of_log_odds, r"negative for 4\d% of the pairs")


def test_the_divergence_has_its_whole_gradient() -> None:
    """mt-dnn's symmetric KL detaches each target: the right value and a part of the gradient."""
    p, q = torch.randn(2, 20, 3, dtype=torch.float64)
    assert torch.allclose(with_constant_targets(p, q), symmetric_kl(p, q))
    shown(whole_gradient, symmetric_kl, with_constant_targets, "a part of the gradient is missing")


Ascent = Callable[..., tuple[Tensor, Tensor]]


def divided_and_not_projected(
    objective: Callable[[Tensor], Tensor], start: Tensor, *, steps: int, step_size: float, radius: float
) -> tuple[Tensor, Tensor]:
    """As released: the radius is only added to what the step is divided by."""
    delta = start
    for _ in range(steps):
        delta = delta.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(objective(delta), delta)
        moved = delta.detach() + step_size * gradient
        delta = moved / (moved.abs().amax(-1, keepdim=True) + radius)
    return delta, torch.zeros((), dtype=torch.long)


def climbed(form: Ascent) -> tuple[Tensor, Tensor]:
    """The perturbation at the paper's settings and the direction of the gradient; one of 1e-3 per entry or less."""
    generator = torch.Generator().manual_seed(0)
    slope = 1e-3 * torch.randn(2, 6, 16, generator=generator)
    start = 1e-5 * torch.randn(2, 6, 16, generator=generator)
    delta, _ = form(lambda d: (slope * d).sum(), start, steps=1, step_size=1e-3, radius=1e-5)
    return delta, slope


def the_radius_is_a_radius(form: Ascent) -> None:
    delta, _ = climbed(form)
    assert float(delta.abs().max()) <= 1e-5 * (1 + 1e-6), "the perturbation is larger than the radius"


def the_ascent_steers(form: Ascent) -> None:
    delta, slope = climbed(form)
    assert float(functional.cosine_similarity(delta.flatten(), slope.flatten(), dim=0)) > 0.5, "nearly at random"


def test_the_perturbation_stays_within_the_radius() -> None:
    """Public code for R_s perturbs by about 1 per token, where the paper projects on a ball of 1e-5."""
    shown(the_radius_is_a_radius, ascend, divided_and_not_projected, "larger than the radius")


def test_the_ascent_is_more_than_its_random_start() -> None:
    """With the released defaults the result is the random start, stretched: the gradient barely turns it."""
    shown(the_ascent_steers, ascend, divided_and_not_projected, "nearly at random")


def by_a_hook(network: nn.Module, given: Batch, delta: Tensor) -> Tensor:
    with Tap(word_embedding(network)).perturbing(delta):
        return network(given["input_ids"], given["attention_mask"]).logits


def by_inputs_embeds(network: nn.Module, given: Batch, delta: Tensor) -> Tensor:
    """The output of the whole embedding layer, fed in as word embeddings."""
    embedded = network.bert.embeddings(given["input_ids"]) + delta
    return network(inputs_embeds=embedded, attention_mask=given["attention_mask"]).logits


def no_perturbation_is_the_clean_pass(run: Callable[[nn.Module, Batch, Tensor], Tensor]) -> None:
    network, given = double(), tiny.batch()
    zero = torch.zeros(*given["input_ids"].shape, tiny.WIDTH, dtype=torch.float64)
    clean = network(given["input_ids"], given["attention_mask"]).logits
    assert torch.equal(run(network, given, zero), clean), "a perturbation of 0 changes the output"


def test_positions_and_norm_apply_once() -> None:
    """mt-dnn feeds the full embedding output back, so positions and LayerNorm apply twice on that branch."""
    shown(no_perturbation_is_the_clean_pass, by_a_hook, by_inputs_embeds, "a perturbation of 0 changes")


def everywhere(inputs: Mapping[str, Any], seen: Any) -> Tensor:
    return torch.ones(seen.shape[:2], dtype=torch.bool)


def terms_leave_padding_alone(mask: Callable[[Mapping[str, Any], Any], Tensor], form: Method) -> None:
    network, given, seen = tiny.bert(), tiny.batch(4, extra=3), []
    norm = network.bert.embeddings.LayerNorm
    with patch.object(noise, "token_mask", mask), Stack([form]) as stack:
        stack.prepare(network)
        handle = norm.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].detach()))
        stack.backward(network, given)
        handle.remove()
    real, (clean, *moved) = given["attention_mask"].bool(), seen
    for embedded in moved:
        assert bool((embedded[real] != clean[real]).any(-1).all())
        assert torch.equal(embedded[~real], clean[~real]), "padding is perturbed"


@pytest.mark.parametrize(
    "form", [Smoothness(radius=0.1), R3F(radius=0.1), VirtualAdversarialTraining(radius=5.0)], ids=lambda m: m.name
)
def test_terms_do_not_perturb_padding(form: Method) -> None:
    """mt-dnn's noise covers the padded batch."""
    shown(lambda mask: terms_leave_padding_alone(mask, form), noise.token_mask, everywhere, "padding is perturbed")
