"""Spreadsheets (.xlsx): the first sheet with anything in it, its first row the header. Needs `steadytune[xlsx]`."""

from __future__ import annotations

import datetime
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from steadytune.errors import DataError
from steadytune.support.text import excerpt
from steadytune.support.text_files import Text, open_bytes
from steadytune.tasks.files.formats.format import Format, Given, Source, Wanted
from steadytune.tasks.files.places import file_place, no_rows, row_place
from steadytune.tasks.files.written_lists import list_column

_ROWS = 4096


class Spreadsheet(Format):
    """Cells of one sheet; a number among the texts is text, and a date is refused: Excel makes one of `1-2`."""

    name, extensions, order = "xlsx", (".xlsx",), 8

    def open(self, given: Given) -> Source:
        """See `Format`."""
        place = file_place(given.path)
        if not given.head.startswith(b"PK"):
            old = given.head.startswith(b"\xd0\xcf\x11\xe0")
            what = "an old spreadsheet (.xls); save it as .xlsx" if old else "something else; give its real extension"
            raise DataError(f"{place}: the content is not xlsx but {what}.")
        source = Source(given.path, self, Text(compressed=given.compressed))
        name, others = _sheet_names(source)
        note = f"{place}: the rows are those of the sheet {excerpt(name)}, the first of {others + 1}."
        return replace(source, notes=(note,)) if others else source

    def header(self, source: Source) -> list[str]:
        """See `Format`."""
        return ["" if cell is None else str(cell) for cell in next(_rows(source), [])]

    def sample(self, source: Source, names: Sequence[str], rows: int) -> list[list[Any]]:
        """See `Format`."""
        header = self.header(source)
        found = list(itertools.islice(_rows(source), 1, rows + 1))
        return [[row[header.index(name)] for row in found] for name in names]

    def read(self, source: Source, columns: Sequence[Wanted]) -> pa.Table:
        """See `Format`."""
        header = self.header(source)
        places = [header.index(column.name) for column in columns]
        values: list[list[Any]] = [[] for _ in columns]
        for row, cells in enumerate(itertools.islice(_rows(source), 1, None), start=1):
            for found, column, place in zip(values, columns, places, strict=True):
                found.append(_value(source, row, column, cells[place]))
        if not values[0]:
            raise no_rows(source.path)
        found = [_column(source, column, part) for column, part in zip(columns, values, strict=True)]
        return pa.table(found, [column.name for column in columns])

    def rows(self, source: Source) -> Iterator[dict[str, Any]]:
        """See `Format`."""
        header = self.header(source)
        for cells in itertools.islice(_rows(source), 1, None):
            yield dict(zip(header, cells, strict=True))


FORMATS = (Spreadsheet(),)


def _workbook(source: Source) -> Any:
    try:
        from openpyxl import load_workbook  # an extra
    except ImportError:
        raise DataError(
            f"{file_place(source.path)}: reading .xlsx needs openpyxl: pip install 'steadytune[xlsx]', or save the "
            "sheet as .csv."
        ) from None
    try:
        with open_bytes(source.path, source.text.compressed) as file:
            return load_workbook(io.BytesIO(file.read()), read_only=True, data_only=True)
    except Exception as error:  # whatever the library, zip and XML raise
        raise DataError(
            f"{file_place(source.path)}: the spreadsheet is damaged ({excerpt(error)}); save it again."
        ) from None


def _sheets(source: Source) -> Iterator[Any]:
    book = _workbook(source)
    for name in book.sheetnames:
        sheet = book[name]
        if hasattr(sheet, "iter_rows") and any(any(c is not None for c in row) for row in _values(source, sheet)):
            yield sheet


def _sheet_names(source: Source) -> tuple[str, int]:
    """Return the name of the first sheet that is not empty, and how many others there are."""
    names = [str(sheet.title) for sheet in _sheets(source)]
    if not names:
        raise DataError(f"{file_place(source.path)}: the spreadsheet is empty; give a sheet with a header and rows.")
    return names[0], len(names) - 1


def _values(source: Source, sheet: Any) -> Iterator[tuple[Any, ...]]:
    try:
        sheet.reset_dimensions()  # what the file says about its size is often wrong
        yield from sheet.iter_rows(values_only=True)
    except Exception as error:  # whatever the library and its XML raise
        raise DataError(
            f"{file_place(source.path)}: the spreadsheet is damaged ({excerpt(error)}); save it again."
        ) from None


def _rows(source: Source) -> Iterator[list[Any]]:
    """Yield the header and the rows, as many cells as the header has; empty rows are none."""
    width, number = 0, -1
    for cells in _values(source, next(_sheets(source))):
        filled = [place for place, cell in enumerate(cells) if cell is not None]
        if not filled:
            continue
        number += 1
        width = width or filled[-1] + 1
        if filled[-1] >= width:
            raise DataError(
                f"{row_place(source.path, number)}: a cell beyond the header ({excerpt(cells[filled[-1]])}); give its "
                "column a name or remove it."
            )
        yield [*cells, *[None] * (width - len(cells))][:width]


def _value(source: Source, row: int, column: Wanted, value: Any) -> Any:
    """Return a cell as it must be for its column."""
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        raise DataError(
            f"{row_place(source.path, row, column.name)}: the cell is a date ({excerpt(value)}); format the column as "
            "text and enter it again."
        )
    if column.kind == "text" and value is not None and not isinstance(value, str):
        return "TRUE" if value is True else "FALSE" if value is False else str(value)
    return value


def _column(source: Source, column: Wanted, values: list[Any]) -> pa.ChunkedArray:
    """Return a column: of numbers or of booleans where all cells are, else of strings."""
    kinds = {type(value) for value in values if value is not None}
    if column.kind == "label" and kinds and (kinds == {bool} or kinds <= {int, float}):
        if all(isinstance(value, int) and abs(value) < 1 << 53 for value in values if value is not None):
            return pa.chunked_array([pa.array(values)])
        if kinds <= {int, float}:
            return pa.chunked_array([pa.array([None if v is None else float(v) for v in values], pa.float64())])
    texts = [None if value is None else value if isinstance(value, str) else str(value) for value in values]
    if column.kind == "labels":  # an empty cell has no label
        texts = [text or "" for text in texts]
    found = pa.chunked_array(
        [pa.array(texts[start : start + _ROWS], pa.string()) for start in range(0, len(texts), _ROWS)]
    )
    return list_column(source, column.name, found) if column.kind in ("words", "tags") else found
