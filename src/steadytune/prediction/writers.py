"""Write rows with their predictions, some at a time, to csv, tsv, json lines or parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steadytune.errors import SettingsError, did_you_mean
from steadytune.prediction.chunks import Chunk
from steadytune.support.atomic_files import remove_abandoned, replaced_when_whole
from steadytune.support.writing import open_file

#: Adds predictions, by column, to the rows of a chunk, and writes both.
Write = Callable[[Chunk, Mapping[str, Sequence[Any]]], None]
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def check_output(output: Path, *, overwrite: bool, source: Path | None) -> None:
    """Look whether predictions can be written there, before anything is predicted.

    Args:
        output: the file.
        overwrite: replace it.
        source: the file that is read.

    Raises:
        SettingsError: they cannot.
    """
    place, suffix = f"--output {output}", output.suffix.lower()
    if output.is_dir():
        raise SettingsError(f"{place}: is a folder; give a file.")
    if suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise SettingsError(f"{place}: the name must end in one of {known}.{did_you_mean(suffix, SUFFIXES)}")
    if not output.parent.is_dir():
        raise SettingsError(f"{place}: there is no folder {str(output.parent)!r}; make it first.")
    if source is not None and output.exists() and output.samefile(source):
        raise SettingsError(f"{place}: is the file that is read; give another name.")
    if output.exists() and not overwrite:
        raise SettingsError(f"{place}: exists already; give another name, or --overwrite to replace it.")


@contextmanager
def written_rows(output: Path, columns: Sequence[str], schema: Any, added: Mapping[str, Any]) -> Iterator[Write]:
    """Give a function that writes rows; the file is there once the block has ended without an error.

    Args:
        output: the file; its name tells the format.
        columns: those of the input, in their order.
        schema: their types, for parquet.
        added: the Arrow type of each column of predictions, by name; ``None`` for other formats.
    """
    remove_abandoned(output.parent, f"{output.name}.*.unfinished")
    kind = {".jsonl": _json_lines, ".parquet": _parquet}.get(output.suffix.lower(), _delimited)
    with replaced_when_whole(output) as unfinished, kind(unfinished, output, columns, schema, added) as write:
        yield write


@contextmanager
def _delimited(
    path: Path, output: Path, columns: Sequence[str], _schema: Any, added: Mapping[str, Any]
) -> Iterator[Write]:
    delimiter = "\t" if output.suffix.lower() == ".tsv" else ","
    with io.TextIOWrapper(open_file(path, "wb"), "utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow([*columns, *added])

        def write(chunk: Chunk, predictions: Mapping[str, Sequence[Any]]) -> None:
            parts = [*(chunk.column(name) for name in columns), *(predictions[name] for name in added)]
            writer.writerows([as_cell(value) for value in values] for values in zip(*parts, strict=True))

        yield write


def as_cell(value: Any) -> str:
    """A value as it is written into one cell: text as it is, nothing for none, lists as JSON.

    >>> as_cell("a"), as_cell(None), as_cell(0.5), as_cell(["a", "b"])
    ('a', '', '0.5', '["a", "b"]')
    """
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


@contextmanager
def _json_lines(
    path: Path, _output: Path, _columns: Sequence[str], _schema: Any, added: Mapping[str, Any]
) -> Iterator[Write]:
    with io.TextIOWrapper(open_file(path, "wb"), "utf-8", newline="\n") as file:

        def write(chunk: Chunk, predictions: Mapping[str, Sequence[Any]]) -> None:
            for i, row in enumerate(chunk.rows):
                content = row | {name: predictions[name][i] for name in added}
                line = json.dumps(content, ensure_ascii=False, default=str)
                try:
                    line.encode()
                except UnicodeEncodeError:  # half a character, which only an escape can hold
                    line = json.dumps(content, default=str)
                file.write(line + "\n")

        yield write


@contextmanager
def _parquet(
    path: Path, _output: Path, columns: Sequence[str], schema: Any, added: Mapping[str, Any]
) -> Iterator[Write]:
    import pyarrow as pa
    from pyarrow import parquet

    if schema is None:
        schema = pa.schema([(name, pa.string()) for name in columns])
    whole = schema
    for name, kind in added.items():
        whole = whole.append(pa.field(name, kind))
    with parquet.ParquetWriter(path, whole) as writer:

        def write(chunk: Chunk, predictions: Mapping[str, Sequence[Any]]) -> None:
            if chunk.batch is not None:
                values = list(chunk.batch.columns)
            else:
                values = [_column(chunk.column(field.name), field.type) for field in schema]
            values += [pa.array(predictions[name], kind) for name, kind in added.items()]
            writer.write_table(pa.Table.from_arrays(values, schema=whole))

        yield write


def _column(values: list[Any], kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_string(kind):  # also where values of different types have no other in common
        values = [value if value is None else as_cell(value) for value in values]
    return pa.array(values, kind)
