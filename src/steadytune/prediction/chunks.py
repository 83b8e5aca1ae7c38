"""Read rows piece by piece, every column in its order, so that memory does not grow with the file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from steadytune.errors import DataError
from steadytune.support.text_files import lines_of, undecoded
from steadytune.tasks.files.formats.format import Source
from steadytune.tasks.files.formats.parquet import Parquet, batches

#: Most rows and most characters of a chunk.
ROWS, CHARACTERS = 2048, 1 << 23

Row = dict[str, Any]


@dataclass(frozen=True)
class RowFile:
    """A file of rows and how it is read.

    Attributes:
        source: the file with its format.
        text_column: for a file with one text on each line: name of its only column; empty for other files.
    """

    source: Source
    text_column: str = ""


@dataclass
class Chunk:
    """Some rows of a file, in their order.

    Attributes:
        first: number of the first row, from 1.
        rows: values by column.
        batch: the same rows as Arrow has them, where the file is parquet.
    """

    first: int
    rows: list[Row] = field(default_factory=list)
    batch: Any = None

    def column(self, name: str) -> list[Any]:
        """The values of a column, ``None`` where a row has none."""
        return [row.get(name) for row in self.rows]


def read_chunks(file: RowFile, rows: int = ROWS) -> Iterator[Chunk]:
    """Yield the rows of a file, some at a time.

    Raises:
        DataError: the file cannot be read, or a row of it is damaged; the message names the row.
    """
    if file.text_column:
        yield from in_chunks(_lines(file), rows)
    elif isinstance(file.source.format, Parquet):
        first = 1
        for batch in batches(file.source, rows):
            yield Chunk(first, batch.to_pylist(), batch)
            first += batch.num_rows
    else:
        yield from in_chunks(file.source.format.rows(file.source), rows)


def in_chunks(rows: Iterable[Row], most: int = ROWS) -> Iterator[Chunk]:
    """Yield rows, some at a time.

    >>> [(chunk.first, len(chunk.rows)) for chunk in in_chunks(({"text": "a"} for _ in range(5)), 2)]
    [(1, 2), (3, 2), (5, 1)]
    """
    chunk, characters = Chunk(1), 0
    for row in rows:
        chunk.rows.append(row)
        characters += sum(len(value) for value in row.values() if isinstance(value, str | list))
        if len(chunk.rows) >= most or characters >= CHARACTERS:
            yield chunk
            chunk, characters = Chunk(chunk.first + len(chunk.rows)), 0
    if chunk.rows:
        yield chunk


def _lines(file: RowFile) -> Iterator[Row]:
    source = file.source
    for number, line in enumerate(lines_of(source.path, source.text), start=1):
        problem = undecoded(line, source.text.encoding) if source.text.is_faulty else None
        if problem is not None:
            raise DataError(f"{source.place(number)}: {problem}.")
        yield {file.text_column: line.rstrip("\r\n")}
