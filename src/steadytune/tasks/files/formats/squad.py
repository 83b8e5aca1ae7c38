"""Questions in SQuAD's own nested layout: data, paragraphs, questions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from steadytune.errors import DataError
from steadytune.heads.columns import ANSWERS, CONTEXT, IDENTIFIER, QUESTION
from steadytune.support.text import excerpt
from steadytune.support.text_files import lines_of, undecoded
from steadytune.tasks.answer_columns import answer_type
from steadytune.tasks.files.formats.format import Format, Given, Source, Wanted, text_source
from steadytune.tasks.files.places import file_place

_BEGINS = re.compile(rb'^\s*\{.{0,200}?"data"\s*:\s*\[\s*\{\s*"(title|paragraphs)"', re.DOTALL)


class Squad(Format):
    """One JSON object; its columns are those of the head."""

    name, extensions, layout, order = "squad", (".json", ".jsonl", ".ndjson"), "questions", 7

    def looks_like(self, head: bytes) -> bool:
        """See `Format`."""
        return _BEGINS.match(head.removeprefix(b"\xef\xbb\xbf")) is not None

    def open(self, given: Given) -> Source:
        """See `Format`."""
        return text_source(self, given, is_json=True)

    def header(self, source: Source) -> list[str]:  # noqa: ARG002
        """See `Format`."""
        return [IDENTIFIER, QUESTION, CONTEXT, ANSWERS]

    def sample(self, source: Source, names: Sequence[str], rows: int) -> list[list[Any]]:
        """See `Format`."""
        table = self.read(source, [Wanted(name) for name in names]).slice(0, rows)
        return [table.column(name).to_pylist() for name in names]

    def read(self, source: Source, columns: Sequence[Wanted]) -> pa.Table:
        """See `Format`."""
        rows: dict[str, list[Any]] = {name: [] for name in self.header(source)}
        for place, paragraph in _paragraphs(source, _content(source)):
            context = _text(paragraph, "context", place)
            for number, question in enumerate(_list(paragraph, "qas", place), start=1):
                where = f"{place}, question {number}"
                rows[IDENTIFIER].append(None if question.get("id") is None else str(question["id"]))
                rows[QUESTION].append(_text(question, "question", where))
                rows[CONTEXT].append(context)
                rows[ANSWERS].append(_answers(question, where))
        types = [pa.string(), pa.string(), pa.string(), answer_type()]
        table = pa.table(
            [pa.array(values, kind) for values, kind in zip(rows.values(), types, strict=True)], list(rows)
        )
        return table.select([column.name for column in columns])

    def rows(self, source: Source) -> Iterator[dict[str, Any]]:
        """See `Format`; the file is one value and is read as a whole, and answers may be missing."""
        for place, paragraph in _paragraphs(source, _content(source)):
            context = _text(paragraph, "context", place)
            for number, question in enumerate(_list(paragraph, "qas", place), start=1):
                where = f"{place}, question {number}"
                answers = {ANSWERS: _answers(question, where)} if "answers" in question else {}
                asked = _text(question, "question", where)
                yield {IDENTIFIER: question.get("id"), QUESTION: asked, CONTEXT: context, **answers}


FORMATS = (Squad(),)


def _content(source: Source) -> Any:
    text = "".join(lines_of(source.path, source.text, newline="\n"))
    problem = undecoded(text, source.text.encoding) if source.text.is_faulty else None
    if problem is not None:
        before = re.split("[\0\udc80-\udcff]", text, maxsplit=1)[0]
        raise DataError(f"{file_place(source.path)}, line {before.count(chr(10)) + 1}: {problem}.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file_place(source.path)}: not readable as JSON ({excerpt(error)}).") from None


def _answers(question: Mapping[str, Any], where: str) -> dict[str, Any]:
    answers = _list(question, "answers", where)
    texts = [_text(answer, "text", where) for answer in answers]
    starts = [answer.get("answer_start") for answer in answers]
    if not all(isinstance(start, int) and not isinstance(start, bool) and 0 <= start < 1 << 31 for start in starts):
        raise DataError(f"{where}: an answer_start is not a whole number.")
    return {"text": texts, "answer_start": starts}


def _paragraphs(source: Source, content: Any) -> Iterator[tuple[str, Any]]:
    """Yield each paragraph with its place in the file."""
    for number, document in enumerate(_list(content, "data", file_place(source.path)), start=1):
        place = f"{file_place(source.path)}, document {number}"
        for index, paragraph in enumerate(_list(document, "paragraphs", place), start=1):
            yield f"{place}, paragraph {index}", paragraph


def _list(parent: Any, name: str, place: str) -> list[Any]:
    """Return a list of objects."""
    values = parent.get(name) if isinstance(parent, dict) else None
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise DataError(f"{place}: {excerpt(name)} is not a list of objects, as SQuAD's layout has it.")
    return values


def _text(parent: Mapping[str, Any], name: str, place: str) -> str:
    value = parent.get(name)
    if not isinstance(value, str):
        raise DataError(f"{place}: {excerpt(name)} is not a text.")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise DataError(f"{place}: {excerpt(name)} holds half a surrogate pair ({excerpt(value)}); remove it.")
    return value
