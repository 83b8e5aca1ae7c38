"""Read json-lines files: one object per line."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steadytune.errors import DataError
from steadytune.support.text import excerpt
from steadytune.tasks.files.places import file_place, row_place
from steadytune.tasks.files.sources import Source, text_buffer

if TYPE_CHECKING:
    from pyarrow import Buffer, Table

_BLOCK_BYTES = 1 << 24
_LARGEST_BLOCK_BYTES = (1 << 31) - 1
_ROWS_SEARCHED_FOR_NAMES = 1000


def column_names(source: Source) -> list[str]:
    """Return the keys of the first 1000 objects, in order of appearance."""
    buffer = text_buffer(source, lambda prefix: _place_after(source, prefix))
    names: dict[str, None] = {}
    for _, pairs in itertools.islice(_objects(source, buffer), _ROWS_SEARCHED_FOR_NAMES):
        names.update((name, None) for name, _ in pairs)
    return list(names)


def read(source: Source, text_columns: Sequence[str], label_column: str | None, *, lists: bool = False) -> Table:
    """Return the named columns; the labels as strings, whole numbers, numbers or booleans, whichever they all are.

    With `lists` the labels are lists of strings or of whole numbers, or strings. A missing key is a null. Raises
    DataError naming the row when a line is not a JSON object, a text is not a string or the labels are of mixed type.
    """
    import pyarrow as pa

    types: Sequence[Any] = (pa.string(), pa.int64(), pa.float64(), pa.bool_())
    if lists:
        types = (pa.list_(pa.string()), pa.list_(pa.int64()), pa.string())
    texts = [(name, pa.string()) for name in text_columns]
    schemas = [pa.schema([*texts, *([(label_column, kind)] if label_column else [])]) for kind in types]
    check = _LabelCheck(source, label_column, lists=lists)

    def check_row(row: int, values: Mapping[str, Any]) -> None:
        for name in text_columns:
            check_text(source, row, name, values.get(name))
        check(row, values)

    return read_schema(source, schemas, check_row)


def read_schema(source: Source, schemas: Sequence[Any], check_row: Callable[[int, Mapping[str, Any]], None]) -> Table:
    """Return the rows by the first of the Arrow schemas that fits them all.

    Where none fits, `check_row` is called with number and values of each row and raises DataError for a faulty one.
    """
    import pyarrow as pa

    buffer = text_buffer(source, lambda prefix: _place_after(source, prefix))
    error: Exception | None = None
    for block_bytes in (_BLOCK_BYTES, min(buffer.size + 1, _LARGEST_BLOCK_BYTES)):
        for schema in schemas:
            try:
                return _parse(buffer, schema, block_bytes)
            except pa.ArrowInvalid as arrow_error:
                error = arrow_error
        _refuse_faulty_rows(source, buffer, check_row)  # else one object was longer than a block
    raise DataError(f"{file_place(source.path)}: not readable as json lines ({excerpt(error)}).")


def _parse(buffer: Buffer, schema: Any, block_bytes: int) -> Table:
    import pyarrow as pa
    from pyarrow import json as arrow_json

    return arrow_json.read_json(
        pa.BufferReader(buffer),
        read_options=arrow_json.ReadOptions(block_size=block_bytes),
        parse_options=arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )


def _objects(source: Source, buffer: Buffer) -> Iterator[tuple[int, list[tuple[str, Any]]]]:
    """Yield row number and key-value pairs of each line; blank lines are no rows."""
    import pyarrow as pa

    row = 0
    for line in map(bytes.strip, io.BufferedReader(pa.BufferReader(buffer))):  # a view, not a copy
        if not line:
            continue
        row += 1
        try:
            value = json.loads(line, object_pairs_hook=_Pairs)
        except (ValueError, RecursionError):
            raise DataError(
                f"{row_place(source.path, row)}: the line is not JSON ({excerpt(line.decode())}); "
                "write one object per line."
            ) from None
        if not isinstance(value, _Pairs):
            raise DataError(
                f"{row_place(source.path, row)}: the line is not a JSON object ({excerpt(line.decode())}); "
                'write it as {"text": ..., "label": ...}.'
            )
        yield row, value


class _Pairs(list[tuple[str, Any]]):
    """The key-value pairs of a JSON object, repeated keys included; told apart from an array by its type."""


def _refuse_faulty_rows(source: Source, buffer: Buffer, check_row: Callable[[int, Mapping[str, Any]], None]) -> None:
    """Raise DataError for the first row that keeps the file from being read; return when there is none."""
    for row, pairs in _objects(source, buffer):
        values = dict(pairs)
        if len(values) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{row_place(source.path, row, twice)}: the key occurs twice; keep one of them.")
        check_row(row, values)


class _LabelCheck:
    """Refuses the first label that is of another type than those before, or of none that a label can be."""

    def __init__(self, source: Source, column: str | None, *, lists: bool) -> None:
        self.source, self.column, self.lists = source, column, lists
        self.first_kind: str | None = None

    def __call__(self, row: int, values: Mapping[str, Any]) -> None:
        """Raise DataError for a faulty label."""
        label = None if self.column is None else values.get(self.column)
        if label is None:
            return
        kind = kind_of(label)
        place = row_place(self.source.path, row, self.column)
        if kind == "an object" or (kind == "a list" and not self.lists):
            raise DataError(f"{place}: the label is {kind}; give one name or one number.")
        if kind == "a list":
            inner = [kind_of(entry) for entry in label]
            if any(entry not in ("a string", "a number") for entry in inner):
                raise DataError(f"{place}: the list of labels holds {inner[-1]}; give names.")
            kind = f"a list of {inner[0].removeprefix('a ')}s" if inner else self.first_kind or kind
        self.first_kind = self.first_kind or kind
        if kind != self.first_kind:
            raise DataError(
                f"{place}: the label {excerpt(label)} is {kind} where the rows before have {self.first_kind}; "
                "give all labels as names or all as numbers."
            )


def check_text(source: Source, row: int, column: str, value: object) -> None:
    """Raise DataError for a value that is no text; a null is reported once the file can be read."""
    if value is None:
        return
    place = row_place(source.path, row, column)
    if not isinstance(value, str):
        raise DataError(f"{place}: the text is {kind_of(value)}, not a string; put it in quotes.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{place}: the text holds half a surrogate pair ({excerpt(value)}); remove it.") from None


def kind_of(value: object) -> str:
    """Return what a JSON value is, in words."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an object" if isinstance(value, _Pairs) else "a list" if isinstance(value, list) else "null"


def _place_after(source: Source, prefix: str) -> str:
    """Name the row in which the text after `prefix` lies."""
    return row_place(source.path, sum(1 for line in (prefix + "x").split("\n") if line.strip()))
