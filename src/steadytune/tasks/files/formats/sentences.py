"""A word and its tag on each line, an empty line after each sentence: `.conll` and `.txt`, and `.tsv` where asked for.

The word is the first field of a line and the tag the last; ten fields between tabs, the first of them a number, are
CoNLL-U, where the word is the second and its part of speech the fourth.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from steadytune.errors import DataError
from steadytune.heads.columns import TOKENS
from steadytune.support.text import counted, excerpt
from steadytune.support.text_files import lines_of, undecoded
from steadytune.tasks.files.formats.format import Format, Given, Source, Wanted, text_source
from steadytune.tasks.files.places import file_place, no_rows

_DOCUMENT = "-DOCSTART-"
_WORDS = 1 << 16
_SPACE = " \t\f\v"
_NUMBER = re.compile(r"\d+([.-]\d+)?")
_CONLLU_FIELDS = 10
#: A line `# O` is a word with its tag, `# newdoc` is a comment.
_TAG = re.compile(r"O|[BIESLU]-.+")


class Conll(Format):
    """Sentences of tagged words; its columns have no names."""

    name, extensions, layout, order = "conll", (".conll", ".conllu", ".txt"), "sentences", 6
    has_header = False

    def open(self, given: Given) -> Source:
        """See `Format`."""
        return text_source(self, given)

    def header(self, source: Source) -> list[str]:  # noqa: ARG002
        """See `Format`."""
        return []

    def sample(self, source: Source, names: Sequence[str], rows: int) -> list[list[Any]]:  # noqa: ARG002
        """See `Format`."""
        return [[] for _ in names]

    def read(self, source: Source, columns: Sequence[Wanted]) -> pa.Table:
        """See `Format`."""
        found = sentences(source)
        return pa.table(
            [pa.ListArray.from_arrays(found.offsets(), part) for part in (found.words, found.tags)],
            [column.name for column in columns],
        )

    def rows(self, source: Source) -> Iterator[dict[str, Any]]:
        """See `Format`; where the first line is a single word, words stand without tags."""
        words: list[str] = []
        tags: list[str] = []
        lines = _bare_words(source) if _is_bare(source) else iter(_Lines(source))
        for fields in itertools.chain(lines, (None,)):
            if fields is not None:
                words.append(fields[0])
                tags += fields[1:]
            elif words:
                yield {TOKENS: words, "tags": tags} if tags else {TOKENS: words}
                words, tags = [], []

    def place(self, path: Path, row: int) -> str | None:
        """See `Format`."""
        return f"{file_place(path)}, sentence {row}"


FORMATS = (Conll(),)


def _is_bare(source: Source) -> bool:
    """Whether the first line that says anything is a word alone."""
    lines = (line.strip() for line in lines_of(source.path, source.text))
    first = next((line for line in lines if line and not line.startswith(("#", _DOCUMENT))), "")
    return len(first.split()) == 1


def _bare_words(source: Source) -> Iterator[tuple[str] | None]:
    """Yield the word of each line, None where a sentence ends."""
    for number, line in enumerate(lines_of(source.path, source.text), start=1):
        word = line.strip()
        problem = undecoded(word, source.text.encoding) if source.text.is_faulty else None
        if problem is None and len(word.split()) > 1:
            problem = f"{excerpt(word)} is more than a word; give a tag to every word, or to none"
        if problem is not None:
            raise DataError(f"{file_place(source.path)}, line {number}: {problem}.")
        yield (word,) if word and word != _DOCUMENT else None


@dataclass
class Sentences:
    """The words of a file one after the other, their tags, the lines they stand on, and the words of each sentence."""

    words: pa.Array
    tags: pa.Array
    lines: np.ndarray
    lengths: np.ndarray
    comments: int = 0

    def offsets(self) -> pa.Array:
        """Return where each sentence begins."""
        return pa.array(np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32))

    def note(self, source: Source) -> str | None:
        """Say how many lines are comments."""
        if not self.comments:
            return None
        return (
            f"{file_place(source.path)}: {counted(self.comments, 'line')} that begin with '#' are skipped as comments."
        )


@dataclass
class _Collected:
    words: list[pa.Array] = field(default_factory=list)
    tags: list[pa.Array] = field(default_factory=list)
    lines: list[np.ndarray] = field(default_factory=list)
    waiting: tuple[list[str], list[str], list[int]] = field(default_factory=lambda: ([], [], []))

    def close(self) -> None:
        words, tags, lines = self.waiting
        if words:
            self.words.append(pa.array(words, pa.string()))
            self.tags.append(pa.array(tags, pa.string()))
            self.lines.append(np.array(lines, dtype=np.int64))
            self.waiting = ([], [], [])


def sentences(source: Source) -> Sentences:
    """Return what a file of tagged words holds; raises DataError naming the line that has no word and tag."""
    found, lengths, reader, length = _Collected(), [], _Lines(source), 0
    for fields in reader:
        if fields is None:
            if length:
                lengths.append(length)
            length = 0
            continue
        length += 1
        words, tags, lines = found.waiting
        words.append(fields[0])
        tags.append(fields[1])
        lines.append(reader.number)
        if len(found.waiting[0]) == _WORDS:
            found.close()
    found.close()
    if length:
        lengths.append(length)
    if not found.words:
        raise no_rows(source.path)
    words, tags = pa.concat_arrays(found.words), pa.concat_arrays(found.tags)
    return Sentences(words, tags, np.concatenate(found.lines), np.array(lengths), reader.comments)


class _Lines:
    """Yields word and tag of each line, None where a sentence ends; the first word decides what delimits."""

    def __init__(self, source: Source) -> None:
        self.source, self.number, self.comments = source, 0, 0
        self._tabs: bool | None = None
        self._is_conllu = False
        self._width = 0
        self._known: set[str] = set()

    def __iter__(self) -> Iterator[tuple[str, str] | None]:
        begins = True
        for line in lines_of(self.source.path, self.source.text):
            self.number += 1
            text = line.rstrip("\r\n")
            if self.source.text.is_faulty and (problem := undecoded(text, self.source.text.encoding)):
                raise DataError(f"{self._place()}: {problem}.")
            if not text.strip() or text.startswith(_DOCUMENT):
                begins = True
                yield None
            elif begins and self._is_comment(text):
                self.comments += 1
            else:
                found = self._fields(text)
                if found is not None:
                    begins = False
                    yield found

    def _is_comment(self, text: str) -> bool:
        """Whether a line that begins a sentence is a comment: `#` alone, then something that is no tag of a word."""
        fields = text.split()
        if not text.startswith("#") or (fields[0] != "#" and "\t" in text):
            return False
        if fields[0] != "#":
            return self._tabs is True
        is_word = len(fields) == (self._width or 2) and (fields[-1] in self._known or _TAG.fullmatch(fields[-1]))
        return not is_word

    def _fields(self, text: str) -> tuple[str, str] | None:
        """Return word and tag of a line; None for a line of CoNLL-U that is no word of its own."""
        if self._tabs is None:
            self._tabs = "\t" in text
        fields = text.split("\t") if self._tabs else re.split(rf"[{_SPACE}]+", text.strip(_SPACE))
        if not self._width:
            self._width = len(fields)
            self._is_conllu = self._tabs and len(fields) == _CONLLU_FIELDS and fields[0].isdigit()
        if self._is_conllu:
            return self._of_conllu(text, fields)
        word, tag = fields[0].strip(), fields[-1].strip()
        if len(fields) < 2 or not word or not tag:
            self._refuse(text)
        self._known.add(tag)
        return word, tag

    def _of_conllu(self, text: str, fields: list[str]) -> tuple[str, str] | None:
        if len(fields) != _CONLLU_FIELDS or not _NUMBER.fullmatch(fields[0]):
            self._refuse(text)
        if not fields[0].isdigit():
            return None
        if not fields[1].strip() or not fields[3].strip():
            self._refuse(text)
        return fields[1].strip(), fields[3].strip()

    def _refuse(self, text: str) -> NoReturn:
        delimiter = "a tab" if self._tabs else "white space"
        is_text = self.source.path.name.lower().removesuffix(".gz").endswith(".txt")
        hint = " Rename a file of rows with a header to .csv or .tsv." if is_text else ""
        what = "ten fields as CoNLL-U has them" if self._is_conllu else f"a word, {delimiter} and a tag"
        raise DataError(f"{self._place()}: {excerpt(text)} is not {what}; an empty line ends a sentence.{hint}")

    def _place(self) -> str:
        return f"{file_place(self.source.path)}, line {self.number}"
