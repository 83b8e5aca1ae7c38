"""Load the user's own files for classification or regression of a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from steadytune.core.errors import DataError, SettingsError, did_you_mean
from steadytune.tasks.columns import Columns, check_columns, choose_columns, read_columns
from steadytune.tasks.labels import LabelCode, decide, encode, read_labels
from steadytune.tasks.locations import excerpt, file_place, listing
from steadytune.tasks.sources import Source, open_source
from steadytune.tasks.subset import held_out_rows
from steadytune.tasks.task import LABEL, TEXT, TEXT_PAIR, Head, RowCounts, Task, TaskData

if TYPE_CHECKING:
    import numpy as np
    from pyarrow import Table


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
) -> TaskData:
    r"""Return the task that the files hold, every row of it.

    The format follows from the extension: .csv, .tsv (quoted as csv is), .jsonl, .ndjson or .json (one object per
    line), .parquet. Text is UTF-8. The columns default to `text`, `text_pair` where there is one, and `label`.
    Without `head`, labels that are names or at most 20 different whole numbers are classes and other numbers are
    scores; `task.description` says which and why. Classes are sorted by name, or by number. Without a validation file
    a tenth of the training rows, stratified and chosen by `seed`, is held out, and `notes` says so.

    Raises DataError (one line with file, row, column and remedy) for any row that cannot be used; no row is dropped.
    Raises SettingsError for an unknown head or seed.

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp(), "train.csv")
    >>> _ = file.write_text("text,label\ngood,yes\nbad,no\nfine,yes\npoor,no\n")
    >>> data = load_files(file)
    >>> data.task.label_names, data.counts["train"]
    (('no', 'yes'), RowCounts(read=4, used=2))
    """
    if head is not None and head not in get_args(Head):
        known = ", ".join(get_args(Head))
        raise SettingsError(
            f"unknown head {excerpt(head)}; known are {known}.{did_you_mean(str(head), get_args(Head))}"
        )
    files = {"train": train_file, "validation": validation_file, "test": test_file}
    sources = {split: open_source(file) for split, file in files.items() if file is not None}
    columns = choose_columns(sources["train"], text_column, text_pair_column, label_column)
    for source in sources.values():
        check_columns(source, columns)

    tables: dict[str, Table] = {}
    code: LabelCode | None = None
    for split, source in sources.items():
        tables[split], code = _read_split(source, columns, code, head)
    assert code is not None
    read = {split: table.num_rows for split, table in tables.items()}
    notes = [] if head or code.head == "classification" else [f"Regression, because {code.reason}."]
    if "validation" not in tables:
        tables = _hold_out(tables, sources["train"], code, seed)
        read["validation"] = read["train"]
        notes.append(
            f"No validation file: {tables['validation'].num_rows} of the {read['train']} training rows are held out "
            f"for validation (seed {seed})."
        )
    notes += _overlap_notes(tables)
    notes += _rare_class_notes(tables["train"], code)
    task = _task(sources, columns, code, held_out="validation" not in sources)
    counts = {split: RowCounts(read[split], table.num_rows) for split, table in tables.items()}
    return TaskData(task, {split: _dataset(table) for split, table in tables.items()}, (), counts, tuple(notes))


def _read_split(
    source: Source, columns: Columns, code: LabelCode | None, head: Head | None
) -> tuple[Table, LabelCode]:
    """Return the rows of a source with encoded labels, and the code: that of the training labels when given."""
    import pyarrow as pa

    raw = read_columns(source, columns)
    labels = read_labels(source, columns.label, raw.column(LABEL), code, head)
    code = code or decide(labels, head)
    names = [TEXT, TEXT_PAIR] if columns.text_pair is not None else [TEXT]
    values = [*(raw.column(name) for name in names), pa.chunked_array([pa.array(encode(labels, code))])]
    return pa.table(values, names=[*names, LABEL]), code


def _hold_out(tables: Mapping[str, Table], source: Source, code: LabelCode, seed: int) -> dict[str, Table]:
    """Return the tables with a validation split taken from the training rows."""
    import numpy as np

    train = tables["train"]
    classes = train.column(LABEL).to_numpy() if code.head == "classification" else None
    try:
        rows = held_out_rows(classes, train.num_rows, seed)
    except DataError as error:
        raise DataError(f"{file_place(source.path)}: {error}") from None
    kept = np.delete(np.arange(train.num_rows), rows)
    return {**tables, "train": train.take(kept), "validation": train.take(rows)}


def _overlap_notes(tables: Mapping[str, Table]) -> list[str]:
    """Say how many rows of the other splits have the very text of a training row."""
    from pyarrow import compute

    arrow: Any = compute
    seen = _inputs(tables["train"])
    notes = []
    for split, table in tables.items():
        shared = 0 if split == "train" else arrow.sum(arrow.is_in(_inputs(table), value_set=seen)).as_py()
        if shared:
            notes.append(
                f"{shared} of the {table.num_rows} {split} rows have the text of a training row, so the score there "
                "is not one on unseen text alone."
            )
    return notes


def _inputs(table: Table) -> Any:
    """Return the texts, pairs joined into one string."""
    from pyarrow import compute

    arrow: Any = compute
    if TEXT_PAIR not in table.column_names:
        return table.column(TEXT)
    return arrow.binary_join_element_wise(table.column(TEXT), table.column(TEXT_PAIR), "\x1f")


def _rare_class_notes(train: Table, code: LabelCode) -> list[str]:
    """Say which classes are left with one training row."""
    import numpy as np

    if code.label_names is None:
        return []
    counts: np.ndarray = np.bincount(train.column(LABEL).to_numpy(), minlength=len(code.label_names))
    rare = [name for name, count in zip(code.label_names, counts, strict=True) if count <= 1]
    return [f"Classes with a single training row: {listing(rare)}."] if rare else []


def _task(sources: Mapping[str, Source], columns: Columns, code: LabelCode, held_out: bool) -> Task:
    """Return the record of the task."""
    if code.head == "classification":
        kind = f"Classification into {len(code.label_names or ())} classes ({listing(list(code.label_names or ()))})"
    else:
        kind = "Regression"
    what = {split: f"the rows of {file_place(source.path)}" for split, source in sources.items()}
    if held_out:
        what["validation"] = f"a tenth of the rows of {file_place(sources['train'].path)}, held out from training"
    return Task(
        name="".join(c if c.isprintable() else "_" for c in sources["train"].path.stem),
        head=code.head,
        description=f"{kind}, because {code.reason}.",
        citation="the user's own files",
        text_column=columns.text,
        text_pair_column=columns.text_pair,
        label_column=columns.label,
        label_names=code.label_names,
        splits=what,
        metric="accuracy" if code.head == "classification" else "pearson",
    )


def _dataset(table: Table) -> Any:
    from datasets import Dataset

    return Dataset(table)
