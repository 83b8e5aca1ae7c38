"""Slow readers of data files, of the standard library alone and written beside the fast ones: what rows are there."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

csv.field_size_limit(sys.maxsize)
Row = tuple[Any, ...]
NESTED = ("token_classification", "question_answering")


class Faulty(Exception):  # noqa: N818 - a finding
    """The file has a fault that no reader may pass over."""


def rows_of(path: Path, task: Any) -> Iterator[Row]:
    """Yield inputs and label of each row, for the head and the columns that the task has."""
    content = path.read_bytes()
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet_rows(path, task)
        return
    if b"\0" in content:
        raise Faulty("a NUL byte")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Faulty("not UTF-8") from error
    if task.head == "token_classification" and kind in (".conll", ".txt", ".tsv"):
        yield from _sentences(text)
    elif kind in (".csv", ".tsv"):
        yield from _table_rows(text, "\t" if kind == ".tsv" else ",", task)
    elif task.head == "question_answering" and kind == ".json" and '"paragraphs"' in text:
        yield from _nested_questions(text)
    else:
        yield from _json_rows(text, task)


def _table_rows(text: str, delimiter: str, task: Any) -> Iterator[Row]:
    try:
        table = [r for r in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if r]
    except csv.Error as error:
        raise Faulty(str(error)) from error
    header, *body = table
    wanted = [header.index(name) for name in _columns(task)]
    for row in body:
        if len(row) != len(header):
            raise Faulty("ragged rows")
        yield tuple(row[place] for place in wanted)


def _columns(task: Any) -> list[str]:
    return [name for name in (task.text_column, task.text_pair_column, task.label_column) if name is not None]


def _json_rows(text: str, task: Any) -> Iterator[Row]:
    for line in text.split("\n"):
        if not line.strip(" \t\r\v\f"):
            continue
        try:
            pairs = json.loads(line.strip(" \t\r\v\f"), object_pairs_hook=lambda pairs: pairs)
            found = dict(pairs)
        except (ValueError, RecursionError, TypeError) as error:
            raise Faulty("not an object") from error
        for name in _columns(task):
            if sum(key == name for key, _ in pairs) > 1:
                raise Faulty("a key twice")
        values = [found.get(name) for name in _columns(task)]
        if task.head == "question_answering":
            answers = dict(values[2])
            values[2] = list(zip(answers["text"], answers["answer_start"], strict=True))
        yield tuple(values)


def _sentences(text: str) -> Iterator[Row]:
    words: list[str] = []
    tags: list[str] = []
    tabs: bool | None = None
    for line in [*re.split(r"\r\n|\r|\n", text), ""]:
        if not line.strip() or line.startswith("-DOCSTART-"):
            if words:
                yield words, tags
            words, tags = [], []
            continue
        tabs = "\t" in line if tabs is None else tabs
        fields = line.split("\t") if tabs else re.split(r"[ \t\f\v]+", line.strip(" \t\f\v"))
        if len(fields) < 2 or not fields[0].strip(" \t") or not fields[-1].strip(" \t"):
            raise Faulty(f"no word and tag: {line!r}")
        words.append(fields[0].strip())
        tags.append(fields[-1])


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


def differences(path: Path, data: Any, split: str) -> str | None:
    """Say where a split differs from the file, row by row and in order; `None` where it does not."""
    try:
        expected = list(rows_of(path, data.task))
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
            return _texts(row) == list(wanted[:-1]) and row["label"] == float(wanted[-1])
        case "multi_label":
            on = {name for name, value in zip(names, row["label"], strict=True) if value}
            return _texts(row) == list(wanted[:-1]) and on == _label_set(wanted[-1], on)
        case "token_classification":
            tags = [names[index] for index in row["label"]]
            return row["tokens"] == list(wanted[0]) and tags == [str(tag) for tag in wanted[1]]
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
    try:
        return float(name) == float(raw)
    except (TypeError, ValueError):
        return False


def _label_set(raw: Any, on: set[str]) -> set[str]:
    if isinstance(raw, list):
        return {str(entry).strip() for entry in raw}
    parts = ({part.strip() for part in str(raw).split(mark)} - {""} for mark in ("|", ";", ",", "\0"))
    return next((found for found in parts if found == on), set())
