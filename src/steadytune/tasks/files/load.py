"""Load the user's own files for every head that can be trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from steadytune.errors import DataError, SettingsError, did_you_mean
from steadytune.heads.columns import LABEL
from steadytune.heads.registry import FILE_HEADS, head_of
from steadytune.support.memory import within_free_memory
from steadytune.support.text import excerpt, listing
from steadytune.tasks.files.places import file_place, numbered
from steadytune.tasks.files.readers import FileReader, reader_for
from steadytune.tasks.files.sources import Source, open_source
from steadytune.tasks.subset import held_out_rows
from steadytune.tasks.tables import dataset_of
from steadytune.tasks.task import Head, RowCounts, Task, TaskData

if TYPE_CHECKING:
    from datasets import Dataset

_arrow: Any = compute
#: Bytes of a file up to which `check_files` reads its rows.
_SMALL = 4 << 20


def load_files(
    train_file: str | Path,
    validation_file: str | Path | None = None,
    test_file: str | Path | None = None,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    head: Head | None = None,
    seed: int = 0,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> TaskData:
    r"""Return the task that the files hold, every row of it.

    The format follows from the extension: .csv, .tsv (quoted as csv is), .jsonl or .ndjson (one object per line),
    .json (an array of objects, or one per line), .parquet, .xlsx; .conll and .txt (a word and its tag on each line);
    .json in SQuAD's nested layout. Each may be compressed, as in .csv.gz. What separates the columns of a csv file and
    the encoding of text are found out unless `delimiter` and `encoding` say it; `notes` says what was assumed.

    The columns default to those of `TaskData`: `text`, `text_pair` where there is one, and `label`, or to those with
    other usual names (`review`, `sentiment`, `premise` and `hypothesis`); `notes` says so. For other heads
    `text_column`, `text_pair_column` and `label_column` name question, context and answers, words and tags, or prompt
    and answer. Without `head`, the layout tells tags, questions and prompts; labels that are names or at most 20
    different whole numbers are classes and other numbers are scores. `task.description` says which and why. Classes
    are sorted by name, or by number. Without a validation file a tenth of the training rows, chosen by `seed` and
    stratified by class, is held out, and `notes` says so.

    Raises DataError (one line with file, row, column and remedy) for any row that cannot be used; no row is dropped.
    Raises SettingsError for an unknown head or seed.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "train.csv")
    >>> _ = file.write_text("text,label\ngood,yes\nbad,no\nfine,yes\npoor,no\n")
    >>> data = load_files(file)
    >>> data.task.label_names, data.counts["train"]
    (('no', 'yes'), RowCounts(read=4, used=2))
    """
    files = {"train": train_file, "validation": validation_file, "test": test_file}
    reader, sources = _opened(files, (text_column, text_pair_column, label_column), head, delimiter, encoding)
    tables = {split: _read(reader, source) for split, source in sources.items()}
    read = {split: table.num_rows for split, table in tables.items()}
    notes = list(dict.fromkeys(note for source in sources.values() for note in source.notes)) + reader.notes
    notes += [] if head or reader.head != "regression" else [f"Regression, because {reader.reason}."]
    held_out = None
    if "validation" not in tables:
        tables, held_out = _hold_out(tables, sources["train"], reader.head, seed)
        read["validation"] = read["train"]
        count = tables["validation"].num_rows
        notes.append(
            f"No validation file: {count} of the {read['train']} training rows {'is' if count == 1 else 'are'} held "
            f"out for validation (seed {seed})."
        )
    notes += _overlap_notes(tables, sources, held_out, reader.head)
    notes += _rare_class_notes(tables["train"], reader)
    task = _task(sources, reader, asked=head is not None)
    counts = {split: RowCounts(read[split], table.num_rows) for split, table in tables.items()}
    return TaskData(task, {split: dataset_of(table) for split, table in tables.items()}, (), counts, tuple(notes))


def check_files(
    train_file: str | Path,
    validation_file: str | Path | None = None,
    test_file: str | Path | None = None,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    head: Head | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> None:
    """Raise what `load_files` would raise about files, columns and, where the files are small, rows.

    Neither torch nor `datasets` is imported for it, so mistakes are reported within a second.
    """
    files = {"train": train_file, "validation": validation_file, "test": test_file}
    reader, sources = _opened(files, (text_column, text_pair_column, label_column), head, delimiter, encoding)
    for source in sources.values():
        if source.path.stat().st_size > _SMALL:
            return
        reader.read(source)


def _opened(
    files: Mapping[str, str | Path | None],
    columns: tuple[str | None, str | None, str | None],
    head: Head | None,
    delimiter: str | None,
    encoding: str | None,
) -> tuple[FileReader, dict[str, Source]]:
    """Return the reader that the training file asks for, and the files; raises DataError where they do not fit."""
    if head is not None and head not in FILE_HEADS:
        known = ", ".join(FILE_HEADS)
        raise SettingsError(f"unknown head {excerpt(head)}; known are {known}.{did_you_mean(str(head), FILE_HEADS)}")
    sources = {split: open_source(file, delimiter, encoding) for split, file in files.items() if file is not None}
    reader = reader_for(sources["train"], *columns, head)
    for source in sources.values():
        reader.check(source)
    return reader, sources


def training_rows(
    train_file: str | Path,
    *,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    head: Head | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Dataset:
    """Return every row of the training file in its order, those that `load_files` would hold out as well.

    Raises DataError and SettingsError as `load_files` does.
    """
    columns = (text_column, text_pair_column, label_column)
    reader, sources = _opened({"train": train_file}, columns, head, delimiter, encoding)
    return dataset_of(_read(reader, sources["train"]))


def _read(reader: FileReader, source: Source) -> pa.Table:
    """Return the rows of a file, and give back what Arrow keeps of the memory that reading took."""
    with within_free_memory(file_place(source.path)):
        table = reader.read(source)
    pa.default_memory_pool().release_unused()
    return table


def _hold_out(
    tables: dict[str, pa.Table], source: Source, head: Head, seed: int
) -> tuple[dict[str, pa.Table], np.ndarray]:
    """Return the tables with a validation split taken from the training rows, and which rows of the file it has.

    The training rows are taken out of `tables`.
    """
    train = tables.pop("train")
    classes = train.column(LABEL).to_numpy() if head_of(head).one_class_per_row else None
    try:
        rows = held_out_rows(classes, train.num_rows, seed)
    except DataError as error:
        raise DataError(f"{file_place(source.path)}: {error}") from None
    held_out = np.zeros(train.num_rows, dtype=bool)
    held_out[rows] = True
    columns = {name: column.chunks for name, column in zip(train.column_names, train.columns, strict=True)}
    del train
    parts = {name: _divided(chunks, held_out) for name, chunks in columns.items()}
    pa.default_memory_pool().release_unused()
    kept, validation = (pa.table({name: part[i] for name, part in parts.items()}) for i in (0, 1))
    return {"train": kept, **tables, "validation": validation}, rows


def _divided(chunks: list[Any], held_out: np.ndarray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Return the values to keep and those held out; the chunks are let go one by one, so that no copy is made."""
    start, parts, kind = 0, ([], []), chunks[0].type
    chunks.reverse()
    while chunks:
        chunk = chunks.pop()
        mask = held_out[start : start + len(chunk)]
        start += len(chunk)
        for part, chosen in zip(parts, (~mask, mask), strict=True):
            part.append(chunk.filter(pa.array(chosen)))
    return pa.chunked_array(parts[0], kind), pa.chunked_array(parts[1], kind)


def _overlap_notes(
    tables: Mapping[str, pa.Table], sources: Mapping[str, Source], held_out: np.ndarray | None, head: Head
) -> list[str]:
    """Say how many rows of the other splits have the very text of a training row, and where the first of them are."""
    train = _inputs(tables["train"], head)
    notes = []
    for split, table in tables.items():
        if split == "train":
            continue
        texts = _inputs(table, head)
        # of the two sets of texts only the smaller is kept in memory, and what both have
        small, large = (texts, train) if len(texts) < len(train) else (train, texts)
        both = _arrow.unique(large.filter(_arrow.is_in(large, value_set=small)))
        shared = np.flatnonzero(np.asarray(_arrow.is_in(texts, value_set=both)))
        if len(shared):
            rows = held_out[shared] if held_out is not None and split == "validation" else shared
            file = sources[split if split in sources else "train"].path
            notes.append(
                f"{len(shared)} of the {table.num_rows} {split} rows {'has' if len(shared) == 1 else 'have'} the text "
                f"of a training row ({numbered(rows)} of {file_place(file)}), so the score there is not one on unseen "
                "text alone."
            )
    return notes


def _inputs(table: pa.Table, head: Head) -> Any:
    """Return the text of each row, several joined into one string."""
    kind = head_of(head)
    columns = [table.column(name) for name in kind.input_columns if name in table.column_names]
    if kind.layout == "words":
        columns = [_arrow.binary_join(column, "\x1f") for column in columns]
    return columns[0] if len(columns) == 1 else _arrow.binary_join_element_wise(*columns, "\x1f")


def _rare_class_notes(train: pa.Table, reader: FileReader) -> list[str]:
    """Say which classes are left with one training row."""
    if reader.label_names is None or not head_of(reader.head).one_class_per_row:
        return []
    counts: np.ndarray = np.bincount(train.column(LABEL).to_numpy(), minlength=len(reader.label_names))
    rare = [name for name, count in zip(reader.label_names, counts, strict=True) if count <= 1]
    return [f"Classes with a single training row: {listing(rare)}."] if rare else []


def _stem(path: Path) -> str:
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


def _task(sources: Mapping[str, Source], reader: FileReader, *, asked: bool) -> Task:
    """Return the record of the task."""
    kind = reader.head.replace("_", " ").capitalize()
    names = list(reader.label_names or ())
    head = head_of(reader.head)
    metrics = head.file_metrics(reader.label_names)
    if head.one_class_per_row:
        kind = f"Classification into {len(names)} classes ({listing(names)})"
    elif names:
        kind = f"{kind} with {len(names)} labels ({listing(names)})"
    what = {split: f"the rows of {file_place(source.path)}" for split, source in sources.items()}
    if "validation" not in sources:
        what["validation"] = f"a tenth of the rows of {file_place(sources['train'].path)}, held out from training"
    of_labels = reader.head in ("classification", "regression")
    return Task(
        name="".join(c if c.isprintable() else "_" for c in _stem(sources["train"].path)),
        head=reader.head,
        description=f"{kind}, because {'it was asked for' if asked and not of_labels else reader.reason}.",
        citation="the user's own files",
        text_column=reader.columns.text,
        text_pair_column=reader.columns.text_pair,
        label_column=reader.columns.label,
        label_names=reader.label_names,
        splits=what,
        metric=metrics[0],
        metrics=metrics,
        family="files",
    )
