"""A model as the references take it: one example at a time, without hooks or padding."""

from __future__ import annotations

import torch
from references import smart as reference
from torch import Tensor, nn
from torch.nn import functional

WORDS = "bert.embeddings.word_embeddings.weight"


def as_function(model: nn.Module) -> reference.Model:
    """The model as the references take it: no hook, no padding, no batch."""

    def f(theta: reference.Theta, example: Tensor, delta: Tensor) -> Tensor:
        embeddings = functional.embedding(example, theta[WORDS]) + delta
        outputs = torch.func.functional_call(model, theta, (), {"inputs_embeds": embeddings[None]})
        return outputs.logits[0]

    return f


def examples_of(batch: dict[str, Tensor]) -> list[Tensor]:
    lengths = batch["attention_mask"].sum(1).tolist()
    return [ids[:length] for ids, length in zip(batch["input_ids"], lengths, strict=True)]


def cut(padded: Tensor, batch: dict[str, Tensor]) -> list[Tensor]:
    """The real tokens of each example of a padded ``(batch, length, width)``."""
    lengths = batch["attention_mask"].sum(1).tolist()
    return [row[:length] for row, length in zip(padded, lengths, strict=True)]
