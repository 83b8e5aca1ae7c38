"""The verb `predict`: rows from a file, standard input or options, and predictions on the screen or in a file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steadytune.errors import SettingsError
from steadytune.models.inputs import ModelInputs
from steadytune.prediction.sources import RowSource, from_file, from_stream, from_texts
from steadytune.prediction.trained_model import find_trained_model
from steadytune.prediction.writers import check_output, written_rows
from steadytune.settings.asked import Asked
from steadytune.settings.fields import DATA, MODEL, OUTPUT, setting
from steadytune.settings.predict import PredictOptions
from steadytune.support.text import counted, printable

SUMMARY = "Predict rows with a trained model: a table, or your file with two more columns."
PANEL = "Look at results"
PLACE = 0
EXAMPLE = "steadytune predict runs/first reviews.csv --output scored.csv"

SETTINGS = PredictOptions
STANDARD_INPUT = Path("-")


class Options(Asked):
    """What `predict` can be asked for besides its settings."""

    model: str = setting(
        ...,
        "A run, a comparison (its best model), a model folder or a Hub id.",
        MODEL,
        metavar="MODEL",
        positional=True,
        required=True,
        first=1,
    )
    file: Path | None = setting(
        None,
        "Rows in any format that training reads; - for standard input.",
        DATA,
        metavar="FILE",
        positional=True,
        first=2,
    )
    texts: list[str] = setting(
        [], "A text, instead of a file; repeatable.", DATA, metavar="TEXT", repeated=True, option="--text", first=3
    )
    pairs: list[str] = setting(
        [],
        "The second text, or context, of a --text; repeatable.",
        DATA,
        metavar="TEXT",
        repeated=True,
        option="--text-pair",
    )
    output: Path | None = setting(
        None, "Write .csv, .tsv, .jsonl or .parquet.", OUTPUT, metavar="FILE", short="-o", first=4
    )
    quiet: bool = setting(False, "Print results only, no progress.", OUTPUT, short="-q")


def run(options: PredictOptions, given: Options) -> None:
    """Predict rows as asked, and print a table or write a file."""
    output, quiet = given.output, given.quiet
    _check_given(given, options)
    output = None if output is None else output.expanduser()
    path = None if given.file in (None, STANDARD_INPUT) else given.file
    if output is not None:
        check_output(output, overwrite=options.overwrite, source=path)
    found = find_trained_model(given.model)
    if found.note:
        _tell(found.note, quiet=quiet)
    with_types = output is not None and output.suffix.lower() == ".parquet"
    with _rows(given, found.inputs, options, with_types=with_types) as source, _quiet_end():
        for note in source.notes:
            _tell(note, quiet=quiet)
        from steadytune.prediction.session import Work

        work = Work.planned(found, source, options)
        if output is None:
            _print_table(work, quiet=quiet)
        else:
            work.refuse_collisions()
            _write_file(work, output, quiet=quiet)


def _check_given(given: Options, options: PredictOptions) -> None:
    file, texts, pairs = given.file, given.texts, given.pairs
    if texts and file is not None:
        raise SettingsError(f"{file} and --text: give one or the other.")
    if pairs and not texts:
        raise SettingsError("--text-pair: is the second text of a --text; give that as well.")
    if file is None and not texts:
        raise SettingsError('Nothing to predict: give a file, - for standard input, or --text "...".')
    if texts and options.input_format is not None:
        raise SettingsError("--input-format: is for a file or standard input, not for --text.")


@contextlib.contextmanager
def _rows(given: Options, inputs: ModelInputs, options: PredictOptions, *, with_types: bool) -> Iterator[RowSource]:
    file = given.file
    if file is None:
        yield from_texts(given.texts, given.pairs, inputs)
    elif file == STANDARD_INPUT:
        with from_stream(sys.stdin.buffer, inputs, options, with_types=with_types) as source:
            yield source
    else:
        yield from_file(file, inputs, options, with_types=with_types)


def _print_table(work: Any, *, quiet: bool) -> None:
    from steadytune.cli.views.predictions import PredictionTable, ProgressLine
    from steadytune.prediction.session import predict_rows

    _quiet_libraries()
    table = PredictionTable(work)
    _print(table.heading())
    progress = ProgressLine(work.source.count, quiet=quiet or sys.stdout.isatty())

    def take(chunk: Any, predictions: Any) -> None:
        _print(*table.lines(chunk, predictions))

    outcome = predict_rows(work, take, progress)
    progress.end()
    _conclude(outcome, quiet=quiet)


def _write_file(work: Any, output: Path, *, quiet: bool) -> None:
    from steadytune.cli.views.predictions import ProgressLine
    from steadytune.prediction.session import as_cells, predict_rows

    _quiet_libraries()
    suffix = output.suffix.lower()
    joined = as_cells(work.model.task.head, work.model.task.label_names) if suffix in (".csv", ".tsv") else None
    types = work.types() if suffix == ".parquet" else dict.fromkeys(work.added)
    progress = ProgressLine(work.source.count, quiet=quiet)
    with written_rows(output, work.source.columns, work.source.schema, types) as write:

        def take(chunk: Any, predictions: Any) -> None:
            write(chunk, work.values(predictions, joined=joined))

        outcome = predict_rows(work, take, progress)
    progress.end()
    _conclude(outcome, quiet=quiet)
    if not quiet:
        _print(f"Wrote {counted(outcome.rows, 'row')} to {output}.")


def _conclude(outcome: Any, *, quiet: bool) -> None:
    """Print the scores, which are results, and tell the notes, which are not."""
    for note in outcome.notes:
        _tell(note, quiet=False)
    scores = outcome.scores
    if scores is None:
        return
    if scores.note:
        _tell(scores.note, quiet=quiet)
    if scores.values:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.values.items())
        _print(f"Scores of {counted(scores.rows, 'row')} with labels: {shown}")


def _quiet_libraries() -> None:
    from steadytune.support.quiet_libraries import quiet_transformers

    quiet_transformers()


def _tell(line: str, *, quiet: bool) -> None:
    if not quiet:
        print(printable(line), file=sys.stderr)


def _print(*lines: str) -> None:
    """Print lines whatever the encoding of the terminal is."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    for line in lines:
        print(line.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


@contextlib.contextmanager
def _quiet_end() -> Iterator[None]:
    """End quietly when the reader of the output has closed it, as ``| head`` does."""
    try:
        yield
    except BrokenPipeError:
        # Python would complain once more when it flushes standard output at its end.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
