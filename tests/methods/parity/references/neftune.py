"""A slow float64 transcription of NEFTune (Jain et al., ICLR 2024, arXiv 2310.05914, Algorithm 1), to test against.

The word embeddings of a sentence get U(-1, 1) * alpha / sqrt(L W), with L its real tokens: the paper's sequence
length, without the padding that a batch adds. The draws are arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from transformers import BertForSequenceClassification

from references.bert import Kind, Sentence, Step, task_loss
from references.smart import Theta, constants, gradients_of, variables


def neftune(
    model: BertForSequenceClassification,
    theta: Theta,
    kind: Kind,
    batch: Sequence[Sentence],
    unit_noises: Sequence[Tensor],
    alpha: float,
) -> Step:
    """``unit_noises`` [L, W] are draws of U(-1, 1). The objective is the task loss at the noisy input alone.

    ``term`` is by how much the noise raises it.
    """
    weights = variables(theta)
    deltas: list[Tensor] = []
    for sentence, unit in zip(batch, unit_noises, strict=True):
        length, width = len(sentence.ids), unit.shape[1]
        deltas.append(unit * alpha / (length * width) ** 0.5)
    loss = task_loss(model, weights, kind, batch, deltas)
    clean = task_loss(model, constants(theta), kind, batch)
    return Step(loss.item(), clean.item(), loss.item() - clean.item(), gradients_of(loss, weights), deltas=deltas)
