"""A slow float64 transcription of R-Drop (Liang et al., NeurIPS 2021, arXiv 2106.14448), to test against.

1/2 (CE_1 + CE_2) + alpha * 1/2 (KL(P_1||P_2) + KL(P_2||P_1)), the loss of the released README. The paper's eq. 4
has the sum CE_1 + CE_2 in place of the mean, so its alpha is half as strong. A gradient flows through both passes.

Dropout acts here in one place only, between the pooler and the classifier. Its masks are arguments: what each
pooled vector [W] was multiplied with, 0 or 1/(1 - p), in each of the two passes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from transformers import BertForSequenceClassification

from references.bert import Kind, Sentence, Step, head, item_losses, mean, pooled, step, symmetric
from references.smart import Theta, variables


def r_drop(
    model: BertForSequenceClassification,
    theta: Theta,
    kind: Kind,
    batch: Sequence[Sentence],
    first_masks: Sequence[Tensor],
    second_masks: Sequence[Tensor],
    weight: float,
) -> Step:
    """With a weight of 0 there is only the first pass's task loss, and the term is measured.

    The task loss is the one that the objective has: the mean of both passes', or the first pass's. The term is
    half of the symmetric divergence, of which ``weight`` is the factor.
    """
    weights = variables(theta)
    losses: list[Tensor] = []
    items: list[Tensor] = []
    for sentence, first_mask, second_mask in zip(batch, first_masks, second_masks, strict=True):
        # The vectors of loss and term come from separate passes, for `step` to take their gradients separately.
        vector = pooled(model, weights, sentence)
        first, second = head(weights, vector * first_mask), head(weights, vector * second_mask)
        losses += item_losses(kind, first, sentence.label)
        if weight > 0.0:  # as many more items, so that the mean below is the mean of the two means
            losses += item_losses(kind, second, sentence.label)
        vector = pooled(model, weights, sentence)
        first, second = head(weights, vector * first_mask), head(weights, vector * second_mask)
        items += symmetric(kind, first, second)
    return step(mean(losses), 0.5 * mean(items), weight, weights)
