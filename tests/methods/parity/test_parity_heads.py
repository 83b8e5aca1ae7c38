"""The terms of every head against a slow float64 transcription: weights after each of three updates."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from references import adamw
from references import heads_reference as reference
from references.heads_reference import Example, Setting
from torch import Tensor

from steadytune import Stack, bregman, r3f, smoothness, vat
from steadytune.core.arithmetic import noise as noise_file
from steadytune.testing.families import batch_for, build

UPDATES, TOTAL, RATE = 3, 10, 0.05
#: The family, the head, and on which side the sentences are padded.
SUBJECTS = [
    ("Llama", "causal LM", "right"),
    ("Llama", "causal LM", "left"),
    ("GPT-2", "causal LM", "right"),
    ("T5", "seq2seq LM", "right"),
    ("BART", "seq2seq LM", "right"),
    ("BART", "causal LM", "right"),
    ("BERT", "question answering", "right"),
    ("BERT", "token classification", "right"),
    ("BERT", "multi-label", "right"),
    ("BERT", "multiple choice", "right"),
    ("Llama", "multi-label", "right"),
]
BETAS: dict[str, Any] = {"early_beta": 0.6, "beta": 0.9}
#: The methods, and the reference's words for them.
METHODS: dict[str, tuple[Callable[[], Any], Setting]] = {
    "smart": (
        lambda: (
            smoothness(weight=300.0, radius=1e-2, noise_std=1e-3, step_size=4e-3, ascent_steps=2, masks="same"),
            bregman(weight=2.0, **BETAS),
        ),
        Setting(smoothness=300.0, bregman=2.0, radius=1e-2, step_size=4e-3, steps=2, **BETAS),
    ),
    "r3f": (lambda: r3f(weight=50.0, radius=1e-1, masks="same"), Setting(r3f=50.0)),
    "vat": (
        lambda: vat(weight=5.0, radius=0.5, power_iterations=2),
        Setting(vat=5.0, radius=0.5, steps=2),
    ),
}


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """All the embedding noise of the test, in order."""
    seen: list[Tensor] = []

    def record(name: str) -> None:
        draw: Callable[..., Tensor] = getattr(noise_file, name)

        def recorded(*given: Any, **named: Any) -> Tensor:
            noise = draw(*given, **named)
            seen.append(noise.detach().clone())
            return noise

        monkeypatch.setattr(noise_file, name, recorded)

    record("normal_noise")
    record("uniform_noise")
    return seen


def to_the_left(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same sentences with their padding in front."""
    lengths = batch["attention_mask"].sum(1).tolist()
    width = batch["input_ids"].shape[1]
    rolled = {
        name: torch.stack([row.roll(width - length) for row, length in zip(t, lengths, strict=True)])
        for name, t in batch.items()
    }
    return rolled | {"position_ids": (rolled["attention_mask"].cumsum(1) - 1).clamp_min(0)}


def rows_of(noise: Tensor, batch: dict[str, Tensor], examples: list[Example]) -> list[list[Tensor]]:
    """The noise of the real tokens of each sentence of each example."""
    mask = batch["attention_mask"].flatten(0, -2).bool()
    flat = noise.reshape(*mask.shape, -1)
    assert not flat[~mask].any()
    cut = iter([row[real] for row, real in zip(flat, mask, strict=True)])
    return [[next(cut) for _ in example.sentences] for example in examples]


def exact(family: str, head: str) -> Any:
    """The model in float64 throughout; Transformers computes root-mean-square norms in float32 whatever the type."""
    model = build(family, head, dtype=torch.float64)
    for module in model.modules():
        if type(module).__name__ in ("LlamaRMSNorm", "T5LayerNorm"):
            module.forward = MethodType(_root_mean_square_norm, module)
    if family == "Llama":
        model.set_attn_implementation("sdpa")  # eager in float64 gives nan for the rows of padding on the left
    return model


def _root_mean_square_norm(norm: Any, x: Tensor) -> Tensor:
    return norm.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon)


def library(
    family: str, head: str, methods: Any, batches: list[dict[str, Tensor]]
) -> tuple[list[dict[str, Tensor]], list[float]]:
    """The weights after each update and the losses, by the stack in a plain loop."""
    model = exact(family, head)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    after, losses = [], []
    with Stack([methods]) as stack:
        stack.prepare(model, optimizer, total_updates=TOTAL)
        for batch in batches:
            losses.append(float(stack.backward(model, batch).detach()))
            optimizer.step()
            optimizer.zero_grad()
            after.append({name: p.detach().clone() for name, p in model.named_parameters()})
    return after, losses


def transcription(
    family: str, head: str, setting: Setting, batches: list[dict[str, Tensor]], draws: list[Tensor]
) -> tuple[list[dict[str, Tensor]], list[float], list[float]]:
    """The same by hand; the last are the terms alone."""
    model = exact(family, head)
    words = next(n for n, p in model.named_parameters() if p is model.get_input_embeddings().weight)
    weights = adamw.copied(dict(model.named_parameters()))
    teacher = adamw.copied(weights)
    after, losses, terms = [], [], []
    for t, batch in enumerate(batches):
        leaves = {name: w.clone().requires_grad_(True) for name, w in weights.items()}
        examples = reference.examples_of(head, batch)
        noise = rows_of(draws[t], batch, examples)
        term = reference.term(head, model, leaves, teacher, words, examples, noise, setting)
        loss = adamw.loss_at(model, leaves, batch) + term
        found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        for name, gradient in zip(leaves, found, strict=True):
            weights[name] = weights[name] if gradient is None else weights[name] - RATE * gradient
        teacher = reference.teacher_after(teacher, weights, t + 1, TOTAL, setting)
        after.append(adamw.copied(weights))
        losses.append(float(loss.detach()))
        terms.append(float(term.detach()))
    return after, losses, terms


@pytest.mark.parametrize(
    ("family", "head", "side", "method"),
    [
        pytest.param(*subject, method, marks=[pytest.mark.long] if i and method != "smart" else [])
        for i, subject in enumerate(SUBJECTS)
        for method in METHODS
    ],
)
def test_three_updates(family: str, head: str, side: str, method: str, draws: list[Tensor]) -> None:
    batches = [batch_for(family, head, seed=seed, dtype=torch.float64) for seed in range(UPDATES)]
    if side == "left":
        batches = [to_the_left(batch) for batch in batches]
    methods, setting = METHODS[method]
    found, losses = library(family, head, methods(), batches)
    assert len(draws) == UPDATES
    expected, wanted, terms = transcription(family, head, setting, batches, draws)
    assert losses == pytest.approx(wanted, rel=1e-10)
    assert min(terms) > 1e-6  # or the comparison says nothing of them
    for ours, theirs in zip(found, expected, strict=True):
        for name, weight in theirs.items():
            torch.testing.assert_close(ours[name], weight, rtol=0, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
