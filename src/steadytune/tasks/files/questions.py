"""Read questions whose answer stands in a context: SQuAD's nested .json, or flat rows of json lines or parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steadytune.errors import DataError
from steadytune.support.text import excerpt
from steadytune.tasks.answer_columns import (
    answer_columns,
    answer_type,
    first_misplaced_answer,
    with_unique_identifiers,
)
from steadytune.tasks.files import json_lines, parquet
from steadytune.tasks.files.columns import Columns, check_columns, check_filled, column_names
from steadytune.tasks.files.places import file_place, no_rows, row_place
from steadytune.tasks.files.sources import Source, text_buffer
from steadytune.tasks.task import ANSWERS, CONTEXT, IDENTIFIER, QUESTION, Head

if TYPE_CHECKING:
    from pyarrow import Table


class QuestionReader:
    """Questions, contexts and answers in SQuAD's layout, nested or flat.

    `answers` is {"text": [...], "answer_start": [...]}; the starts count code points from 0. Two empty lists say that
    the context does not answer the question. Every answer must stand at its start. `id` may be left out.
    """

    head: Head = "question_answering"
    label_names = None
    reason = "it has questions with contexts"

    def __init__(self, text_column: str | None, text_pair_column: str | None, label_column: str | None) -> None:
        self.columns = Columns(text_column or QUESTION, text_pair_column or CONTEXT, label_column or ANSWERS)

    def check(self, source: Source) -> None:
        """See `FileReader`."""
        if source.format in ("json lines", "parquet"):
            check_columns(source, self.columns)
        elif source.format != "squad":
            raise DataError(f"{file_place(source.path)}: questions are read from SQuAD's .json, .jsonl and .parquet.")

    def read(self, source: Source) -> Table:
        """See `FileReader`."""
        import numpy as np
        import pyarrow as pa

        table = _read_nested(source) if source.format == "squad" else self._read_flat(source)
        if table.num_rows == 0:
            raise no_rows(source.path)
        check_filled(source, (QUESTION, CONTEXT), table)
        column = table.column(ANSWERS)
        if column.null_count:
            row = int(np.flatnonzero(np.asarray(column.is_null()))[0])
            raise DataError(f"{row_place(source.path, row + 1, ANSWERS)}: the answers are missing; give empty lists.")
        answers, hidden = answer_columns(column, file_place(source.path))
        if hidden.any():
            row = int(np.flatnonzero(hidden)[0])
            raise DataError(f"{row_place(source.path, row + 1, ANSWERS)}: the answer is empty; give its text.")
        misplaced = first_misplaced_answer(table.column(CONTEXT), answers, range(table.num_rows))
        if misplaced is not None:
            row, text = misplaced
            raise DataError(
                f"{row_place(source.path, row + 1, ANSWERS)}: {excerpt(text)} does not stand at its answer_start in "
                "the context (counted in characters from 0); correct the start."
            )
        columns = {
            IDENTIFIER: with_unique_identifiers(table.column(IDENTIFIER)),
            QUESTION: table.column(QUESTION),
            CONTEXT: table.column(CONTEXT),
            ANSWERS: answers,
        }
        return pa.table(columns)

    def _read_flat(self, source: Source) -> Table:
        import pyarrow as pa

        texts = (self.columns.text, str(self.columns.text_pair))
        identified = IDENTIFIER in column_names(source)
        if source.format == "parquet":
            table = parquet.read(source, texts, None)
            names = [self.columns.label, *([IDENTIFIER] if identified else [])]
            others = parquet.read_raw(source, names)
        else:
            fields = [*((name, pa.string()) for name in texts), (self.columns.label, answer_type())]
            identifiers = [(IDENTIFIER, pa.string()), (IDENTIFIER, pa.int64())] if identified else []
            schemas = [pa.schema([*fields, kind]) for kind in identifiers] or [pa.schema(fields)]
            table = others = json_lines.read_schema(source, schemas, self._checker(source, texts))
        identifiers = others.column(IDENTIFIER) if identified else pa.nulls(table.num_rows, pa.string())
        columns = {
            IDENTIFIER: identifiers if identified else pa.chunked_array([identifiers]),
            QUESTION: table.column(texts[0]),
            CONTEXT: table.column(texts[1]),
            ANSWERS: others.column(self.columns.label),
        }
        return pa.table(columns)

    def _checker(self, source: Source, texts: tuple[str, ...]) -> Any:
        def check(row: int, values: Mapping[str, Any]) -> None:
            for name in texts:
                json_lines.check_text(source, row, name, values.get(name))
            _check_answers(row_place(source.path, row, self.columns.label), values.get(self.columns.label))

        return check


def _check_answers(place: str, answers: Any) -> None:
    """Raise DataError unless the answers are lists of texts and whole numbers of the same length."""
    parts = dict(answers) if json_lines.kind_of(answers) == "an object" else {}
    texts, starts = parts.get("text"), parts.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list):
        raise DataError(f'{place}: write the answers as {{"text": ["..."], "answer_start": [0]}}.')
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{place}: the text of an answer is not a string.")
    if not all(isinstance(start, int) and not isinstance(start, bool) for start in starts):
        raise DataError(f"{place}: an answer_start is not a whole number.")


def _read_nested(source: Source) -> Table:
    """Return the rows of a file in SQuAD's own layout: data, paragraphs, questions."""
    import pyarrow as pa

    buffer = text_buffer(source, lambda prefix: f"{file_place(source.path)}, line {prefix.count(chr(10)) + 1}")
    try:
        content = json.loads(buffer.to_pybytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file_place(source.path)}: not readable as JSON ({excerpt(error)}).") from None
    rows: dict[str, list[Any]] = {name: [] for name in (IDENTIFIER, QUESTION, CONTEXT, ANSWERS)}
    for place, paragraph in _paragraphs(source, content):
        context = _text(paragraph, "context", place)
        for number, question in enumerate(_list(paragraph, "qas", place), start=1):
            where = f"{place}, question {number}"
            answers = _list(question, "answers", where)
            rows[IDENTIFIER].append(None if question.get("id") is None else str(question["id"]))
            rows[QUESTION].append(_text(question, "question", where))
            rows[CONTEXT].append(context)
            texts = [_text(answer, "text", where) for answer in answers]
            starts = [answer.get("answer_start") for answer in answers]
            if not all(isinstance(start, int) and 0 <= start < 1 << 31 for start in starts):
                raise DataError(f"{where}: an answer_start is not a whole number.")
            rows[ANSWERS].append({"text": texts, "answer_start": starts})
    types = [pa.string(), pa.string(), pa.string(), answer_type()]
    return pa.table([pa.array(values, kind) for values, kind in zip(rows.values(), types, strict=True)], list(rows))


def _paragraphs(source: Source, content: Any) -> Any:
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
    return value
