"""A split as features: tokenized once, kept on disk when it is large, and never as one Python object per row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from steadytune.heads.encoders import Encoder, encoder_for
from steadytune.tasks.task import Head, Task

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

#: Fewest rows of a split whose features are kept in the cache of `datasets`.
LARGE = 20_000
#: Part of the key of the cache: other encoders make other features.
VERSION = 1


@dataclass(frozen=True, eq=False)
class Encoded:
    """A split as a model takes it.

    Attributes:
        features: what the model takes, with the columns ``row`` and ``cut`` and what the scorer of the head needs.
        rows: what they were made of.
        notes: what the user must get to see: how many rows were cut.
    """

    features: Dataset
    rows: Dataset
    notes: tuple[str, ...] = ()

    def longest_first(self) -> Encoded:
        """The features in the order of their lengths: batches of evaluation then have little padding."""
        import numpy as np

        order = np.argsort(-lengths_of(self.features), kind="stable")
        return Encoded(self.features.select(order), self.rows, self.notes)


def encode(
    split: Dataset,
    task: Task,
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
        is_encoder_decoder: see `encoders.encoder_for`.

    Raises:
        SettingsError: tokenizer or length do not do for the head.
    """
    encoder = encoder_for(task.head, tokenizer, max_length, is_encoder_decoder=is_encoder_decoder)
    large = len(split) >= LARGE
    key = _key(split, task.head, tokenizer, max_length, is_encoder_decoder) if large else None
    cache = None if key is None else _cache_file(key)
    # The first process makes these features, others wait and read them. Not with `num_proc`: it forks, and the fork of
    # a process with threads may wait for ever for a lock that a thread held. The tokenizer has threads of its own.
    with FileLock(f"{cache}.lock") if cache is not None else nullcontext():
        features = split.map(
            _Numbered(encoder),
            batched=True,
            with_indices=True,
            remove_columns=split.column_names,
            new_fingerprint=key or "small",
            cache_file_name=None if cache is None else str(cache),
        )
    return Encoded(features, split, tuple(_notes(features, split, task.head, name, max_length)))


@dataclass(frozen=True)
class _Numbered:
    """Calls the encoder with the rows and their numbers."""

    encoder: Encoder

    def __call__(self, rows: Any, indices: list[int]) -> dict[str, Any]:
        return self.encoder(dict(rows), indices)


def lengths_of(features: Dataset) -> np.ndarray:
    """Return the number of tokens of each feature, without a Python object for any.

    >>> from datasets import Dataset
    >>> lengths_of(Dataset.from_dict({"input_ids": [[1, 2, 3], [4]]}))
    array([3, 1], dtype=int32)
    """
    import numpy as np

    parts = list(_list_sizes(features, "input_ids"))
    return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, dtype=np.int32)


def _notes(features: Dataset, split: Dataset, head: Head, name: str, max_length: int) -> list[str]:
    import numpy as np

    notes = []
    numbers = features.with_format("numpy")
    rows, cut = (np.asarray(numbers[column][:], dtype=np.int64) for column in ("row", "cut"))
    shortened = len(np.unique(rows[cut > 0]))
    if shortened:
        verb, them = ("is", "it") if shortened == 1 else ("are", "them")
        what = f"rows {verb} longer"
        if head == "question_answering":
            what = f"questions {verb} longer than half of that"
        notes.append(
            f"{name}: {shortened:,} of {len(split):,} {what}, and only a part of {them} is read "
            f"(--max-length {max_length})."
        )
    if head == "token_classification":
        words, carried = (sum(int(n.sum()) for n in _list_sizes(*x)) for x in ((split, "tokens"), (features, "words")))
        if words > carried:
            so = "they are not learned" if name == "train" else "they count as wrong"
            notes.append(f"{name}: for {words - carried:,} of {words:,} words the tokenizer has no token; {so}.")
    return notes


def _list_sizes(rows: Dataset, column: str) -> Iterator[np.ndarray]:
    """Yield the lengths of the lists of a column, some thousand rows at a time."""
    from pyarrow import compute

    arrow: Any = compute
    tables: Any = rows.select_columns([column]).with_format("arrow").iter(10_000)
    for table in tables:
        yield arrow.list_value_length(table.column(0)).to_numpy()


def _cache_file(key: str) -> Path:
    from datasets import config

    folder = Path(config.HF_DATASETS_CACHE) / "steadytune"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{key}.arrow"


def _key(
    split: Dataset, head: Head, tokenizer: PreTrainedTokenizerBase, max_length: int, is_encoder_decoder: bool
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
