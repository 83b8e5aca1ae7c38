"""Turn the rows of a published data set into the columns of a task's head, whether from a folder, a cache or the Hub.

Rows without a label or without a text are refused and counted; a row that contradicts the record is an error.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from steadytune.errors import DataError
from steadytune.heads.columns import (
    ANSWER,
    ANSWERS,
    CONTEXT,
    IDENTIFIER,
    LABEL,
    PROMPT,
    QUESTION,
    TEXT,
    TEXT_PAIR,
    TOKENS,
)
from steadytune.heads.registry import head_of
from steadytune.support.text import excerpt, listing
from steadytune.tasks.answer_columns import answer_columns, first_misplaced_answer, with_unique_identifiers
from steadytune.tasks.files.columns import first_true
from steadytune.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

_arrow: Any = compute

UNLABELED = -1
#: Kept beside the columns of the head where a data set has them.
EXTRA_COLUMNS = ("annotator_labels", "label_count", "heuristic", "subcase")
_OTHER_NAMES = {"entails": "entailment", "non-entailment": "not_entailment"}
_UNLABELED_NAMES = ("", "-", "hidden")
_MULTIWORD = "_"  # the tag of a contraction in Universal Dependencies; its words follow, with tags of their own


@dataclass
class Normalized:
    """The rows of one source: the table, how many rows were read, and why others were refused."""

    table: pa.Table
    read: int
    refused: Counter[str] = field(default_factory=Counter)


def normalize(rows: Dataset, task: Task, place: str) -> Normalized:
    """Return the rows of one source in the columns of the task's head.

    `place` opens the messages. Raises DataError when a column is missing, of another type, or holds a label that the
    record does not know.
    """
    table: pa.Table = rows.with_format("arrow")[:]  # pyright: ignore
    _check_columns(table, task, place)
    names = _feature_names(rows, task.label_column)
    result = Normalized(table, table.num_rows)
    result.table = _columns_of_head(table, task, names, place, result.refused)
    return result


def _check_columns(table: pa.Table, task: Task, place: str) -> None:
    wanted = [name for name in (task.text_column, task.text_pair_column, task.label_column) if name]
    wanted += [IDENTIFIER] if head_of(task.head).layout == "questions" else []
    for name in wanted:
        if name not in table.column_names:
            raise DataError(
                f"{place}: no column {excerpt(name)}; found are {listing(table.column_names)}. "
                f"Give the rows in the layout of {task.hub_id or 'the data set'}."
            )


def _feature_names(rows: Dataset, column: str) -> list[str] | None:
    """Return the names of a column's classes where the data set declares them."""
    feature: Any = rows.features.get(column)
    feature = getattr(feature, "feature", feature)
    feature = feature[0] if isinstance(feature, list) else feature
    names = getattr(feature, "names", None)
    return list(names) if names else None


def _columns_of_head(
    table: pa.Table, task: Task, names: list[str] | None, place: str, refused: Counter[str]
) -> pa.Table:
    layout = head_of(task.head).layout
    if layout == "words":
        return _tagged(table, task, names, place, refused)
    if layout == "questions":
        return _questions(table, task, place, refused)
    first, second = (PROMPT, ANSWER) if layout == "prompts" else (TEXT, TEXT_PAIR)
    columns = {first: _strings(table, task.text_column, place)}
    if task.text_pair_column is not None:
        columns[second] = _strings(table, task.text_pair_column, place)
    keep = _not_null(list(columns.values()), refused)
    if task.head in ("classification", "regression"):
        columns[LABEL], labeled = _labels(table.column(task.label_column), task, names, place)
        refused["without a label"] += int((keep & ~labeled).sum())
        keep &= labeled
    return _kept(table, columns, keep)


def _kept(table: pa.Table, columns: dict[str, Any], keep: np.ndarray) -> pa.Table:
    """Return the columns, with those kept for later use, of the rows to keep."""
    columns |= {name: table.column(name) for name in EXTRA_COLUMNS if name in table.column_names}
    result = pa.table(columns)
    return result if bool(keep.all()) else result.filter(pa.array(keep))


def _strings(table: pa.Table, name: str, place: str) -> pa.ChunkedArray:
    column = table.column(name)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise DataError(f"{place}: the column {excerpt(name)} is of type {excerpt(kind)}, not text.")
    return column.cast(pa.string())


def _not_null(columns: list[pa.ChunkedArray], refused: Counter[str]) -> np.ndarray:
    """Return which rows have all the texts."""
    keep = np.ones(len(columns[0]), dtype=bool)
    for column in columns:
        if column.null_count:
            keep &= column.is_valid().to_numpy()
    refused["without a text"] += int((~keep).sum())
    return keep


def _labels(column: Any, task: Task, names: list[str] | None, place: str) -> tuple[Any, np.ndarray]:
    """Return class indices or scores, and which rows have one."""
    if task.head == "regression":
        scores = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)
        hidden = bool((scores == UNLABELED).all())
        return pa.array(scores), np.isfinite(scores) & (not hidden)
    indices = _indices(column, task.label_names or (), names, place)
    return pa.array(np.where(indices < 0, 0, indices)), indices >= 0


def _indices(column: Any, label_names: tuple[str, ...], names: list[str] | None, place: str) -> np.ndarray:
    """Return the index of each label in the record's names, -1 where a row is unlabeled, -2 for `_` among tags.

    The labels are names, indices in the order of the data set's own `names`, or indices in the record's order.
    """
    code = {_plain(name): index for index, name in enumerate(label_names)}
    code |= dict.fromkeys(_UNLABELED_NAMES, UNLABELED) | {_MULTIWORD: UNLABELED - 1}
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        distinct = _arrow.unique(column)
        numbers = _arrow.index_in(column, value_set=distinct).to_numpy(zero_copy_only=False)
        names = ["" if name is None else name for name in distinct.to_pylist()]
    else:
        numbers = column.cast(pa.int64(), safe=False).fill_null(UNLABELED).to_numpy()
        declared = set(map(_plain, names or ()))
        names = names if names and declared >= set(map(_plain, label_names)) else list(label_names)
    numbers = np.asarray(numbers).astype(np.int64)
    unknown = first_true((numbers < UNLABELED) | (numbers >= len(names)))
    if unknown is not None:
        raise DataError(
            f"{place}, label {unknown + 1}: {numbers[unknown]} is no index of the {len(names)} labels "
            f"{listing(names)}."
        )
    used = [names[number] for number in np.unique(numbers) if number >= 0]
    strange = [name for name in used if _plain(name) not in code]
    if strange:
        raise DataError(f"{place}: the label {excerpt(strange[0])} is none of {listing(list(label_names))}.")
    table = np.array([code.get(_plain(name), UNLABELED) for name in names] + [UNLABELED], dtype=np.int64)
    return table[numbers]  # the last entry is that of -1


def _plain(name: str) -> str:
    return _OTHER_NAMES.get(name.strip(), name.strip())


def _tagged(table: pa.Table, task: Task, names: list[str] | None, place: str, refused: Counter[str]) -> pa.Table:
    """Return tokens and tag indices; rows without tokens are refused, contractions beside their words left out."""
    tokens, tags = (table.column(name).combine_chunks() for name in (task.text_column, task.label_column))
    lengths, tag_lengths = (np.asarray(_arrow.list_value_length(values).fill_null(0)) for values in (tokens, tags))
    row = first_true(lengths != tag_lengths)
    if row is not None:
        raise DataError(f"{place}, row {row + 1}: {lengths[row]} tokens but {tag_lengths[row]} tags.")
    indices = _indices(tags.flatten(), task.label_names or (), names, place)
    words = tokens.flatten().cast(pa.string())
    if bool((indices < 0).any()):
        row = first_true(indices == UNLABELED)
        if row is not None:
            raise DataError(f"{place}, token {row + 1} {excerpt(words[row])}: it has no tag.")
        row_of = np.repeat(np.arange(len(lengths)), lengths)
        keep = indices >= 0
        lengths = np.bincount(row_of[keep], minlength=len(lengths))
        words, indices = words.filter(pa.array(keep)), indices[keep]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    columns = {
        TOKENS: pa.ListArray.from_arrays(offsets, words),
        LABEL: pa.ListArray.from_arrays(offsets, pa.array(indices)),
    }
    refused["without tokens"] += int((lengths == 0).sum())
    return _kept(table, columns, lengths > 0)


def _questions(table: pa.Table, task: Task, place: str, refused: Counter[str]) -> pa.Table:
    """Return questions with answers from their context; rows whose answers are hidden are refused."""
    assert task.text_pair_column is not None
    columns: dict[str, Any] = {
        IDENTIFIER: with_unique_identifiers(table.column(IDENTIFIER)),
        QUESTION: _strings(table, task.text_column, place),
        CONTEXT: _strings(table, task.text_pair_column, place),
    }
    answers, hidden = answer_columns(table.column(task.label_column), place)
    keep = _not_null([columns[QUESTION], columns[CONTEXT]], refused)
    refused["with a hidden answer"] += int((keep & hidden).sum())
    keep &= ~hidden
    misplaced = first_misplaced_answer(columns[CONTEXT], answers, np.flatnonzero(keep))
    if misplaced is not None:
        row, text = misplaced
        raise DataError(
            f"{place}, row {row + 1}: the answer {excerpt(text)} does not stand at its place in the context."
        )
    return _kept(table, {**columns, ANSWERS: answers}, keep)
