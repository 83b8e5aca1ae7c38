"""Read rows with any number of labels: names with a delimiter in csv and tsv, lists in json lines and parquet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steadytune.core.errors import DataError
from steadytune.tasks.columns import Columns, check_columns, first_true, read_columns
from steadytune.tasks.locations import excerpt, file_place, listing, row_place
from steadytune.tasks.sources import Source
from steadytune.tasks.task import LABEL, TEXT, TEXT_PAIR, Head

if TYPE_CHECKING:
    import numpy as np
    from pyarrow import ChunkedArray, Table

DELIMITERS = ("|", ";", ",")


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
        names, lengths = self._names(source, raw.column(LABEL))
        if self.label_names is None:
            self.label_names = self._decide(source, names)
        table = raw.drop_columns([LABEL])
        labels = self._encode(source, names, lengths)
        return table.select([n for n in (TEXT, TEXT_PAIR) if n in table.column_names]).append_column(
            LABEL, pa.chunked_array([labels])
        )

    def _names(self, source: Source, column: ChunkedArray) -> tuple[Any, np.ndarray]:
        """Return the labels of all rows one after the other, and how many each row has."""
        import numpy as np
        import pyarrow as pa
        from pyarrow import compute

        arrow: Any = compute
        row = first_true(arrow.is_null(column)) if column.null_count else None
        if row is not None:
            self._refuse(source, row, "the labels are missing; give them, or none as an empty list or string")
        if not pa.types.is_list(column.type):
            column = self._split(column.cast(pa.string()))
        lists = column.combine_chunks()
        lengths = np.asarray(arrow.list_value_length(lists))
        names = arrow.utf8_trim_whitespace(lists.flatten().cast(pa.string()))
        empty = first_true(arrow.equal(names, "").fill_null(True))
        if empty is not None:
            self._refuse(source, _row_of(lengths, empty), "one of the labels is empty or missing")
        return names, lengths

    def _split(self, column: ChunkedArray) -> ChunkedArray:
        """Return lists of names from strings; an empty string is an empty list."""
        import pyarrow as pa
        from pyarrow import compute

        arrow: Any = compute
        text = arrow.utf8_trim_whitespace(column).combine_chunks()
        if self.delimiter is None:
            found = (d for d in DELIMITERS if arrow.any(arrow.match_substring(text, d)).as_py())
            self.delimiter = next(found, DELIMITERS[0])
        lists = arrow.split_pattern(text, self.delimiter)
        none = pa.scalar([], type=lists.type)
        return pa.chunked_array([arrow.if_else(arrow.equal(text, ""), none, lists)])

    def _decide(self, source: Source, names: Any) -> tuple[str, ...]:
        from pyarrow import compute

        distinct = compute.unique(names).to_pylist()  # pyright: ignore
        if not distinct:
            place = f"{file_place(source.path)}, column {excerpt(self.columns.label)}"
            raise DataError(f"{place}: no row has a label, so there is nothing to learn.")
        whole = all(name.lstrip("-").isdigit() for name in distinct)
        return tuple(sorted(distinct, key=(lambda name: (int(name), name)) if whole else None))

    def _encode(self, source: Source, names: Any, lengths: np.ndarray) -> Any:
        """Return a list of 0 and 1 for each row."""
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
                _row_of(lengths, unseen),
                f"the label {excerpt(names[unseen])} was never seen in training, where the labels are "
                f"{listing(list(self.label_names))}",
            )
        labels = np.zeros((len(lengths), len(self.label_names)), dtype=np.int8)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        np.add.at(labels, (rows, np.asarray(index)), 1)
        twice = first_true(labels.max(axis=1, initial=0) > 1)
        if twice is not None:
            name = self.label_names[int(labels[twice].argmax())]
            self._refuse(source, twice, f"the label {excerpt(name)} occurs twice in the row")
        offsets = np.arange(len(lengths) + 1, dtype=np.int64) * len(self.label_names)
        return pa.LargeListArray.from_arrays(offsets, pa.array(labels.ravel())).cast(pa.list_(pa.int8()))

    def _refuse(self, source: Source, row: int, problem: str) -> None:
        raise DataError(f"{row_place(source.path, row + 1, self.columns.label)}: {problem}.")


def _row_of(lengths: np.ndarray, entry: int) -> int:
    """Return the row that holds an entry of the flattened lists."""
    import numpy as np

    return int(np.searchsorted(np.cumsum(lengths), entry, side="right"))
