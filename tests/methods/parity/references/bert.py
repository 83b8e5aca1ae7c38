"""What the other references share: a tiny BERT as plain functions of its weights, one sentence at a time.

Nothing is padded and nothing is hooked: a sentence is the row of its real tokens, its word embeddings are
looked up here, and the model is entered behind them (``inputs_embeds``) or behind one of its layers. All is
float64. The model must be without dropout; where dropout matters, its masks are arguments.

``kind`` says what the outputs mean: ``classification`` (one item per sentence: cross entropy, KL),
``regression`` (one output: squared error, squared difference) or ``multi_label`` (one item per label: binary
cross entropy, KL of two Bernoulli distributions). Every loss is a mean over the items of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertForSequenceClassification

from references.smart import Theta, gradients_of, kl, log_probabilities, symmetric_kl

Kind = Literal["classification", "regression", "multi_label"]

EMBEDDINGS = "bert.embeddings."
WORDS = EMBEDDINGS + "word_embeddings.weight"


@dataclass(frozen=True)
class Sentence:
    """The real tokens [L] of one sentence, and its label: a class, a number or [C] zeros and ones."""

    ids: Tensor
    label: Any


@dataclass
class Step:
    """What one micro-batch gives, before the optimizer's update."""

    loss: float  # the whole objective
    task_loss: float  # at the clean input
    term: float  # what the method adds, without its weight
    gradients: Theta  # of the whole objective
    term_gradients: Theta = field(default_factory=dict)  # of the term alone
    deltas: list[Tensor] = field(default_factory=list)  # [L, W] of each sentence, in the last pass


# --- the model --------------------------------------------------------------------------------------


def word_embeddings(theta: Theta, ids: Tensor) -> Tensor:
    """[L, W], one row of the table per token."""
    return torch.stack([theta[WORDS][token] for token in ids.tolist()])


def logits(
    model: BertForSequenceClassification, theta: Theta, sentence: Sentence, delta: Tensor | None = None
) -> Tensor:
    """[C] of one sentence, with ``delta`` [L, W] added to its word embeddings."""
    words = word_embeddings(theta, sentence.ids)
    if delta is not None:
        words = words + delta
    return torch.func.functional_call(model, theta, (), {"inputs_embeds": words[None]}).logits[0]


def pooled(model: BertForSequenceClassification, theta: Theta, sentence: Sentence) -> Tensor:
    """[W], what the head's dropout gets."""
    words = word_embeddings(theta, sentence.ids)
    body = {name.removeprefix("bert."): weight for name, weight in theta.items() if name.startswith("bert.")}
    return torch.func.functional_call(model.bert, body, (), {"inputs_embeds": words[None]}).pooler_output[0]


def head(theta: Theta, vector: Tensor) -> Tensor:
    """[C], the classifier behind the dropout."""
    return theta["classifier.weight"] @ vector + theta["classifier.bias"]


def hidden(model: BertForSequenceClassification, theta: Theta, sentence: Sentence, layer: int) -> Tensor:
    """[L, W], the output of layer number ``layer``: 0 for the word embeddings, 1 for the first transformer layer."""
    return between(model, theta, word_embeddings(theta, sentence.ids), 0, layer)


def rest(model: BertForSequenceClassification, theta: Theta, state: Tensor, layer: int) -> Tensor:
    """[C], what the model makes of a given output [L, W] of layer number ``layer``."""
    top = between(model, theta, state, layer, len(model.bert.encoder.layer))
    first = theta["bert.pooler.dense.weight"] @ top[0] + theta["bert.pooler.dense.bias"]
    return head(theta, torch.tanh(first))


def between(model: BertForSequenceClassification, theta: Theta, state: Tensor, start: int, stop: int) -> Tensor:
    """[L, W], the output of layer ``stop`` given that of layer ``start``."""
    for number in range(start, stop):
        if number == 0:  # what comes between the word embeddings and the first layer
            state = state + theta[EMBEDDINGS + "position_embeddings.weight"][: len(state)]
            state = state + theta[EMBEDDINGS + "token_type_embeddings.weight"][0]
            scale, shift = theta[EMBEDDINGS + "LayerNorm.weight"], theta[EMBEDDINGS + "LayerNorm.bias"]
            state = functional.layer_norm(state, scale.shape, scale, shift, model.config.layer_norm_eps)
        prefix = f"bert.encoder.layer.{number}."
        weights = {name.removeprefix(prefix): w for name, w in theta.items() if name.startswith(prefix)}
        output = torch.func.functional_call(model.bert.encoder.layer[number], weights, (state[None],))
        state = (output[0] if isinstance(output, tuple) else output)[0]
    return state


# --- losses and divergences, per item -----------------------------------------------------------------


def item_losses(kind: Kind, output: Tensor, label: Any) -> list[Tensor]:
    """The task loss of each item of one sentence, from its logits [C]."""
    if kind == "classification":
        return [-log_probabilities(output)[int(label)]]
    if kind == "regression":
        return [(output[0] - float(label)) ** 2]
    wanted = [float(value) for value in label]
    return [
        -(y * functional.logsigmoid(z) + (1.0 - y) * functional.logsigmoid(-z))
        for y, z in zip(wanted, output, strict=True)
    ]


def symmetric(kind: Kind, p: Tensor, q: Tensor) -> list[Tensor]:
    """l_s of each item: KL(P||Q) + KL(Q||P), or (p - q)^2.

    For one label of several, with probabilities P and Q of a one: (P - Q)(log P - log Q) of the one and
    (Q - P)(log(1 - P) - log(1 - Q)) of the zero, in sum the difference of the probabilities times that of the
    logits.
    """
    if kind == "classification":
        return [symmetric_kl(p, q)]
    if kind == "regression":
        return [(p[0] - q[0]) ** 2]
    return [(torch.sigmoid(a) - torch.sigmoid(b)) * (a - b) for a, b in zip(p, q, strict=True)]


def one_way(kind: Kind, p: Tensor, q: Tensor) -> list[Tensor]:
    """D of each item: KL(P||Q), or (p - q)^2."""
    if kind == "classification":
        return [kl(p, q)]
    if kind == "regression":
        return [(p[0] - q[0]) ** 2]
    return [
        torch.sigmoid(a) * (functional.logsigmoid(a) - functional.logsigmoid(b))
        + torch.sigmoid(-a) * (functional.logsigmoid(-a) - functional.logsigmoid(-b))
        for a, b in zip(p, q, strict=True)
    ]


def total(values: Sequence[Tensor]) -> Tensor:
    result = torch.zeros((), dtype=torch.float64)
    for value in values:
        result = result + value
    return result


def mean(values: Sequence[Tensor]) -> Tensor:
    return total(values) / len(values)


def task_loss(
    model: BertForSequenceClassification,
    theta: Theta,
    kind: Kind,
    batch: Sequence[Sentence],
    deltas: Sequence[Tensor] | None = None,
) -> Tensor:
    """CE of a batch at x + delta (at x without deltas), a mean over its items."""
    losses: list[Tensor] = []
    for number, sentence in enumerate(batch):
        delta = None if deltas is None else deltas[number]
        losses += item_losses(kind, logits(model, theta, sentence, delta), sentence.label)
    return mean(losses)


# --- norms ------------------------------------------------------------------------------------------------


def l2(values: Tensor) -> float:
    """The L2 norm over all the entries of [L, W]: the whole sentence, not one token at a time."""
    return sum(value * value for value in values.reshape(-1).tolist()) ** 0.5


# --- one step ---------------------------------------------------------------------------------------------


def add(first: Theta, second: Theta, weight: float = 1.0) -> Theta:
    return {name: first[name] + weight * second[name] for name in first}


def step(task: Tensor, term: Tensor, weight: float, weights: Theta, deltas: Sequence[Tensor] = ()) -> Step:
    """The step of ``task + weight * term``, which must have come from separate passes over the same weights."""
    term_gradients = gradients_of(term, weights)
    return Step(
        loss=task.item() + weight * term.item(),
        task_loss=task.item(),
        term=term.item(),
        gradients=add(gradients_of(task, weights), term_gradients, weight),
        term_gradients=term_gradients,
        deltas=list(deltas),
    )
