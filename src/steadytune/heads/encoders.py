"""What a model takes, made of rows of text: one encoder per kind of head. Each maps columns to columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steadytune.errors import SettingsError
from steadytune.tasks.task import Head

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100

#: Of a batch of rows by column and their indices, the features by column.
Encoder = Callable[[dict[str, list[Any]], list[int]], dict[str, Any]]


def encoder_for(
    head: Head, tokenizer: PreTrainedTokenizerBase, max_length: int, *, is_encoder_decoder: bool = False
) -> Encoder:
    """Return the encoder of a head.

    Besides what the model takes, features have the columns ``row`` (index of the row they come from) and ``cut`` (1
    where the row was too long and a part of it is in no feature), and what the head's scorer needs; the Trainer
    leaves those out.

    Args:
        head: what is predicted.
        tokenizer: of the model.
        max_length: longest feature, in tokens.
        is_encoder_decoder: for ``causal_lm``: the prompt goes to the encoder, the answer to the decoder.

    Raises:
        SettingsError: the head needs a fast tokenizer, more tokens, or is not trained.
    """
    if head in ("token_classification", "question_answering") and not tokenizer.is_fast:
        raise SettingsError(
            f"{head} needs a fast tokenizer, which knows the place of each token in the text; "
            f"{type(tokenizer).__name__} is none: save the model with a tokenizer.json."
        )
    if head in ("classification", "regression", "multi_label"):
        return TextEncoder(tokenizer, max_length, as_floats=head == "multi_label")
    if head == "token_classification":
        return TagEncoder(tokenizer, max_length)
    if head == "question_answering":
        return AnswerEncoder.fitted(tokenizer, max_length)
    if head == "causal_lm":
        return (Seq2SeqEncoder if is_encoder_decoder else PromptEncoder)(tokenizer, max_length)
    raise SettingsError(f"the head {head} is evaluated only: there is nothing to train.")


@dataclass(frozen=True)
class TextEncoder:
    """Texts or pairs with one label each, cut at their ends; several yes/no labels become floats."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    as_floats: bool = False

    def __call__(self, rows: dict[str, list[Any]], indices: list[int]) -> dict[str, Any]:
        """Return one feature per row."""
        encoded = self.tokenizer(rows["text"], rows.get("text_pair"), truncation=True, max_length=self.max_length)
        labels = [[float(yes) for yes in row] for row in rows["label"]] if self.as_floats else rows["label"]
        return {**encoded, "labels": labels, "row": indices, "cut": _is_cut(encoded)}


@dataclass(frozen=True)
class TagEncoder:
    """Words with one tag each: the first token of a word carries its tag, the others are ignored.

    A sentence that is too long becomes several overlapping features, and a word has its tag in the first that holds
    it, so no word is lost. ``words`` are the indices of the words whose tags a feature carries, in their order. Words
    for which the tokenizer has no token are in no feature.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    def __call__(self, rows: dict[str, list[Any]], indices: list[int]) -> dict[str, Any]:
        """Return one or more features per row; none for a row without any token."""
        room = self.max_length - self.tokenizer.num_special_tokens_to_add()
        encoded = self.tokenizer(
            rows["tokens"],
            is_split_into_words=True,
            truncation=True,
            max_length=self.max_length,
            stride=max(0, min(self.max_length // 4, room - 1)),
            return_overflowing_tokens=True,
        )
        origins = encoded.pop("overflow_to_sample_mapping")
        next_word = dict.fromkeys(origins, 0)
        columns: dict[str, list[Any]] = {name: [] for name in (*encoded, "labels", "words", "row", "cut")}
        for i, origin in enumerate(origins):
            held = encoded.word_ids(i)
            first = [word is not None and word >= next_word[origin] for word in held]
            for place in range(1, len(held)):
                first[place] = first[place] and held[place] != held[place - 1]
            words = [word for word, is_first in zip(held, first, strict=True) if is_first and word is not None]
            if not words:
                continue  # such as the end of a long word: nothing to learn, nothing to score
            next_word[origin] = words[-1] + 1
            tags = rows["label"][origin]
            carried = iter(words)
            labels = [int(tags[next(carried)]) if is_first else IGNORED for is_first in first]
            own = {"labels": labels, "words": words, "row": indices[origin], "cut": 0}
            for name, values in columns.items():
                values.append(own[name] if name in own else encoded[name][i])
        return columns


@dataclass(frozen=True)
class AnswerEncoder:
    """Questions with a context that holds the answer (SQuAD): windows over the context, and the answer's tokens.

    A window that does not hold the whole first answer, or has none, points at its first special token, as BERT's
    reference code does. ``offset_start`` and ``offset_end`` are the characters of the context under each token, -1
    outside of it. Only a question beyond half of the length is cut.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    stride: int

    @classmethod
    def fitted(cls, tokenizer: PreTrainedTokenizerBase, max_length: int) -> AnswerEncoder:
        """Return an encoder whose windows overlap by a quarter of the length, or by what room there is.

        Raises:
            SettingsError: beside the longest question no token of the context has room.
        """
        room = max_length - max_length // 2 - tokenizer.num_special_tokens_to_add(pair=True)
        if room < 1:
            raise SettingsError(f"--max-length {max_length}: leaves no room for the context; give at least 16.")
        return cls(tokenizer, max_length, min(max_length // 4, room - 1))

    def __call__(self, rows: dict[str, list[Any]], indices: list[int]) -> dict[str, Any]:
        """Return one or more features per row."""
        questions, is_cut = self._short_questions(rows["question"])
        encoded = self.tokenizer(
            questions,
            rows["context"],
            truncation="only_second",
            max_length=self.max_length,
            stride=self.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        origins = encoded.pop("overflow_to_sample_mapping")
        offsets = encoded.pop("offset_mapping")
        columns: dict[str, list[Any]] = {
            name: [] for name in ("start_positions", "end_positions", "offset_start", "offset_end")
        }
        for i, origin in enumerate(origins):
            in_context = [part == 1 for part in encoded.sequence_ids(i)]
            starts = [o[0] if inside else -1 for o, inside in zip(offsets[i], in_context, strict=True)]
            ends = [o[1] if inside else -1 for o, inside in zip(offsets[i], in_context, strict=True)]
            first, last = _tokens_of(rows["answers"][origin], starts, ends) or (self._nowhere(encoded, i),) * 2
            for name, value in zip(columns, (first, last, starts, ends), strict=True):
                columns[name].append(value)
        return {**encoded, **columns, "row": [indices[o] for o in origins], "cut": [is_cut[o] for o in origins]}

    def _short_questions(self, questions: Sequence[str]) -> tuple[list[str], list[int]]:
        """Return the questions without white space around them, ended after half of the length, and which were."""
        questions = [question.strip() for question in questions]
        limit = self.max_length // 2
        offsets = self.tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        short = [q[: o[limit - 1][1]] if len(o) > limit else q for q, o in zip(questions, offsets, strict=True)]
        return short, [int(len(o) > limit) for o in offsets]

    def _nowhere(self, encoded: Mapping[str, Any], i: int) -> int:
        ids = encoded["input_ids"][i]
        return ids.index(self.tokenizer.cls_token_id) if self.tokenizer.cls_token_id in ids else 0


def _tokens_of(answers: Mapping[str, Any], starts: list[int], ends: list[int]) -> tuple[int, int] | None:
    """Return the first and last token of the first answer, ``None`` if the window does not hold all of it."""
    if not len(answers["text"]) or not answers["text"][0]:
        return None
    begin = int(answers["answer_start"][0])
    end = begin + len(answers["text"][0])
    touched = [i for i, (a, b) in enumerate(zip(starts, ends, strict=True)) if a >= 0 and a < end and b > begin]
    if not touched or starts[touched[0]] > begin or ends[touched[-1]] < end:
        return None
    return touched[0], touched[-1]


@dataclass(frozen=True)
class PromptEncoder:
    """A prompt and its answer as one text, joined exactly as they are written; only the answer and its end count.

    Where both are too long together, the prompt loses its beginning; an answer that is too long alone loses its end.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    def __call__(self, rows: dict[str, list[Any]], indices: list[int]) -> dict[str, Any]:
        """Return one feature per row."""
        prompts = self.tokenizer(rows["prompt"], add_special_tokens=False)["input_ids"]
        answers = self.tokenizer(rows["answer"], add_special_tokens=False)["input_ids"]
        begin, end = self._beginning(), [self.tokenizer.eos_token_id]
        columns: dict[str, list[Any]] = {"input_ids": [], "attention_mask": [], "labels": [], "cut": []}
        for prompt, answer in zip(prompts, answers, strict=True):
            target = (answer + end)[: self.max_length - len(begin)]
            room = self.max_length - len(begin) - len(target)
            kept = prompt[max(0, len(prompt) - room) :]
            ids = [*begin, *kept, *target]
            columns["input_ids"].append(ids)
            columns["attention_mask"].append([1] * len(ids))
            columns["labels"].append([IGNORED] * (len(ids) - len(target)) + target)
            columns["cut"].append(int(len(kept) < len(prompt) or len(target) <= len(answer)))
        return {**columns, "row": indices}

    def _beginning(self) -> list[int]:
        """Return the token that begins every text, where the tokenizer puts one there."""
        begin: Any = self.tokenizer.bos_token_id
        return [begin] if begin is not None and self.tokenizer("a")["input_ids"][:1] == [begin] else []


@dataclass(frozen=True)
class Seq2SeqEncoder:
    """A prompt for the encoder and its answer for the decoder, each cut at its end."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    def __call__(self, rows: dict[str, list[Any]], indices: list[int]) -> dict[str, Any]:
        """Return one feature per row."""
        encoded = self.tokenizer(rows["prompt"], truncation=True, max_length=self.max_length)
        targets = self.tokenizer(text_target=rows["answer"], truncation=True, max_length=self.max_length)
        cut = [max(pair) for pair in zip(_is_cut(encoded), _is_cut(targets), strict=True)]
        return {**encoded, "labels": targets["input_ids"], "row": indices, "cut": cut}


def _is_cut(encoded: Any) -> list[int]:
    """Return 1 for each text that was too long; 0 with a slow tokenizer, which does not tell."""
    if not encoded.is_fast:
        return [0] * len(encoded["input_ids"])
    return [int(bool(encoding.overflowing)) for encoding in encoded.encodings]
