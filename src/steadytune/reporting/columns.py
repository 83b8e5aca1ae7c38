"""The columns of a comparison's table: one list for the page, for Markdown and for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from steadytune.comparison.statistics.cells import CandidateStatistics, CellStatistics, Ratio
from steadytune.support.text import chance, interval_or_dash, number, rate, ratio, signed

#: Where a column has room: on every screen, on a wide one, or in files alone.
Room = Literal["narrow", "wide", "files"]


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: its heading.
        group: heading over this and its neighbors of the same group.
        text: content of the column in a row.
        room: where it is shown.
        wanted: whether a table has it; every table by default.
        mood: of a row's cell, ``"up"``, ``"down"`` or ``""``, for its color.
    """

    name: str
    group: str
    text: Callable[[CandidateStatistics], str]
    room: Room = "wide"
    wanted: Callable[[CellStatistics], bool] | None = None
    mood: Callable[[CandidateStatistics], str] | None = None


def columns(statistics: CellStatistics, room: Room = "files") -> list[Column]:
    """The columns of a table; ``room`` says where it is shown."""
    rooms = {"narrow": ("narrow",), "wide": ("narrow", "wide"), "files": ("narrow", "wide", "files")}[room]
    return [
        column for column in COLUMNS if column.room in rooms and (column.wanted is None or column.wanted(statistics))
    ]


def groups(found: Sequence[Column]) -> list[tuple[str, list[Column]]]:
    """The columns by their groups, in order."""
    return [(name, list(members)) for name, members in groupby(found, key=lambda column: column.group)]


def spread_of(found: Ratio | None) -> str:
    """A cost as a multiple of plain training's; without digits where there is no difference to speak of."""
    if found is None:
        return ratio(None)
    return "≈ 1×" if found.is_none else ratio(found.median)


def finding_mood(row: CandidateStatistics) -> str:
    """Color by the corrected test alone: a bare interval does not know of the other methods."""
    return {"better": "up", "worse": "down"}.get(row.finding or "", "")


def _seeds(row: CandidateStatistics) -> str:
    lost = [f"{count} {word}" for count, word in ((row.failed, "failed"), (row.diverged, "diverged")) if count]
    return f"{row.summary.n}" + (f" + {', '.join(lost)}" if lost else "")


def _score(row: CandidateStatistics) -> str:
    return f"{number(row.summary.mean)} ± {number(row.summary.sd)}"


def _gain(row: CandidateStatistics) -> str:
    return "" if row.against_plain is None else signed(row.against_plain.mean)


def _wins(row: CandidateStatistics) -> str:
    pair = row.against_plain
    return "" if pair is None else f"{pair.wins} of {pair.n}" + (f" ({pair.ties} equal)" if pair.ties else "")


def _p(row: CandidateStatistics) -> str:
    return chance(row.against_plain.p) if row.kind == "method" and row.against_plain else ""


def _interval(row: CandidateStatistics, name: str) -> str:
    return "" if row.against_plain is None else interval_or_dash(getattr(row.against_plain, name))


def _any(name: str) -> Callable[[CellStatistics], bool]:
    return lambda statistics: any(getattr(row, name) is not None for row in statistics.rows)


SCORE, GAIN, COST = "score over the seeds", "against plain training, seed by seed", "cost, plain = 1"
COLUMNS: tuple[Column, ...] = (
    Column("rate", "training", lambda row: rate(row.learning_rate)),
    Column("seeds", "training", _seeds),
    Column("mean ± sd", SCORE, _score, "narrow"),
    Column("median", SCORE, lambda row: number(row.summary.median), "files"),
    Column("best", SCORE, lambda row: number(row.summary.best), "files"),
    Column("log loss", SCORE, lambda row: number(row.log_loss), wanted=_any("log_loss")),
    Column("ECE", SCORE, lambda row: number(row.calibration_error), wanted=_any("calibration_error")),
    Column("gain", GAIN, _gain, "narrow", mood=finding_mood),
    Column("95 % bootstrap", GAIN, lambda row: _interval(row, "interval"), "files"),
    Column("95 % exact", GAIN, lambda row: _interval(row, "exact_interval"), "narrow"),
    Column(
        "gain, lost runs as worst",
        GAIN,
        lambda row: "" if row.worst_case is None else signed(row.worst_case.mean),
        "files",
        wanted=lambda statistics: any(row.summary.failed for row in statistics.rows),
    ),
    Column("better on", GAIN, _wins, "files"),
    Column("p", GAIN, _p, "files"),
    Column("p (Holm)", GAIN, lambda row: "" if row.holm_p is None else chance(row.holm_p), "narrow"),
    Column("step", COST, lambda row: spread_of(row.costs.step), "narrow"),
    Column("total", COST, lambda row: spread_of(row.costs.total)),
    Column("memory", COST, lambda row: spread_of(row.costs.memory)),
)
