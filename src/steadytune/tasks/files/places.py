"""Say where in the user's data something is wrong: file, data row, column, and the offending value made harmless."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from steadytune.errors import DataError
from steadytune.support.text import excerpt

MOST_ROWS = 10


def file_place(path: Path) -> str:
    """Return the path as it opens every message about the file."""
    return repr(str(path))


def row_place(path: Path, row: int, column: str | None = None) -> str:
    """Return file, data row (from 1) and column as they open a message about one cell.

    >>> row_place(Path("train.csv"), 3, "label")
    "'train.csv', data row 3 (counted from 1 after any header), column 'label'"
    """
    place = f"{file_place(path)}, data row {row} (counted from 1 after any header)"
    return place if column is None else f"{place}, column {excerpt(column)}"


def numbered(rows: Iterable[int]) -> str:
    """Name data rows by their indices from 0, counted from 1: at most 10 of them.

    >>> numbered([17]), numbered([17, 87, 202])
    ('data row 18', 'data rows 18, 88, 203')
    >>> numbered(range(12))
    'data rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more'
    """
    found = [int(row) + 1 for row in rows]
    rest = len(found) - MOST_ROWS
    more = f" and {rest:,} more" if rest > 0 else ""
    return f"data row{'s' * (len(found) > 1)} {', '.join(map(str, found[:MOST_ROWS]))}{more}"


def no_rows(path: Path) -> DataError:
    """Return the error about a file that has columns but no rows."""
    return DataError(f"{file_place(path)}: the file has columns but no rows; give at least one row.")
