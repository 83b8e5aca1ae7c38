"""Look through a file before any model is loaded: its rows, its columns, and whether every row can be read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from steadytune.prediction.chunks import ROWS, RowFile, read_chunks
from steadytune.tasks.files.formats.delimited import Delimited
from steadytune.tasks.files.formats.parquet import Parquet, batches, schema_of
from steadytune.tasks.files.places import no_rows


@dataclass(frozen=True)
class Survey:
    """What a file holds.

    Attributes:
        rows: how many rows.
        columns: all of them, in their order; for json lines in the order in which they first occur.
        schema: their types in Arrow; ``None`` unless it was asked for.
    """

    rows: int
    columns: tuple[str, ...]
    schema: Any = None


def survey(file: RowFile, *, with_types: bool = False) -> Survey:
    """Read a file once from its beginning to its end.

    A mistake in its last row is so reported at once, not after an hour of predictions.

    Args:
        file: what is read.
        with_types: also find the types that the columns have in a parquet file.

    Raises:
        DataError: there are no rows, or a row cannot be read.
    """
    source = file.source
    if isinstance(source.format, Parquet):
        schema = schema_of(source)
        found = Survey(sum(batch.num_rows for batch in batches(source, ROWS)), tuple(schema.names), schema)
    else:
        columns: dict[str, _Kind] = {name: _Kind() for name in _header(file)}
        count = 0
        for chunk in read_chunks(file):
            count += len(chunk.rows)
            if file.text_column or isinstance(source.format, Delimited):
                continue  # strings, and the columns of the header
            for name in dict.fromkeys(name for row in chunk.rows for name in row):
                kind = columns.setdefault(name, _Kind())
                if with_types:
                    kind.add(chunk.column(name))
        found = Survey(count, tuple(columns), _schema(columns) if with_types else None)
    if found.rows == 0:
        raise no_rows(source.path)
    return found


def _header(file: RowFile) -> Iterable[str]:
    if file.text_column:
        return (file.text_column,)
    return file.source.format.header(file.source) if isinstance(file.source.format, Delimited) else ()


class _Kind:
    """The Arrow type that fits all values of a column; `None` while all are null, text where none fits."""

    def __init__(self) -> None:
        self.found: Any = None
        self.mixed = False

    def add(self, values: list[Any]) -> None:
        """Look at more values."""
        if self.mixed:
            return
        try:
            kind = pa.array(values).type
            if self.found is not None:
                schemas = [pa.schema([("x", one)]) for one in (self.found, kind)]
                kind = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
            self.found = kind
        except (pa.ArrowException, OverflowError):
            self.mixed = True


def _schema(columns: dict[str, _Kind]) -> Any:
    return pa.schema(
        [(name, pa.string() if k.mixed or k.found is None or pa.types.is_null(k.found) else k.found)
         for name, k in columns.items()]
    )  # fmt: skip
