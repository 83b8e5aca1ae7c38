"""The answers of extractive question answering: their column, their places in the context, their identifiers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from steadytune.errors import DataError
from steadytune.support.text import excerpt

_arrow: Any = compute


_ROWS_AT_ONCE = 1000


def answer_type() -> Any:
    """Return the Arrow type of the column `answers`."""
    return pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])


def answer_columns(column: pa.ChunkedArray, place: str) -> tuple[pa.Array, np.ndarray]:
    """Return the answers as `answer_type`, and which rows have answers that are all empty, as hidden ones are.

    Raises DataError when the column is of another type or a row has not one start for each text.
    """

    answers: Any = column.combine_chunks()
    try:
        texts = answers.field("text").cast(pa.list_(pa.string()))
        starts = answers.field("answer_start").cast(pa.list_(pa.int32()))
    except (pa.ArrowException, AttributeError, KeyError):
        raise DataError(
            f'{place}: the answers are of type {excerpt(answers.type)}, not {{"text": [...], "answer_start": [...]}}.'
        ) from None
    lengths, start_lengths = (np.asarray(_arrow.list_value_length(part).fill_null(0)) for part in (texts, starts))
    if not (lengths == start_lengths).all():
        row = int(np.flatnonzero(lengths != start_lengths)[0])
        raise DataError(f"{place}, row {row + 1}: {lengths[row]} answers but {start_lengths[row]} places of answers.")
    filled = np.asarray(_arrow.not_equal(_arrow.list_flatten(texts), "").fill_null(False))
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    hidden = (lengths > 0) & (np.bincount(row_of[filled], minlength=len(lengths)) == 0)
    return pa.StructArray.from_arrays([texts, starts], names=["text", "answer_start"]), hidden


def first_misplaced_answer(
    contexts: pa.ChunkedArray, answers: pa.Array, rows: Iterable[int]
) -> tuple[int, str] | None:
    """Return the first of the rows, with the answer, whose context has not the answer at its offset (code points).

    >>> import pyarrow
    >>> first_misplaced_answer(pyarrow.chunked_array([["a cat"]]), pyarrow.array(
    ...     [{"text": ["cat"], "answer_start": [1]}]), [0])
    (0, 'cat')
    """
    chosen = list(rows)
    for start in range(0, len(chosen), _ROWS_AT_ONCE):
        block = chosen[start : start + _ROWS_AT_ONCE]
        texts = contexts.take(block).to_pylist()
        for row, context, answer in zip(block, texts, answers.take(block).to_pylist(), strict=True):
            for text, place in zip(answer["text"], answer["answer_start"], strict=True):
                if place is None or text is None or place < 0 or context[place : place + len(text)] != text:
                    return row, str(text)
    return None


def with_unique_identifiers(column: pa.ChunkedArray) -> Any:
    """Return the identifiers as strings; where some repeat or are missing, each gets its row number appended.

    >>> import pyarrow
    >>> with_unique_identifiers(pyarrow.chunked_array([["a", "a"]])).to_pylist()
    ['a-1', 'a-2']
    """
    text = column.cast(pa.string())
    if text.null_count == 0 and _arrow.count_distinct(text).as_py() == len(text):
        return text
    numbers = pa.array(np.arange(1, len(text) + 1)).cast(pa.string())
    return _arrow.binary_join_element_wise(text.combine_chunks().fill_null("row"), numbers, "-")
