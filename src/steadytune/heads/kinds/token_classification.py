"""Words, and a tag for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from steadytune.heads.columns import TOKENS
from steadytune.heads.encoded import Encoded, list_sizes
from steadytune.heads.head import IGNORED, Encoder, Scorer, Selector, TaskHead, TaskRecord, first
from steadytune.heads.scores.tags import tag_scores

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

#: What a word gets for which the model predicts nothing.
NO_TAG = "O"


class TokenClassification(TaskHead):
    """One tag for each word of a list."""

    name = "token_classification"
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


def _best(logits: Any) -> Any:
    return logits.argmax(-1).masked_fill(~logits.isfinite().all(-1), -1)


def tags_of_rows(encoded: Encoded, predicted: np.ndarray, names: tuple[str, ...]) -> list[list[str]]:
    """Bring the predictions for tokens back to the words of each row, in the order of the rows.

    A word that no feature carries, or whose outputs are not finite, is predicted to be outside of everything.

    Args:
        encoded: the split.
        predicted: ``(features, length)`` indices of tags, -1 for none.
        names: of the tags.
    """
    import numpy as np

    found = [[NO_TAG] * len(tokens) for tokens in encoded.rows["tokens"]]
    columns = encoded.features.select_columns(["row", "words", "labels"])
    for feature, outputs in zip(columns, predicted, strict=True):
        content: Any = feature
        labels = np.asarray(content["labels"])
        for word, tag in zip(content["words"], outputs[: len(labels)][labels != IGNORED], strict=True):
            if 0 <= tag < len(names):
                found[content["row"]][word] = names[tag]
    return found


def _scores(task: TaskRecord, encoded: Encoded, predicted: EvalPrediction) -> dict[str, float]:
    import numpy as np

    names = task.label_names or ()
    found = tags_of_rows(encoded, np.asarray(first(predicted.predictions)), names)
    tags = [[names[int(tag)] for tag in row] for row in encoded.rows["label"]]
    tokens = list(encoded.rows[TOKENS]) if "surface_f1" in task.metrics else None
    return tag_scores(found, tags, tokens)


HEAD = TokenClassification()
