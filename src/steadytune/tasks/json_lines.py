"""Read json-lines files: one object per line."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from steadytune.core.errors import DataError
from steadytune.tasks.locations import excerpt, file_place, row_place
from steadytune.tasks.sources import Source, text_buffer

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


def read(source: Source, text_columns: Sequence[str], label_column: str) -> Table:
    """Return the named columns; the labels as strings, whole numbers, numbers or booleans, whichever they all are.

    A missing key is a null. Raises DataError naming the row when a line is not a JSON object, a text is not a string
    or the labels are of mixed type.
    """
    import pyarrow as pa

    buffer = text_buffer(source, lambda prefix: _place_after(source, prefix))
    error: Exception | None = None
    for block_bytes in (_BLOCK_BYTES, min(buffer.size + 1, _LARGEST_BLOCK_BYTES)):
        for label_type in (pa.string(), pa.int64(), pa.float64(), pa.bool_()):
            fields = [(name, pa.string()) for name in text_columns]
            try:
                return _parse(buffer, pa.schema([*fields, (label_column, label_type)]), block_bytes)
            except pa.ArrowInvalid as arrow_error:
                error = arrow_error
        _refuse_faulty_rows(source, buffer, text_columns, label_column)  # else one object was longer than a block
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


def _refuse_faulty_rows(source: Source, buffer: Buffer, text_columns: Sequence[str], label_column: str) -> None:
    """Raise DataError for the first row that keeps the file from being read; return when there is none."""
    first_kind: str | None = None
    for row, pairs in _objects(source, buffer):
        values = dict(pairs)
        if len(values) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise DataError(f"{row_place(source.path, row, twice)}: the key occurs twice; keep one of them.")
        for column in text_columns:
            _check_text(source, row, column, values.get(column))
        label = values.get(label_column)
        kind = _kind_of(label)
        if label is None:
            continue
        place = row_place(source.path, row, label_column)
        if kind in ("a list", "an object"):
            raise DataError(f"{place}: the label is {kind}; give one name or one number.")
        first_kind = first_kind or kind
        if kind != first_kind:
            raise DataError(
                f"{place}: the label {excerpt(label)} is {kind} where the rows before have {first_kind}; "
                "give all labels as names or all as numbers."
            )


def _check_text(source: Source, row: int, column: str, value: object) -> None:
    if value is None:
        return  # reported together with the other formats, once the file can be read
    place = row_place(source.path, row, column)
    if not isinstance(value, str):
        raise DataError(f"{place}: the text is {_kind_of(value)}, not a string; put it in quotes.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{place}: the text holds half a surrogate pair ({excerpt(value)}); remove it.") from None


def _kind_of(value: object) -> str:
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
