"""What is suspicious about labels that are names: look-alikes, words for "missing", nearly all of them different."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence

from steadytune.support.text import counted, excerpt
from steadytune.tasks.files.places import numbered

#: What programs and people write where there is no value, in small letters.
MISSING = frozenset(
    ("nan", "n/a", "na", "n.a.", "#n/a", "null", "none", "nil", "<na>", "nat", "missing", "undefined", "-", "--", "?")
) | {"\u2013", "\u2014", ".", "(null)", "<null>"}
#: With at least this many labels, more than 1 label for 2 rows is suspicious.
MANY = 10
_MOST_TOLD = 5


def look(name: str) -> str:
    r"""Return what is left of a label without what the eye does not see.

    >>> look("Po\u200bsitive "), look("very  good") == look("Very good")
    ('positive', True)
    """
    text = unicodedata.normalize("NFKC", name)
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Cc", "Mn") or c in "\t\n")
    return " ".join(text.casefold().split())


def is_missing(name: str) -> bool:
    """Whether a label is a word for no label.

    >>> is_missing("N/A"), is_missing("negative")
    (True, False)
    """
    return look(name) in MISSING


def alike_note(counts: Mapping[str, int], rows: Mapping[str, Sequence[int]]) -> str | None:
    """Say which labels differ only in case, blanks, Unicode form or invisible letters.

    Args:
        counts: of the labels.
        rows: of some of them, counted from 0.

    >>> alike_note({"good": 7, "Good": 2, "bad": 9}, {"Good": [3, 5]})
    "Labels that look alike are classes of their own: 'good' (7 rows) and 'Good' (2 rows: data rows 4, 6). \
If they mean the same, write them the same."
    """
    groups: dict[str, list[str]] = {}
    for name in counts:
        groups.setdefault(look(name), []).append(name)
    alike = [sorted(names, key=lambda name: -counts[name]) for names in groups.values() if len(names) > 1]
    if not alike:
        return None
    told = "; ".join(" and ".join(_counted(name, counts, rows) for name in names) for names in alike[:_MOST_TOLD])
    more = f" and {len(alike) - _MOST_TOLD} more such groups" if len(alike) > _MOST_TOLD else ""
    return (
        f"Labels that look alike are classes of their own: {told}{more}. If they mean the same, write them the same."
    )


def alike_names(counts: Mapping[str, int]) -> list[str]:
    """Return the labels that look like another."""
    looks = [look(name) for name in counts]
    return [name for name, found in zip(counts, looks, strict=True) if looks.count(found) > 1]


def missing_note(counts: Mapping[str, int], rows: Mapping[str, Sequence[int]]) -> str | None:
    """Say which labels are words for a missing one.

    >>> missing_note({"good": 7, "N/A": 1}, {"N/A": [3]})
    "A label that means 'missing' elsewhere is a class here: 'N/A' (1 row: data row 4). \
Remove these rows if they have no label."
    """
    found = [name for name in counts if is_missing(name)]
    if not found:
        return None
    told = ", ".join(_counted(name, counts, rows) for name in found[:_MOST_TOLD])
    return f"A label that means 'missing' elsewhere is a class here: {told}. Remove these rows if they have no label."


def _counted(name: str, counts: Mapping[str, int], rows: Mapping[str, Sequence[int]]) -> str:
    """Return a label with its count, its first rows where they are few, and its letters where the eye sees none."""
    where = f": {numbered(rows[name])}" if name in rows else ""
    plain = name if name.isprintable() and name.isascii() else None
    shown = excerpt(name) if plain is not None else ascii(name)[:70]
    return f"{shown} ({counted(counts[name], 'row')}{where})"
