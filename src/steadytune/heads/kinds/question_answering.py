"""A question, and a context that holds its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steadytune.errors import SettingsError
from steadytune.heads.columns import ANSWERS, CONTEXT, QUESTION
from steadytune.heads.encoded import Encoded
from steadytune.heads.head import Encoder, Scorer, Selector, TaskHead, TaskRecord
from steadytune.heads.scores.answers import Script, question_answering_scores
from steadytune.heads.texts import pair_separator

if TYPE_CHECKING:
    from transformers import EvalPrediction, PreTrainedTokenizerBase


class QuestionAnswering(TaskHead):
    """The piece of a context that answers a question (SQuAD)."""

    name = "question_answering"
    predicts = "answer"
    layout = "questions"
    input_columns = (QUESTION, CONTEXT)
    metrics = ("f1", "exact_match")
    model_class = "AutoModelForQuestionAnswering"
    needs_places = True

    @property
    def noisy_columns(self) -> tuple[str, ...]:
        """See `TaskHead`."""
        return (QUESTION,)

    def configuration(self, label_names: tuple[str, ...] | None) -> dict[str, Any]:
        """See `TaskHead`."""
        return {"num_labels": 2}  # some classes take the width of the head from there

    def _encoder(self, tokenizer: PreTrainedTokenizerBase, max_length: int, is_encoder_decoder: bool) -> Encoder:
        return AnswerEncoder.fitted(tokenizer, max_length)

    def selector(self, *, is_encoder_decoder: bool = False) -> Selector:
        """Keep the logits of starts and ends."""
        return lambda outputs, _: tuple(outputs[:2])

    def scorer(self, task: TaskRecord, encoded: Encoded, split: str) -> Scorer:
        """See `TaskHead`."""
        language = task.language_of(split) or "en"
        script: Script | None = "mlqa" if task.name == "mlqa" else None  # MLQA's own counting, in English too
        return lambda predicted: _scores(encoded, predicted, language, script)

    def cut_note(self, rows: int) -> str:
        """See `TaskHead`."""
        return f"questions {'is' if rows == 1 else 'are'} longer than half of that"


@dataclass(frozen=True)
class AnswerEncoder:
    """Questions with a context that holds the answer (SQuAD): windows over the context, and the answer's tokens.

    A window that does not hold the whole first answer, or has none, points at its first special token, as BERT's
    reference code does. ``offset_start`` and ``offset_end`` are the characters of the context under each token, -1
    outside of it; ``nowhere`` is that special token. Only a question beyond half of the length is cut.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    stride: int
    separator: str = ""

    @classmethod
    def fitted(cls, tokenizer: PreTrainedTokenizerBase, max_length: int) -> AnswerEncoder:
        """Return an encoder whose windows overlap by a quarter of the length, or by what room there is.

        Raises:
            SettingsError: beside the longest question no token of the context has room.
        """
        room = max_length - max_length // 2 - tokenizer.num_special_tokens_to_add(pair=True)
        if room < 1:
            raise SettingsError(f"--max-length {max_length}: leaves no room for the context; give at least 16.")
        return cls(tokenizer, max_length, min(max_length // 4, room - 1), pair_separator(tokenizer))

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
            name: [] for name in ("start_positions", "end_positions", "offset_start", "offset_end", "nowhere")
        }
        for i, origin in enumerate(origins):
            in_context = [part == 1 for part in encoded.sequence_ids(i)]
            starts = [o[0] if inside else -1 for o, inside in zip(offsets[i], in_context, strict=True)]
            ends = [o[1] if inside else -1 for o, inside in zip(offsets[i], in_context, strict=True)]
            nowhere = self._nowhere(encoded, i)
            first, last = _tokens_of(rows["answers"][origin], starts, ends) or (nowhere, nowhere)
            for name, value in zip(columns, (first, last, starts, ends, nowhere), strict=True):
                columns[name].append(value)
        return {**encoded, **columns, "row": [indices[o] for o in origins], "cut": [is_cut[o] for o in origins]}

    def _short_questions(self, questions: Sequence[str]) -> tuple[list[str], list[int]]:
        """Return the questions without white space around them, ended after half of the length, and which were.

        What must go between question and context is at their end.
        """
        questions = [question.strip() for question in questions]
        limit = self.max_length // 2
        offsets = self.tokenizer(questions, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        short = [q[: o[limit - 1][1]] if len(o) > limit else q for q, o in zip(questions, offsets, strict=True)]
        return [text + self.separator for text in short], [int(len(o) > limit) for o in offsets]

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


def _scores(encoded: Encoded, predicted: EvalPrediction, language: str, script: Script | None) -> dict[str, float]:
    import numpy as np

    from steadytune.heads.answer_spans import best_answers

    start, end = (np.asarray(part) for part in predicted.predictions[:2])
    texts = [a["text"] for a in encoded.rows[ANSWERS]]
    return question_answering_scores(best_answers(encoded, start, end), texts, language, script)


HEAD = QuestionAnswering()
