"""Read words with tags: a word and its tag on each line of a text file, or lists of both in the columns of a table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from steadytune.errors import DataError
from steadytune.heads.columns import LABEL, TOKENS
from steadytune.support.text import counted, excerpt, listing
from steadytune.tasks.files import headers
from steadytune.tasks.files.columns import Columns, check_columns, first_true, located
from steadytune.tasks.files.formats.format import Source, Wanted
from steadytune.tasks.files.formats.sentences import sentences
from steadytune.tasks.files.places import file_place, no_rows, row_place
from steadytune.tasks.task import Head

_arrow: Any = compute
#: Names of the column of tags.
TAG_COLUMNS = ("tags", "ner_tags", "pos_tags", "upos", LABEL, "labels", "ner", "pos", "tag")
OUTSIDE = "O"
_ENTITY = re.compile(r"O|[BI]-.+")
#: Entities in the longer schemes, which are scored by words and whole entities alike.
_LONGER = re.compile(r"O|[BIESLUM]-.+")
#: Entities written otherwise: `B_PER`, `PER-B`, `b-per`.
_OTHERWISE = re.compile(r"[BIESLU][_:./].+|.+[-_][BI]|[biesl][-_].+|o|0")


class TagReader:
    """Sentences of words with one tag each.

    In text files a blank line ends a sentence; the word is the first field of a line, the tag the last, delimited by
    tabs where the first line has one, else by white space. A line that begins a sentence with `#` alone is a comment;
    `-DOCSTART-` is no sentence. In tables the columns are lists. Tags that mark entities (`O`, `B-PER`) are put in the
    order O, then B and I of each kind, both even where one does not occur; others are sorted. The training tags decide
    which of the two they are, and a tag of the other kind among them is refused.
    """

    head: Head = "token_classification"

    def __init__(self, source: Source, text_column: str | None, label_column: str | None) -> None:
        self.notes: list[str] = []
        self.label_names: tuple[str, ...] | None = None
        self.reason = "it has words with tags"
        header = source.format.header(source) if not _has_lines(source) else []
        words = text_column or (headers.usual(header, headers.WORDS) or [TOKENS])[0]
        tags = label_column or self._tag_column(source, header)
        self.columns = Columns(words, None, tags)
        if tags not in TAG_COLUMNS[:2] and header:
            note = f"Columns of {file_place(source.path)}: words = {excerpt(words)}, tags = {excerpt(tags)}."
            self.notes.append(note)

    def _tag_column(self, source: Source, header: list[str]) -> str:
        found = headers.usual(header, TAG_COLUMNS)
        if TAG_COLUMNS[0] in found:
            return TAG_COLUMNS[0]
        if len(found) > 1:
            options = " or ".join(excerpt(name) for name in found)
            raise DataError(
                f"{file_place(source.path)}: which column holds the tags? Found are {listing(header)}. Give "
                f"--label-column {options}."
            )
        return found[0] if found else TAG_COLUMNS[0]

    def check(self, source: Source) -> None:
        """See `FileReader`."""
        if _has_lines(source):
            return
        if source.format.layout != "table" or not _has_columns(source, self.columns):
            raise DataError(
                f"{file_place(source.path)}: words with tags are read from .conll, .txt and .tsv (a word and its tag "
                "on each line), or from lists in columns 'tokens' and 'tags' (.jsonl, .json, .parquet, .csv)."
            )
        check_columns(source, self.columns)

    def read(self, source: Source) -> pa.Table:
        """See `FileReader`."""
        found = self._words(source)
        if len(found.lengths) == 0:
            raise no_rows(source.path)
        if self.label_names is None:
            self._decide(found)
        index = self._encode(found)
        offsets = pa.array(np.concatenate([[0], np.cumsum(found.lengths)]).astype(np.int32))
        columns = {
            TOKENS: pa.ListArray.from_arrays(offsets, found.words),
            LABEL: pa.ListArray.from_arrays(offsets, pa.array(index)),
        }
        return pa.table(columns)

    def _words(self, source: Source) -> _Tagged:
        if not _has_lines(source):
            return self._read_lists(source)
        lines = sentences(source)
        self.notes += filter(None, [lines.note(source)])
        return _Tagged(source, self.columns.label, lines.words, lines.tags, lines.lengths, lines.lines)

    def _decide(self, found: _Tagged) -> None:
        """Find out which tags there are and what they mark."""
        counts = {entry["values"]: entry["counts"] for entry in _arrow.value_counts(found.tags).to_pylist()}
        place = file_place(found.source.path)
        if len(counts) < 2:
            raise DataError(f"{place}: every word has the tag {listing(list(counts))}; nothing to learn.")
        _refuse_mixture(found, counts)
        self.label_names = tag_names(list(counts))
        self.notes += filter(None, [_scheme_note(place, list(counts))])

    def _encode(self, found: _Tagged) -> np.ndarray:
        names = list(self.label_names or ())
        index = _arrow.index_in(found.tags, value_set=pa.array(names, pa.string()))
        unseen = first_true(_arrow.is_null(index)) if index.null_count else None
        if unseen is not None:
            raise DataError(
                f"{found.place(unseen)}: the tag {excerpt(found.tags[unseen])} was never seen in training, where the "
                f"tags are {listing(names)}."
            )
        return np.asarray(index).astype(np.int64)

    def _read_lists(self, source: Source) -> _Tagged:
        """Return words and tags, one after the other, and how many each row has."""
        here = located(source, self.columns)
        names = (here.text, here.label)
        table = source.format.read(source, [Wanted(names[0], "words"), Wanted(names[1], "tags")])
        columns = [_lists(source, name, table.column(name)) for name in names]
        lengths = [np.asarray(_arrow.list_value_length(column)) for column in columns]
        row = first_true(lengths[0] != lengths[1])
        if row is not None:
            counts = f"{lengths[0][row]} words but {lengths[1][row]} tags"
            raise DataError(f"{row_place(source.path, row + 1, names[1])}: {counts}; give one tag for each word.")
        row = first_true(lengths[0] == 0)
        if row is not None:
            raise DataError(f"{row_place(source.path, row + 1, names[0])}: no words; fill them in or remove the row.")
        words, tags = (column.flatten() for column in columns)
        for name, values in zip(names, (words, tags), strict=True):
            entry = first_true(_arrow.fill_null(_arrow.equal(_arrow.utf8_trim_whitespace(values), ""), True))
            if entry is not None:
                row = int(np.searchsorted(np.cumsum(lengths[0]), entry, side="right"))
                what = "a word" if name == names[0] else "a tag"
                raise DataError(f"{row_place(source.path, row + 1, name)}: {what} is empty or missing.")
        return _Tagged(source, here.label, words, tags, lengths[0], None)


@dataclass(frozen=True)
class _Tagged:
    """Words and tags one after the other, how many each sentence has, and their lines where they stand on such."""

    source: Source
    column: str
    words: pa.Array
    tags: pa.Array
    lengths: np.ndarray
    lines: np.ndarray | None

    def place(self, word: int) -> str:
        """Say where a word stands."""
        row = int(np.searchsorted(np.cumsum(self.lengths), word, side="right"))
        if self.lines is None:
            return row_place(self.source.path, row + 1, self.column)
        return f"{file_place(self.source.path)}, line {self.lines[word]} (sentence {row + 1})"

    def first(self, tag: str) -> int:
        """Return the first word with a tag."""
        return first_true(_arrow.equal(self.tags, tag)) or 0


def _has_lines(source: Source) -> bool:
    """Whether a word stands on each line: in its own formats, and in .tsv files without columns of lists."""
    if source.format.layout == "sentences":
        return True
    return source.format.name == "tsv" and not headers.usual(source.format.header(source), headers.WORDS)


def _has_columns(source: Source, columns: Columns) -> bool:
    """Whether a table may have lists: json and parquet always, others where the column of words is there."""
    if source.format.name not in ("csv", "tsv", "xlsx"):
        return True
    return bool(headers.usual(source.format.header(source), (headers.plain_name(columns.text),)))


def _refuse_mixture(found: _Tagged, counts: Mapping[str, int]) -> None:
    """Raise DataError for tags that mark no entities where others do, naming the first line of one."""
    entities = [tag for tag in counts if _LONGER.fullmatch(tag)]
    odd = [tag for tag in counts if not _LONGER.fullmatch(tag)]
    marked = [tag for tag in entities if tag != OUTSIDE]
    if odd and marked:
        word = min(found.first(tag) for tag in odd)
        tag = found.tags[word].as_py()
        near = f" Did you mean {OUTSIDE!r}?" if tag in ("0", "o", "OO") else ""
        others = f" So are {listing([other for other in odd if other != tag])}." if len(odd) > 1 else ""
        raise DataError(
            f"{found.place(word)}: the tag {excerpt(tag)} ({counted(counts[tag], 'word')}) marks no entity as "
            f"{listing(marked[:3])} do; write it as {OUTSIDE}, B-... or I-....{near}{others}"
        )
    otherwise = [tag for tag in odd if _OTHERWISE.fullmatch(tag)]
    if otherwise and all(_OTHERWISE.fullmatch(tag) or tag == OUTSIDE for tag in counts) and len(counts) > 1:
        tag = next((tag for tag in otherwise if len(tag) > 1), None)
        if tag is not None and not tag.isdecimal():
            raise DataError(
                f"{found.place(found.first(tag))}: the tag {excerpt(tag)} looks like one of entities in another "
                "notation; write O, B-PER and I-PER, so that whole entities are scored."
            )


def _scheme_note(place: str, tags: list[str]) -> str | None:
    """Say that tags are scored word by word where they may have been meant for entities."""
    if all(tag.isdecimal() for tag in tags):
        return (
            f"{place}: the tags are numbers, so every word is scored, not whole entities; give their names (O, B-PER) "
            "if they mark entities."
        )
    if OUTSIDE in tags and not any(_LONGER.fullmatch(tag) for tag in tags if tag != OUTSIDE):
        return (
            f"{place}: the tags {listing([tag for tag in tags if tag != OUTSIDE][:3])} have no B- or I-, so every "
            "word is scored, not whole entities."
        )
    return None


def _lists(source: Source, name: str, column: pa.ChunkedArray) -> Any:
    """Return a column as one array of lists of strings; raises DataError for a row without a list."""
    if column.null_count:
        row = first_true(column.is_null()) or 0
        raise DataError(f"{row_place(source.path, row + 1, name)}: the list is missing.")
    return column.combine_chunks()


def tag_names(tags: list[str]) -> tuple[str, ...]:
    """Return tags in the order of their indices: entities as O, then B and I of each kind, others sorted.

    >>> tag_names(["B-PER", "O"])
    ('O', 'B-PER', 'I-PER')
    """
    if any(tag != OUTSIDE for tag in tags) and OUTSIDE in tags and all(_ENTITY.fullmatch(tag) for tag in tags):
        kinds = sorted({tag[2:] for tag in tags if tag != OUTSIDE})
        return (OUTSIDE, *(f"{prefix}-{kind}" for kind in kinds for prefix in "BI"))
    whole = all(tag.isdecimal() for tag in tags)
    return tuple(sorted(tags, key=(lambda tag: (int(tag), tag)) if whole else None))
