"""A slow float64 transcription of R3F (Aghajanyan et al., ICLR 2021, arXiv 2008.03156), to test against.

L + lambda KL_S(f(x) || f(x + z)) with z ~ N(0, sigma^2 I) or U(-sigma, sigma), where KL_S is the sum of both
directions. As in the released criterion (fairseq, ``sentence_prediction_r3f``) it is a mean over the sentences,
and a gradient flows through both outputs. The noise is an argument.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from transformers import BertForSequenceClassification

from references.bert import Kind, Sentence, Step, logits, mean, step, symmetric, task_loss
from references.smart import Theta, variables


def r3f(
    model: BertForSequenceClassification,
    theta: Theta,
    kind: Kind,
    batch: Sequence[Sentence],
    unit_noises: Sequence[Tensor],
    radius: float,
    weight: float,
) -> Step:
    """``unit_noises`` [L, W] are draws of N(0, 1) or U(-1, 1): z of a sentence is the radius times them."""
    weights = variables(theta)
    deltas = [radius * unit for unit in unit_noises]
    items: list[Tensor] = []
    for sentence, delta in zip(batch, deltas, strict=True):
        noisy, clean = logits(model, weights, sentence, delta), logits(model, weights, sentence)
        items += symmetric(kind, noisy, clean)
    return step(task_loss(model, weights, kind, batch), mean(items), weight, weights, deltas)
