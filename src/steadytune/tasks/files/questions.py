"""Questions with their answers in a context: SQuAD's nested .json, or flat rows of json or parquet files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from steadytune.errors import DataError
from steadytune.heads.columns import ANSWERS, CONTEXT, IDENTIFIER, QUESTION
from steadytune.support.text import excerpt
from steadytune.tasks.answer_columns import answer_columns, first_misplaced_answer, with_unique_identifiers
from steadytune.tasks.files import headers
from steadytune.tasks.files.columns import Columns, check_filled, located
from steadytune.tasks.files.formats.format import Source, Wanted
from steadytune.tasks.files.places import file_place, no_rows, row_place
from steadytune.tasks.task import Head


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
        self.notes: list[str] = []

    def check(self, source: Source) -> None:
        """See `FileReader`."""
        if source.format.layout == "questions":
            return
        if source.format.name in ("csv", "tsv", "xlsx") or source.format.layout != "table":
            raise DataError(
                f"{file_place(source.path)}: questions are read from SQuAD's .json, .jsonl, .json and .parquet."
            )
        located(source, self.columns)

    def read(self, source: Source) -> pa.Table:
        """See `FileReader`."""
        table = self._rows(source)
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
        columns = {name: table.column(name) for name in (QUESTION, CONTEXT)}
        return pa.table({IDENTIFIER: with_unique_identifiers(table.column(IDENTIFIER)), **columns, ANSWERS: answers})

    def _rows(self, source: Source) -> pa.Table:
        here = self.columns
        if source.format.layout != "questions":
            here = located(source, here)
        identified = headers.usual(source.format.header(source), (IDENTIFIER,))[:1]
        wanted = [
            *map(Wanted, here.texts),
            Wanted(here.label, "answers"),
            *(Wanted(n, "identifier") for n in identified),
        ]
        table = source.format.read(source, wanted)
        columns: dict[str, Any] = dict(zip((QUESTION, CONTEXT, ANSWERS, IDENTIFIER), table.columns, strict=False))
        columns.setdefault(IDENTIFIER, pa.chunked_array([pa.nulls(table.num_rows, pa.string())]))
        return pa.table(columns)
