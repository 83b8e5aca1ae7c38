"""Numbers with their nouns."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """A number and what it counts, in the singular for one.

    >>> counted(1, "run"), counted(8262, "update"), counted(0, "seed")
    ('1 run', '8,262 updates', '0 seeds')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
