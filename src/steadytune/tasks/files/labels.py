"""Turn a label column into class indices or scores: decide which from the training rows, refuse what is unclear.

Labels are names (strings, true/false) or numbers. Strings that all read as numbers, as every number in a csv file
does, are numbers; white space around a string is not part of it. Numbers that are all whole are class numbers when
there are at most 20 different ones, other numbers are scores; `head` overrides the decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from steadytune.errors import DataError
from steadytune.support.text import excerpt, listing
from steadytune.tasks.files.columns import first_true
from steadytune.tasks.files.faulty_cells import FaultyCells
from steadytune.tasks.files.places import file_place, numbered, row_place
from steadytune.tasks.files.sources import Source
from steadytune.tasks.task import Head

if TYPE_CHECKING:
    import numpy as np
    from pyarrow import Array, ChunkedArray

MOST_CLASSES_GUESSED = 20
UNLABELLED = -1
_LARGEST_CLASS_NUMBER = 2.0**53
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_NOT_FINITE = r"(?i)^[+-]?(nan|inf|infinity)$"
_REMEDY_UNLABELLED = "label the row or remove it"


@dataclass(frozen=True)
class LabelColumn:
    """The labels of one file: as names or as finite float64 numbers, exactly one of the two."""

    source: Source
    column: str
    names: Array | None
    numbers: np.ndarray | None

    def refuse(self, mask: np.ndarray, problem: str) -> NoReturn:
        """Raise DataError about the labels for which the mask is true: what is wrong with the first of them."""
        import numpy as np

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


def read_labels(
    faults: FaultyCells, column: str, values: ChunkedArray, code: LabelCode | None, head: Head | None
) -> LabelColumn:
    """Return a label column as names or numbers.

    `faults` holds what is wrong with the texts of the file, `code` is that of the training labels when the column
    belongs to another split. Raises DataError for those texts, for rows without label, with a number that is not
    finite, or with a name among numbers.
    """
    import pyarrow as pa
    from pyarrow import compute

    arrow: Any = compute
    source = faults.source
    place = LabelColumn(source, column, None, None)
    if values.null_count:
        faults.add(column, "label", "is missing", _REMEDY_UNLABELLED, arrow.is_null(values))
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.string())
    if not pa.types.is_string(values.type):
        faults.refuse()
        return LabelColumn(source, column, None, _finite(place, values.cast(pa.float64(), safe=False).to_numpy()))
    names = arrow.utf8_trim_whitespace(values).combine_chunks()
    faults.add(column, "label", "is empty", _REMEDY_UNLABELLED, arrow.equal(names, "").fill_null(False))
    faults.refuse()
    named = LabelColumn(source, column, names, None)
    if code is not None and code.class_numbers is None and code.head == "classification":
        return named
    numeric = arrow.match_substring_regex(names, _NUMBER).to_numpy(zero_copy_only=False)
    numbers_wanted = code is not None or head == "regression"
    if not numeric.any() and not numbers_wanted:
        return named
    readable = numeric | arrow.match_substring_regex(names, _NOT_FINITE).to_numpy(zero_copy_only=False)
    if not readable.all():
        _refuse_names_among_numbers(named, readable, code, head)
    # not every Arrow reads a leading plus sign
    unsigned = arrow.replace_substring_regex(names, r"^\+", "")
    return LabelColumn(
        source, column, None, _finite(place, unsigned.cast(pa.float64()).to_numpy(zero_copy_only=False))
    )


def _finite(place: LabelColumn, numbers: np.ndarray) -> np.ndarray:
    import numpy as np

    faulty = ~np.isfinite(numbers)
    row = first_true(faulty)
    if row is not None:
        place.refuse(faulty, f"the label is {numbers[row]}, not a finite number; {_REMEDY_UNLABELLED}")
    return numbers


def _refuse_names_among_numbers(
    labels: LabelColumn, readable: np.ndarray, code: LabelCode | None, head: Head | None
) -> NoReturn:
    """Raise DataError about names where numbers are needed, or about the rarer of the two where they are mixed."""
    faulty = ~readable
    row = int(faulty.argmax())
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
    """Return what the training labels mean.

    Raises DataError when `head` does not fit them, when all rows carry the same label, when -1 stands beside 0 (in
    Hub data sets it marks unlabelled rows), or when many whole numbers may be classes as well as scores.
    """
    import numpy as np
    from pyarrow import compute

    arrow: Any = compute
    where = f"the labels in column {excerpt(labels.column)} of {file_place(labels.source.path)} are"
    if labels.names is not None:
        classes = tuple(sorted(arrow.unique(labels.names).to_pylist()))
        _check_several(labels, list(classes))
        return LabelCode("classification", classes, None, None, f"{where} names")
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
    if UNLABELLED in distinct and (0 in distinct or len(distinct) == 1) and distinct[0] == UNLABELLED:
        _refuse_unlabelled(labels)
    classes = tuple(str(int(number)) for number in distinct)
    _check_several(labels, list(classes))
    reason = "classification was asked for" if head else f"{where} whole numbers, {len(distinct)} different ones"
    return LabelCode("classification", classes, distinct, None, reason)


def encode(labels: LabelColumn, code: LabelCode) -> np.ndarray:
    """Return int64 class indices, or float64 scores for regression.

    Raises DataError naming the first row whose label does not occur in the training rows.
    """
    import numpy as np
    import pyarrow as pa
    from pyarrow import compute

    arrow: Any = compute
    if code.head == "regression":
        assert labels.numbers is not None
        assert code.smallest is not None
        if code.smallest >= 0 and (labels.numbers == UNLABELLED).all():
            _refuse_unlabelled(labels)
        return labels.numbers.astype(np.float64)
    if code.class_numbers is not None:
        assert labels.numbers is not None
        places = np.searchsorted(code.class_numbers, labels.numbers).clip(max=len(code.class_numbers) - 1)
        unseen = code.class_numbers[places] != labels.numbers
    else:
        names = labels.names
        if names is None:
            assert labels.numbers is not None
            distinct, inverse = np.unique(labels.numbers, return_inverse=True)
            names = pa.array([f"{number:.15g}" for number in distinct]).take(pa.array(inverse))
        found = arrow.index_in(names, value_set=pa.array(code.label_names, pa.string()))
        unseen = np.asarray(arrow.is_null(found))
        places = found.fill_null(0).to_numpy(zero_copy_only=False)
    row = first_true(unseen)
    if row is not None:
        if labels.numbers is not None and labels.numbers[row] == UNLABELLED:
            _refuse_unlabelled(labels)
        _refuse_unseen(labels, unseen, code)
    return places.astype(np.int64)


def _check_several(labels: LabelColumn, distinct: list[str]) -> None:
    if len(distinct) < 2:
        raise DataError(
            f"{file_place(labels.source.path)}, column {excerpt(labels.column)}: every row has the label "
            f"{listing(distinct)}, so there is nothing to learn; give rows with at least two different labels."
        )


def _refuse_unlabelled(labels: LabelColumn) -> NoReturn:
    assert labels.numbers is not None
    labels.refuse(
        labels.numbers == UNLABELLED,
        f"the label -1 marks an unlabelled row; {_REMEDY_UNLABELLED}, or write the labels as names if it is a class",
    )


def _refuse_unseen(labels: LabelColumn, unseen: np.ndarray, code: LabelCode) -> NoReturn:
    labels.refuse(
        unseen,
        f"the label {labels.shown(int(unseen.argmax()))} was never seen in training, where the labels are "
        f"{listing(list(code.label_names or ()))}; correct it or add training rows with it",
    )
