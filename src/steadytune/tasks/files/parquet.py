"""Read parquet files: only the needed columns, dictionaries decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steadytune.errors import DataError
from steadytune.support.text import excerpt
from steadytune.tasks.files.places import file_place, row_place
from steadytune.tasks.files.sources import Source

if TYPE_CHECKING:
    from pyarrow import ChunkedArray, Table


def column_names(source: Source) -> list[str]:
    """Return the names of the top-level columns."""
    return list(_open(source).schema_arrow.names)


def read(source: Source, text_columns: Sequence[str], label_column: str | None, *, lists: bool = False) -> Table:
    """Return the named columns: texts as strings, labels as strings, numbers or booleans, or as lists of them.

    Raises DataError naming file and column when a column is of another type, or its text is not UTF-8.
    """
    import pyarrow as pa

    names = [*text_columns, *([label_column] if label_column else [])]
    table = read_raw(source, names)
    columns: list[Any] = [_text(source, name, table.column(name)) for name in text_columns]
    if label_column:
        columns.append(_label(source, label_column, table.column(label_column), lists=lists))
    return pa.table(columns, names=names)


def read_raw(source: Source, names: Sequence[str]) -> Table:
    """Return the named columns as they are in the file."""
    import pyarrow as pa

    file = _open(source)
    _refuse_bomb(source, file.metadata, names)
    try:
        return file.read(columns=list(names))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(source, error) from None


def _open(source: Source) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(source.path)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(source, error) from None


def _refuse_bomb(source: Source, metadata: Any, names: Sequence[str]) -> None:
    """Raise DataError where the columns unpack to more than the free memory."""
    import psutil

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


def _text(source: Source, name: str, column: ChunkedArray) -> ChunkedArray:
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not _is_string(kind) and not pa.types.is_null(kind):
        place = row_place(source.path, 1, name)
        raise DataError(f"{place} and all others: the text is of type {excerpt(kind)}; write the column as strings.")
    text = column.cast(pa.string())
    _check_utf8(source, name, text)
    return text


def _label(source: Source, name: str, column: ChunkedArray, *, lists: bool) -> ChunkedArray:
    import pyarrow as pa

    kinds = pa.types
    if lists and (kinds.is_list(column.type) or kinds.is_large_list(column.type)):
        inner = column.type.value_type
        if _is_string(inner) or kinds.is_integer(inner):
            return column.cast(pa.list_(pa.string() if _is_string(inner) else pa.int64()))
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
    raise DataError(f"{place} and all others: the label is of type {excerpt(kind)}; give one name or one number.")


def _is_string(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _check_utf8(source: Source, name: str, column: ChunkedArray) -> None:
    """Raise DataError naming the first row whose bytes are not UTF-8."""
    import pyarrow as pa

    try:
        column.validate(full=True)
        return
    except pa.ArrowInvalid:
        pass
    for row, value in enumerate(column.cast(pa.binary(), safe=False), start=1):
        try:
            (value.as_py() or b"").decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{row_place(source.path, row, name)}: not UTF-8; encode the text as UTF-8.") from None
