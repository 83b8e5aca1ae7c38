r"""Read csv and tsv files as columns of strings, strictly: nothing is merged, dropped or turned into a null.

Quoting follows RFC 4180 in both: a field that begins with a double quote ends with one, and a double quote inside it
is doubled. Outside quotes \n, \r\n and a lone \r each end a row, and blank lines are no rows. Arrow alone would join
two rows silently where a quote is left open, so the quoting is checked first.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from steadytune.errors import DataError
from steadytune.support.text import excerpt
from steadytune.tasks.files.places import file_place, no_rows, numbered, row_place
from steadytune.tasks.files.sources import Source, text_buffer

if TYPE_CHECKING:
    from pyarrow import Buffer, Table

_BLOCK_BYTES = 1 << 22
_LARGEST_BLOCK_BYTES = (1 << 31) - 1
_LONGEST_FIELD = (1 << 31) - 1
_CHUNK_BYTES = 1 << 20


def column_names(source: Source) -> list[str]:
    """Return the names in the header of a csv or tsv file."""
    try:
        with (
            _long_fields(),
            source.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file,
        ):
            return next((row for row in csv.reader(file, delimiter=source.delimiter, strict=True) if row), [])
    except (OSError, csv.Error) as error:
        raise DataError(f"{file_place(source.path)}: the header cannot be read ({excerpt(error)}).") from None


def read(source: Source, columns: Sequence[str]) -> Table:
    """Return the named columns of a csv or tsv file as strings, exactly as written.

    Raises DataError naming the data row when the quoting is broken or a row has not as many fields as the header.
    """
    import pyarrow as pa

    buffer = text_buffer(source, lambda prefix: _place_after(source, prefix))
    if not _is_well_quoted(buffer, source.delimiter):
        _refuse_faulty_rows(source, buffer)
    size = buffer.size
    del buffer  # its pages would stay in memory beside the table
    try:
        return _parse(source, columns, _BLOCK_BYTES)
    except pa.ArrowInvalid:
        if _refuse_faulty_rows(source, text_buffer(source, lambda prefix: _place_after(source, prefix))) == 0:
            raise no_rows(source.path) from None
    try:  # no faulty row: one field was longer than a block
        return _parse(source, columns, min(size + 1, _LARGEST_BLOCK_BYTES))
    except pa.ArrowInvalid as error:
        raise DataError(f"{file_place(source.path)}: not readable as {source.format} ({excerpt(error)}).") from None


def _parse(source: Source, columns: Sequence[str], block_bytes: int) -> Table:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    with pa.OSFile(str(source.path)) as file:
        table = arrow_csv.read_csv(
            file,
            read_options=arrow_csv.ReadOptions(block_size=block_bytes),
            parse_options=arrow_csv.ParseOptions(delimiter=source.delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types={name: pa.string() for name in columns},
                include_columns=list(columns),
                strings_can_be_null=False,
            ),
        )
    pa.default_memory_pool().release_unused()
    return table


def _is_well_quoted(buffer: Buffer, delimiter: str) -> bool:
    """Return whether quotes only enclose whole fields, or are doubled inside them.

    With such quoting every second quote closes what the one before it opened. False also for a lone quote inside an
    unquoted field, which is allowed: the caller then looks row by row.
    """
    import numpy as np

    data = np.frombuffer(buffer, dtype=np.uint8)
    beside = np.frombuffer(f'{delimiter}\r\n"'.encode(), dtype=np.uint8)
    count = 0
    for start in range(0, len(data), _CHUNK_BYTES):  # a million quotes need not be in memory at a time
        quotes = np.flatnonzero(data[start : start + _CHUNK_BYTES] == ord('"')) + start
        opening, closing = quotes[count % 2 :: 2], quotes[1 - count % 2 :: 2]
        before = data[opening[opening > 0] - 1]
        after = data[closing[closing < len(data) - 1] + 1]
        if not (np.isin(before, beside).all() and np.isin(after, beside).all()):
            return False
        count += len(quotes)
    return count % 2 == 0


def _refuse_faulty_rows(source: Source, buffer: Buffer) -> int:
    """Return the number of data rows, or raise DataError for the first with broken quoting or ragged fields."""
    import pyarrow as pa

    text = io.TextIOWrapper(io.BufferedReader(pa.BufferReader(buffer)), encoding="utf-8", newline="")
    row = -1  # the header is row 0
    width = 0
    ragged: list[tuple[int, int, str]] = []
    with _long_fields():
        try:
            for fields in csv.reader(text, delimiter=source.delimiter, strict=True):
                if not fields:
                    continue
                row += 1
                width = width or len(fields)
                if len(fields) != width:
                    ragged.append((row, len(fields), source.delimiter.join(fields) if not ragged else ""))
        except csv.Error as error:
            if ragged:  # what comes first in the file is told first
                _refuse_ragged(source, ragged, width)
            place = row_place(source.path, row + 1) if row >= 0 else f"{file_place(source.path)}, header"
            unclosed = "end of data" in str(error)
            problem = "is never closed" if unclosed else "is closed in the middle of the field"
            raise DataError(
                f"{place}: a double quote that opens a field {problem}; write a quote inside a field twice and "
                "put the field in double quotes."
            ) from None
    if ragged:
        _refuse_ragged(source, ragged, width)
    return row


def _refuse_ragged(source: Source, ragged: list[tuple[int, int, str]], width: int) -> NoReturn:
    """Raise DataError about rows, each with its number of fields; the first with its content."""
    row, fields, content = ragged[0]
    others = [row - 1 for row, _, _ in ragged[1:]]
    more = f" Also ragged: {numbered(others)}." if others else ""
    raise DataError(
        f"{row_place(source.path, row)}: {fields} fields where the header has {width} ({excerpt(content)}); put a "
        f"field that holds {'a tab' if source.format == 'tsv' else 'a comma'}, a quote or a line end in double quotes."
        f"{more}"
    )


def _place_after(source: Source, prefix: str) -> str:
    """Name the cell in which the text after `prefix` lies."""
    rows: list[list[str]] = []
    count = 0
    with _long_fields():
        for fields in csv.reader(io.StringIO(prefix + "x", newline=""), delimiter=source.delimiter):
            if fields:
                rows = [rows[0] if rows else fields, fields]
                count += 1
    if count <= 1:
        return f"{file_place(source.path)}, header"
    header, last = rows
    return row_place(source.path, count - 1, header[len(last) - 1] if len(last) <= len(header) else None)


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the csv module's limit on the length of a field for a while."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)
