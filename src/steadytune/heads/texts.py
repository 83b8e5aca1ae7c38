"""What the heads share that read a text or a pair and give one vector of outputs for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steadytune.heads.columns import TEXT, TEXT_PAIR
from steadytune.heads.head import Encoder, Scorer, TaskHead, TaskRecord, first

if TYPE_CHECKING:
    import numpy as np
    from transformers import EvalPrediction, PreTrainedTokenizerBase

    from steadytune.heads.encoded import Encoded


class TextHead(TaskHead):
    """A text or a pair, with one label."""

    input_columns = (TEXT, TEXT_PAIR)
    model_class = "AutoModelForSequenceClassification"
    one_output_per_row = True
    one_label_each = True
    #: Labels are vectors of yes and no, which the loss takes as floats.
    labels_as_floats = False

    def _encoder(self, tokenizer: PreTrainedTokenizerBase, max_length: int, is_encoder_decoder: bool) -> Encoder:
        return TextEncoder(tokenizer, max_length, self.labels_as_floats)

    def scorer(self, task: TaskRecord, encoded: Encoded, split: str) -> Scorer:
        """See `TaskHead`."""
        return self._scores

    def _scores(self, predicted: EvalPrediction) -> dict[str, float]:
        import numpy as np

        scores = self.row_scores(np.asarray(predicted.predictions), np.asarray(first(predicted.label_ids)))
        assert scores is not None
        return scores

    def row_scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float] | None:
        """See `TaskHead`."""
        raise NotImplementedError


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
        return {**encoded, "labels": labels, "row": indices, "cut": is_cut(encoded)}


def is_cut(encoded: Any) -> list[int]:
    """Return 1 for each text that was too long; 0 with a slow tokenizer, which does not tell."""
    if not encoded.is_fast:
        return [0] * len(encoded["input_ids"])
    return [int(bool(encoding.overflowing)) for encoding in encoded.encodings]
