"""Make a `Dataset` of an Arrow table without a copy of it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import Array, Table


def dataset_of(table: Table) -> Dataset:
    """Return the rows as a `Dataset` whose fingerprint, by which tokenized rows are cached, follows from the content.

    The library itself would pickle the whole table for it, twice the memory of the rows.

    >>> import pyarrow
    >>> dataset_of(pyarrow.table({"text": ["a"], "label": [0]}))[0]
    {'text': 'a', 'label': 0}
    """
    from datasets import Dataset

    digest = hashlib.blake2b(str(table.schema).encode(), digest_size=8)
    for column in table.columns:
        for chunk in column.chunks:
            _add(digest, chunk)
    return Dataset(table, fingerprint=digest.hexdigest())  # pyright: ignore


def _add(digest: hashlib.blake2b, chunk: Array) -> None:
    """Add an array's place in its buffers, and the buffers."""
    digest.update(f"{chunk.offset} {len(chunk)}".encode())
    for buffer in chunk.buffers():
        digest.update(b"-" if buffer is None else memoryview(buffer))
