"""A sentence and its translation, found by sentence vectors: evaluated only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steadytune.errors import SettingsError
from steadytune.heads.columns import TEXT, TEXT_PAIR
from steadytune.heads.head import Encoder, Scorer, TaskHead, TaskRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from steadytune.heads.encoded import Encoded


class Retrieval(TaskHead):
    """Sentence vectors of a model without a head; see `evaluation.retrieval`."""

    name = "retrieval"
    input_columns = (TEXT, TEXT_PAIR)
    metrics = ()
    model_class = "AutoModel"
    from_files = False
    has_outputs = False

    @property
    def noisy_columns(self) -> tuple[str, ...]:
        """See `TaskHead`."""
        return (TEXT,)

    def configuration(self, label_names: tuple[str, ...] | None) -> dict[str, Any]:
        """See `TaskHead`."""
        return {}

    def _encoder(self, tokenizer: PreTrainedTokenizerBase, max_length: int, is_encoder_decoder: bool) -> Encoder:
        raise SettingsError(f"the head {self.name} is evaluated only: there is nothing to train.")

    def scorer(self, task: TaskRecord, encoded: Encoded, split: str) -> Scorer:
        """See `TaskHead`."""
        raise SettingsError(f"the head {self.name} is scored by sentence vectors, not by outputs.")


HEAD = Retrieval()
