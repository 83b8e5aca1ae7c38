"""Rows with any number of labels: names with a delimiter, lists, lists written as text, or 0 and 1 for each label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from pyarrow import compute

from steadytune.errors import DataError
from steadytune.heads.columns import LABEL, TEXT, TEXT_PAIR
from steadytune.support.text import excerpt, listing
from steadytune.tasks.files.columns import Columns, check_columns, first_true, located, read_columns
from steadytune.tasks.files.formats.format import Source
from steadytune.tasks.files.label_faults import alike_note, missing_note
from steadytune.tasks.files.places import file_place, row_place
from steadytune.tasks.files.written_lists import is_list, parse_list
from steadytune.tasks.task import Head

_arrow: Any = compute
DELIMITERS = ("|", ";", ",")
_ROWS_AT_ONCE = 1 << 16
_ON = ("1", "1.0", "true", "True")
_BITS = ("0", "1", "0.0", "1.0", "true", "false", "True", "False")


class MultiLabelReader:
    """Texts or pairs with a set of labels each, which may be empty.

    In a column of strings the labels are separated by `|`, else `;`, else `,`: the first of them that occurs in the
    training labels; an empty string is no label. Where the cells are lists written as text, they are read as lists.
    Lists of 0 and 1 that are all of one length are vectors; their labels are called by their place, from 0. Several
    columns of 0 and 1 are labels that are called as the columns are. Numbers stand for labels as names do. Labels are
    sorted by name, or by number; those of a vector keep their order.
    """

    head: Head = "multi_label"

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.label_names: tuple[str, ...] | None = columns.vector or None
        self.delimiter: str | None = None
        self.written = False
        self.width: int | None = None
        self.reason = "multi-label was asked for"
        self.notes: list[str] = []

    def check(self, source: Source) -> None:
        """See `FileReader`."""
        check_columns(source, self.columns)

    def read(self, source: Source) -> pa.Table:
        """See `FileReader`."""
        raw = read_columns(source, self.columns, "label" if self.columns.vector else "labels")
        texts = raw.select([name for name in (TEXT, TEXT_PAIR) if name in raw.column_names])
        if self.columns.vector:
            return texts.append_column(LABEL, self._of_columns(source, raw))
        column = raw.column(LABEL)
        blocks = range(0, len(column), _ROWS_AT_ONCE)
        if self.label_names is None:
            self._decide(source, column, blocks)
        labels = pa.chunked_array([self._encode(source, *self._names(source, column, b), b) for b in blocks])
        return texts.append_column(LABEL, labels)

    def _of_columns(self, source: Source, raw: pa.Table) -> pa.ChunkedArray:
        """Return the lists of 0 and 1 that several columns are."""
        here = located(source, self.columns)
        parts = []
        for name in here.vector:
            values: Any = raw.column(name).combine_chunks()
            if values.null_count:
                self._refuse(
                    source, first_true(_arrow.is_null(values)) or 0, "the label is missing; give 0 or 1", name
                )
            text = _arrow.utf8_trim_whitespace(values.cast(pa.string()))
            faulty = first_true(_arrow.invert(_arrow.is_in(text, value_set=pa.array(_BITS))))
            if faulty is not None:
                problem = f"the label {excerpt(text[faulty])} is neither 0 nor 1"
                self._refuse(source, faulty, problem, name)
            parts.append(np.asarray(_arrow.is_in(text, value_set=pa.array(_ON))))
        return pa.chunked_array([_vectors(np.stack(parts, axis=1).astype(np.int8))])

    def _decide(self, source: Source, column: pa.ChunkedArray, blocks: Iterable[int]) -> None:
        """Find out how the training labels are written, and which there are."""
        strings = pa.types.is_string(column.type)
        self.written = strings and any(map(is_list, filter(None, column.slice(0, _ROWS_AT_ONCE).to_pylist())))
        self.delimiter = _delimiter(column) if strings else DELIMITERS[0]
        counts: dict[str, int] = {}
        widths: set[int] = set()
        for block in blocks:
            names, lengths = self._names(source, column, block)
            widths |= set(lengths.tolist())
            for entry in _arrow.value_counts(names).to_pylist():
                counts[entry["values"]] = counts.get(entry["values"], 0) + entry["counts"]
        if counts.keys() <= set(_BITS[:4]) and len(widths) == 1 and min(widths) > 1:
            self.width = min(widths)
            self.label_names = tuple(map(str, range(self.width)))
            self.notes.append(
                f"{file_place(source.path)}: the labels are vectors of {self.width} times 0 or 1; they are called by "
                f"their place, 0 to {self.width - 1}."
            )
            return
        if not counts:
            place = f"{file_place(source.path)}, column {excerpt(self.columns.label)}"
            raise DataError(f"{place}: no row has a label, so there is nothing to learn.")
        whole = all(name.removeprefix("-").isdecimal() and str(int(name)) == name for name in counts)
        self.label_names = tuple(sorted(counts, key=(lambda name: (int(name), name)) if whole else None))
        self.notes += filter(None, (alike_note(counts, {}), missing_note(counts, {})))

    def _names(self, source: Source, column: pa.ChunkedArray, start: int) -> tuple[Any, np.ndarray]:
        """Return the labels of a block of rows one after the other, and how many each row has."""
        values: Any = column.slice(start, _ROWS_AT_ONCE).combine_chunks()
        row = first_true(_arrow.is_null(values)) if values.null_count else None
        if row is not None:
            self._refuse(source, start + row, "the labels are missing; give them, or none as an empty list or string")
        if not pa.types.is_list(values.type):
            values = self._split(source, values.cast(pa.string()), start)
        lengths = np.asarray(_arrow.list_value_length(values))
        names = _arrow.utf8_trim_whitespace(values.flatten().cast(pa.string()))
        empty = first_true(_arrow.equal(names, "").fill_null(True))
        if empty is not None:
            self._refuse(source, start + _row_of(lengths, empty), "one of the labels is empty or missing")
        return names, lengths

    def _split(self, source: Source, values: Any, start: int) -> Any:
        """Return lists of names from strings; an empty string is an empty list."""
        text = _arrow.utf8_trim_whitespace(values)
        if self.written:
            return pa.array(
                [self._written(source, start + row, cell) for row, cell in enumerate(text.to_pylist())],
                pa.list_(pa.string()),
            )
        looks = _arrow.and_(_arrow.starts_with(text, "["), _arrow.ends_with(text, "]"))
        row = first_true(looks)
        if row is not None:
            self._refuse(source, start + row, f"{excerpt(text[row])} is a list where the training labels are none")
        lists = _arrow.split_pattern(text, self.delimiter)
        return _arrow.if_else(_arrow.equal(text, ""), pa.scalar([], type=lists.type), lists)

    def _written(self, source: Source, row: int, cell: str) -> list[str]:
        """Return the labels of a cell in a column of lists that are written as text."""
        found = parse_list(cell) if cell else []
        if found is None:
            self._refuse(source, row, f'{excerpt(cell)} is not readable as a list; write it as ["a", "b"]')
        return found

    def _encode(self, source: Source, names: Any, lengths: np.ndarray, start: int) -> Any:
        """Return a list of 0 and 1 for each row of a block."""
        assert self.label_names is not None
        if self.width is not None:
            return self._encode_vectors(source, names, lengths, start)
        index = _arrow.index_in(names, value_set=pa.array(self.label_names, pa.string()))
        unseen = first_true(_arrow.is_null(index)) if index.null_count else None
        if unseen is not None:
            self._refuse(
                source,
                start + _row_of(lengths, unseen),
                f"the label {excerpt(names[unseen])} was never seen in training, where the labels are "
                f"{listing(list(self.label_names))}",
            )
        labels = np.zeros((len(lengths), len(self.label_names)), dtype=np.int8)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        np.add.at(labels, (rows, np.asarray(index)), 1)
        twice = first_true(labels.max(axis=1, initial=0) > 1)
        if twice is not None:
            name = self.label_names[int(labels[twice].argmax())]
            self._refuse(source, start + twice, f"the label {excerpt(name)} occurs twice in the row")
        return _vectors(labels)

    def _encode_vectors(self, source: Source, names: Any, lengths: np.ndarray, start: int) -> Any:
        row = first_true(lengths != self.width)
        if row is not None:
            self._refuse(source, start + row, f"{lengths[row]} labels where the training rows have {self.width}")
        entry = first_true(_arrow.invert(_arrow.is_in(names, value_set=pa.array(_BITS[:4]))))
        if entry is not None:
            problem = f"the label {excerpt(names[entry])} is neither 0 nor 1"
            self._refuse(source, start + _row_of(lengths, entry), problem)
        on = np.asarray(_arrow.is_in(names, value_set=pa.array(["1", "1.0"])))
        return _vectors(on.reshape(len(lengths), -1).astype(np.int8))

    def _refuse(self, source: Source, row: int, problem: str, column: str | None = None) -> NoReturn:
        raise DataError(f"{row_place(source.path, row + 1, column or self.columns.label)}: {problem}.")


def _vectors(labels: np.ndarray) -> Any:
    """Return a matrix as an Arrow array of lists."""
    offsets = np.arange(len(labels) + 1, dtype=np.int32) * labels.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(labels.ravel()))


def _delimiter(column: pa.ChunkedArray) -> str:
    """Return what separates the labels of a column of strings."""
    found = (d for d in DELIMITERS if _arrow.any(_arrow.match_substring(column, d)).as_py())
    return next(found, DELIMITERS[0])


def _row_of(lengths: np.ndarray, entry: int) -> int:
    """Return the row that holds an entry of the flattened lists."""
    return int(np.searchsorted(np.cumsum(lengths), entry, side="right"))
