"""From what a model gives to the scores of a split: how each head's outputs are made small, and what they score."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from steadytune.heads.answer_spans import best_answers
from steadytune.heads.encoders import IGNORED
from steadytune.heads.features import Encoded
from steadytune.heads.scores.metrics import compute_metrics
from steadytune.tasks.task import Head, Task

if TYPE_CHECKING:
    from transformers import EvalPrediction

    from steadytune.heads.scores.answers import Script

#: Of a split's predictions and labels, its scores.
Scorer = Callable[["EvalPrediction"], dict[str, float]]

#: A tag that is no tag: what a word gets for which the model predicts nothing, where there is no "outside".
NO_TAG = "O"


def scorer_for(task: Task, encoded: Encoded, split: str) -> Scorer:
    """Return what scores the predictions for the features of a split, which must come in their order.

    Args:
        task: tells head, names of labels and language.
        encoded: the split as it is evaluated.
        split: its name.
    """
    if task.head == "token_classification":
        return lambda predicted: _tag_scores(task, encoded, predicted)
    if task.head == "question_answering":
        language = task.language_of(split) or "en"
        script = "mlqa" if task.name == "mlqa" else None  # MLQA's own counting, in English too
        return lambda predicted: _answer_scores(encoded, predicted, language, script)
    if task.head == "causal_lm":
        return lambda predicted: language_model_scores(np.asarray(predicted.predictions))
    return lambda predicted: compute_metrics(task.head, np.asarray(predicted.predictions), _labels(predicted))


def output_selector(head: Head, *, is_encoder_decoder: bool = False) -> Callable[[Any, Any], Any]:
    """Return what makes a batch's outputs small before they are collected (``preprocess_logits_for_metrics``).

    Tags become the index of the best one, -1 where an output is not finite. Of a language model's outputs only the sum
    of the negative log-likelihoods of the answer's tokens, how many of them are the likeliest, and their number are
    kept, one row of three per example; collecting the logits themselves would take gigabytes.
    """
    if head == "question_answering":
        return lambda outputs, _: tuple(outputs[:2])
    if head == "token_classification":
        return lambda outputs, _: _best(_first(outputs))
    if head == "causal_lm":
        shift = 0 if is_encoder_decoder else 1
        return lambda outputs, labels: _likelihoods(_first(outputs), labels, shift)
    return lambda outputs, _: _first(outputs)


def _first(outputs: Any) -> Any:
    return outputs[0] if isinstance(outputs, tuple | list) else outputs


def _labels(predicted: EvalPrediction) -> np.ndarray:
    return np.asarray(_first(predicted.label_ids))


def _best(logits: Tensor) -> Tensor:
    return torch.where(logits.isfinite().all(-1), logits.argmax(-1), -1)


def _likelihoods(logits: Tensor, labels: Tensor, shift: int) -> Tensor:
    logits, labels = logits[:, : logits.shape[1] - shift], labels[:, shift:]
    counted = labels != IGNORED
    kept = logits[counted].float()  # only the answer's tokens: a batch of all would be large
    wanted = labels[counted]
    found = torch.zeros(3, *labels.shape, device=logits.device)
    found[0, counted] = kept.logsumexp(-1) - kept.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
    found[1, counted] = (kept.argmax(-1) == wanted).float()
    found[2] = counted.float()
    return found.sum(-1).T


def language_model_scores(sums: np.ndarray) -> dict[str, float]:
    """Return the scores of answers, from ``(rows, 3)``: see `output_selector`.

    ``perplexity`` is the exponential of the mean negative log-likelihood of all answer tokens, in nats, the end of the
    answer among them; left out where it is no finite number. ``token_accuracy`` is the share of the tokens that are
    the likeliest, given those before. ``exact_match`` is the share of the answers of which that is true of every
    token: exactly those that greedy decoding would write.

    >>> language_model_scores(np.array([[0.0, 2.0, 2.0], [math.log(2) * 4, 1.0, 2.0]]))
    {'token_accuracy': 0.75, 'exact_match': 0.5, 'perplexity': 2.0}
    """
    total, right, count = np.asarray(sums, dtype=np.float64).T
    tokens = max(float(count.sum()), 1.0)
    scores = {
        "token_accuracy": float(right.sum() / tokens),
        "exact_match": float(((right == count) & (count > 0)).mean()),
    }
    mean = float(total.sum() / tokens)
    return {**scores, "perplexity": math.exp(mean)} if mean < 700 else scores  # false for NaN too


def tags_of_rows(encoded: Encoded, predicted: np.ndarray, names: tuple[str, ...]) -> list[list[str]]:
    """Bring the predictions for tokens back to the words of each row, in the order of the rows.

    A word that no feature carries, or whose outputs are not finite, is predicted to be outside of everything.

    Args:
        encoded: the split.
        predicted: ``(features, length)`` indices of tags, -1 for none.
        names: of the tags.
    """
    found = [[NO_TAG] * len(tokens) for tokens in encoded.rows["tokens"]]
    columns = encoded.features.select_columns(["row", "words", "labels"])
    for feature, outputs in zip(columns, predicted, strict=True):
        content: Any = feature
        labels = np.asarray(content["labels"])
        for word, tag in zip(content["words"], outputs[: len(labels)][labels != IGNORED], strict=True):
            if 0 <= tag < len(names):
                found[content["row"]][word] = names[tag]
    return found


def _tag_scores(task: Task, encoded: Encoded, predicted: EvalPrediction) -> dict[str, float]:
    from steadytune.heads.scores.tags import tag_scores

    names = task.label_names or ()
    found = tags_of_rows(encoded, np.asarray(_first(predicted.predictions)), names)
    tags = [[names[int(tag)] for tag in row] for row in encoded.rows["label"]]
    tokens = list(encoded.rows["tokens"]) if "surface_f1" in task.metrics else None
    return tag_scores(found, tags, tokens)


def _answer_scores(
    encoded: Encoded, predicted: EvalPrediction, language: str, script: Script | None
) -> dict[str, float]:
    from steadytune.heads.scores.answers import question_answering_scores

    start, end = (np.asarray(part) for part in predicted.predictions[:2])
    answers: list[Mapping[str, Any]] = list(encoded.rows["answers"])
    texts = [a["text"] for a in answers]
    return question_answering_scores(best_answers(encoded, start, end), texts, language, script)
