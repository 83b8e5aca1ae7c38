"""What reads the user's files for a head: the training file first, which decides what the labels of all files mean."""

from __future__ import annotations

from typing import Any, Protocol

import pyarrow as pa

from steadytune.errors import DataError
from steadytune.heads.columns import ANSWER, LABEL, PROMPT, TEXT, TEXT_PAIR
from steadytune.tasks.files import headers
from steadytune.tasks.files.columns import Columns, check_columns, check_filled, choose_columns, located, read_columns
from steadytune.tasks.files.faulty_cells import FaultyCells
from steadytune.tasks.files.formats.format import Source, Wanted
from steadytune.tasks.files.labels import LabelCode, decide, encode, read_labels
from steadytune.tasks.files.multi_label import MultiLabelReader
from steadytune.tasks.files.places import file_place, no_rows
from steadytune.tasks.files.questions import QuestionReader
from steadytune.tasks.files.tags import TagReader
from steadytune.tasks.task import Head


class FileReader(Protocol):
    """Reads the files of one task; `label_names`, `head` and `reason` are known once the training file is read.

    `notes` are sentences on what was assumed, which the user must get to see.
    """

    notes: list[str]

    @property
    def columns(self) -> Columns:
        """The columns that are read."""
        ...

    @property
    def head(self) -> Head:
        """The head of the task."""
        ...

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The classes, labels or tags in the order of their indices."""
        ...

    @property
    def reason(self) -> str:
        """Why it is this head, in words."""
        ...

    def check(self, source: Source) -> None:
        """Raise DataError when a file lacks a column or cannot be of this head."""
        ...

    def read(self, source: Source) -> pa.Table:
        """Return the rows in the columns of the head; raises DataError naming file, row and column."""
        ...


class TextReader:
    """Classification or regression of a text or a pair; without a head the labels decide between the two."""

    def __init__(self, columns: Columns, head: Head | None) -> None:
        self.columns = columns
        self.asked: Head | None = head
        self.code: LabelCode | None = None
        self.notes: list[str] = []

    @property
    def head(self) -> Head:
        """What the training labels turned out to be."""
        assert self.code is not None
        return self.code.head

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """The classes."""
        return None if self.code is None else self.code.label_names

    @property
    def reason(self) -> str:
        """Why it is this head."""
        return "" if self.code is None else self.code.reason

    def check(self, source: Source) -> None:
        """See `FileReader`."""
        _refuse_other_layout(source, "classification")
        check_columns(source, self.columns)

    def read(self, source: Source) -> pa.Table:
        """See `FileReader`."""
        faults = FaultyCells(source)
        raw = read_columns(source, self.columns, "label", faults)
        labels = read_labels(faults, self.columns.label, raw.column(LABEL), self.code, self.asked)
        if self.code is None:
            self.code = decide(labels, self.asked)
        self.notes += labels.notes
        names = [name for name in (TEXT, TEXT_PAIR) if name in raw.column_names]
        values: list[Any] = [raw.column(name) for name in names]
        values.append(pa.chunked_array([pa.array(encode(labels, self.code))]))
        return pa.table(values, names=[*names, LABEL])


class PromptReader:
    """Pairs of prompt and answer for language models; columns `prompt` and `answer`, or `completion`."""

    head: Head = "causal_lm"
    label_names = None
    reason = "it has prompts and answers"

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.notes: list[str] = []

    def check(self, source: Source) -> None:
        """See `FileReader`."""
        _refuse_other_layout(source, self.head)
        check_columns(source, self.columns)

    def read(self, source: Source) -> pa.Table:
        """See `FileReader`."""
        here = located(source, self.columns)
        names = (here.text, here.label)
        table = source.format.read(source, [Wanted(name) for name in names])
        if table.num_rows == 0:
            raise no_rows(source.path)
        check_filled(source, names, table)
        return table.select(list(names)).rename_columns([PROMPT, ANSWER])


def reader_for(
    source: Source,
    text_column: str | None,
    text_pair_column: str | None,
    label_column: str | None,
    head: Head | None,
) -> FileReader:
    """Return what reads files like the training file; without a head its extension and columns tell it.

    Words with tags in `.conll` and `.txt` files and in columns `tokens` are for token classification, SQuAD's nested
    layout and columns `question` and `context` for question answering, columns `prompt` for language models; anything
    else is a text with a label.
    """
    given = (text_column, text_pair_column, label_column)
    head = head or _told_by_layout(source, text_column, label_column)
    if head == "token_classification":
        return TagReader(source, text_column, label_column)
    if head == "question_answering":
        return QuestionReader(*given)
    _refuse_other_layout(source, head or "classification")
    if head == "causal_lm":
        return PromptReader(_prompt_columns(source, text_column, label_column))
    columns = choose_columns(source, *given, vectors=head == "multi_label")
    reader = MultiLabelReader(columns) if head == "multi_label" else TextReader(columns, head)
    note = columns.note(source)
    reader.notes += [note] if note else []
    return reader


def _prompt_columns(source: Source, text: str | None, label: str | None) -> Columns:
    header = source.format.header(source)
    prompts = headers.usual(header, headers.PROMPTS[:1]) or headers.usual(header, headers.PROMPTS)
    answers = headers.usual(header, headers.ANSWERS[:1]) or headers.usual(header, headers.ANSWERS)
    return Columns(
        text or (prompts[0] if len(prompts) == 1 else PROMPT),
        None,
        label or (answers[0] if len(answers) == 1 else ANSWER),
    )


def _told_by_layout(source: Source, text_column: str | None, label_column: str | None) -> Head | None:
    if source.format.layout == "sentences":
        return "token_classification"
    if source.format.layout == "questions":
        return "question_answering"
    header = source.format.header(source)
    names = {headers.plain_name(name) for name in header}
    if text_column is not None or TEXT in names:
        return None
    if {"question", "context"} <= names and ("answers" in names or not names & headers.LABELS) and not label_column:
        return "question_answering"
    if "tokens" in names or ("words" in names and _has_lists(source, header)):
        return "token_classification"
    return "causal_lm" if {PROMPT} < names and names & set(headers.ANSWERS[:3]) else None


def _has_lists(source: Source, header: list[str]) -> bool:
    """Whether the column of words holds lists."""
    values = source.format.sample(source, headers.usual(header, ("words",))[:1], 1)
    return bool(values and values[0]) and (isinstance(values[0][0], list) or str(values[0][0]).startswith("["))


def _refuse_other_layout(source: Source, head: str) -> None:
    """Raise DataError for a layout that belongs to another head."""
    layouts = {
        "sentences": ("words with tags", "token_classification"),
        "questions": ("SQuAD's", "question_answering"),
    }
    if source.format.layout in layouts:
        layout, other = layouts[source.format.layout]
        raise DataError(
            f"{file_place(source.path)}: its layout is {layout}, for the head {other}, not {head}; give .csv, .tsv, "
            ".jsonl or .parquet."
        )
