"""Questions about pronouns as the hybrid network takes them: two texts for each candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steadytune.errors import DataError, SettingsError
from steadytune.models.hybrid import UNKNOWN
from steadytune.training.hybrid.questions import PronounQuestion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Words that begin a candidate with a capital only where it begins a sentence.
_SMALL = frozenset(("the", "a", "an", "my", "our", "his", "her", "its", "their", "this", "that", "these", "those"))


@dataclass(frozen=True)
class Candidate:
    """One candidate's two texts as token ids, and the places in them that matter.

    Attributes:
        masked: the premise with masks in the place of the pronoun.
        tokens: the candidate's own tokens, one for each mask.
        pair: the premise and the candidate behind it.
        kinds: token types of the pair, empty where the model has none.
        pronoun: places of the pronoun in the pair.
        candidate: places of the candidate in the pair.
    """

    masked: list[int]
    tokens: list[int]
    pair: list[int]
    kinds: list[int]
    pronoun: list[int]
    candidate: list[int]


class PronounEncoder:
    """Turns questions into features, and features into batches.

    Args:
        tokenizer: a fast one, with a mask token.
        max_length: most tokens of a text; longer ones are refused, for what is cut might be the pronoun.

    Raises:
        SettingsError: the tokenizer does not tell the place of its tokens, or has no mask.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        if not tokenizer.is_fast or tokenizer.mask_token is None:
            raise SettingsError(
                f"pronouns need a fast tokenizer with a mask token, and {type(tokenizer).__name__} is none: save the "
                "model with a tokenizer.json."
            )
        self.tokenizer, self.max_length = tokenizer, max_length

    def features(self, question: PronounQuestion) -> dict[str, Any]:
        """Encode a question: its candidates and their labels.

        Raises:
            DataError: a text is too long.
        """
        candidates = [self._encode(question, text) for text in question.candidates]
        return {"candidates": candidates, "labels": list(question.labels)}

    def known(self, question: PronounQuestion) -> dict[str, Any]:
        """Encode a question for training: without the rivals of which no row tells whether they are right."""
        found = self.features(question)
        kept = [i for i, label in enumerate(question.labels) if label != UNKNOWN]
        return {name: [values[i] for i in kept] for name, values in found.items()}

    def _encode(self, question: PronounQuestion, text: str) -> Candidate:
        before, after = question.premise[: question.start], question.premise[question.end :]
        filler = _as_within(text, question.premise[question.start : question.end])
        filled = self.tokenizer(f"{before}{filler}{after}", return_offsets_mapping=True)
        inside = _overlapping(filled["offset_mapping"], len(before), len(before) + len(filler))
        tokens = [filled["input_ids"][i] for i in inside]
        mask = str(self.tokenizer.mask_token)
        masked = self.tokenizer(f"{before}{' '.join([mask] * len(tokens))}{after}")["input_ids"]
        pair = self.tokenizer(question.premise, text, return_offsets_mapping=True)
        parts = pair.sequence_ids(0)
        first = [o if part == 0 else (0, 0) for o, part in zip(pair["offset_mapping"], parts, strict=True)]
        pronoun = _overlapping(first, question.start, question.end)
        longest = max(len(masked), len(pair["input_ids"]))
        if longest > self.max_length:
            raise DataError(
                f"--max-length {self.max_length}: a premise with its candidate has {longest} tokens "
                f"({question.premise[:60]!r}...), and a text that is cut may lose its pronoun: allow more."
            )
        if masked.count(self.tokenizer.mask_token_id) != len(tokens) or not tokens or not pronoun:
            raise DataError(f"the tokenizer has no tokens for {text!r} or for the pronoun of {question.premise!r}.")
        kinds = pair.get("token_type_ids", [])
        candidate = [i for i, part in enumerate(parts) if part == 1]
        return Candidate(masked, tokens, pair["input_ids"], list(kinds), pronoun, candidate)

    def batch(self, features: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Pad the texts of some questions to one batch; see `HybridNetwork.forward`."""
        candidates: list[Candidate] = [c for f in features for c in f["candidates"]]
        pad = self.tokenizer.pad_token_id or 0
        length = max(max(len(c.masked), len(c.pair)) for c in candidates)
        texts = [c.masked for c in candidates] + [c.pair for c in candidates]
        blanks = torch.full((len(candidates), length), -100)
        pronoun, candidate = (torch.zeros(len(candidates), length, dtype=torch.bool) for _ in range(2))
        for row, c in enumerate(candidates):
            at = [i for i, token in enumerate(c.masked) if token == self.tokenizer.mask_token_id]
            blanks[row, at] = torch.tensor(c.tokens)
            pronoun[row, c.pronoun] = True
            candidate[row, c.candidate] = True
        batch = {
            "input_ids": torch.tensor([t + [pad] * (length - len(t)) for t in texts]),
            "attention_mask": torch.tensor([[1] * len(t) + [0] * (length - len(t)) for t in texts]),
            "blanks": blanks,
            "pronoun": pronoun,
            "candidate": candidate,
            "places": torch.tensor([(q, i) for q, f in enumerate(features) for i in range(len(f["labels"]))]),
            "labels": _labels(features),
        }
        if candidates[0].kinds:
            kinds = [[0] * len(c.masked) for c in candidates] + [c.kinds for c in candidates]
            batch["token_type_ids"] = torch.tensor([k + [0] * (length - len(k)) for k in kinds])
        return batch


def _labels(features: Sequence[dict[str, Any]]) -> Tensor:
    most = max(len(f["labels"]) for f in features)
    return torch.tensor([f["labels"] + [UNKNOWN] * (most - len(f["labels"])) for f in features])


def _overlapping(offsets: Sequence[tuple[int, int]], start: int, end: int) -> list[int]:
    """Places of the tokens that share a character with a span."""
    return [i for i, (a, b) in enumerate(offsets) if a < end and b > start]


def _as_within(candidate: str, pronoun: str) -> str:
    """Write a candidate with the capital or small letter that its place in the sentence wants.

    >>> _as_within("The pot", "it"), _as_within("the pot", "It"), _as_within("Ann", "she")
    ('the pot', 'The pot', 'Ann')
    """
    if pronoun[0].isupper():
        return candidate[0].upper() + candidate[1:]
    small = candidate.split(maxsplit=1)[0].lower() in _SMALL
    return candidate[0].lower() + candidate[1:] if small else candidate
