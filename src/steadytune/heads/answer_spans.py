"""The best answer to each question, from the start and end logits of all windows over its context."""

from __future__ import annotations

from typing import Any

import numpy as np

from steadytune.heads.encoded import Encoded

CANDIDATES = 20
LONGEST_ANSWER = 30


def best_answers(encoded: Encoded, start_logits: np.ndarray, end_logits: np.ndarray) -> list[str]:
    """Return one answer per row, a piece of its context; empty where the logits give none.

    The best is the span of at most 30 tokens with the highest sum of its start and end logits over all windows of a
    row (Devlin et al., 2019, section 4.2), from the 20 best starts and ends of each. The first of equal spans counts.
    Where the split has rows without an answer (SQuAD 2.0), a row's answer is empty if both logits at the first special
    token, summed and the least over its windows, are above those of the best span.

    Args:
        encoded: the split.
        start_logits: ``(features, length)``.
        end_logits: ``(features, length)``.
    """
    spans: list[tuple[float, int, int]] = [(-np.inf, 0, 0)] * len(encoded.rows)
    none = np.full(len(encoded.rows), np.inf)
    columns = encoded.features.select_columns(["row", "offset_start", "offset_end", "nowhere"])
    for feature, starts, ends in zip(columns, start_logits, end_logits, strict=True):
        content: Any = feature
        begins, finishes = np.asarray(content["offset_start"]), np.asarray(content["offset_end"])
        row, place = content["row"], content["nowhere"]
        score_of_none = float(starts[place]) + float(ends[place])
        none[row] = min(none[row], score_of_none if np.isfinite(score_of_none) else -np.inf)
        found = best_span(starts[: len(begins)], ends[: len(begins)], begins >= 0)
        if found is not None and found[0] > spans[row][0]:
            score, first, last = found
            spans[row] = (score, int(begins[first]), int(finishes[last]))
    may_be_none = any(not any(answers["text"]) for answers in encoded.rows["answers"])
    is_none = (none > np.array([score for score, _, _ in spans])) & may_be_none
    contexts = encoded.rows["context"]
    return ["" if no else c[begin:end] for no, c, (_, begin, end) in zip(is_none, contexts, spans, strict=True)]


def best_span(starts: np.ndarray, ends: np.ndarray, allowed: np.ndarray) -> tuple[float, int, int] | None:
    """Return score, first and last token of the best span within the allowed tokens.

    Outputs that are not finite are not allowed.

    >>> best_span(np.array([0.0, 3.0, 1.0]), np.array([9.0, 0.0, 2.0]), np.array([True, True, True]))
    (9.0, 0, 0)
    """
    starts = np.where(allowed & np.isfinite(starts), starts, -np.inf).astype(np.float64)
    ends = np.where(allowed & np.isfinite(ends), ends, -np.inf).astype(np.float64)
    first = np.argsort(-starts, kind="stable")[:CANDIDATES]
    last = np.argsort(-ends, kind="stable")[:CANDIDATES]
    length = last[None, :] - first[:, None]
    sums = np.where((length >= 0) & (length < LONGEST_ANSWER), starts[first][:, None] + ends[last][None, :], -np.inf)
    if not len(starts) or sums.max() == -np.inf:
        return None
    i, j = np.unravel_index(int(sums.argmax()), sums.shape)
    return float(sums[i, j]), int(first[i]), int(last[j])
