"""What reads the user's files for a head: the training file first, which decides what the labels of all files mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from steadytune.errors import DataError
from steadytune.tasks.files.columns import (
    Columns,
    check_columns,
    choose_columns,
    column_names,
    read_columns,
    read_texts,
)
from steadytune.tasks.files.faulty_cells import FaultyCells
from steadytune.tasks.files.labels import LabelCode, decide, encode, read_labels
from steadytune.tasks.files.places import file_place
from steadytune.tasks.files.sources import Source
from steadytune.tasks.task import ANSWER, LABEL, PROMPT, TEXT, TEXT_PAIR, Head

if TYPE_CHECKING:
    from pyarrow import Table


class FileReader(Protocol):
    """Reads the files of one task; `label_names`, `head` and `reason` are known once the training file is read."""

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

    def read(self, source: Source) -> Table:
        """Return the rows in the columns of the head; raises DataError naming file, row and column."""
        ...


class TextReader:
    """Classification or regression of a text or a pair; without a head the labels decide between the two."""

    def __init__(self, columns: Columns, head: Head | None) -> None:
        self.columns = columns
        self.asked: Head | None = head
        self.code: LabelCode | None = None

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
        _refuse_words_and_tags(source, "classification")
        check_columns(source, self.columns)

    def read(self, source: Source) -> Table:
        """See `FileReader`."""
        import pyarrow as pa

        faults = FaultyCells(source)
        raw = read_columns(source, self.columns, faults=faults)
        labels = read_labels(faults, self.columns.label, raw.column(LABEL), self.code, self.asked)
        self.code = self.code or decide(labels, self.asked)
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

    def check(self, source: Source) -> None:
        """See `FileReader`."""
        _refuse_words_and_tags(source, self.head)
        check_columns(source, self.columns)

    def read(self, source: Source) -> Table:
        """See `FileReader`."""
        table = read_texts(source, (self.columns.text, self.columns.label))
        return table.select([self.columns.text, self.columns.label]).rename_columns([PROMPT, ANSWER])


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
    from steadytune.tasks.files.multi_label import MultiLabelReader
    from steadytune.tasks.files.questions import QuestionReader
    from steadytune.tasks.files.tags import TagReader

    given = (text_column, text_pair_column, label_column)
    head = head or _told_by_layout(source, text_column)
    if head == "token_classification":
        return TagReader(source, text_column, label_column)
    if head == "question_answering":
        return QuestionReader(*given)
    _refuse_words_and_tags(source, head or "classification")
    if head == "causal_lm":
        names = column_names(source)
        answer = label_column or ("completion" if ANSWER not in names and "completion" in names else ANSWER)
        return PromptReader(Columns(text_column or PROMPT, None, answer))
    columns = choose_columns(source, *given)
    return MultiLabelReader(columns) if head == "multi_label" else TextReader(columns, head)


def _told_by_layout(source: Source, text_column: str | None) -> Head | None:
    if source.format == "conll":
        return "token_classification"
    if source.format == "squad":
        return "question_answering"
    names = set(column_names(source))
    if text_column is not None or TEXT in names:
        return None
    if {"question", "context"} <= names:
        return "question_answering"
    if "tokens" in names:
        return "token_classification"
    return "causal_lm" if {PROMPT} < names and names & {ANSWER, "completion"} else None


def _refuse_words_and_tags(source: Source, head: str) -> None:
    """Raise DataError for a layout that belongs to another head."""
    layouts = {"conll": ("words with tags", "token_classification"), "squad": ("SQuAD's", "question_answering")}
    if source.format in layouts:
        layout, other = layouts[source.format]
        raise DataError(
            f"{file_place(source.path)}: its layout is {layout}, for the head {other}, not {head}; give .csv, .tsv, "
            ".jsonl or .parquet."
        )
