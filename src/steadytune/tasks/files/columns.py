"""Find the columns of the user's files and read them as text, text_pair and label, refusing rows without text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steadytune.errors import DataError, SettingsError, did_you_mean
from steadytune.support.text import excerpt, listing
from steadytune.tasks.files import delimited, json_lines, parquet
from steadytune.tasks.files.faulty_cells import FaultyCells
from steadytune.tasks.files.places import file_place, no_rows
from steadytune.tasks.files.sources import Source
from steadytune.tasks.task import LABEL, TEXT, TEXT_PAIR

if TYPE_CHECKING:
    from pyarrow import ChunkedArray, Table


@dataclass(frozen=True)
class Columns:
    """The names of the columns in the user's files."""

    text: str
    text_pair: str | None
    label: str

    @property
    def texts(self) -> tuple[str, ...]:
        """The text columns: one, or two for pairs."""
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)


def choose_columns(
    source: Source, text_column: str | None, text_pair_column: str | None, label_column: str | None
) -> Columns:
    """Return the columns to read: the given ones, else `text`, `text_pair` where there is one, and `label`.

    Raises DataError when the source lacks one of them, SettingsError when one column is asked to be two things.
    """
    if text_pair_column is None and TEXT_PAIR in column_names(source) and text_column in (None, TEXT):
        text_pair_column = TEXT_PAIR
    columns = Columns(text_column or TEXT, text_pair_column, label_column or LABEL)
    check_columns(source, columns)
    return columns


def check_columns(source: Source, columns: Columns) -> None:
    """Raise DataError when the source lacks one of the columns or has it twice."""
    chosen = [*columns.texts, columns.label]
    for name, times in Counter(chosen).items():
        if times > 1:
            raise SettingsError(f"the column {excerpt(name)} is asked to be two things; name different columns.")
    found = column_names(source)
    for name, times in Counter(found).items():
        if times > 1:
            raise DataError(
                f"{file_place(source.path)}: the column {excerpt(name)} occurs {times} times; "
                "give each column its own name."
            )
    wanted = {"--text-column": columns.text, "--text-pair-column": columns.text_pair, "--label-column": columns.label}
    for option, name in wanted.items():
        if name is None or name in found:
            continue
        raise DataError(
            f"{file_place(source.path)}: no column {excerpt(name)}; found are {listing(found)}.{_near(name, found)}"
            f"{_other_delimiter(source, found)} Name the column with {option}."
        )


def read_columns(source: Source, columns: Columns, *, lists: bool = False, faults: FaultyCells | None = None) -> Table:
    """Return the rows of a source: `text`, `text_pair` for pairs, and `label` as it is in the file.

    With `lists` a label may be a list.

    Raises DataError naming file, rows and column for rows without text, and for a file without rows. With `faults` the
    rows without text are only added to it.
    """
    table = _read(source, columns, lists)
    if table.num_rows == 0:
        raise no_rows(source.path)
    found = faults or FaultyCells(source)
    for name in columns.texts:
        find_unfilled(found, name, table.column(name))
    if faults is None:
        found.refuse()
    names = {columns.text: TEXT, columns.label: LABEL, columns.text_pair: TEXT_PAIR}
    return table.rename_columns([names[name] for name in table.column_names])


def read_texts(source: Source, names: Sequence[str]) -> Table:
    """Return the named columns of texts; raises DataError as `read_columns` does."""
    if source.format == "parquet":
        table = parquet.read(source, names, None)
    elif source.format == "json lines":
        table = json_lines.read(source, names, None)
    else:
        table = delimited.read(source, names)
    if table.num_rows == 0:
        raise no_rows(source.path)
    check_filled(source, names, table)
    return table


def first_true(mask: Any) -> int | None:
    """Return the index of the first true value of a boolean array of numpy or Arrow, or None.

    >>> import numpy
    >>> first_true(numpy.array([False, True]))
    1
    """
    import numpy as np

    rows = np.flatnonzero(np.asarray(mask))
    return int(rows[0]) if len(rows) else None


def column_names(source: Source) -> list[str]:
    """Return the names of a source's columns; a file of words and tags has none."""
    if source.format == "conll":
        return []
    if source.format == "parquet":
        return parquet.column_names(source)
    if source.format == "json lines":
        return json_lines.column_names(source)
    return delimited.column_names(source)


def _read(source: Source, columns: Columns, lists: bool) -> Table:
    if source.format == "parquet":
        return parquet.read(source, columns.texts, columns.label, lists=lists)
    if source.format == "json lines":
        return json_lines.read(source, columns.texts, columns.label, lists=lists)
    return delimited.read(source, [*columns.texts, columns.label])


def _near(name: str, found: list[str]) -> str:
    """Return a did-you-mean sentence, its name made harmless."""
    if not did_you_mean(name, found):
        return ""
    near = next(candidate for candidate in found if did_you_mean(name, [candidate]) == did_you_mean(name, found))
    return f" Did you mean {excerpt(near)}?"


def _other_delimiter(source: Source, found: list[str]) -> str:
    """Return a hint when the header of a csv or tsv file looks delimited by something else."""
    if source.format not in ("csv", "tsv") or len(found) != 1:
        return ""
    for delimiter, advice in ((";", "write commas"), ("\t", "rename it to end in .tsv"), (",", "rename it to .csv")):
        if delimiter in found[0]:
            return f" The fields seem to be delimited by {delimiter!r}: {advice}."
    return ""


def check_filled(source: Source, names: Sequence[str], table: Table) -> None:
    """Raise DataError for texts of these columns that are null, empty or only white space, all at once."""
    faults = FaultyCells(source)
    for name in names:
        find_unfilled(faults, name, table.column(name))
    faults.refuse()


def find_unfilled(faults: FaultyCells, name: str, column: ChunkedArray) -> None:
    """Add the texts that are null, empty or only white space."""
    from pyarrow import compute

    arrow: Any = compute
    remedy = "fill it in or remove the row"
    if column.null_count:
        faults.add(name, "text", "is missing", remedy, arrow.is_null(column))
        column = arrow.fill_null(column, "x")
    faults.add(name, "text", "is empty", remedy, arrow.equal(arrow.binary_length(column), 0))
    faults.add(name, "text", "is only white space", remedy, arrow.utf8_is_space(column))
