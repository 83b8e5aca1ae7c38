"""Slow readers of data files, of the standard library alone and written beside the fast ones: what rows are there."""

from __future__ import annotations

import ast
import csv
import gzip
import io
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

csv.field_size_limit(sys.maxsize)
Row = tuple[Any, ...]
NESTED = ("token_classification", "question_answering")


class Faulty(Exception):  # noqa: N818 - a finding
    """The file has a fault that no reader may pass over."""


MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe\0\0", "utf-32-le"), (b"\0\0\xfe\xff", "utf-32-be"))
MARKS += ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
DELIMITERS = {"a comma": ",", "a semicolon": ";", "a tab": "\t", "a bar": "|"}


def rows_of(path: Path, task: Any, notes: Sequence[str] = ()) -> Iterator[Row]:
    """Yield inputs and label of each row, for the head and the columns that the task has.

    What was assumed about an encoding or a delimiter must be said in the notes: nothing else is believed.
    """
    content = path.read_bytes()
    kind = path.suffix.lower()
    if kind == ".gz":
        content, kind = gzip.decompress(content), Path(path.stem).suffix.lower()
    if kind == ".parquet":
        yield from _parquet_rows(path, task)
        return
    text = _decoded(content, notes)
    if task.head == "token_classification" and kind in (".conll", ".txt", ".tsv"):
        yield from _sentences(text)
    elif kind in (".csv", ".tsv"):
        said = (DELIMITERS[what] for what in DELIMITERS for note in notes if f"{what} separates the columns" in note)
        yield from _table_rows(text, next(said, "\t" if kind == ".tsv" else ","), task)
    elif task.head == "question_answering" and kind == ".json" and '"paragraphs"' in text:
        yield from _nested_questions(text)
    else:
        yield from _json_rows(text, task)


def _as_notes(given: Sequence[str]) -> Iterator[str]:
    """What was asked for, in the words of what is found out."""
    for option, value in itertools.pairwise(given):
        if option == "--encoding":
            yield f"is read as {value.removesuffix('-sig')}."
        if option == "--delimiter":
            yield f"{next(name for name, mark in DELIMITERS.items() if mark == value)} separates the columns"


def _decoded(content: bytes, notes: Sequence[str]) -> str:
    mark, encoding = next(((m, name) for m, name in MARKS if content.startswith(m)), (b"", "utf-8"))
    if not mark:
        said = (found[1] for note in notes if (found := re.search(r"is read as ([\w-]+)[ ,.]", note)))
        encoding = next(said, encoding)
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise Faulty(f"not {encoding}") from error
    if "\0" in text:
        raise Faulty("a NUL byte")
    return text


def _table_rows(text: str, delimiter: str, task: Any) -> Iterator[Row]:
    text = re.sub(r"\Asep=.(\r\n|\r|\n)", "", text)
    try:
        table = [r for r in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if r]
    except csv.Error as error:
        raise Faulty(str(error)) from error
    header, *body = table
    wanted = [header.index(name) for name in _columns(task)]
    for row in body:
        if len(row) != len(header):
            raise Faulty("ragged rows")
        values: list[Any] = [row[place] for place in wanted]
        if task.head == "token_classification":
            values = [_list_of(value) for value in values]
        yield tuple(values)


def _list_of(text: str) -> list[str]:
    """A list that is written as text, with commas between its entries."""
    try:
        found = json.loads(text)
    except ValueError:
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None
    if isinstance(found, list) and text.count(",") >= len(found) - 1:
        return [entry if isinstance(entry, str) else json.dumps(entry) for entry in found]
    return [part.strip().strip("'\"") for part in re.split(r"[,\s]+", text.strip()[1:-1].strip()) if part.strip()]


def _columns(task: Any) -> list[str]:
    return [name for name in (task.text_column, task.text_pair_column, task.label_column) if name is not None]


def _json_rows(text: str, task: Any) -> Iterator[Row]:
    for pairs in _objects(text):
        try:
            found = dict(pairs)
        except (ValueError, TypeError) as error:
            raise Faulty("not an object") from error
        for name in _columns(task):
            if sum(key == name for key, _ in pairs) > 1:
                raise Faulty("a key twice")
        values = [found.get(name) for name in _columns(task)]
        if task.head == "question_answering":
            answers = dict(values[2])
            values[2] = list(zip(answers["text"], answers["answer_start"], strict=True))
        yield tuple(values)


def _objects(text: str) -> Iterator[Any]:
    space = " \t\r\v\f"
    pieces = [text] if text.lstrip().startswith("[") else [line for line in text.split("\n") if line.strip(space)]
    for piece in pieces:
        try:
            found = json.loads(piece.strip(space + "\n"), object_pairs_hook=Pairs)
        except (ValueError, RecursionError) as error:
            raise Faulty("not JSON") from error
        yield from found if not isinstance(found, Pairs) else [found]


class Pairs(list[tuple[str, Any]]):
    """An object, its keys as often as they are there."""


def _sentences(text: str) -> Iterator[Row]:
    words: list[str] = []
    tags: list[str] = []
    tabs: bool | None = None
    width, seen = 2, {"O"}
    for line in [*re.split(r"\r\n|\r|\n", text), ""]:
        first = line.split()[:1]
        if not words and first and _is_comment(line, tabs, width, seen):
            continue
        if not line.strip() or line.startswith("-DOCSTART-"):
            if words:
                yield words, tags
            words, tags = [], []
            continue
        tabs = "\t" in line if tabs is None else tabs
        fields = line.split("\t") if tabs else re.split(r"[ \t\f\v]+", line.strip(" \t\f\v"))
        if len(fields) < 2 or not fields[0].strip() or not fields[-1].strip():
            raise Faulty(f"no word and tag: {line!r}")
        if len(seen) == 1 and not words:
            width = len(fields)
        seen.add(fields[-1].strip())
        words.append(fields[0].strip())
        tags.append(fields[-1].strip())


def _is_comment(line: str, tabs: bool | None, width: int, seen: set[str]) -> bool:
    fields = line.split()
    if fields[0] != "#" or not line.startswith("#"):
        return bool(tabs) and line.startswith("#") and "\t" not in line
    return not (len(fields) == width and (fields[-1] in seen or re.fullmatch(r"[BIESLU]-.+", fields[-1])))


def _nested_questions(text: str) -> Iterator[Row]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Faulty("not JSON") from error
    for document in content["data"]:
        for paragraph in document["paragraphs"]:
            for question in paragraph["qas"]:
                answers = [(answer["text"], answer["answer_start"]) for answer in question["answers"]]
                yield question["question"], paragraph["context"], answers


def _parquet_rows(path: Path, task: Any) -> Iterator[Row]:
    from pyarrow import parquet

    for row in parquet.read_table(path).to_pylist():
        yield tuple(row[name] for name in _columns(task))


def differences(path: Path, data: Any, split: str, given: Sequence[str] = ()) -> str | None:
    """Say where a split differs from the file, row by row and in order; `None` where it does not."""
    try:
        expected = list(rows_of(path, data.task, [*data.notes, *_as_notes(given)]))
    except Faulty as fault:
        return f"accepted although: {fault}"
    found = data.splits[split]
    if len(found) != len(expected):
        return f"{len(found)} rows of {len(expected)}"
    for place, (row, wanted) in enumerate(zip(found, expected, strict=True), start=1):
        if not _same(row, wanted, data.task):
            return f"row {place}: {str(row)[:200]} for {str(wanted)[:200]}"
    return None


def _same(row: dict[str, Any], wanted: Row, task: Any) -> bool:
    names = task.label_names or ()
    match task.head:
        case "classification":
            return _texts(row) == list(wanted[:-1]) and _is_label(names[row["label"]], wanted[-1])
        case "regression":
            return _texts(row) == list(wanted[:-1]) and row["label"] == float(str(wanted[-1]).replace(",", "."))
        case "multi_label":
            on = {name for name, value in zip(names, row["label"], strict=True) if value}
            return _texts(row) == list(wanted[:-1]) and on == _label_set(wanted[-1], on)
        case "token_classification":
            tags = [names[index] for index in row["label"]]
            return row["tokens"] == list(wanted[0]) and tags == [str(tag).strip() for tag in wanted[1]]
        case "question_answering":
            answers = list(zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True))
            return (row["question"], row["context"]) == wanted[:2] and answers == list(wanted[2])
    return (row["prompt"], row["answer"]) == wanted


def _texts(row: dict[str, Any]) -> list[str]:
    return [row[name] for name in ("text", "text_pair") if name in row]


def _is_label(name: str, raw: Any) -> bool:
    if isinstance(raw, bool):
        return name == str(raw).lower()
    if isinstance(raw, str) and name == raw.strip():
        return True
    if re.fullmatch(r"[+-]?0\d.*", str(raw).strip()):  # a code: as a number it would be another
        return False
    try:
        return float(name) == float(raw)
    except (TypeError, ValueError):
        return False


def _label_set(raw: Any, on: set[str]) -> set[str]:
    if isinstance(raw, str) and raw.strip().startswith("["):
        raw = _list_of(raw)
    parts_of_vector = raw if isinstance(raw, list) else re.split(r"[|;,]", str(raw))
    bits = [str(entry).strip().removesuffix(".0") for entry in parts_of_vector]
    if len(bits) > 1 and set(bits) <= {"0", "1"} and {str(i) for i, bit in enumerate(bits) if bit == "1"} == on:
        return on
    if isinstance(raw, list):
        return {str(entry).strip() for entry in raw}
    parts = ({part.strip() for part in str(raw).split(mark)} - {""} for mark in ("|", ";", ",", "\0"))
    return next((found for found in parts if found == on), set())
