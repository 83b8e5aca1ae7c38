r"""Csv and tsv files, strictly: nothing is merged, dropped or turned into a null.

Quoting follows RFC 4180: a field that begins with a double quote ends with one, and a double quote inside it is
doubled. Outside quotes \n, \r\n and a lone \r each end a row, and blank lines are no rows. Commas, semicolons, tabs
and bars delimit; the first rows tell which.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, ClassVar, NoReturn

import pyarrow as pa

from steadytune.errors import DataError
from steadytune.support.text import excerpt
from steadytune.support.text_files import lines_of, undecoded
from steadytune.tasks.files.formats.format import DELIMITERS, Format, Given, Source, Wanted, text_source
from steadytune.tasks.files.places import file_place, no_rows, numbered, row_place
from steadytune.tasks.files.written_lists import list_column

_LONGEST_FIELD = (1 << 31) - 1
#: Rows, and letters, of which an Arrow array is made at a time.
_ROWS, _LETTERS = 4096, 1 << 22
#: Rows from which the delimiter is detected.
_SNIFFED = 20
#: What spreadsheets write before the header to say what delimits.
_SEPARATOR = re.compile(r"sep=(.)[\r\n]*$")
_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a bar"}


class Delimited(Format):
    """Rows of fields with a delimiter between them, the first of them a header."""

    #: What delimits where nothing else fits better.
    usual: ClassVar[str]

    def open(self, given: Given) -> Source:
        """See `Format`."""
        source = replace(text_source(self, given), delimiter=given.delimiter or self.usual)
        found = given.delimiter or _delimiter(source, self.usual)
        if found == source.delimiter:
            return source
        note = f"{file_place(given.path)}: {_NAMES[found]} separates the columns (--delimiter says otherwise)."
        return replace(source, delimiter=found, notes=(*source.notes, note))

    def header(self, source: Source) -> list[str]:
        """See `Format`."""
        try:
            return next(_rows(source), [])
        except csv.Error as error:
            raise DataError(f"{file_place(source.path)}: the header cannot be read ({excerpt(error)}).") from None

    def sample(self, source: Source, names: Sequence[str], rows: int) -> list[list[Any]]:
        """See `Format`."""
        found: list[list[str]] = []
        with suppress(csv.Error):  # reading the file says where
            found.extend(itertools.islice(_rows(source), rows + 1))
        header, *body = found or [[]]
        places = [header.index(name) for name in names]
        return [[row[place] for row in body if place < len(row)] for place in places]

    def read(self, source: Source, columns: Sequence[Wanted]) -> pa.Table:
        """See `Format`."""
        rows = _checked_rows(source)
        header = next(rows, [])
        places = [header.index(column.name) for column in columns]
        chunks: list[list[pa.Array]] = [[] for _ in columns]
        for block in _blocks(rows):
            for chunk, place in zip(chunks, places, strict=True):
                chunk.append(pa.array([row[place] for row in block], pa.string()))
        if not chunks[0]:
            raise no_rows(source.path)
        found = [pa.chunked_array(chunk, pa.string()) for chunk in chunks]
        for number, column in enumerate(columns):
            if column.kind in ("words", "tags"):
                found[number] = list_column(source, column.name, found[number])
        pa.default_memory_pool().release_unused()
        return pa.table(found, [column.name for column in columns])

    def rows(self, source: Source) -> Iterator[dict[str, Any]]:
        """See `Format`."""
        rows = _checked_rows(source)
        header = next(rows, [])
        for name in header:
            if header.count(name) > 1:
                raise DataError(
                    f"{file_place(source.path)}: the column {excerpt(name)} occurs {header.count(name)} times; give "
                    "each column its own name."
                )
        for fields in rows:
            yield dict(zip(header, fields, strict=True))


class Csv(Delimited):
    """Comma-separated values."""

    name, extensions, order, usual = "csv", (".csv",), 1, ","


class Tsv(Delimited):
    """Tab-separated values; for the head token_classification also a word and its tag on each line."""

    name, extensions, order, usual = "tsv", (".tsv",), 2, "\t"


FORMATS = (Csv(), Tsv())


def _rows(source: Source) -> Iterator[list[str]]:
    """Yield the header and the rows; blank lines are none."""
    lines = lines_of(source.path, source.text)
    first = next(lines, "")
    if _SEPARATOR.match(first) is None:
        lines = itertools.chain((first,), lines)
    with _long_fields():
        for fields in csv.reader(lines, delimiter=source.delimiter, strict=True):
            if fields:
                yield fields


def _checked_rows(source: Source) -> Iterator[list[str]]:
    """Yield the header and the rows; raises DataError for bytes that are no text, broken quotes and ragged rows."""
    number, header, ragged = -1, [""], []
    try:
        for number, fields in enumerate(_rows(source)):
            if number == 0:
                header = fields
            if source.text.is_faulty:
                _refuse_undecoded(source, number, header, fields)
            if len(fields) != len(header):
                ragged.append((number, len(fields), source.delimiter.join(fields) if not ragged else ""))
            elif not ragged:
                yield fields
    except csv.Error as error:
        if not ragged:  # report what comes first in the file
            _refuse_quotes(source, number + 1, str(error))
    if ragged:
        _refuse_ragged(source, ragged, len(header))


def _blocks(rows: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    """Yield the rows in blocks that fit into a few megabytes."""
    block: list[list[str]] = []
    letters = 0
    for row in rows:
        block.append(row)
        letters += sum(map(len, row))
        if len(block) == _ROWS or letters > _LETTERS:
            yield block
            block, letters = [], 0
    if block:
        yield block


def _refuse_undecoded(source: Source, number: int, header: list[str], fields: list[str]) -> None:
    for place, value in enumerate(fields):
        problem = undecoded(value, source.text.encoding)
        if problem is not None and number == 0:
            raise DataError(f"{file_place(source.path)}, header: {problem}.")
        if problem is not None:
            column = header[place] if place < len(header) else None
            raise DataError(f"{row_place(source.path, number, column)}: {problem}.")


def _refuse_quotes(source: Source, row: int, error: str) -> NoReturn:
    place = row_place(source.path, row) if row > 0 else f"{file_place(source.path)}, header"
    problem = "is never closed" if "end of data" in error else "is closed in the middle of the field"
    raise DataError(
        f"{place}: a double quote that opens a field {problem}; write a quote inside a field twice and "
        "put the field in double quotes."
    ) from None


def _refuse_ragged(source: Source, ragged: list[tuple[int, int, str]], width: int) -> NoReturn:
    """Raise DataError about rows, each with its number of fields; the first with its content."""
    row, fields, content = ragged[0]
    others = [row - 1 for row, _, _ in ragged[1:]]
    more = f" Also ragged: {numbered(others)}." if others else ""
    raise DataError(
        f"{row_place(source.path, row)}: {fields} fields where the header has {width} ({excerpt(content)}); put a "
        f"field that holds {_NAMES[source.delimiter]}, a quote or a line end in double quotes.{more}"
    )


def _delimiter(source: Source, usual: str) -> str:
    """Return what delimits the first rows: what gives each as many fields as the header, at least two."""
    first = next(lines_of(source.path, source.text), "")
    said = _SEPARATOR.match(first)
    if said is not None and said[1] in DELIMITERS:
        return said[1]
    widths: dict[str, list[int]] = {}
    for delimiter in (usual, *DELIMITERS):
        found = widths.setdefault(delimiter, [])
        if not found:
            try:
                found.extend(map(len, itertools.islice(_rows(replace(source, delimiter=delimiter)), _SNIFFED)))
            except csv.Error:
                found[1:] = [0]
    several = [delimiter for delimiter, found in widths.items() if found and found[0] > 1]
    even = [delimiter for delimiter in several if len(set(widths[delimiter])) == 1]
    if usual in even or not several:
        return usual
    if usual in several and not even:
        return usual
    if len(even) > 1:
        raise DataError(
            f"{file_place(source.path)}: {' and '.join(_NAMES[d] for d in even)} may each separate the columns; say "
            "which with --delimiter."
        )
    return (even or several)[0]


@contextmanager
def _long_fields() -> Iterator[None]:
    """Lift the csv module's limit on the length of a field."""
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)
