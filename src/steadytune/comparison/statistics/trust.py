"""Whether a comparison can be trusted: what it was measured on, what casts doubt on it, and what would help."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steadytune.comparison.records import Cell, RunRecord
from steadytune.comparison.statistics.cells import CandidateStatistics, CellStatistics
from steadytune.comparison.statistics.constant_predictions import in_words
from steadytune.comparison.statistics.detectable import SHARES, smallest_gain, standard_error
from steadytune.comparison.statistics.paired_tests import seeds_needed
from steadytune.support.text import counted, number, rate, signed

#: A gain of fewer test rows than this is named as one that single rows decide.
FEW_ROWS = 5.0
#: A loss that ends above this share of where it began has hardly moved; above the second it has grown.
FLAT, EXPLODED = 0.95, 1.5
#: A loss that falls by more than this share in the last fifth of a training is still falling.
STILL_FALLING = 0.1
#: Points of a training curve that say something.
LEAST_POINTS = 5
#: Share of pairs with equal scores from which on they are many.
MANY_TIES = 1 / 3


@dataclass(frozen=True)
class Doubt:
    """A reason to doubt, and the options to add to the command that would help."""

    text: str
    remedy: str


@dataclass(frozen=True)
class Trust:
    """What a score was measured on, and the doubts; without doubts nothing was found, which is no proof."""

    facts: tuple[str, ...]
    doubts: tuple[Doubt, ...]


def trust(cell: Cell, statistics: CellStatistics) -> Trust:
    """Look for reasons to doubt what the statistics of a cell say."""
    rows = statistics.test_rows
    doubts = [
        *_few_seeds(statistics),
        *_few_rows(statistics, rows),
        *_many_ties(statistics),
        *_rates_at_the_end(cell),
        *_losses(cell),
        *_collapsed(statistics),
        *_lost(statistics),
    ]
    return Trust(tuple(_facts(statistics, rows)), tuple(doubts))


def shown_gain(statistics: CellStatistics) -> float | None:
    """The smallest mean gain that the seeds of a cell could have shown 8 times in 10, by the spread of its gains."""
    spreads = [row.against_plain.sd for row in statistics.methods if row.against_plain and row.against_plain.sd]
    pairs = max((row.against_plain.n for row in statistics.methods if row.against_plain), default=0)
    if not spreads:
        return None
    return smallest_gain(sorted(spreads)[len(spreads) // 2], pairs, len(statistics.methods))


def _facts(statistics: CellStatistics, rows: int | None) -> Iterable[str]:
    if rows:
        score = statistics.rows[0].summary.mean if statistics.rows else None
        error = standard_error(statistics.metric, score, rows)
        exact = f"; the standard error of a score of {number(score)} is {number(error)}" if error is not None else ""
        yield f"{statistics.split} has {counted(rows, 'row')}{exact}. All seeds are scored on the same rows."
    seeds = max((row.summary.n for row in statistics.rows), default=0)
    smallest = shown_gain(statistics)
    could = f"; the smallest gain that they could have shown is about {number(smallest)}" if smallest else ""
    yield f"{counted(seeds, 'seed')} for each candidate{could}."


def _few_seeds(statistics: CellStatistics) -> Iterable[Doubt]:
    pairs = max((row.against_plain.n for row in statistics.methods if row.against_plain), default=0)
    needed = seeds_needed(len(statistics.methods))
    if statistics.methods and pairs < needed:
        yield Doubt(f"{counted(pairs, 'paired seed')} cannot show anything, whatever the scores.", f"--seeds {needed}")


def _few_rows(statistics: CellStatistics, rows: int | None) -> Iterable[Doubt]:
    best = max(statistics.methods, key=_mean_gain, default=None)
    gain = _mean_gain(best) if best is not None else -math.inf
    if not rows or statistics.metric not in SHARES or best is None or gain <= 0:
        return
    if gain * rows < FEW_ROWS:
        text = f"{best.candidate}: {signed(gain)} is {gain * rows:.1f} of {rows:,} test rows."
        yield Doubt(text, "more rows in --test-file")


def _many_ties(statistics: CellStatistics) -> Iterable[Doubt]:
    for row in statistics.methods:
        pair = row.against_plain
        if pair is not None and pair.n and pair.ties / pair.n >= MANY_TIES:
            text = f"{row.candidate}: the same score as plain training with {pair.ties} of {counted(pair.n, 'seed')}."
            yield Doubt(text, "more rows in --test-file")


def _rates_at_the_end(cell: Cell) -> Iterable[Doubt]:
    rates = sorted({run.learning_rate for run in cell.tuning})
    if len(rates) < 2:
        return
    for end, more in ((rates[0], rates[0] / 2), (rates[-1], rates[-1] * 2)):
        names = [
            name for name, chosen in cell.chosen_learning_rate.items() if chosen == end and name in cell.candidates
        ]
        if names:
            grid = ",".join(rate(value) for value in sorted([*rates, more]))
            where = "smallest" if end == rates[0] else "largest"
            text = f"{_several(names)}: the chosen rate, {rate(end)}, is the {where} one tried."
            yield Doubt(text, f"--learning-rates {grid}")


def _losses(cell: Cell) -> Iterable[Doubt]:
    states: dict[str, list[str]] = {}
    for name in cell.candidates:
        found = [state for run in cell.of(name) if (state := loss_state(run))]
        for state in dict.fromkeys(found):
            if found.count(state) * 2 >= len(cell.of(name)):
                states.setdefault(state, []).append(name)
    texts = {
        "exploding": ("the training loss grows", "smaller --learning-rates"),
        "flat": ("the training loss hardly moves", "larger --learning-rates or --num-train-epochs"),
        "falling": ("the training loss is still falling at the end", "a larger --num-train-epochs"),
    }
    for state, (text, remedy) in texts.items():
        if state in states:
            yield Doubt(f"{_several(states[state])}: {text}.", remedy)


def loss_state(run: RunRecord) -> str:
    """Say ``"exploding"``, ``"flat"`` or ``"falling"`` of a run's training loss; empty if it settled or is unknown."""
    values = [point[1] for point in run.training.get("curve") or () if len(point) > 1 and math.isfinite(point[1])]
    if run.status == "diverged":
        return "exploding"
    if len(values) < LEAST_POINTS:
        return ""
    part = max(1, len(values) // 5)
    first, before, last = (_mean(values[:part]), _mean(values[-2 * part : -part]), _mean(values[-part:]))
    if first <= 0:
        return ""
    if last > EXPLODED * first:
        return "exploding"
    if last > FLAT * first:
        return "flat"
    return "falling" if before - last > STILL_FALLING * first else ""


def _collapsed(statistics: CellStatistics) -> Iterable[Doubt]:
    for row in statistics.rows:
        if constant := sum(row.constant.values()):
            what = in_words(row.constant, statistics.task)
            text = f"{row.candidate}: {constant} of {counted(row.summary.n, 'run')} {what}."
            yield Doubt(text, "more --num-train-epochs, or other --learning-rates")


def _lost(statistics: CellStatistics) -> Iterable[Doubt]:
    for row in statistics.rows:
        if row.summary.failed:
            whole = row.summary.n + row.summary.failed
            text = f"{row.candidate}: {row.summary.failed} of {counted(whole, 'run')} gave no score."
            yield Doubt(text, "--retry-failed" if row.failed else "smaller --learning-rates")


def _several(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _mean_gain(row: CandidateStatistics) -> float:
    gain = row.against_plain.mean if row.against_plain else None
    return -math.inf if gain is None else gain


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
