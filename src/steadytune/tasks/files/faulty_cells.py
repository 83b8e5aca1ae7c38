"""Collect the cells of one file that cannot be used, so that one error reports them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steadytune.errors import DataError
from steadytune.support.text import excerpt
from steadytune.tasks.files.formats.format import Source
from steadytune.tasks.files.places import file_place, numbered, row_place

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class _Fault:
    """One kind of fault in one column."""

    column: str
    what: str
    problem: str
    remedy: str
    rows: np.ndarray


class FaultyCells:
    """The cells of a file that cannot be used; nothing is raised until `refuse` is called."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._faults: list[_Fault] = []

    def add(self, column: str, what: str, problem: str, remedy: str, mask: Any) -> None:
        """Keep the rows where a boolean array of numpy or Arrow is true.

        Args:
            column: of the file.
            what: is in the column: text or label.
            problem: as in "the text is empty".
            remedy: for one row.
            mask: one value for each row.
        """
        import numpy as np

        rows = np.flatnonzero(np.asarray(mask))
        if len(rows):
            self._faults.append(_Fault(column, what, problem, remedy, rows))

    def refuse(self) -> None:
        """Raise DataError when there is any: one cell with its place, or the first rows of each kind."""
        import numpy as np

        if not self._faults:
            return
        rows = np.unique(np.concatenate([fault.rows for fault in self._faults]))
        first = self._faults[0]
        if len(rows) == 1:
            place = row_place(self.source.path, int(rows[0]) + 1, first.column)
            raise DataError(f"{place}: the {first.what} {first.problem}; {first.remedy}.")
        columns = []
        for column in dict.fromkeys(fault.column for fault in self._faults):
            kinds = [f"{f.problem} in {numbered(f.rows)}" for f in self._faults if f.column == column]
            columns.append(f"column {excerpt(column)} {' and '.join(kinds)}")
        raise DataError(
            f"{file_place(self.source.path)}: {len(rows):,} rows cannot be used (counted from 1 after any header): "
            f"{'; '.join(columns)}. Fill them in or remove these rows."
        )
