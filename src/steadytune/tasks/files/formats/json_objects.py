"""Json files: one object per line, or an array of objects, as annotation tools write it; read object by object."""

from __future__ import annotations

import itertools
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from steadytune.errors import DataError
from steadytune.support.text import excerpt
from steadytune.support.text_files import lines_of, undecoded
from steadytune.tasks.answer_columns import answer_type
from steadytune.tasks.files.formats.format import Format, Given, Source, Wanted, text_source
from steadytune.tasks.files.places import file_place, no_rows, row_place

_ROWS, _LETTERS = 4096, 1 << 22
_ROWS_SEARCHED_FOR_NAMES = 1000
#: Letters of an array that are read at a time.
_PIECE = 1 << 16
_SPACE = " \t\r\n\v\f"
Check = Callable[[Source, int, str, Any], None]


class JsonObjects(Format):
    """Rows as objects; a key is a column, and a missing key a null."""

    def open(self, given: Given) -> Source:
        """See `Format`."""
        return text_source(self, given, is_json=True)

    def rows(self, source: Source) -> Iterator[dict[str, Any]]:
        """See `Format`."""
        return self.objects(source)

    @abstractmethod
    def objects(self, source: Source) -> Iterator[dict[str, Any]]:
        """Yield the object of each row; raises DataError naming the row that is none."""

    def header(self, source: Source) -> list[str]:
        """Return the keys of the first 1000 objects, in order of appearance."""
        names: dict[str, None] = {}
        for values in itertools.islice(self.objects(source), _ROWS_SEARCHED_FOR_NAMES):
            names.update(dict.fromkeys(values))
        return list(names)

    def sample(self, source: Source, names: Sequence[str], rows: int) -> list[list[Any]]:
        """See `Format`."""
        found = list(itertools.islice(self.objects(source), rows))
        return [[values.get(name) for values in found] for name in names]

    def read(self, source: Source, columns: Sequence[Wanted]) -> pa.Table:
        """See `Format`."""
        builders = [_Column(source, column) for column in columns]
        rows = letters = 0
        for row, values in enumerate(self.objects(source), start=1):
            rows += 1
            for builder in builders:
                letters += builder.add(row, values.get(builder.name))
            if rows == _ROWS or letters > _LETTERS:
                rows = letters = 0
                for builder in builders:
                    builder.close_block()
        for builder in builders:
            builder.close_block()
        if not builders[0].blocks:
            raise no_rows(source.path)
        table = pa.table([builder.finished() for builder in builders], [builder.name for builder in builders])
        pa.default_memory_pool().release_unused()
        return table


class JsonLines(JsonObjects):
    """One object per line."""

    name, extensions, order = "json lines", (".jsonl", ".ndjson", ".json"), 3

    def objects(self, source: Source) -> Iterator[dict[str, Any]]:
        """See `JsonObjects`."""
        row = 0
        for line in lines_of(source.path, source.text, newline="\n"):
            text = line.strip(_SPACE)
            if not text:
                continue
            row += 1
            if source.text.is_faulty:
                _refuse_undecoded(source, row, text)
            yield _object(source, row, text)


class JsonArray(JsonObjects):
    """An array of objects; `.json` files that begin with a bracket."""

    name, extensions, order = "json", (".json", ".jsonl", ".ndjson"), 4

    def looks_like(self, head: bytes) -> bool:
        """See `Format`."""
        return head.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n").startswith(b"[")

    def objects(self, source: Source) -> Iterator[dict[str, Any]]:
        """See `JsonObjects`."""
        text = _Pieces(source)
        if text.next_letter() != "[":
            raise DataError(f"{file_place(source.path)}: the file is no JSON array of objects.")
        text.take()
        row = 0
        while (letter := text.next_letter()) != "]":
            if row and letter != ",":
                raise _broken(source, row, text)
            if row:
                text.take()
            row += 1
            if text.next_letter() != "{":
                raise _broken(source, row - 1, text)
            yield text.decoded(row)
        text.take()
        if text.next_letter():
            raise DataError(f"{file_place(source.path)}: something follows the JSON array; remove it.")


FORMATS = (JsonLines(), JsonArray())


class _Pieces:
    """The text of a file, of which no more is kept than the object that is being read."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._lines = lines_of(source.path, source.text, newline="\n")
        self.rest, self.at = "", 0

    def next_letter(self) -> str:
        """Return the next letter that is no white space, empty at the end of the file."""
        while True:
            while self.at < len(self.rest) and self.rest[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.rest):
                return self.rest[self.at]
            if not self._more(_PIECE):
                return ""

    def take(self) -> None:
        """Pass over the next letter."""
        self.at += 1

    def decoded(self, row: int) -> dict[str, Any]:
        """Return the object that begins here."""
        wanted = _PIECE
        while True:
            try:
                found, end = _DECODER.raw_decode(self.rest, self.at)
            except _TwiceError as error:
                raise _twice(self.source, row, str(error)) from None
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or not self._more(wanted):
                    raise DataError(
                        f"{row_place(self.source.path, row)}: not readable as JSON ({excerpt(error)})."
                    ) from None
                wanted *= 2
                continue
            if self.source.text.is_faulty:
                _refuse_undecoded(self.source, row, self.rest[self.at : end])
            self.at = end
            return found

    def _more(self, letters: int) -> bool:
        """Read on; False at the end of the file."""
        parts, count = [], 0
        for line in self._lines:
            parts.append(line)
            count += len(line)
            if count >= letters:
                break
        if not parts:
            return False
        self.rest, self.at = self.rest[self.at :] + "".join(parts), 0
        return True


class _TwiceError(ValueError):
    """A key occurs twice in an object."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _object(source: Source, row: int, line: str) -> dict[str, Any]:
    try:
        value = _DECODER.decode(line)
    except _TwiceError as error:
        raise _twice(source, row, str(error)) from None
    except (ValueError, RecursionError):
        raise DataError(
            f"{row_place(source.path, row)}: the line is not JSON ({excerpt(line)}); write one object per line."
        ) from None
    if not isinstance(value, dict):
        raise DataError(
            f"{row_place(source.path, row)}: the line is not a JSON object ({excerpt(line)}); "
            'write it as {"text": ..., "label": ...}.'
        )
    return value


def _twice(source: Source, row: int, name: str) -> DataError:
    return DataError(f"{row_place(source.path, row, name)}: the key occurs twice; keep one of them.")


def _broken(source: Source, row: int, text: _Pieces) -> DataError:
    found = excerpt(text.rest[text.at : text.at + 60])
    where = row_place(source.path, row + 1)
    return DataError(f"{where}: {found} where an object is needed; write an array of objects, [{{...}}, {{...}}].")


def _refuse_undecoded(source: Source, row: int, line: str) -> None:
    problem = undecoded(line, source.text.encoding)
    if problem is not None:
        raise DataError(f"{row_place(source.path, row)}: {problem}.")


class _Column:
    """Collects the values of one column, checked one by one, in Arrow arrays."""

    def __init__(self, source: Source, wanted: Wanted) -> None:
        self.source, self.name, self.kind = source, wanted.name, wanted.kind
        self.blocks: list[pa.Array] = []
        self._values: list[Any] = []
        self._first: str | None = None
        self._check: Check = {
            "text": check_text,
            "words": _check_words,
            "tags": _check_tags,
            "answers": _check_answers,
            "identifier": _check_identifier,
        }.get(wanted.kind, self._check_label)

    def add(self, row: int, value: Any) -> int:
        """Keep a value; returns how much room it takes, in letters."""
        self._check(self.source, row, self.name, value)
        self._values.append(value)
        return len(value) if isinstance(value, str | list) else 8

    def close_block(self) -> None:
        """Make an Arrow array of the values since the last one."""
        if self._values:
            self.blocks.append(self._array())
            self._values = []

    def _array(self) -> pa.Array:
        values, fixed = self._values, _TYPES.get(self.kind)
        kinds = {type(value) for value in values if value is not None}
        if fixed is not None:
            return pa.array(values, fixed())
        if self.kind == "tags" or list in kinds:
            return pa.array([value and list(map(_as_text, value)) for value in values], pa.list_(pa.string()))
        if float in kinds:
            return pa.array([None if value is None else float(value) for value in values], pa.float64())
        too_long = int in kinds and not all(-(2**63) <= value < 2**63 for value in values if value is not None)
        if self.kind == "identifier" or too_long:
            return pa.array([None if value is None else str(value) for value in values], pa.string())
        return pa.array(values)

    def finished(self) -> pa.ChunkedArray:
        """Return the column; blocks of whole numbers become numbers where others have fractions."""
        blocks, self.blocks = self.blocks, []
        kinds = {block.type for block in blocks if not pa.types.is_null(block.type)}
        order = (*(kinds if len(kinds) == 1 else ()), pa.string(), pa.float64(), pa.int64())
        kind = next((kind for kind in order if kind in kinds), pa.string())
        return pa.chunked_array([block if block.type == kind else block.cast(kind) for block in blocks], kind)

    def _check_label(self, source: Source, row: int, column: str, label: Any) -> None:
        """Refuse a label of another type than those before, or of none that a label can be."""
        if label is None:
            return
        kind = kind_of(label)
        if kind == "a string":
            check_text(source, row, column, label)
        if kind == "an object" or (kind == "a list" and self.kind == "label"):
            hint = "; for any number of labels use --head multi_label" if kind == "a list" else ""
            raise DataError(
                f"{row_place(source.path, row, column)}: the label is {kind}; give one name or one number{hint}."
            )
        if kind == "a list":
            kind = _kind_of_list(source, row, column, label) or self._first or kind
        if self._first is None or self._first == "a list":
            self._first = kind
        if kind not in (self._first, "a list"):
            raise DataError(
                f"{row_place(source.path, row, column)}: the label {excerpt(label)} is {kind} where the rows before "
                f"have {self._first}; give all labels as names or all as numbers."
            )


_TYPES: dict[str, Callable[[], Any]] = {
    "text": pa.string,
    "words": lambda: pa.list_(pa.string()),
    "answers": answer_type,
}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _kind_of_list(source: Source, row: int, column: str, label: list[Any]) -> str | None:
    """Return what a list of labels holds; None for an empty one."""
    inner = [kind_of(entry) for entry in label]
    for kind, entry in zip(inner, label, strict=True):
        if kind not in ("a string", "a number"):
            problem = "one of the labels is empty or missing" if kind == "null" else f"the list of labels holds {kind}"
            raise DataError(f"{row_place(source.path, row, column)}: {problem}; give names.")
        if kind == "a string":
            check_text(source, row, column, entry)
        elif isinstance(entry, float):
            raise DataError(
                f"{row_place(source.path, row, column)}: the label {entry} is no class number; give names."
            )
    if len(set(inner)) > 1:
        raise DataError(f"{row_place(source.path, row, column)}: the list holds names and numbers; give names.")
    return f"a list of {inner[0].removeprefix('a ')}s" if inner else None


def check_text(source: Source, row: int, column: str, value: object) -> None:
    """Raise DataError for a value that is no text; a null is reported once the file is read."""
    if value is None:
        return
    if not isinstance(value, str):
        raise DataError(
            f"{row_place(source.path, row, column)}: the text is {kind_of(value)}, not a string; put it in quotes."
        )
    if value.isascii():
        return
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"{row_place(source.path, row, column)}: the text holds half a surrogate pair ({excerpt(value)}); remove "
            "it."
        ) from None


def _check_words(source: Source, row: int, column: str, value: Any) -> None:
    _check_list(source, row, column, value)
    kinds = {kind_of(entry) for entry in value}
    if kinds - {"a string"}:
        _refuse_entries(source, row, column, kinds)
    for entry in value:
        check_text(source, row, column, entry)


def _check_tags(source: Source, row: int, column: str, value: Any) -> None:
    _check_list(source, row, column, value)
    kinds = {kind_of(entry) for entry in value}
    if len(kinds) > 1 or kinds - {"a string", "a number"}:
        _refuse_entries(source, row, column, kinds)
    for entry in value:
        if isinstance(entry, float):
            raise DataError(f"{row_place(source.path, row, column)}: the tag {entry} is not a whole number.")
        if isinstance(entry, str):
            check_text(source, row, column, entry)


def _check_list(source: Source, row: int, column: str, value: Any) -> None:
    if not isinstance(value, list):
        raise DataError(f"{row_place(source.path, row, column)}: {kind_of(value)} where a list is needed.")


def _refuse_entries(source: Source, row: int, column: str, kinds: set[str]) -> None:
    raise DataError(f"{row_place(source.path, row, column)}: the list holds {', '.join(sorted(kinds))}; give strings.")


def _check_answers(source: Source, row: int, column: str, answers: Any) -> None:
    """Raise DataError unless the answers are lists of texts and whole numbers."""
    place = row_place(source.path, row, column)
    parts = answers if isinstance(answers, dict) else {}
    texts, starts = parts.get("text"), parts.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list):
        raise DataError(f'{place}: write the answers as {{"text": ["..."], "answer_start": [0]}}.')
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{place}: the text of an answer is not a string.")
    for text in texts:
        check_text(source, row, column, text)
    if not all(isinstance(start, int) and not isinstance(start, bool) and abs(start) < 1 << 31 for start in starts):
        raise DataError(f"{place}: an answer_start is not a whole number.")


def _check_identifier(source: Source, row: int, column: str, value: Any) -> None:
    if value is not None and kind_of(value) not in ("a string", "a number"):
        raise DataError(
            f"{row_place(source.path, row, column)}: the id is {kind_of(value)}; give a string or a number."
        )
    if isinstance(value, str):
        check_text(source, row, column, value)


def kind_of(value: object) -> str:
    """Return what a JSON value is, in words."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else "null"
