"""Turn a label column into class indices or scores: decide which from the training rows, refuse what is unclear.

Labels are names (strings, true/false) or numbers. Strings that all read as numbers, as every number in a csv file
does, are numbers; white space around a string is not part of it. Numbers with leading zeros, and whole numbers that
are too long for a float64, are names: as numbers some of them would be equal. Numbers that are all whole are class
numbers when there are at most 20 different ones, other numbers are scores; `head` overrides the decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
from pyarrow import compute

from steadytune.errors import DataError
from steadytune.support.text import counted, excerpt, listing
from steadytune.tasks.files.columns import first_true
from steadytune.tasks.files.faulty_cells import FaultyCells
from steadytune.tasks.files.formats.format import Source
from steadytune.tasks.files.label_faults import MANY, alike_names, alike_note, is_missing, look, missing_note
from steadytune.tasks.files.places import file_place, numbered, row_place
from steadytune.tasks.files.written_lists import is_list
from steadytune.tasks.task import Head

_arrow: Any = compute
MOST_CLASSES_GUESSED = 20
UNLABELED = -1
_LARGEST_CLASS_NUMBER = 2.0**53
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_NOT_FINITE = r"(?i)^[+-]?(nan|inf|infinity)$"
_DECIMAL_COMMA = r"^[+-]?\d+,\d+$"
_THOUSANDS = r"^[+-]?[1-9]\d{0,2},\d{3}$"
_CODE = r"^[+-]?0\d"
_LONG = r"^[+-]?\d{16,}$"
_REMEDY_UNLABELED = "label the row or remove it"


@dataclass(frozen=True)
class LabelColumn:
    """The labels of one file: as names or as finite float64 numbers, exactly one of the two."""

    source: Source
    column: str
    names: pa.Array | None
    numbers: np.ndarray | None
    notes: list[str] = field(default_factory=list)

    def refuse(self, mask: Any, problem: str) -> NoReturn:
        """Raise DataError about the labels for which the mask is true: what is wrong with the first of them."""
        first, *others = map(int, np.flatnonzero(mask))
        more = f" The same is wrong in {numbered(others)}." if others else ""
        raise DataError(f"{row_place(self.source.path, first + 1, self.column)}: {problem}.{more}")

    def shown(self, row: int) -> str:
        """Return the label with the given index, fit for a message."""
        if self.names is not None:
            return excerpt(self.names[row].as_py())
        assert self.numbers is not None
        return f"{self.numbers[row]:.15g}"


@dataclass(frozen=True)
class LabelCode:
    """What the training labels mean: the head, the classes in the order of their indices, and why."""

    head: Head
    label_names: tuple[str, ...] | None
    class_numbers: np.ndarray | None
    smallest: float | None
    reason: str

    @property
    def has_names(self) -> bool:
        """Whether the classes are names."""
        return self.head == "classification" and self.class_numbers is None


def read_labels(
    faults: FaultyCells, column: str, values: pa.ChunkedArray, code: LabelCode | None, head: Head | None
) -> LabelColumn:
    """Return a label column as names or numbers.

    `faults` holds what is wrong with the texts of the file, `code` is that of the training labels when the column
    belongs to another split. Raises DataError for those texts, for rows without label, with a number that is not
    finite, or with a name among numbers.
    """
    source = faults.source
    if values.null_count:
        faults.add(column, "label", "is missing", _REMEDY_UNLABELED, _arrow.is_null(values))
    values = _exact(values, code)
    if not pa.types.is_string(values.type):
        faults.refuse()
        place = LabelColumn(source, column, None, None)
        return LabelColumn(source, column, None, _finite(place, values.cast(pa.float64(), safe=False).to_numpy()))
    raw = values.combine_chunks()
    names = _arrow.utf8_trim_whitespace(raw)
    faults.add(column, "label", "is empty", _REMEDY_UNLABELED, _arrow.equal(names, "").fill_null(False))
    faults.refuse()
    named = LabelColumn(source, column, names, None, _blank_notes(source, raw, names))
    _refuse_lists(named)
    if code is not None and code.has_names:
        return named
    return _as_numbers(named, code, head)


def _exact(values: pa.ChunkedArray, code: LabelCode | None) -> pa.ChunkedArray:
    """Return booleans as names, and whole numbers that no float64 holds; others as they are."""
    if pa.types.is_boolean(values.type):
        return values.cast(pa.string())
    if not pa.types.is_integer(values.type) or (code is not None and code.head == "regression"):
        return values
    found = _arrow.min_max(values).as_py()
    too_long = max(abs(found["min"] or 0), abs(found["max"] or 0)) >= _LARGEST_CLASS_NUMBER
    return values.cast(pa.string()) if too_long or (code is not None and code.has_names) else values


def _blank_notes(source: Source, raw: Any, names: Any) -> list[str]:
    rows = np.flatnonzero(np.asarray(_arrow.not_equal(raw, names)))
    if not len(rows):
        return []
    return [f"{file_place(source.path)}: blanks around {counted(len(rows), 'label')} are ignored ({numbered(rows)})."]


def _matches(names: Any, pattern: str) -> np.ndarray:
    return _arrow.match_substring_regex(names, pattern).to_numpy(zero_copy_only=False)


def _refuse_lists(labels: LabelColumn) -> None:
    """Raise DataError for lists that are written as text."""
    looks = _matches(labels.names, r"^\[") & _matches(labels.names, r"\]$")
    if looks.any() and is_list(labels.names[int(looks.argmax())].as_py()):  # pyright: ignore
        shown = labels.shown(int(looks.argmax()))
        labels.refuse(looks, f"the label {shown} is a list; for any number of labels use --head multi_label")


def _as_numbers(named: LabelColumn, code: LabelCode | None, head: Head | None) -> LabelColumn:
    """Return labels as numbers where they are, or must be; raises DataError for names among them."""
    names = named.names
    commas = _matches(names, _DECIMAL_COMMA)
    numeric = _matches(names, _NUMBER) | commas
    regression = (code.head if code else head) == "regression"
    if not numeric.any() and code is None and head != "regression":
        return named
    readable = numeric | _matches(names, _NOT_FINITE)
    if not readable.all():
        _refuse_names_among_numbers(named, readable, code, head)
    if not regression and not commas.any() and _are_codes(named, code):
        return named
    if commas.any():
        _check_commas(named, commas)
        names = _arrow.replace_substring(names, ",", ".")
        example = excerpt(named.names[int(commas.argmax())].as_py())  # pyright: ignore
        named.notes.append(
            f"{file_place(named.source.path)}: labels such as {example} are numbers with a decimal comma."
        )
    unsigned = _arrow.replace_substring_regex(names, r"^\+", "")  # not every Arrow reads a leading plus sign
    numbers = unsigned.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return LabelColumn(named.source, named.column, None, _finite(named, numbers), named.notes)


def _are_codes(named: LabelColumn, code: LabelCode | None) -> bool:
    """Whether numbers are names: some have leading zeros, or they are whole and too long for a float64."""
    zeros, long = _matches(named.names, _CODE), _matches(named.names, _LONG)
    if not (zeros.any() or long.any()):
        return False
    if code is not None:
        _refuse_unseen(named, zeros | long, code)
    if _matches(named.names, r"[.eE]").any():
        return False
    row = int((zeros | long).argmax())
    why = "has a leading zero" if zeros[row] else "is too long for a number"
    named.notes.append(f"{file_place(named.source.path)}: the labels are names, because {named.shown(row)} {why}.")
    return True


def _check_commas(named: LabelColumn, commas: np.ndarray) -> None:
    """Raise DataError where commas may be those of thousands, or appear together with points."""
    points = _matches(named.names, r"\.")
    if points.any():
        row = int(points.argmax())
        named.refuse(
            points, f"the label {named.shown(row)} has a decimal point where others have a comma; write points"
        )
    thousands = _matches(named.names, _THOUSANDS)
    if (thousands == commas).all():
        row = int(commas.argmax())
        named.refuse(
            thousands,
            f"the comma in {named.shown(row)} may be of thousands or of decimals; write it as a point or not",
        )


def _finite(place: LabelColumn, numbers: np.ndarray) -> np.ndarray:
    faulty = ~np.isfinite(numbers)
    row = first_true(faulty)
    if row is not None:
        place.refuse(faulty, f"the label is {numbers[row]}, not a finite number; {_REMEDY_UNLABELED}")
    return numbers


def _refuse_names_among_numbers(
    labels: LabelColumn, readable: np.ndarray, code: LabelCode | None, head: Head | None
) -> NoReturn:
    """Raise DataError about names where numbers are needed, or about the rarer of the two where they are mixed."""
    faulty = ~readable
    row = int(faulty.argmax())
    missing = np.array([is_missing(name) for name in labels.names.to_pylist()]) & faulty  # pyright: ignore
    if missing.any() and (missing == faulty).all() and code is None:
        labels.refuse(faulty, f"the label {labels.shown(row)} is a word for a missing one; {_REMEDY_UNLABELED}")
    if (code.head if code else head) == "regression":
        labels.refuse(faulty, f"the label {labels.shown(row)} is not a number, as regression needs; give a score")
    if code is not None:
        _refuse_unseen(labels, faulty, code)
    count = int(readable.sum())
    kinds = ("a name", "numbers")
    if count < len(readable) - count:
        faulty, row, kinds = readable, int(readable.argmax()), ("a number", "names")
    labels.refuse(
        faulty,
        f"the label {labels.shown(row)} is {kinds[0]} where most are {kinds[1]}; "
        "give all labels as names or all as numbers",
    )


def decide(labels: LabelColumn, head: Head | None) -> LabelCode:
    """Return what the training labels mean; what is suspicious about them goes to their notes.

    Raises DataError when `head` does not fit them, when all rows carry the same label, when -1 occurs beside 0 (in
    Hub data sets it marks unlabeled rows), when many whole numbers may be classes as well as scores, or when nearly
    every row has a name of its own.
    """
    where = f"the labels in column {excerpt(labels.column)} of {file_place(labels.source.path)} are"
    if labels.names is not None:
        return _decide_names(labels, head, where)
    assert labels.numbers is not None
    distinct = np.unique(labels.numbers)
    fractions = (labels.numbers % 1 != 0) | (np.abs(labels.numbers) >= _LARGEST_CLASS_NUMBER)
    fraction = first_true(fractions)
    if head == "classification" and fraction is not None:
        labels.refuse(fractions, f"the label {labels.shown(fraction)} is no class number; choose the head regression")
    if head is None and fraction is None and len(distinct) > MOST_CLASSES_GUESSED:
        raise DataError(
            f"{file_place(labels.source.path)}, column {excerpt(labels.column)}: {len(distinct)} different whole "
            "numbers may be classes or scores; choose the head classification or regression."
        )
    if head == "regression" or fraction is not None:
        reason = "regression was asked for" if head else f"{where} numbers that are not all whole"
        _check_several(labels, [f"{number:.15g}" for number in distinct[:2]])
        return LabelCode("regression", None, None, float(distinct[0]), reason)
    if UNLABELED in distinct and (0 in distinct or len(distinct) == 1) and distinct[0] == UNLABELED:
        _refuse_unlabeled(labels)
    classes = tuple(str(int(number)) for number in distinct)
    _check_several(labels, list(classes))
    reason = "classification was asked for" if head else f"{where} whole numbers, {len(distinct)} different ones"
    return LabelCode("classification", classes, distinct, None, reason)


def _decide_names(labels: LabelColumn, head: Head | None, where: str) -> LabelCode:
    names: Any = labels.names
    if head == "regression":
        labels.refuse(np.ones(len(names), dtype=bool), f"the label {labels.shown(0)} is too long for a number")
    counts = {entry["values"]: entry["counts"] for entry in _arrow.value_counts(names).to_pylist()}
    _check_several(labels, list(counts))
    if head is None and len(counts) >= MANY and len(counts) > len(names) / 2:
        raise DataError(
            f"{file_place(labels.source.path)}: is {excerpt(labels.column)} the right column? {len(counts):,} "
            f"different values in {len(names):,} rows; name the label with --label-column, or choose --head "
            "classification."
        )
    suspicious = {*alike_names(counts), *(name for name in counts if is_missing(name))}
    rare = {name: _rows_with(names, name) for name in suspicious if counts[name] <= len(names) / 2}
    labels.notes.extend(note for note in (alike_note(counts, rare), missing_note(counts, rare)) if note)
    return LabelCode("classification", tuple(sorted(counts)), None, None, f"{where} names")


def _rows_with(names: Any, name: str) -> Sequence[int]:
    return np.flatnonzero(np.asarray(_arrow.equal(names, name))).tolist()


def encode(labels: LabelColumn, code: LabelCode) -> np.ndarray:
    """Return int64 class indices, or float64 scores for regression.

    Raises DataError naming the first row whose label does not occur in the training rows.
    """
    if code.head == "regression":
        assert labels.numbers is not None
        assert code.smallest is not None
        if code.smallest >= 0 and (labels.numbers == UNLABELED).all():
            _refuse_unlabeled(labels)
        return labels.numbers.astype(np.float64)
    if code.class_numbers is not None:
        assert labels.numbers is not None
        places = np.searchsorted(code.class_numbers, labels.numbers).clip(max=len(code.class_numbers) - 1)
        unseen = code.class_numbers[places] != labels.numbers
    else:
        found = _arrow.index_in(_names_of(labels), value_set=pa.array(code.label_names, pa.string()))
        unseen = np.asarray(_arrow.is_null(found))
        places = found.fill_null(0).to_numpy(zero_copy_only=False)
    row = first_true(unseen)
    if row is not None:
        if labels.numbers is not None and labels.numbers[row] == UNLABELED:
            _refuse_unlabeled(labels)
        _refuse_unseen(labels, unseen, code)
    return places.astype(np.int64)


def _names_of(labels: LabelColumn) -> Any:
    if labels.names is not None:
        return labels.names
    assert labels.numbers is not None
    distinct, inverse = np.unique(labels.numbers, return_inverse=True)
    return pa.array([f"{number:.15g}" for number in distinct]).take(pa.array(inverse))


def _check_several(labels: LabelColumn, distinct: list[str]) -> None:
    if len(distinct) < 2:
        raise DataError(
            f"{file_place(labels.source.path)}, column {excerpt(labels.column)}: every row has the label "
            f"{listing(distinct)}, so there is nothing to learn; give rows with at least two different labels."
        )


def _refuse_unlabeled(labels: LabelColumn) -> NoReturn:
    assert labels.numbers is not None
    labels.refuse(
        labels.numbers == UNLABELED,
        f"the label -1 marks an unlabeled row; {_REMEDY_UNLABELED}, or write the labels as names if it is a class",
    )


def _refuse_unseen(labels: LabelColumn, unseen: np.ndarray, code: LabelCode) -> NoReturn:
    row = int(unseen.argmax())
    shown = labels.names[row].as_py() if labels.names is not None else ""  # pyright: ignore
    alike = next((name for name in code.label_names or () if shown and look(name) == look(shown)), None)
    hint = f" (it looks like {excerpt(alike)} and is another)" if alike else ""
    labels.refuse(
        unseen,
        f"the label {labels.shown(row)} was never seen in training{hint}, where the labels are "
        f"{listing(list(code.label_names or ()))}; correct it or add training rows with it",
    )
