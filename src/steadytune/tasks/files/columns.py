"""Find the columns of the user's files and read them as text, text_pair and label, refusing rows without text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from pyarrow import compute

from steadytune.errors import DataError, SettingsError, did_you_mean
from steadytune.heads.columns import LABEL, TEXT, TEXT_PAIR
from steadytune.support.text import excerpt, listing
from steadytune.tasks.files import headers
from steadytune.tasks.files.faulty_cells import FaultyCells
from steadytune.tasks.files.formats.format import Kind, Source, Wanted
from steadytune.tasks.files.places import file_place, no_rows

_arrow: Any = compute
#: Rows from which text and label columns are told apart.
_SAMPLE = 500
_OPTIONS = {"text": "--text-column", "text_pair": "--text-pair-column", "label": "--label-column"}


@dataclass(frozen=True)
class Columns:
    """The names of the columns in the user's training file; `vector` are columns of 0 and 1, one for each label."""

    text: str
    text_pair: str | None
    label: str
    vector: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The text columns: one, or two for pairs."""
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)

    @property
    def labels(self) -> tuple[str, ...]:
        """The label columns: one, or those of the vector."""
        return self.vector or (self.label,)

    def note(self, source: Source) -> str | None:
        """Say which columns were taken, where they have not the names that are documented."""
        taken = [(TEXT, self.text), (TEXT_PAIR, self.text_pair), (LABEL, ", ".join(self.labels))]
        if all(name in (None, role) for role, name in taken):
            return None
        said = ", ".join(f"{role.replace('_', ' ')} = {excerpt(name)}" for role, name in taken if name is not None)
        return f"Columns of {file_place(source.path)}: {said}."


def choose_columns(
    source: Source, text: str | None, text_pair: str | None, label: str | None, *, vectors: bool = False
) -> Columns:
    """Return the columns to read: the given ones, else those with the usual names.

    Of two columns whose names say nothing the longer one is the text. With `vectors` the label may be several columns
    of 0 and 1.

    Raises DataError when the source lacks a column or it is not clear which to take, with all options to give;
    SettingsError when one column is asked to be two things.
    """
    header = source.format.header(source)
    chosen = _Choice(source, header, (text, text_pair, label), vectors)
    columns = chosen.columns()
    check_columns(source, columns)
    return columns


def check_columns(source: Source, columns: Columns) -> None:
    """Raise DataError when the source lacks one of the columns or has it twice."""
    located(source, columns)


def located(source: Source, columns: Columns) -> Columns:
    """Return the same columns by the names that they have in another file, case and blanks ignored.

    Raises DataError when the source lacks one or has it twice, SettingsError when one is asked to be two things.
    """
    header = source.format.header(source)
    names = {"text": columns.text, "text_pair": columns.text_pair}
    found = {role: name and find_column(source, header, name, _OPTIONS[role]) for role, name in names.items()}
    labels = [find_column(source, header, name, _OPTIONS["label"]) for name in columns.labels]
    chosen = [name for name in (*found.values(), *labels) if name is not None]
    for name in chosen:
        if chosen.count(name) > 1:
            raise SettingsError(f"the column {excerpt(name)} is asked to be two things; name different columns.")
    return Columns(str(found["text"]), found["text_pair"], labels[0], tuple(labels) if columns.vector else ())


def find_column(source: Source, header: Sequence[str], name: str, option: str) -> str:
    """Return the name of a column as the file has it; raises DataError where it is not there or there twice."""
    exact = [found for found in header if found == name]
    near = exact or [found for found in header if headers.plain_name(found) == headers.plain_name(name)]
    if len(near) == 1:
        return near[0]
    if len(near) > 1:
        raise DataError(
            f"{file_place(source.path)}: the column {excerpt(name)} occurs {len(near)} times; "
            "give each column its own name."
        )
    raise DataError(
        f"{file_place(source.path)}: no column {excerpt(name)}; found are {listing(list(header))}."
        f"{_near(name, header)}{_one_column(source, header)} Name the column with {option}."
    )


class _Choice:
    """Which columns are text and label, by what was given, by usual names, and by what is left."""

    def __init__(
        self, source: Source, header: list[str], given: tuple[str | None, str | None, str | None], vectors: bool
    ) -> None:
        self.source, self.header, self.vectors = source, header, vectors
        self.vector: tuple[str, ...] = ()
        self.text, self.pair, self.label = (
            name and self._given(name, option) for name, option in zip(given, _OPTIONS.values(), strict=True)
        )

    def _given(self, name: str, option: str) -> str:
        """Return a column that was asked for; with `vectors`, the first of several between commas."""
        several = [part.strip() for part in name.split(",")]
        if option == _OPTIONS["label"] and self.vectors and name not in self.header and len(several) > 1:
            self.vector = tuple(find_column(self.source, self.header, part, option) for part in several)
            return self.vector[0]
        return find_column(self.source, self.header, name, option)

    def columns(self) -> Columns:
        """Return the choice; raises DataError where something is not clear."""
        texts, labels, others = self._candidates()
        if self.vectors and not self.label and not labels:
            self._find_vector(others)
            labels, others = list(self.vector[:1]), [name for name in others if name not in self.vector]
        self._by_what_is_left(texts, labels, others)
        if len(texts) != 1 or len(labels) != 1:
            self._refuse(texts, labels, others)
        self._refuse_a_row_for_a_header(texts[0], labels[0])
        return Columns(texts[0], self.pair, labels[0], self.vector)

    def _candidates(self) -> tuple[list[str], list[str], list[str]]:
        """Return what may be the text, what may be the label, and what has no usual name."""
        given = {self.text, self.pair, self.label, *self.vector} - {None}
        free = [name for name in self.header if name not in given and headers.plain_name(name) not in headers.NEITHER]
        usual = [LABEL] if LABEL in self.header else headers.usual(free, headers.LABELS)
        labels = [self.label] if self.label else usual
        if self.text or TEXT in self.header:
            texts = [self.text or TEXT]
            if self.pair is None and texts == [TEXT] and TEXT_PAIR in free:
                self.pair = TEXT_PAIR
        else:
            texts = headers.usual([name for name in free if name not in labels], headers.TEXTS)
            found = headers.pairs(free)
            if self.pair is None and len(found) == 1:
                texts, self.pair = [found[0][0]], found[0][1]
                labels = [name for name in labels if name != self.pair]
        taken = {*texts, *labels, *given, self.pair}
        others = [name for name in free if name not in taken]
        if not others and not (texts and labels):  # better a date or an author than nothing
            others = [name for name in self.header if name not in taken]
        return texts, labels, others

    def _by_what_is_left(self, texts: list[str], labels: list[str], others: list[str]) -> None:
        """Take the only column that is left for what is missing; of two, the longer one for the text."""
        if not texts and not labels and len(others) == 2:
            values = self.source.format.sample(self.source, others, _SAMPLE)
            lengths = [sum(len(str(value)) for value in part) / max(1, len(part)) for part in values]
            texts.append(others.pop(int(lengths[1] > lengths[0])))
        if len(others) == 1 and (not texts) != (not labels):
            (texts if not texts else labels).append(others.pop())

    def _find_vector(self, others: list[str]) -> None:
        """Take the columns that hold 0 and 1 alone for the labels, where there are several."""
        values = self.source.format.sample(self.source, others, _SAMPLE)
        found = [name for name, part in zip(others, values, strict=True) if part and all(map(_is_bit, part))]
        if len(found) > 1:
            self.vector = tuple(found)

    def _refuse(self, texts: list[str], labels: list[str], others: list[str]) -> NoReturn:
        """Raise DataError with everything that is to be said, and the options to say it with."""
        place, found = file_place(self.source.path), listing(self.header)
        if len(self.header) < 2 or not (texts or others) or not (labels or others):
            name = LABEL if texts else TEXT
            raise DataError(
                f"{place}: no column {excerpt(name)}; found are {found}.{_near(name, self.header)}"
                f"{_one_column(self.source, self.header)} Name the column with {_OPTIONS[name]}."
            )
        asked, options = [], []
        for what, candidates in (("text", texts), ("label", labels)):
            if len(candidates) != 1:
                asked.append(f"which column is the {what}")
                options.append(f"{_OPTIONS[what]} {' or '.join(excerpt(name) for name in (candidates or others)[:6])}")
        hint = ""
        values = self.source.format.sample(self.source, others, _SAMPLE) if not labels and len(others) > 1 else []
        if values and all(part and all(map(_is_bit, part)) for part in values):
            hint = f" With --head multi_label the {len(values)} columns of 0 and 1 are its labels."
        pair = " (and --text-pair-column for the other, if it is a pair)" if len(texts) == 2 else ""
        raise DataError(
            f"{place}: {' and '.join(asked)}? Found are {found}. Give {' and '.join(options)}{pair}.{hint}"
        )

    def _refuse_a_row_for_a_header(self, text: str, label: str) -> None:
        """Raise DataError where the first line of a file is a row: its label is a number or occurs again."""
        known = headers.TEXTS | headers.LABELS
        if self.text or self.label or not self.source.format.has_header or self.vector:
            return
        if {headers.plain_name(text), headers.plain_name(label)} & known or self.pair:
            return
        values = {str(value).strip() for value in self.source.format.sample(self.source, [label], _SAMPLE)[0]}
        if label.strip() in values or label.strip().replace(".", "", 1).lstrip("+-").isdigit():
            raise DataError(
                f"{file_place(self.source.path)}: the first line ({listing(self.header)}) looks like a row; write a "
                "header before it, such as text,label."
            )


def _is_bit(value: Any) -> bool:
    return isinstance(value, bool) or str(value).strip() in ("0", "1", "0.0", "1.0")


def read_columns(source: Source, columns: Columns, kind: Kind, faults: FaultyCells | None = None) -> pa.Table:
    """Return the rows of a source: `text`, `text_pair` for pairs, and `label` as it is in the file.

    Raises DataError naming file, rows and column for rows without text, and for a file without rows. With `faults` the
    rows without text are only added to it. The columns of a vector keep their names.
    """
    here = located(source, columns)
    wanted = [*map(Wanted, here.texts), *(Wanted(name, kind) for name in here.labels)]
    table = source.format.read(source, wanted)
    if table.num_rows == 0:
        raise no_rows(source.path)
    found = faults or FaultyCells(source)
    for name in here.texts:
        find_unfilled(found, name, table.column(name))
    if faults is None:
        found.refuse()
    names = {here.text: TEXT, here.text_pair: TEXT_PAIR} | ({} if here.vector else {here.label: LABEL})
    return table.rename_columns([names.get(name, name) for name in table.column_names])


def first_true(mask: Any) -> int | None:
    """Return the index of the first true value of a boolean array of numpy or Arrow, or None.

    >>> first_true(np.array([False, True]))
    1
    """
    rows = np.flatnonzero(np.asarray(mask))
    return int(rows[0]) if len(rows) else None


def _near(name: str, found: Sequence[str]) -> str:
    """Return a did-you-mean sentence, its name made harmless."""
    if not did_you_mean(name, found):
        return ""
    near = next(candidate for candidate in found if did_you_mean(name, [candidate]) == did_you_mean(name, found))
    return f" Did you mean {excerpt(near)}?"


def _one_column(source: Source, header: Sequence[str]) -> str:
    """Return a hint where a file has one column alone."""
    if len(header) == 1 and source.format.name in ("csv", "tsv"):
        return " Neither comma, semicolon, tab nor bar separates columns in it."
    return ""


def check_filled(source: Source, names: Sequence[str], table: pa.Table) -> None:
    """Raise DataError for texts of these columns that are null, empty or only white space, all at once."""
    faults = FaultyCells(source)
    for name in names:
        find_unfilled(faults, name, table.column(name))
    faults.refuse()


def find_unfilled(faults: FaultyCells, name: str, column: pa.ChunkedArray) -> None:
    """Add the texts that are null, empty or only white space."""
    remedy = "fill it in or remove the row"
    if column.null_count:
        faults.add(name, "text", "is missing", remedy, _arrow.is_null(column))
        column = _arrow.fill_null(column, "x")
    faults.add(name, "text", "is empty", remedy, _arrow.equal(_arrow.binary_length(column), 0))
    faults.add(name, "text", "is only white space", remedy, _arrow.utf8_is_space(column))
