"""Words, and a tag for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from steadytune.heads.columns import TOKENS
from steadytune.heads.encoded import Encoded, list_sizes
from steadytune.heads.head import IGNORED, Encoder, Scorer, Selector, TaskHead, TaskRecord, first
from steadytune.heads.scores.tags import mark_entities, tag_scores

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

#: What a word gets for which the model predicts nothing.
NO_TAG = "O"


class TokenClassification(TaskHead):
    """One tag for each word of a list."""

    name = "token_classification"
    predicts = "tags"
    layout = "words"
    input_columns = (TOKENS,)
    metrics = ("f1", "accuracy")
    model_class = "AutoModelForTokenClassification"
    chooses = True
    one_label_each = True
    smooths_labels = True
    needs_places = True
    unfit_noise: ClassVar[Mapping[str, str]] = {"word_drop": "a dropped word would take its tag along"}

    def _encoder(self, tokenizer: PreTrainedTokenizerBase, max_length: int, is_encoder_decoder: bool) -> Encoder:
        return TagEncoder(tokenizer, max_length)

    def collator(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
        """See `TaskHead`."""
        from transformers import DataCollatorForTokenClassification

        return DataCollatorForTokenClassification(tokenizer)

    def selector(self, *, is_encoder_decoder: bool = False) -> Selector:
        """Keep the index of the best tag, -1 where an output is not finite."""
        return lambda outputs, _: _best(first(outputs))

    def scorer(self, task: TaskRecord, encoded: Encoded, split: str) -> Scorer:
        """See `TaskHead`."""
        return lambda predicted: _scores(task, encoded, predicted)

    def file_metrics(self, label_names: tuple[str, ...] | None) -> tuple[str, ...]:
        """Return F1 of entities where the tags mark some, else the accuracy of words."""
        return self.metrics if mark_entities(label_names or ()) else ("accuracy", "f1_macro")

    def notes(self, features: Dataset, rows: Dataset, split: str) -> list[str]:
        """Say for how many words the tokenizer has no token."""
        words, carried = (sum(int(n.sum()) for n in list_sizes(*x)) for x in ((rows, TOKENS), (features, "words")))
        if words == carried:
            return []
        so = "they are not learned" if split == "train" else "they count as wrong"
        return [f"{split}: for {words - carried:,} of {words:,} words the tokenizer has no token; {so}."]


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
        held_words = [encoded.word_ids(i) for i in range(len(origins))]
        # Windows come last first where the tokenizer cuts on the left; words are carried in their order.
        for i in sorted(range(len(origins)), key=lambda i: (origins[i], _first_word(held_words[i]))):
            origin, held = origins[i], held_words[i]
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


def _first_word(held: list[int | None]) -> int:
    return next((word for word in held if word is not None), 0)


def _best(logits: Any) -> Any:
    return logits.argmax(-1).masked_fill(~logits.isfinite().all(-1), -1)


def tags_of_rows(
    encoded: Encoded, predicted: np.ndarray, labels: np.ndarray, names: tuple[str, ...]
) -> list[list[str]]:
    """Bring the predictions for tokens back to the words of each row, in the order of the rows.

    A word that no feature carries, or whose outputs are not finite, is predicted to be outside of everything.

    Args:
        encoded: the split.
        predicted: ``(features, length)`` indices of tags, -1 for none.
        labels: ``(features, length)`` as the model was given them: the places of the words, on whichever side the
            padding is.
        names: of the tags.
    """
    found = [[NO_TAG] * len(tokens) for tokens in encoded.rows[TOKENS]]
    columns = encoded.features.select_columns(["row", "words"])
    for feature, outputs, places in zip(columns, predicted, labels != IGNORED, strict=True):
        content: Any = feature
        for word, tag in zip(content["words"], outputs[places], strict=True):
            if 0 <= tag < len(names):
                found[content["row"]][word] = names[tag]
    return found


def _scores(task: TaskRecord, encoded: Encoded, predicted: EvalPrediction) -> dict[str, float]:
    import numpy as np

    names = task.label_names or ()
    best, labels = np.asarray(first(predicted.predictions)), np.asarray(first(predicted.label_ids))
    found = tags_of_rows(encoded, best, labels, names)
    tags = [[names[int(tag)] for tag in row] for row in encoded.rows["label"]]
    tokens = list(encoded.rows[TOKENS]) if "surface_f1" in task.metrics else None
    scores = tag_scores(found, tags, tokens, scheme=names)
    # Where a benchmark reports F1 of words, it is micro-averaged: another name of their accuracy.
    return scores if "f1" in scores or task.metrics[:1] != ("f1",) else {**scores, "f1": scores["accuracy"]}


HEAD = TokenClassification()
