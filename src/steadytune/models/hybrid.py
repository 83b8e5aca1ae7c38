"""The hybrid network for pronouns (HNN): a masked language model and a similarity of contextual embeddings, combined.

He et al., 2019, A Hybrid Neural Network Model for Commonsense Reasoning (arXiv 1907.11983): both parts share one
encoder, and the score of a candidate is the mean of theirs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

#: The label of a place in the batch that holds no candidate, or one of which nothing is known.
UNKNOWN = -1

# No probability is left to such a logit, and differences of two of them are still finite.
_NEVER = -1e4


@dataclass(frozen=True)
class HybridLoss:
    """The weights of the loss; the defaults are those of the authors' code.

    Attributes:
        ranking_weight: alpha, of the ranking of the language model's scores.
        margin: beta, by which the right candidate is to be ahead, in units of the scores.
        sharpness: gamma, factor of the scores in each softmax and sigmoid.
    """

    ranking_weight: float = 10.0
    margin: float = 0.5
    sharpness: float = 1.0


@dataclass
class HybridOutput(ModelOutput):
    """The scores of the candidates of each question.

    Attributes:
        loss: see `HybridNetwork`.
        logits: ``(questions, candidates)``, sharpness times the mean of the two scores.
        fill: ``(questions, candidates)``, geometric mean of the probabilities of the candidate's tokens in the place
            of the pronoun, 0 to 1.
        similarity: ``(questions, candidates)``, ``(1 + cosine) / 2`` of candidate and pronoun, 0 to 1.
        prediction: always ``"classification"``: one of the candidates.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    fill: Tensor | None = None
    similarity: Tensor | None = None
    prediction: str | None = None


class HybridNetwork(PreTrainedModel):
    """Scores what a pronoun may stand for.

    The encoder reads two texts for each candidate. In the first, tokens are masked in the place of the pronoun, as
    many as the candidate has; its score is the geometric mean of their probabilities. In the second the candidate
    follows the sentence; its score is ``(1 + cos(c, p)) / 2``, where ``p`` is the mean of the pronoun's embeddings and
    ``c`` that of the candidate's, weighted by a softmax of their products with a projection of the first token's
    embedding. The loss is the sum of

    - the negative log of the first score of the right candidate, plus ``ranking_weight`` times the cross-entropy of
      the first scores;
    - the binary cross-entropy of the cosines, a wrong one raised by the margin;
    - the cross-entropy of the mean scores;

    where a cross-entropy is that of a softmax over the candidates of a question, in which wrong ones are raised by the
    margin and everything is multiplied by the sharpness. Each is a mean over the questions that have a right candidate
    (over all known candidates in the second).

    Args:
        language_model: a masked language model with its pretrained head.
        weights: of the loss.
    """

    base_model_prefix = "language_model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    #: The loss is a mean over the micro-batch, whatever number of items the Trainer counts.
    accepts_loss_kwargs = False
    # Whatever the encoder runs with, it has checked itself.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, language_model: PreTrainedModel, weights: HybridLoss | None = None) -> None:
        super().__init__(copy.deepcopy(language_model.config))
        self.language_model = language_model
        self.weights = weights or HybridLoss()
        width: int = language_model.config.get_text_config().hidden_size
        self.query = nn.Linear(width, width, bias=False)
        nn.init.normal_(self.query.weight, std=getattr(language_model.config, "initializer_range", 0.02))
        self.query._is_hf_initialized = True  # pyright: ignore[reportArgumentType]
        self.post_init()
        self.train(language_model.training)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        blanks: Tensor,
        pronoun: Tensor,
        candidate: Tensor,
        places: Tensor,
        labels: Tensor | None = None,
        **inputs: Any,
    ) -> HybridOutput:
        """Score the candidates of some questions.

        Args:
            input_ids: ``(2 n, length)`` for ``n`` candidates in all: first their texts with masks, then those with
                the candidate behind the sentence.
            attention_mask: ``(2 n, length)``.
            blanks: ``(n, length)``, the candidate's tokens where its text has masks, else -100.
            pronoun: ``(n, length)``, true at the pronoun in the second text.
            candidate: ``(n, length)``, true at the candidate in the second text.
            places: ``(n, 2)``, question and number of each candidate; a question's are numbered from 0.
            labels: ``(questions, candidates)``, 1 for the right one, 0 for another, -1 where nothing is known.
            inputs: what else the language model takes, ``(2 n, length)``.
        """
        count = len(places)
        outputs = self.language_model(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True, **inputs
        )
        log_fill = fill_score(outputs.logits[:count], blanks)
        cosine = self.cosine(outputs.hidden_states[-1][count:], pronoun, candidate)
        fill, similarity = log_fill.exp(), (1 + cosine) / 2
        size = (int(places[:, 0].max()) + 1, int(places[:, 1].max()) + 1) if labels is None else tuple(labels.shape)
        logits = _table(self.weights.sharpness * (fill + similarity) / 2, places, size, _NEVER)
        return HybridOutput(
            loss=None if labels is None else self._loss(log_fill, cosine, places, labels),
            logits=logits,
            fill=_table(fill, places, size, 0.0),
            similarity=_table(similarity, places, size, 0.0),
            prediction="classification",
        )

    def cosine(self, hidden: Tensor, pronoun: Tensor, candidate: Tensor) -> Tensor:
        """Cosine of the embeddings of candidate and pronoun, ``(n,)`` from ``(n, length, width)``."""
        weights = pronoun.to(hidden.dtype)
        pronouns = (hidden * weights.unsqueeze(-1)).sum(1) / weights.sum(1, keepdim=True)
        products = torch.einsum("nw,nlw->nl", self.query(hidden[:, 0]), hidden) / hidden.shape[-1] ** 0.5
        attention = products.masked_fill(~candidate, float("-inf")).softmax(-1)
        candidates = torch.einsum("nl,nlw->nw", attention, hidden)
        return functional.cosine_similarity(candidates, pronouns, dim=-1)

    def _loss(self, log_fill: Tensor, cosine: Tensor, places: Tensor, labels: Tensor) -> Tensor:
        weights = self.weights
        own = labels[places[:, 0], places[:, 1]]
        right, known = own == 1, own != UNKNOWN
        raised = cosine + weights.margin * (~right).to(cosine.dtype)
        binary = -functional.logsigmoid(weights.sharpness * torch.where(right, raised, -raised))
        fill = self._ranking(log_fill.exp(), places, labels)
        both = self._ranking((log_fill.exp() + (1 + cosine) / 2) / 2, places, labels)
        likelihood = -_mean(log_fill, right)
        return likelihood + weights.ranking_weight * fill + _mean(binary, known) + both

    def _ranking(self, scores: Tensor, places: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of the softmax over each question's candidates, wrong ones raised by the margin."""
        table = _table(scores, places, tuple(labels.shape), 0.0)
        table = table + self.weights.margin * (labels == 0).to(table.dtype)
        table = (self.weights.sharpness * table).masked_fill(labels == UNKNOWN, _NEVER)
        of_right = table.log_softmax(-1).masked_fill(labels != 1, 0.0).sum(-1)
        return -_mean(of_right, (labels == 1).any(-1))

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings of the language model."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings of the language model."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> None:
        """None: what is predicted is a candidate, not a token."""
        return


def fill_score(logits: Tensor, blanks: Tensor) -> Tensor:
    """Mean log-probability of the tokens to be filled in, in nats, at least float32.

    Args:
        logits: ``(n, length, vocabulary)``.
        blanks: ``(n, length)``, tokens at the masked places, -100 elsewhere.

    >>> fill_score(torch.zeros(1, 3, 4), torch.tensor([[-100, 2, 1]])).exp()
    tensor([0.2500])
    """
    row, column = (blanks != -100).nonzero(as_tuple=True)
    picked = logits[row, column]  # only there: all places times a whole vocabulary would be large
    picked = picked if picked.dtype == torch.float64 else picked.float()
    log_p = picked.log_softmax(-1).gather(-1, blanks[row, column].unsqueeze(-1)).squeeze(-1)
    counts = torch.bincount(row, minlength=len(blanks)).clamp_min(1)
    return log_p.new_zeros(len(blanks)).index_add(0, row, log_p) / counts


def _table(values: Tensor, places: Tensor, size: tuple[int, ...], otherwise: float) -> Tensor:
    """Values of candidates as a table ``(questions, candidates)``."""
    table = values.new_full(size, otherwise)
    return table.index_put((places[:, 0], places[:, 1]), values)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of some values, 0 if there are none."""
    return torch.where(where, values, values.new_zeros(())).sum() / where.sum().clamp_min(1)
