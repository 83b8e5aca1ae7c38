"""Read words with tags: a word and its tag on each line of a .conll, .txt or .tsv file, or lists of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from steadytune.errors import DataError
from steadytune.support.text import excerpt, listing
from steadytune.tasks.files import json_lines, parquet
from steadytune.tasks.files.columns import Columns, check_columns, column_names, first_true
from steadytune.tasks.files.places import file_place, no_rows, row_place
from steadytune.tasks.files.sources import Source, text_buffer
from steadytune.tasks.task import LABEL, TOKENS, Head

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from pyarrow import Buffer, Table

#: Names of the column of tags, the first that is there.
TAG_COLUMNS = ("tags", "ner_tags", "pos_tags", "upos", LABEL)
OUTSIDE = "O"
_UNIT_SEPARATOR = "\x1f"  # never in a text file; Arrow then reads a line as one column
_DOCUMENT = "-DOCSTART-"
_BLOCK_BYTES = 1 << 22
_LARGEST_BLOCK_BYTES = (1 << 31) - 1


class TagReader:
    """Sentences of words with one tag each.

    In text files a blank line ends a sentence; the word is the first field of a line, the tag the last, delimited by
    tabs where the first line has one, else by white space. Lines of comments are not known; `-DOCSTART-` is no
    sentence. In json lines and parquet files the columns are lists. Tags that mark entities (`O`, `B-PER`) are put in
    the order O, then B and I of each kind, both even where one does not occur; others are sorted.
    """

    head: Head = "token_classification"

    def __init__(self, source: Source, text_column: str | None, label_column: str | None) -> None:
        names = column_names(source) if source.format in ("json lines", "parquet") else []
        tags = next((name for name in TAG_COLUMNS if name in names), TAG_COLUMNS[0])
        self.columns = Columns(text_column or TOKENS, None, label_column or tags)
        self.label_names: tuple[str, ...] | None = None
        self.reason = "it has words with tags"

    def check(self, source: Source) -> None:
        """See `FileReader`."""
        if source.format in ("json lines", "parquet"):
            check_columns(source, self.columns)
        elif source.format not in ("conll", "tsv"):
            raise DataError(
                f"{file_place(source.path)}: words with tags are read from .conll, .txt and .tsv (a word and its tag "
                "on each line), .jsonl and .parquet (lists)."
            )

    def read(self, source: Source) -> Table:
        """See `FileReader`."""
        import numpy as np
        import pyarrow as pa
        from pyarrow import compute

        if source.format in ("conll", "tsv"):
            words, tags, lengths = _read_lines(source)
        else:
            words, tags, lengths = self._read_lists(source)
        if len(lengths) == 0:
            raise no_rows(source.path)
        if self.label_names is None:
            self.label_names = tag_names(compute.unique(tags).to_pylist())  # pyright: ignore
            if len(self.label_names) < 2:
                place = file_place(source.path)
                raise DataError(
                    f"{place}: every word has the tag {listing(list(self.label_names))}; nothing to learn."
                )
        index = self._encode(source, tags, lengths)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        columns = {
            TOKENS: pa.ListArray.from_arrays(offsets, words),
            LABEL: pa.ListArray.from_arrays(offsets, pa.array(index)),
        }
        return pa.table(columns)

    def _encode(self, source: Source, tags: Any, lengths: np.ndarray) -> np.ndarray:
        import numpy as np
        import pyarrow as pa
        from pyarrow import compute

        arrow: Any = compute
        names = list(self.label_names or ())
        index = arrow.index_in(tags, value_set=pa.array(names, pa.string()))
        unseen = first_true(arrow.is_null(index)) if index.null_count else None
        if unseen is not None:
            row = int(np.searchsorted(np.cumsum(lengths), unseen, side="right"))
            raise DataError(
                f"{_sentence_place(source, row, self.columns.label)}: the tag {excerpt(tags[unseen])} was never seen "
                f"in training, where the tags are {listing(names)}."
            )
        return np.asarray(index).astype(np.int64)

    def _read_lists(self, source: Source) -> tuple[Any, Any, np.ndarray]:
        """Return words and tags, one after the other, and how many each row has."""
        import numpy as np
        import pyarrow as pa
        from pyarrow import compute

        arrow: Any = compute
        names = (self.columns.text, self.columns.label)
        if source.format == "parquet":
            table = parquet.read_raw(source, names)
        else:
            kinds = (pa.list_(pa.string()), pa.list_(pa.int64()))
            schemas = [pa.schema([(names[0], kinds[0]), (names[1], kind)]) for kind in kinds]
            table = json_lines.read_schema(source, schemas, self._checker(source))
        columns = [self._lists(source, name, table.column(name)) for name in names]
        lengths = [np.asarray(arrow.list_value_length(column)) for column in columns]
        row = first_true(lengths[0] != lengths[1])
        if row is not None:
            counts = f"{lengths[0][row]} words but {lengths[1][row]} tags"
            raise DataError(f"{row_place(source.path, row + 1, names[1])}: {counts}; give one tag for each word.")
        row = first_true(lengths[0] == 0)
        if row is not None:
            raise DataError(f"{row_place(source.path, row + 1, names[0])}: no words; fill them in or remove the row.")
        words, tags = (column.flatten() for column in columns)
        for name, values in zip(names, (words, tags), strict=True):
            entry = first_true(arrow.fill_null(arrow.equal(arrow.utf8_trim_whitespace(values), ""), True))
            if entry is not None:
                row = int(np.searchsorted(np.cumsum(lengths[0]), entry, side="right"))
                what = "a word" if name == names[0] else "a tag"
                raise DataError(f"{row_place(source.path, row + 1, name)}: {what} is empty or missing.")
        return words, tags, lengths[0]

    def _lists(self, source: Source, name: str, column: Any) -> Any:
        """Return a column as one array of lists of strings."""
        import pyarrow as pa

        kind = column.type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise DataError(f"{row_place(source.path, 1, name)} and all others: {excerpt(kind)}, not a list.")
        if column.null_count:
            row = first_true(column.is_null()) or 0
            raise DataError(f"{row_place(source.path, row + 1, name)}: the list is missing.")
        try:
            return column.combine_chunks().cast(pa.list_(pa.string()))
        except pa.ArrowException:
            raise DataError(
                f"{row_place(source.path, 1, name)} and all others: lists of {excerpt(kind.value_type)}, not of text."
            ) from None

    def _checker(self, source: Source) -> Any:
        def check(row: int, values: Mapping[str, Any]) -> None:
            for name in (self.columns.text, self.columns.label):
                value = values.get(name)
                place = row_place(source.path, row, name)
                if not isinstance(value, list) or json_lines.kind_of(value) != "a list":
                    raise DataError(f"{place}: {json_lines.kind_of(value)} where a list is needed.")
                kinds = {json_lines.kind_of(entry) for entry in value}
                if kinds - {"a string"} and (name == self.columns.text or kinds - {"a number"}):
                    raise DataError(f"{place}: the list holds {', '.join(sorted(kinds))}; give strings.")

        return check


def tag_names(tags: list[str]) -> tuple[str, ...]:
    """Return tags in the order of their indices: entities as O, then B and I of each kind, others sorted.

    >>> tag_names(["B-PER", "O"])
    ('O', 'B-PER', 'I-PER')
    """
    prefixes = {tag[:2] for tag in tags if tag != OUTSIDE}
    if OUTSIDE in tags and prefixes <= {"B-", "I-"}:
        kinds = sorted({tag[2:] for tag in tags if tag != OUTSIDE})
        return (OUTSIDE, *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI"))
    whole = all(tag.isdigit() for tag in tags)
    return tuple(sorted(tags, key=(lambda tag: (int(tag), tag)) if whole else None))


def _read_lines(source: Source) -> tuple[Any, Any, np.ndarray]:
    """Return words and tags, one after the other, and how many each sentence has."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import compute

    arrow: Any = compute
    buffer = text_buffer(source, lambda prefix: _line_place(source, prefix.count("\n")))
    chunks = _lines(source, buffer)
    del buffer  # its pages would stay in memory beside the words
    chunks.reverse()
    before, ended = 0, 0  # lines, and of them those that end a sentence
    tabs: bool | None = None
    words, tags, sentences = [], [], []
    while chunks:  # each is let go once it is read
        lines = chunks.pop()
        blank = np.asarray(arrow.equal(arrow.utf8_trim_whitespace(lines), ""))
        blank |= np.asarray(arrow.starts_with(lines, _DOCUMENT))
        numbers = np.flatnonzero(~blank)
        if len(numbers):
            tabs = "\t" in lines[numbers[0]].as_py() if tabs is None else tabs
            fields = _fields(source, lines.take(pa.array(numbers)), tabs, before + numbers)
            for part, field in zip((words, tags), fields, strict=True):
                part.append(arrow.utf8_trim_whitespace(field))
            # the words between two blank lines share a number
            sentences.append((ended + np.cumsum(blank)[numbers]).astype(np.int32))
        before, ended = before + len(lines), ended + int(blank.sum())
    if not words:
        raise no_rows(source.path)
    lengths = np.unique(np.concatenate(sentences), return_counts=True)[1]
    return pa.concat_arrays(words), pa.concat_arrays(tags), lengths


def _fields(source: Source, lines: Any, tabs: bool, numbers: np.ndarray) -> tuple[Any, Any]:
    """Return word and tag of each line; `numbers` are the lines' own, from 0."""
    import numpy as np
    from pyarrow import compute

    arrow: Any = compute
    pattern = (
        r"^(?P<word>[^\t]*[^\t ][^\t]*)\t(?:.*\t)?(?P<tag>[^\t]+)$"
        if tabs
        else r"^ *(?P<word>\S+)\s(?:.*\s)?(?P<tag>\S+)\s*$"
    )
    fields = arrow.extract_regex(lines, pattern)
    faulty = first_true(np.asarray(arrow.is_null(fields)))
    if faulty is not None:
        _refuse_line(source, int(numbers[faulty]), lines[faulty].as_py(), tabs)
    return fields.field(0), fields.field(1)


def _lines(source: Source, buffer: Buffer) -> list[Any]:
    """Return the lines of a text file as arrays of strings."""
    import pyarrow as pa
    from pyarrow import csv

    for block in (_BLOCK_BYTES, min(buffer.size + 1, _LARGEST_BLOCK_BYTES)):
        try:
            table = csv.read_csv(
                pa.BufferReader(buffer),
                read_options=csv.ReadOptions(column_names=["line"], block_size=block),
                parse_options=csv.ParseOptions(delimiter=_UNIT_SEPARATOR, quote_char=False, ignore_empty_lines=False),
                convert_options=csv.ConvertOptions(column_types={"line": pa.string()}, strings_can_be_null=False),
            )
            return table.column("line").chunks
        except pa.ArrowInvalid as arrow_error:
            error = arrow_error
    raise DataError(f"{file_place(source.path)}: not readable as lines ({excerpt(error)}).")


def _refuse_line(source: Source, line: int, text: str, tabs: bool) -> NoReturn:
    delimiter = "a tab" if tabs else "white space"
    hint = " Rename a file of rows with a header to .csv or .tsv." if source.path.suffix.lower() == ".txt" else ""
    raise DataError(
        f"{_line_place(source, line)}: {excerpt(text)} is not a word, {delimiter} and a tag; "
        f"an empty line ends a sentence.{hint}"
    )


def _line_place(source: Source, lines_before: int) -> str:
    return f"{file_place(source.path)}, line {lines_before + 1}"


def _sentence_place(source: Source, row: int, column: str) -> str:
    if source.format in ("conll", "tsv"):
        return f"{file_place(source.path)}, sentence {row + 1}"
    return row_place(source.path, row + 1, column)
