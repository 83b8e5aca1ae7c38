"""What a format of data files is: how a file is recognized, which columns it has, and how its rows are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from steadytune.errors import DataError
from steadytune.support.text_files import MARKS, Text, text_of
from steadytune.tasks.files.places import file_place, row_place

if TYPE_CHECKING:
    from pyarrow import Table

DELIMITERS = (",", ";", "\t", "|")

#: What a column is read as: strings; one label a row; any number of labels a row; lists of words; lists of tags;
#: answers with their places; identifiers.
Kind = Literal["text", "label", "labels", "words", "tags", "answers", "identifier"]
#: What a file holds: rows with named columns; a word and its tag on each line; questions in SQuAD's own nesting.
Layout = Literal["table", "sentences", "questions"]


@dataclass(frozen=True)
class Wanted:
    """A column to read, by its name in the file, and what it must hold."""

    name: str
    kind: Kind = "text"


@dataclass(frozen=True)
class Given:
    """A file that is to be opened: where it is, how it begins, and what is known of it; None is to be found out."""

    path: Path
    head: bytes
    compressed: bool
    delimiter: str | None
    encoding: str | None


@dataclass(frozen=True)
class Source:
    """A data file that exists, can be read and looks like the format its extension names.

    `text` says how the bytes become text, `delimiter` separates the columns of delimited files, and `notes` are
    sentences on what was assumed.
    """

    path: Path
    format: Format
    text: Text
    delimiter: str = ","
    notes: tuple[str, ...] = ()

    def place(self, row: int, column: str | None = None) -> str:
        """Name a row, counted from 1, as messages begin."""
        return self.format.place(self.path, row) or row_place(self.path, row, column)


class Format(ABC):
    """One format; a module of this package offers its formats as `FORMATS`."""

    name: ClassVar[str]
    extensions: ClassVar[tuple[str, ...]]
    layout: ClassVar[Layout] = "table"
    #: Place among the formats where messages list them.
    order: ClassVar[int]
    #: Whether lists of words and of tags may be in its cells.
    has_lists: ClassVar[bool] = True
    #: Whether the columns have names.
    has_header: ClassVar[bool] = True

    def looks_like(self, head: bytes) -> bool:  # noqa: ARG002
        """Whether the first bytes are of this format rather than of another one with the same extension."""
        return True

    @abstractmethod
    def open(self, given: Given) -> Source:
        """Return the source of a file; raises DataError where the content is of another format."""

    @abstractmethod
    def header(self, source: Source) -> list[str]:
        """Return the names of the columns."""

    @abstractmethod
    def sample(self, source: Source, names: Sequence[str], rows: int) -> list[list[Any]]:
        """Return the values of some columns in the first rows, column by column."""

    @abstractmethod
    def read(self, source: Source, columns: Sequence[Wanted]) -> Table:
        """Return the columns as an Arrow table; raises DataError naming file, row and column."""

    @abstractmethod
    def rows(self, source: Source) -> Iterator[dict[str, Any]]:
        """Yield every row with all its columns, one after the other, so that memory does not grow with the file.

        Raises DataError naming the row that cannot be read.
        """

    def place(self, path: Path, row: int) -> str | None:  # noqa: ARG002
        """Name a row where its number is not that of a data row."""
        return None


def refuse_other_content(path: Path, head: bytes, name: str, *, is_json: bool = False) -> None:
    """Raise DataError where a text file holds something else."""
    place = f"{file_place(path)}: the content is not {name}"
    if head.startswith(b"PAR1"):
        raise DataError(f"{place} but parquet; rename the file to end in .parquet.")
    if head.startswith(b"PK\x03\x04"):
        raise DataError(f"{place}: the file is a zip archive or a spreadsheet; unpack it, or rename it to .xlsx.")
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        raise DataError(f"{place}: the file is an old spreadsheet (.xls); save it as .xlsx or .csv.")
    first = head.removeprefix(MARKS[0][0]).lstrip()
    if not is_json and first.startswith((b'{"', b'[{"')):
        ending = ".json" if first.startswith(b"[") else ".jsonl"
        raise DataError(f"{place} but JSON; rename the file to end in {ending}.")


def text_source(format_: Format, given: Given, *, is_json: bool = False) -> Source:
    """Return the source of a text file: how it is encoded, and the sentence that says so where it is not plain UTF-8.

    Raises DataError where the first bytes are of another format.
    """
    refuse_other_content(given.path, given.head, format_.name, is_json=is_json)
    text = text_of(given.path, given.compressed, given.encoding)
    return Source(given.path, format_, text, notes=(text.note,) if text.note else ())
