"""A split as features: tokenized once, kept on disk when it is large, and never as one Python object per row."""

from __future__ import annotations

import hashlib
import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadytune.errors import DataError
from steadytune.heads.encoded import Encoded
from steadytune.heads.head import Encoder, TaskHead, TaskRecord
from steadytune.heads.registry import head_of
from steadytune.support.writing import file_lock, make_folder

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

#: Fewest rows of a split whose features are kept in the cache of `datasets`.
LARGE = 20_000
#: Part of the key of the cache: other encoders make other features.
VERSION = 2


def encode(
    split: Dataset,
    task: TaskRecord,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    name: str = "train",
    is_encoder_decoder: bool = False,
) -> Encoded:
    """Turn the columns of a split (see `tasks.TaskData`) into what a model takes.

    Args:
        split: rows of the task.
        task: tells the head.
        tokenizer: of the model.
        max_length: longest feature, in tokens.
        name: of the split, for the notes.
        is_encoder_decoder: see `TaskHead.encoder`.

    Raises:
        SettingsError: tokenizer or length do not do for the head.
        DataError: a row holds what the head cannot read.
    """
    head = head_of(task.head)
    encoder = head.encoder(tokenizer, max_length, is_encoder_decoder=is_encoder_decoder)
    large = len(split) >= LARGE
    key = _key(split, task.head, tokenizer, max_length, is_encoder_decoder) if large else None
    cache = None if key is None else _cache_file(key)
    # The first process makes these features, others wait and read them. Not with `num_proc`: it forks, and the fork of
    # a process with threads may wait for ever for a lock that a thread held. The tokenizer has threads of its own.
    with file_lock(Path(f"{cache}.lock")) if cache is not None else nullcontext():
        try:
            features = split.map(
                _Numbered(encoder),
                batched=True,
                with_indices=True,
                remove_columns=split.column_names,
                new_fingerprint=key or "small",
                cache_file_name=None if cache is None else str(cache),
            )
        except DataError as error:
            raise DataError(f"{name}, {error}") from error
    return Encoded(features, split, tuple(_notes(features, split, head, name, max_length)))


@dataclass(frozen=True)
class _Numbered:
    """Calls the encoder with the rows and their numbers."""

    encoder: Encoder

    def __call__(self, rows: Any, indices: list[int]) -> dict[str, Any]:
        return self.encoder(dict(rows), indices)


def _notes(features: Dataset, split: Dataset, head: TaskHead, name: str, max_length: int) -> list[str]:
    import numpy as np

    notes = []
    numbers = features.with_format("numpy")
    rows, cut = (np.asarray(numbers[column][:], dtype=np.int64) for column in ("row", "cut"))
    shortened = len(np.unique(rows[cut > 0]))
    if shortened:
        notes.append(
            f"{name}: {shortened:,} of {len(split):,} {head.cut_note(shortened)}, and only a part of "
            f"{'it' if shortened == 1 else 'them'} is read (--max-length {max_length})."
        )
    return notes + head.notes(features, split, name)


def _cache_file(key: str) -> Path:
    from datasets import config

    folder = Path(config.HF_DATASETS_CACHE) / "steadytune"
    make_folder(folder)
    return folder / f"{key}.arrow"


def _key(
    split: Dataset, head: str, tokenizer: PreTrainedTokenizerBase, max_length: int, is_encoder_decoder: bool
) -> str | None:
    """Return a hash of all that determines the features, ``None`` if that cannot be told of this tokenizer."""
    if not tokenizer.is_fast:
        return None
    backend: Any = tokenizer
    content = json.loads(backend.backend_tokenizer.to_str())
    for last_used in ("truncation", "padding"):  # of the call before
        content.pop(last_used, None)
    values = [VERSION, split._fingerprint, head, max_length, is_encoder_decoder, tokenizer.special_tokens_map, content]
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:32]
