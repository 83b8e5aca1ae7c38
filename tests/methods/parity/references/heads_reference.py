"""Loss terms at every head by hand in float64: one unpadded sentence at a time, embeddings given from outside.

Written from the SMART paper (equations 1 and 3, algorithm 1), R3F (equation 2), VAT (algorithm 1) and the cards of the
methods, without the library's code. A head's answer to an example is a list of *items*, each a vector of logits of one
softmax, or for a multi-label head one logit of a yes/no distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from references.smart import Theta

Rows = list[Tensor]  # of one example: a delta [L, W] for each of its sentences (several with multiple choice)
Items = list[Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Example:
    """The sentences of one example without padding, and which of its outputs count."""

    sentences: list[Tensor]
    labels: Tensor | None = None


def examples_of(head: str, batch: Mapping[str, Tensor]) -> list[Example]:
    found = []
    for row in range(len(batch["input_ids"])):
        ids, mask = batch["input_ids"][row], batch["attention_mask"][row].bool()
        if head == "multiple choice":
            found.append(Example([choice[real] for choice, real in zip(ids, mask, strict=True)]))
        elif head in ("question answering", "multi-label"):
            found.append(Example([ids[mask]]))
        elif head == "seq2seq LM":
            found.append(Example([ids[mask]], batch["labels"][row]))
        else:
            found.append(Example([ids[mask]], batch["labels"][row][mask]))
    return found


def call(model: Any, theta: Theta, embeddings: Tensor, **others: Tensor) -> Any:
    # The key is the table's own name, not a tied one, so that every use of the table has the same weights.
    return torch.func.functional_call(model, theta, (), {"inputs_embeds": embeddings, **others}, tie_weights=True)


def items(head: str, model: Any, theta: Theta, words: str, example: Example, deltas: Rows | None = None) -> Items:
    """What the head says about one example whose word embeddings are moved by ``deltas``."""
    table = theta[words]
    embedded = [table[ids] for ids in example.sentences]
    if deltas is not None:
        embedded = [e + d for e, d in zip(embedded, deltas, strict=True)]
    if head == "multiple choice":
        return [torch.cat([call(model, theta, e[None, None]).logits[0] for e in embedded])]
    (e,) = embedded
    if head == "multi-label":
        return list(call(model, theta, e[None]).logits[0])
    if head == "question answering":
        outputs = call(model, theta, e[None])
        return [outputs.start_logits[0], outputs.end_logits[0]]
    labels = example.labels
    assert labels is not None
    if head == "seq2seq LM":
        start = torch.tensor([model.config.decoder_start_token_id])
        given = torch.where(labels[:-1] < 0, model.config.pad_token_id, labels[:-1])
        logits = call(model, theta, e[None], decoder_input_ids=torch.cat([start, given])[None]).logits[0]
        return [logits[t] for t in range(len(labels)) if labels[t] != -100]
    logits = call(model, theta, e[None]).logits[0]
    if head == "causal LM":
        # BART's decoder alone leaves the shift of the labels to the user; the others predict the label after.
        ahead = 0 if type(model).__name__ == "BartForCausalLM" else 1
        return [logits[t] for t in range(len(labels) - ahead) if labels[t + ahead] != -100]
    return [logits[t] for t in range(len(labels)) if labels[t] != -100]


def log_probabilities(logits: Tensor) -> Tensor:
    if logits.dim() == 0:  # yes/no
        logits = torch.stack([logits, torch.zeros_like(logits)])
    return logits - torch.logsumexp(logits, 0)


def one_way(p: Tensor, q: Tensor) -> Tensor:
    """KL(P||Q)."""
    log_p, log_q = log_probabilities(p), log_probabilities(q)
    return (log_p.exp() * (log_p - log_q)).sum()


def symmetric(p: Tensor, q: Tensor) -> Tensor:
    """KL(P||Q) + KL(Q||P), a sum."""
    return one_way(p, q) + one_way(q, p)


def total(distance: Distance, first: Items, second: Items) -> Tensor:
    return torch.stack([distance(p, q) for p, q in zip(first, second, strict=True)]).sum()


def gradients_to(value: Tensor, points: Rows) -> Rows:
    return [g.detach() for g in torch.autograd.grad(value, points)]


def ascent(f: Callable[[Rows | None], Items], start: Rows, radius: float, step_size: float, steps: int) -> Rows:
    """Algorithm 1, lines 6 to 10; the norm is that of each sentence."""
    with torch.no_grad():
        clean = f(None)
    deltas = [noise.clone() for noise in start]
    for _ in range(steps):
        points = [d.clone().requires_grad_(True) for d in deltas]
        slopes = gradients_to(total(symmetric, clean, f(points)), points)
        deltas = [
            (d + step_size * g / g.abs().max()).clamp(-radius, radius) for d, g in zip(deltas, slopes, strict=True)
        ]
    return deltas


def directions(f: Callable[[Rows | None], Items], noise: Rows, xi: float, steps: int) -> Rows:
    """VAT's power iteration; the norm is that of each sentence."""
    with torch.no_grad():
        clean = f(None)
    deltas = [d / d.norm() for d in noise]
    for _ in range(steps):
        points = [d.clone().requires_grad_(True) for d in deltas]
        slopes = gradients_to(total(one_way, clean, f([xi * p for p in points])), points)
        deltas = [g / g.norm() for g in slopes]
    return deltas


@dataclass(frozen=True)
class Setting:
    """Which terms are there: the names of the methods, and their hyper-parameters."""

    smoothness: float = 0.0
    bregman: float = 0.0
    r3f: float = 0.0
    vat: float = 0.0
    radius: float = 1e-2
    step_size: float = 1e-3
    steps: int = 2
    xi: float = 0.1
    early_beta: float = 0.99
    beta: float = 0.999
    early_fraction: float = 0.1


def term(
    head: str,
    model: Any,
    theta: Theta,
    teacher: Theta,
    words: str,
    examples: Sequence[Example],
    noise: Sequence[Rows] | None,
    setting: Setting,
) -> Tensor:
    """The mean over the items of the batch of what the methods of the setting add."""
    constant = {name: t.detach() for name, t in theta.items()}
    sums, count = torch.zeros((), dtype=torch.float64), 0
    for row, example in enumerate(examples):

        def frozen(deltas: Rows | None, example: Example = example) -> Items:
            return items(head, model, constant, words, example, deltas)

        clean = items(head, model, theta, words, example)
        count += len(clean)
        if setting.bregman:
            with torch.no_grad():
                old = items(head, model, teacher, words, example)
            sums = sums + setting.bregman * total(symmetric, clean, old)
        if noise is None:
            continue
        if setting.smoothness:
            deltas = ascent(frozen, noise[row], setting.radius, setting.step_size, setting.steps)
            moved = items(head, model, theta, words, example, deltas)
            sums = sums + setting.smoothness * total(symmetric, clean, moved)
        if setting.r3f:
            moved = items(head, model, theta, words, example, noise[row])
            sums = sums + setting.r3f * total(symmetric, clean, moved)
        if setting.vat:
            found = directions(frozen, noise[row], setting.xi, setting.steps)
            moved = items(head, model, theta, words, example, [setting.radius * d for d in found])
            sums = sums + setting.vat * total(one_way, [c.detach() for c in clean], moved)
    return sums / count


def teacher_after(teacher: Theta, theta: Theta, update: int, updates: int, setting: Setting) -> Theta:
    """Line 14: the average after update ``update`` (from 1) of ``updates``."""
    beta = setting.early_beta if update <= setting.early_fraction * updates else setting.beta
    return {name: (1.0 - beta) * theta[name].detach() + beta * teacher[name] for name in teacher}
