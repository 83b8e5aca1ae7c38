"""What the heads share that read a text or a pair and give one vector of outputs for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steadytune.errors import DataError, ModelNotFoundError
from steadytune.heads.columns import TEXT, TEXT_PAIR
from steadytune.heads.head import Encoder, Scorer, TaskHead, TaskRecord, first

if TYPE_CHECKING:
    import numpy as np
    from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

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
        end: Any = tokenizer.eos_token_id if is_encoder_decoder else None
        return TextEncoder(tokenizer, max_length, self.labels_as_floats, pair_separator(tokenizer), end)

    def check_model(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, missing: Iterable[str], name: str
    ) -> None:
        """Raise where a model reads its answer at an end token that its tokenizer does not write."""
        if model.config.is_encoder_decoder and model.config.eos_token_id not in tokenizer("a")["input_ids"]:
            raise ModelNotFoundError(
                f"--model {name}: {type(model).__name__} reads its answer at the end token (number "
                f"{model.config.eos_token_id}), and its tokenizer ends no text with it."
            )

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
    """Texts or pairs with one label each, cut at their ends.

    Attributes:
        tokenizer: of the model.
        max_length: longest feature, in tokens.
        as_floats: several yes/no labels become floats.
        separator: what goes before the second text, see `pair_separator`.
        end: the token that ends a text, where the head reads the outputs at it: no text may hold another.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    as_floats: bool = False
    separator: str = ""
    end: int | None = None

    def __call__(self, rows: dict[str, list[Any]], indices: list[int]) -> dict[str, Any]:
        """Return one feature per row.

        Raises:
            DataError: a text holds the end token.
        """
        pairs = rows.get("text_pair")
        if pairs is not None and self.separator:
            pairs = [self.separator + text for text in pairs]
        encoded = self.tokenizer(rows["text"], pairs, truncation=True, max_length=self.max_length)
        if self.end is not None:
            self._refuse_ends(encoded["input_ids"], indices, is_pair=pairs is not None)
        labels = [[float(yes) for yes in row] for row in rows["label"]] if self.as_floats else rows["label"]
        return {**encoded, "labels": labels, "row": indices, "cut": is_cut(encoded)}

    def _refuse_ends(self, texts: Any, indices: list[int], *, is_pair: bool) -> None:
        tokenizer: Any = self.tokenizer  # its types name every argument, and forbid to spread two
        usual = tokenizer(*(["a", "a"] if is_pair else ["a"]))["input_ids"].count(self.end)
        for ids, row in zip(texts, indices, strict=True):
            if ids.count(self.end) != usual:
                raise DataError(
                    f"row {row + 1}: its text holds the end token {tokenizer.convert_ids_to_tokens(self.end)!r}, "
                    "at whose place this model reads its answer. Take it out of the text."
                )


def pair_separator(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what must go between the two texts of a pair, where the tokenizer itself puts nothing there.

    The tokenizers of most decoders join the texts as they are: ``rain`` and ``snow`` would become ``rainsnow``.
    """
    one, other = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("rain", "snow"))
    if not one or not other or not _holds(tokenizer("rain", "snow")["input_ids"], [*one, *other]):
        return ""
    unknown = tokenizer.unk_token_id
    for found in (tokenizer.sep_token, "\n", " ", tokenizer.eos_token):
        if found:
            ids = tokenizer(f"{found}snow", add_special_tokens=False)["input_ids"]
            if ids != other and ids[0] != unknown:
                return str(found)
    return ""


def _holds(ids: list[int], part: list[int]) -> bool:
    return any(ids[i : i + len(part)] == part for i in range(len(ids) - len(part) + 1))


def is_cut(encoded: Any) -> list[int]:
    """Return 1 for each text that was too long; 0 with a slow tokenizer, which does not tell."""
    if not encoded.is_fast:
        return [0] * len(encoded["input_ids"])
    return [int(bool(encoding.overflowing)) for encoding in encoded.encodings]
