"""One line of the table: what was measured, the target, and whether it was met."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from benchmarks.rounds import Spread

Bound = Literal["at most", "at least"]


@dataclass(frozen=True)
class Row:
    """A measured figure beside its target.

    Attributes:
        what: what was measured.
        unit: of the value, the limit and the interval, such as ``x plain``.
        value: the median, or the one value of what does not vary; ``None`` where it could not be measured.
        spread: where it varies.
        bound: which side of the limit is right.
        limit: the target; ``None`` for a figure that has none.
        note: what belongs to the figure, or why there is none.
    """

    what: str
    unit: str
    value: float | None
    spread: Spread | None = None
    bound: Bound = "at most"
    limit: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """``met`` or ``missed`` by the value; ``within the spread`` says that the interval holds the limit.

        >>> Row("a step", "x plain", 2.9, limit=2.75).verdict
        'missed'
        >>> Row("a copy", "of cp", 0.6, bound="at least", limit=0.5).verdict
        'met'
        >>> Row("a copy", "of cp", None, limit=0.5).verdict
        'not measured'
        """
        if self.value is None:
            return "not measured"
        if self.limit is None:
            return ""
        word = "met" if self._is_met_by(self.value) else "missed"
        ends = () if self.spread is None else (self.spread.low, self.spread.high)
        is_sure = all(self._is_met_by(end) == self._is_met_by(self.value) for end in ends)
        return word if is_sure else f"{word}, within the spread"

    def _is_met_by(self, value: float) -> bool:
        assert self.limit is not None
        return value <= self.limit if self.bound == "at most" else value >= self.limit

    def of(self, network: str) -> Row:
        """The same row, said of one of several models."""
        return replace(self, what=f"{network}: {self.what}")

    def as_json(self) -> dict[str, Any]:
        """As plain values, the verdict included."""
        return {
            "what": self.what,
            "unit": self.unit,
            "value": self.value,
            "spread": None if self.spread is None else self.spread.as_json(),
            "bound": self.bound,
            "limit": self.limit,
            "verdict": self.verdict,
            "note": self.note,
        }


def measured(
    what: str, unit: str, found: Spread, *, bound: Bound = "at most", limit: float | None = None, note: str = ""
) -> Row:
    """A row whose value is a median."""
    return Row(what, unit, found.median, found, bound, limit, note)


def absent(what: str, unit: str, why: str, *, limit: float | None = None) -> Row:
    """A row that has no figure here."""
    return Row(what, unit, None, limit=limit, note=why)
