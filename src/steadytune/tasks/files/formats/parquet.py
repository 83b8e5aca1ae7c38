"""Parquet files: only the needed columns, dictionaries decoded, and class numbers with the names that go with them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from pyarrow import parquet

from steadytune.errors import DataError
from steadytune.support.text import excerpt
from steadytune.support.text_files import Text, open_bytes, refuse_damaged
from steadytune.tasks.files.formats.format import Format, Given, Source, Wanted
from steadytune.tasks.files.places import file_place, row_place

_BATCH = 1024
#: Where the library `datasets` keeps the types of its columns.
_FEATURES = b"huggingface"


class Parquet(Format):
    """Columns of any Arrow type."""

    name, extensions, order = "parquet", (".parquet",), 5

    def open(self, given: Given) -> Source:
        """See `Format`."""
        if not given.head.startswith(b"PAR1"):
            likely = (
                "binary" if b"\0" in given.head else "text; if it is csv or json lines, rename it to .csv or .jsonl"
            )
            raise DataError(f"{file_place(given.path)}: the content is not parquet but {likely}.")
        return Source(given.path, self, Text(compressed=given.compressed))

    def header(self, source: Source) -> list[str]:
        """See `Format`."""
        return list(_file(source).schema_arrow.names)

    def sample(self, source: Source, names: Sequence[str], rows: int) -> list[list[Any]]:
        """See `Format`."""
        try:
            batch = next(_file(source).iter_batches(batch_size=rows, columns=list(names)), None)
            found = [[] if batch is None else batch.column(name).to_pylist() for name in names]
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _damaged(source, error) from None
        return found

    def read(self, source: Source, columns: Sequence[Wanted]) -> pa.Table:
        """See `Format`."""
        file = _file(source)
        names = [column.name for column in columns]
        _refuse_bomb(source, file.metadata, names)
        try:
            table = file.read(columns=names)
        except MemoryError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise _damaged(source, error) from None
        classes = _classes(file.schema_arrow.metadata)
        found = [_column(source, column, table.column(column.name), classes) for column in columns]
        return pa.table(found, names=names)

    def rows(self, source: Source) -> Iterator[dict[str, Any]]:
        """See `Format`."""
        for batch in batches(source, _BATCH):
            yield from batch.to_pylist()


FORMATS = (Parquet(),)


def schema_of(source: Source) -> pa.Schema:
    """Return the types of all columns."""
    return _file(source).schema_arrow


def batches(source: Source, rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file with all columns as they are, some at a time."""
    try:
        for batch in _file(source).iter_batches(batch_size=rows):
            if batch.num_rows:
                yield batch
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _damaged(source, error) from None


def _file(source: Source) -> Any:
    try:
        if source.text.compressed:
            with open_bytes(source.path, compressed=True) as file:
                return parquet.ParquetFile(io.BytesIO(file.read()))
        return parquet.ParquetFile(source.path)
    except EOFError as error:
        refuse_damaged(source.path, error)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(source, error) from None


def _refuse_bomb(source: Source, metadata: Any, names: Sequence[str]) -> None:
    """Raise DataError where the columns unpack to more than the free memory."""
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    parts = [group.column(index) for group in groups for index in range(group.num_columns)]
    wanted = [part for part in parts if part.path_in_schema in names or part.path_in_schema.split(".")[0] in names]
    size, free = sum(part.total_uncompressed_size for part in wanted), psutil.virtual_memory().available
    if size > free:
        raise DataError(
            f"{file_place(source.path)}: its columns unpack to {size / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB "
            "of memory are free; give fewer rows."
        )


def _damaged(source: Source, error: Exception) -> DataError:
    return DataError(f"{file_place(source.path)}: the parquet file is damaged ({excerpt(error)}); write it again.")


def _classes(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the names of the classes of each column that `datasets` has typed so, also inside a list."""
    try:
        features = json.loads((metadata or {}).get(_FEATURES, b"{}"))["info"]["features"]
        return {name: names for name, feature in features.items() if (names := _names(feature))}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _names(feature: Any) -> list[str]:
    """Return the names of a feature."""
    if isinstance(feature, list) and len(feature) == 1:
        return _names(feature[0])
    if not isinstance(feature, dict):
        return []
    names = feature.get("names")
    if feature.get("_type") == "ClassLabel" and isinstance(names, list):
        return [name for name in names if isinstance(name, str)] if len(set(map(str, names))) == len(names) else []
    return _names(feature.get("feature"))


def _column(source: Source, wanted: Wanted, column: pa.ChunkedArray, classes: Mapping[str, list[str]]) -> Any:
    if wanted.kind == "text":
        return _text(source, wanted.name, column)
    if wanted.kind in ("answers", "identifier"):
        return column
    if wanted.name in classes and wanted.kind in ("label", "labels", "tags"):
        column = _named(source, wanted.name, column, classes[wanted.name])
    if wanted.kind in ("words", "tags"):
        return _lists(source, wanted.name, column)
    return _label(source, wanted.name, column, lists=wanted.kind == "labels")


def _named(source: Source, name: str, column: pa.ChunkedArray, names: list[str]) -> pa.ChunkedArray:
    """Return class numbers, or lists of them, as the names of the classes; -1, for unlabeled rows, as a null."""
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    numbers: Any = column.combine_chunks()
    flat = numbers.flatten() if is_list else numbers
    if not pa.types.is_integer(flat.type):
        return column
    known = np.asarray(flat.fill_null(0))
    beyond = np.flatnonzero((known < -1) | (known >= len(names)))
    if len(beyond):
        raise DataError(
            f"{row_place(source.path, _row_of(numbers, beyond[0], is_list) + 1, name)}: class {known[beyond[0]]} has "
            f"no name; the file has names for 0 to {len(names) - 1}."
        )
    index = pa.array(known, mask=np.asarray(flat.is_null()) | (known == -1))
    named = pa.array(names, pa.string()).take(index)
    if is_list:
        numbers = numbers.cast(pa.list_(numbers.type.value_type))
        offsets = numbers.offsets.to_numpy() - numbers.offsets[0].as_py()
        named = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), named, mask=numbers.is_null())
    return pa.chunked_array([named])


def _row_of(values: Any, entry: int, is_list: bool) -> int:
    if not is_list:
        return int(entry)
    lengths = np.asarray(values.value_lengths().fill_null(0))
    return int(np.searchsorted(np.cumsum(lengths), entry, side="right"))


def _text(source: Source, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not _is_string(kind) and not pa.types.is_null(kind):
        place = row_place(source.path, 1, name)
        raise DataError(f"{place} and all others: the text is of type {excerpt(kind)}; write the column as strings.")
    text = column.cast(pa.string())
    _check_utf8(source, name, text)
    return text


def _lists(source: Source, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of lists of strings."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise DataError(f"{row_place(source.path, 1, name)} and all others: {excerpt(kind)}, not a list.")
    if not (_is_string(kind.value_type) or pa.types.is_integer(kind.value_type) or pa.types.is_null(kind.value_type)):
        raise DataError(
            f"{row_place(source.path, 1, name)} and all others: lists of {excerpt(kind.value_type)}, not of text."
        )
    found = column.cast(pa.list_(pa.string()))
    _check_utf8(source, name, found)
    return found


def _label(source: Source, name: str, column: pa.ChunkedArray, *, lists: bool) -> pa.ChunkedArray:
    kinds = pa.types
    if lists and (kinds.is_list(column.type) or kinds.is_large_list(column.type)):
        inner = column.type.value_type
        if _is_string(inner) or kinds.is_integer(inner) or kinds.is_null(inner):
            return column.cast(pa.list_(pa.string()))
    if kinds.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if _is_string(kind) or kinds.is_null(kind):
        column = column.cast(pa.string())
        _check_utf8(source, name, column)
        return column
    if kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind):
        return column
    if kinds.is_decimal(kind):
        return column.cast(pa.float64())
    place = row_place(source.path, 1, name)
    hint = "; for any number of labels use --head multi_label" if kinds.is_nested(kind) and not lists else ""
    raise DataError(
        f"{place} and all others: the label is of type {excerpt(kind)}; give one name or one number{hint}."
    )


def _is_string(kind: Any) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _check_utf8(source: Source, name: str, column: pa.ChunkedArray) -> None:
    """Raise DataError naming the first row whose bytes are not UTF-8."""
    try:
        column.validate(full=True)
        return
    except pa.ArrowInvalid:
        pass
    for row, value in enumerate(column, start=1):
        entries = value if isinstance(value, pa.ListScalar) and value.is_valid else [value]
        for entry in entries:
            try:
                (entry.cast(pa.binary()).as_py() or b"").decode("utf-8")
            except (UnicodeDecodeError, pa.ArrowInvalid):
                raise DataError(f"{row_place(source.path, row, name)}: not UTF-8; encode the text as UTF-8.") from None
