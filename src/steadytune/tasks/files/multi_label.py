"""Read rows with any number of labels: names with a delimiter in csv and tsv, lists in json lines and parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steadytune.errors import DataError
from steadytune.support.text import excerpt, listing
from steadytune.tasks.files.columns import Columns, check_columns, first_true, read_columns
from steadytune.tasks.files.places import file_place, row_place
from steadytune.tasks.files.sources import Source
from steadytune.tasks.task import LABEL, TEXT, TEXT_PAIR, Head

if TYPE_CHECKING:
    import numpy as np
    from pyarrow import ChunkedArray, Table

DELIMITERS = ("|", ";", ",")
_ROWS_AT_ONCE = 1 << 16


class MultiLabelReader:
    """Texts or pairs with a set of labels each, which may be empty.

    In a column of strings the labels are separated by `|`, else `;`, else `,`: the first of them that occurs in the
    training labels; an empty string is no label. Numbers stand for labels as names do. Labels are sorted by name, or
    by number.
    """

    head: Head = "multi_label"

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.label_names: tuple[str, ...] | None = None
        self.delimiter: str | None = None
        self.reason = "multi-label was asked for"

    def check(self, source: Source) -> None:
        """See `FileReader`."""
        check_columns(source, self.columns)

    def read(self, source: Source) -> Table:
        """See `FileReader`."""
        import pyarrow as pa

        raw = read_columns(source, self.columns, lists=True)
        column = raw.column(LABEL)
        blocks = range(0, len(column), _ROWS_AT_ONCE)
        if self.label_names is None:
            self.delimiter = _delimiter(column)
            self.label_names = self._decide(
                source, {name for b in blocks for name in self._distinct(source, column, b)}
            )
        labels = pa.chunked_array([self._encode(source, *self._names(source, column, b), b) for b in blocks])
        texts = [name for name in (TEXT, TEXT_PAIR) if name in raw.column_names]
        return raw.select(texts).append_column(LABEL, labels)

    def _distinct(self, source: Source, column: ChunkedArray, start: int) -> list[str]:
        from pyarrow import compute

        return compute.unique(self._names(source, column, start)[0]).to_pylist()  # pyright: ignore

    def _names(self, source: Source, column: ChunkedArray, start: int) -> tuple[Any, np.ndarray]:
        """Return the labels of a block of rows one after the other, and how many each row has."""
        import numpy as np
        import pyarrow as pa
        from pyarrow import compute

        arrow: Any = compute
        values: Any = column.slice(start, _ROWS_AT_ONCE).combine_chunks()
        row = first_true(arrow.is_null(values)) if values.null_count else None
        if row is not None:
            self._refuse(source, start + row, "the labels are missing; give them, or none as an empty list or string")
        if not pa.types.is_list(values.type):
            values = self._split(values.cast(pa.string()))
        lengths = np.asarray(arrow.list_value_length(values))
        names = arrow.utf8_trim_whitespace(values.flatten().cast(pa.string()))
        empty = first_true(arrow.equal(names, "").fill_null(True))
        if empty is not None:
            self._refuse(source, start + _row_of(lengths, empty), "one of the labels is empty or missing")
        return names, lengths

    def _split(self, values: Any) -> Any:
        """Return lists of names from strings; an empty string is an empty list."""
        import pyarrow as pa
        from pyarrow import compute

        arrow: Any = compute
        text = arrow.utf8_trim_whitespace(values)
        lists = arrow.split_pattern(text, self.delimiter)
        return arrow.if_else(arrow.equal(text, ""), pa.scalar([], type=lists.type), lists)

    def _decide(self, source: Source, distinct: set[str]) -> tuple[str, ...]:
        if not distinct:
            place = f"{file_place(source.path)}, column {excerpt(self.columns.label)}"
            raise DataError(f"{place}: no row has a label, so there is nothing to learn.")
        whole = all(name.lstrip("-").isdigit() for name in distinct)
        return tuple(sorted(distinct, key=(lambda name: (int(name), name)) if whole else None))

    def _encode(self, source: Source, names: Any, lengths: np.ndarray, start: int) -> Any:
        """Return a list of 0 and 1 for each row of a block."""
        import numpy as np
        import pyarrow as pa
        from pyarrow import compute

        arrow: Any = compute
        assert self.label_names is not None
        index = arrow.index_in(names, value_set=pa.array(self.label_names, pa.string()))
        unseen = first_true(arrow.is_null(index)) if index.null_count else None
        if unseen is not None:
            self._refuse(
                source,
                start + _row_of(lengths, unseen),
                f"the label {excerpt(names[unseen])} was never seen in training, where the labels are "
                f"{listing(list(self.label_names))}",
            )
        labels = np.zeros((len(lengths), len(self.label_names)), dtype=np.int8)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        np.add.at(labels, (rows, np.asarray(index)), 1)
        twice = first_true(labels.max(axis=1, initial=0) > 1)
        if twice is not None:
            name = self.label_names[int(labels[twice].argmax())]
            self._refuse(source, start + twice, f"the label {excerpt(name)} occurs twice in the row")
        offsets = np.arange(len(lengths) + 1, dtype=np.int32) * len(self.label_names)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(labels.ravel()))

    def _refuse(self, source: Source, row: int, problem: str) -> None:
        raise DataError(f"{row_place(source.path, row + 1, self.columns.label)}: {problem}.")


def _delimiter(column: ChunkedArray) -> str:
    """Return what separates the labels where they are strings."""
    import pyarrow as pa
    from pyarrow import compute

    arrow: Any = compute
    if not pa.types.is_string(column.type):
        return DELIMITERS[0]
    found = (d for d in DELIMITERS if arrow.any(arrow.match_substring(column, d)).as_py())
    return next(found, DELIMITERS[0])


def _row_of(lengths: np.ndarray, entry: int) -> int:
    """Return the row that holds an entry of the flattened lists."""
    import numpy as np

    return int(np.searchsorted(np.cumsum(lengths), entry, side="right"))
