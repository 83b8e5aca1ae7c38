"""Where rows to predict come from: a file, standard input, texts that are given, or tables in memory."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from steadytune.errors import DataError
from steadytune.heads.columns import TOKENS
from steadytune.models.inputs import ModelInputs
from steadytune.prediction.chunks import Chunk, Row, RowFile, in_chunks, read_chunks
from steadytune.prediction.survey import survey
from steadytune.settings.predict import PredictOptions
from steadytune.support.reading import open_regular
from steadytune.support.text import excerpt
from steadytune.support.text_files import GZIP, head_of
from steadytune.tasks.files import headers
from steadytune.tasks.files.formats import formats
from steadytune.tasks.files.formats.format import DELIMITERS, Format, Given
from steadytune.tasks.files.places import file_place
from steadytune.tasks.files.sources import delimiter_of, open_source

STANDARD_INPUT = "standard input"


@dataclass(frozen=True)
class RowSource:
    """Rows to predict.

    Attributes:
        place: what messages call it.
        columns: all columns, in their order.
        count: how many rows; ``None`` where that is only known at the end.
        chunks: reads them, some at a time.
        schema: the types of the columns in Arrow, where they are known.
        notes: what the rows were taken for, where it was guessed.
    """

    place: str
    columns: tuple[str, ...]
    count: int | None
    chunks: Callable[[], Iterable[Chunk]] = field(repr=False)
    schema: Any = None
    notes: tuple[str, ...] = ()


def from_file(path: Path, inputs: ModelInputs, options: PredictOptions, *, with_types: bool = False) -> RowSource:
    """Rows of a file; it is read once to its end, and again when its rows are predicted.

    Args:
        path: the file.
        inputs: of the model; its head tells words and tags from lines of text.
        options: may say how to read it, where its name does not.
        with_types: the types of all columns are needed.

    Raises:
        DataError: it cannot be read.
    """
    if options.input_format is None:
        file = _by_name(path, inputs, options)
    else:
        file = _by_format(path, options.input_format, inputs, options)
    found = survey(file, with_types=with_types)
    return RowSource(
        file_place(file.source.path),
        found.columns,
        found.rows,
        lambda: read_chunks(file),
        found.schema,
        file.source.notes,
    )


def _by_name(path: Path, inputs: ModelInputs, options: PredictOptions) -> RowFile:
    """How a file is read, told by its name and the head of the model."""
    source = open_source(path, options.delimiter, options.encoding)
    layout, is_tags = source.format.layout, inputs.predicts == "tags"
    if is_tags and source.format.name == "tsv" and not headers.usual(source.format.header(source), headers.WORDS):
        return RowFile(replace(source, format=_format("conll")))
    if layout == "questions" and inputs.predicts != "answer":
        raise DataError(f"{file_place(path)}: its layout is SQuAD's, and the model predicts {_words(inputs)}.")
    if layout == "sentences" and not is_tags:
        if ".txt" not in path.suffixes:
            raise DataError(f"{file_place(path)}: holds words and tags, and the model predicts {_words(inputs)}.")
        return RowFile(source, inputs.text_column)
    return RowFile(source)


def _beginning(path: Path) -> tuple[bool, bytes]:
    """Whether a file is compressed, and its first bytes, unpacked."""
    with open_regular(path) as content:
        compressed = content.read(len(GZIP)) == GZIP
    return compressed, head_of(path, compressed)


def _by_format(path: Path, name: str, inputs: ModelInputs, options: PredictOptions) -> RowFile:
    """How a file is read, as the user says."""
    if not path.is_file():
        raise DataError(f"{file_place(path)}: there is no such file; check the path.")
    compressed, head = _beginning(path)
    if not head.strip():
        raise DataError(f"{file_place(path)}: the file is empty; give at least one row.")
    delimiter = delimiter_of(options.delimiter)
    found = _format("conll" if name == "lines" else name)
    source = found.open(Given(path, head, compressed, delimiter, options.encoding))
    return RowFile(source, inputs.text_column if name == "lines" else "")


def _format(name: str) -> Format:
    wanted = "json lines" if name == "jsonl" else name
    return next(one for one in formats() if one.name == wanted)


def _words(inputs: ModelInputs) -> str:
    return {
        "class": "one class for each text",
        "number": "a number for each text",
        "labels": "several labels for each text",
        "tags": "a tag for each word",
        "answer": "the answer to a question",
    }.get(inputs.predicts, "text")


def from_rows(rows: Sequence[Row] | Iterable[Row], columns: Sequence[str], count: int | None, place: str) -> RowSource:
    """Rows that are in memory, or come one after the other."""
    return RowSource(place, tuple(columns), count, lambda: in_chunks(rows))


def from_texts(texts: Sequence[str], pairs: Sequence[str], inputs: ModelInputs, place: str = "--text") -> RowSource:
    """Single texts, or pairs of them.

    Raises:
        DataError: there are not as many second texts as first ones, or none where the model needs them.
    """
    if pairs and len(pairs) != len(texts):
        raise DataError(f"{place}-pair: {len(pairs)} second texts for {len(texts)} texts; give one for each.")
    if pairs and inputs.is_pair is False:
        raise DataError(f"{place}-pair: the model was trained on single texts.")
    if inputs.is_pair and not pairs:
        raise DataError(f"{place}: the model reads pairs; give {place}-pair as well.")
    usual = ModelInputs.usual(inputs.head)
    first, second = inputs.text_column, inputs.text_pair_column or usual.text_pair_column or "text_pair"
    if not pairs:
        return from_rows([{first: text} for text in texts], (first,), len(texts), place)
    rows = [{first: text, second: pair} for text, pair in zip(texts, pairs, strict=True)]
    return from_rows(rows, (first, second), len(texts), place)


@contextmanager
def from_stream(
    stream: IO[bytes], inputs: ModelInputs, options: PredictOptions, *, with_types: bool
) -> Iterator[RowSource]:
    """Rows of standard input, which is kept in a temporary file on the disk while they are predicted.

    Without a format, objects are json lines, a first line that names the columns of the model is the header of csv,
    and anything else is one text on each line.
    """
    with tempfile.NamedTemporaryFile(prefix="steadytune-") as kept:
        shutil.copyfileobj(stream, kept)
        kept.flush()
        path, asked = Path(kept.name), options
        if options.input_format is None:
            asked = options.model_copy(update={"input_format": _sniffed(path, inputs)})
        try:
            found = from_file(path, inputs, asked, with_types=with_types)
        except DataError as error:
            raise DataError(str(error).replace(file_place(path), STANDARD_INPUT)) from None
        notes = [note.replace(file_place(path), STANDARD_INPUT) for note in found.notes]
        if options.input_format is None:
            kind = "one text on each line" if asked.input_format == "lines" else asked.input_format
            notes = [f"Standard input is read as {kind} (--input-format says otherwise).", *notes]
        yield replace(found, place=STANDARD_INPUT, notes=tuple(notes))


def _sniffed(path: Path, inputs: ModelInputs) -> str:
    """The format that the content looks like."""
    _, head = _beginning(path)
    if not head.strip():
        raise DataError(f"{STANDARD_INPUT}: is empty; give a text on each line, csv or json lines.")
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"PK\x03\x04"):
        return "xlsx"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith((b"{", b"[")):
        return "jsonl" if start.startswith(b"{") else "json"
    first = head.decode("utf-8-sig", "replace").lstrip("\r\n").splitlines()[0]
    usual = ModelInputs.usual(inputs.head)
    wanted = {headers.plain_name(name) for name in (inputs.text_column, usual.text_column)} | headers.TEXTS
    for delimiter in DELIMITERS:
        names = next(csv.reader([first], delimiter=delimiter), [])
        if wanted & {headers.plain_name(name) for name in names}:
            return "csv"
    if inputs.is_pair:
        raise DataError(
            f"{STANDARD_INPUT}: the model reads pairs, and the first line ({excerpt(first)}) names no column "
            f"{excerpt(inputs.text_column)}; write csv with a header, or json lines."
        )
    return "lines"


def from_python(rows: Any, inputs: ModelInputs, options: PredictOptions) -> RowSource:
    """Rows that Python code has: texts, pairs, dictionaries, a data set, a table, or a file.

    Raises:
        DataError: they are none of these, or there are no rows.
    """
    if isinstance(rows, Path) or (isinstance(rows, str) and _names_file(rows)):
        return from_file(Path(rows).expanduser(), inputs, options)
    if isinstance(rows, str):
        rows = [rows]
    if hasattr(rows, "to_dict") and hasattr(rows, "columns") and not hasattr(rows, "column_names"):
        rows = rows.to_dict("records")  # a DataFrame
    if hasattr(rows, "column_names"):  # a data set, or a table of Arrow
        names = list(rows.column_names)
        given = rows.to_pylist() if hasattr(rows, "to_pylist") else rows
        return _counted(from_rows(given, names, len(rows), "rows"))
    if isinstance(rows, dict):
        raise DataError("rows: a single dictionary; give a list of dictionaries, one for each row.")
    given = list(rows)
    if given and isinstance(given[0], dict):
        names = list(dict.fromkeys(name for row in given for name in row))
        return _counted(from_rows(given, names, len(given), "rows"))
    return _counted(_of_values(given, inputs))


def _names_file(text: str) -> bool:
    """Whether a string is the name of a file that is there, not a text."""
    try:
        return len(text) < 1000 and "\n" not in text and Path(text).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def _of_values(given: list[Any], inputs: ModelInputs) -> RowSource:
    if all(isinstance(one, str) for one in given):
        return from_texts(given, (), inputs, "rows")
    if not all(isinstance(one, tuple | list) for one in given):
        raise DataError("rows: give texts, pairs of texts, lists of words or dictionaries, all rows alike.")
    if inputs.predicts == "tags":
        return from_rows([{TOKENS: list(one)} for one in given], (TOKENS,), len(given), "rows")
    wrong = next((i for i, one in enumerate(given) if len(one) != 2), None)
    if wrong is not None:
        raise DataError(f"rows: row {wrong + 1} has {len(given[wrong])} texts where pairs are needed.")
    return from_texts([one[0] for one in given], [one[1] for one in given], inputs, "rows")


def _counted(source: RowSource) -> RowSource:
    if source.count == 0:
        raise DataError("rows: there are none; give at least one.")
    return source
