"""The options of predictions."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, model_validator

from steadytune.settings.fields import DATA, MODEL, MOST, OUTPUT, Settings, setting

#: What a file or standard input can be read as, besides what its name says.
InputFormat = Literal["csv", "tsv", "jsonl", "json", "parquet", "conll", "squad", "xlsx", "lines"]


class PredictOptions(Settings):
    """What is read, and how a model is asked. ``None`` stands for what was so in training, or is inferred.

    Example:
        >>> PredictOptions(text_column="review").asked_columns
        ('review', None, None)

    Raises:
        SettingsError: one of them is out of range.
    """

    model_config = ConfigDict(frozen=True)

    text_column: str | None = setting(
        None, "Column of text, words, question or prompt (default: as in training).", DATA, metavar="COLUMN"
    )
    text_pair_column: str | None = setting(
        None, "Column of the second text or of the context (default: as in training).", DATA, metavar="COLUMN"
    )
    label_column: str | None = setting(
        None, "Column of the labels, for scores (default: as in training, if it is there).", DATA, metavar="COLUMN"
    )
    input_format: InputFormat | None = setting(None, "How to read the input (default: inferred).", DATA)
    delimiter: str | None = setting(None, "Delimiter of csv: , ; tab or | (default: inferred).", DATA, metavar="SIGN")
    encoding: str | None = setting(None, "Encoding of text files (default: inferred).", DATA, metavar="NAME")
    max_length: int | None = setting(
        None, "Truncate texts to N tokens (default: as in training).", MODEL, ge=4, le=1_000_000
    )
    max_new_tokens: int | None = setting(
        None, "Longest text that a language model writes (default: 64 tokens).", MODEL, ge=1, le=1_000_000
    )
    per_device_eval_batch_size: int | None = setting(
        None, "Rows per batch (default: as in the run).", MODEL, ge=1, le=MOST, elsewhere=("batch_size",)
    )
    bf16: bool = setting(False, "Mixed precision in bfloat16.", MODEL)
    fp16: bool = setting(False, "Mixed precision in float16 (GPU).", MODEL)
    use_cpu: bool = setting(False, "Do not use a GPU.", MODEL)
    trust_remote_code: bool = setting(False, "Run code that the model brings along.", MODEL)
    all_probabilities: bool = setting(False, "Add a column for each class.", OUTPUT)
    column_prefix: str = setting("", "Put before the names of added columns.", OUTPUT, metavar="PREFIX")
    overwrite: bool = setting(False, "Replace the output file.", OUTPUT)

    @property
    def asked_columns(self) -> tuple[str | None, str | None, str | None]:
        """The columns that the user names: text, second text, label."""
        return self.text_column, self.text_pair_column, self.label_column

    @model_validator(mode="after")
    def _one_precision(self) -> PredictOptions:
        if self.bf16 and self.fp16:
            raise ValueError("--bf16 and --fp16: give one or the other")
        return self
