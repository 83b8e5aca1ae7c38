"""One sentence on a comparison: whether a method is worth its place, and why not if it is not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from steadytune.comparison.statistics.cells import CandidateStatistics, CellStatistics
from steadytune.comparison.statistics.constant_predictions import in_words
from steadytune.comparison.statistics.paired_tests import ALPHA, seeds_needed
from steadytune.settings.expressions import BASELINE

VerdictKind = Literal["use", "promising", "keep plain", "too few seeds", "nothing learned"]
#: A cell has learned nothing if at least this share of every candidate's runs is constant.
NEARLY_ALL = 0.8


@dataclass(frozen=True)
class Verdict:
    """What to do.

    Attributes:
        kind: ``"use"`` a method whose gain is beyond chance; ``"promising"``: it leads, and its own test says so, but
            not what it must withstand; ``"keep plain"``; ``"too few seeds"``: nothing could have been shown;
            ``"nothing learned"``: nearly all runs predict the same for every row, so there is nothing to compare.
        candidate: what to use, or what leads so far; ``"none"`` for plain training.
        claim: the verdict for people, one sentence without its full stop.
        evidence: the figures behind it; empty if there are none.
        further: what else a reader must know, in whole sentences; may be empty.

    All are plain text: escape them where names could be markup.
    """

    kind: VerdictKind
    candidate: str
    claim: str
    evidence: str = ""
    further: str = ""

    @property
    def sentence(self) -> str:
        """Claim, evidence and what else is to be known, in one line."""
        evidence = f" ({self.evidence})" if self.evidence else ""
        return f"{self.claim}{evidence}." + (f" {self.further}" if self.further else "")


def verdict(statistics: CellStatistics) -> Verdict:
    """Decide on one split of one cell.

    A method is to be used if its mean gain over plain training is beyond chance by the exact permutation test after
    Holm's correction over all methods, its bootstrap interval leaves out 0, both also hold with every failed run
    counted as the worst score, and plain training with as much compute, where there is any, does not do as well. Of
    several, the one with the largest mean gain. The best of n runs plays no part.
    """
    methods = statistics.methods
    pairs = max((row.against_plain.n for row in methods if row.against_plain), default=0)
    if pairs == 0:
        return _nothing(statistics)
    if _learned_nothing(statistics):
        return _constant(statistics)
    leader = max(methods, key=_gain)
    if pairs < seeds_needed(len(methods)):
        return _too_few(statistics, leader, pairs)
    return _judged(statistics, leader)


def _judged(statistics: CellStatistics, leader: CandidateStatistics) -> Verdict:
    """What the tests say, where the seeds suffice for them to say anything."""
    methods = statistics.methods
    better = [row for row in methods if row.finding == "better"]
    lasting = [row for row in better if not _longer_does_as_well(row)]
    if lasting:
        best = max(lasting, key=_gain)
        others = [row for row in lasting if row is not best]
        return _use(statistics, best, others)
    if better:
        return _longer(statistics, max(better, key=_gain))
    near = [row for row in methods if _leads(row)]
    if near:
        return _promising(statistics, max(near, key=_gain))
    return _keep(statistics, leader)


def headline(found: Iterable[tuple[CellStatistics, Verdict]]) -> str:
    """One sentence for several cells; the sentence itself for one.

    What is counted is one verdict for each cell: the correction within a cell does not cover that there are several.
    """
    pairs = list(found)
    if len(pairs) == 1:
        return pairs[0][1].sentence
    parts = []
    for kind in ("use", "promising", "keep plain", "too few seeds", "nothing learned"):
        places = [_place(cell, verdict) for cell, verdict in pairs if verdict.kind == kind]
        if places:
            parts.append(f"{kind} in {len(places)} of {len(pairs)} ({', '.join(places)})")
    text = "; ".join(parts) + "."
    return text[0].upper() + text[1:] if parts else "Nothing was compared."  # names keep their capitals


def _place(cell: CellStatistics, verdict: Verdict) -> str:
    size = f" with {cell.train_size} rows" if cell.train_size else ""
    name = f": {verdict.candidate}" if verdict.kind in ("use", "promising") else ""
    return f"{cell.task}{size}{name}"


def _gain(row: CandidateStatistics) -> float:
    gain = row.against_plain.mean if row.against_plain else None
    return -math.inf if gain is None else gain


def _leads(row: CandidateStatistics) -> bool:
    return _gain(row) > 0 and row.against_plain is not None and row.against_plain.p < ALPHA


def _longer_does_as_well(row: CandidateStatistics) -> bool:
    gain = row.equal_compute.paired.mean if row.equal_compute else None
    return gain is not None and gain <= 0


def _nothing(statistics: CellStatistics) -> Verdict:
    if not statistics.methods:
        claim, further = "Nothing to compare: plain training is the only candidate", ""
    else:
        claim = (
            f"Nothing to compare on {statistics.split}: there is no seed with which both plain training and a method "
            "gave a score"
        )
        further = _lost(statistics.rows)
    return Verdict("too few seeds", BASELINE, claim, further=further)


def _learned_nothing(statistics: CellStatistics) -> bool:
    rows = [row for row in statistics.rows if row.summary.n]
    return all(sum(row.constant.values()) >= NEARLY_ALL * row.summary.n for row in rows)


def _constant(statistics: CellStatistics) -> Verdict:
    found = sum((Counter(row.constant) for row in statistics.rows), Counter())
    runs = sum(row.summary.n for row in statistics.rows)
    many = f"all {runs} runs" if found.total() == runs else f"{found.total()} of {runs} runs"
    claim = (
        f"Nothing was learned: {many} {in_words(found, statistics.task)}; raise the learning rates or the epochs, "
        "or give more rows"
    )
    return Verdict("nothing learned", BASELINE, claim, further=_lost(statistics.rows))


def _too_few(statistics: CellStatistics, leader: CandidateStatistics, pairs: int) -> Verdict:
    needed = seeds_needed(len(statistics.methods))
    leads = _gain(leader) > 0
    ahead = (
        f"{leader.candidate} is ahead by {_amount(statistics, leader)}"
        if leads
        else "no method is ahead of plain training"
    )
    after = " after Holm's correction" if len(statistics.methods) > 1 else ""
    claim = (
        f"Too few seeds: with {pairs} paired seed{'s' * (pairs != 1)} no p < {ALPHA} is possible, whatever the scores "
        f"(the smallest p is {_p(statistics.smallest_p)}{after}); {_methods(statistics)} "
        f"{_need(statistics)} at least {needed} seeds"
    )
    further = _sentences(f"So far {ahead}.", _lost(statistics.rows))
    return Verdict("too few seeds", leader.candidate if leads else BASELINE, claim, further=further)


def _use(statistics: CellStatistics, best: CandidateStatistics, others: list[CandidateStatistics]) -> Verdict:
    also = ", ".join(f"{row.candidate} ({_amount(statistics, row)}{_cost(row)})" for row in others)
    claim = f"Use {best.candidate}: {_amount(statistics, best)} over plain training on {statistics.split}{_cost(best)}"
    further = _sentences(
        _equal_compute(best),
        f"Also beyond chance: {also}." if also else "",
        _passed_over(statistics, best),
        _lost(statistics.rows),
    )
    return Verdict("use", best.candidate, claim, _evidence(statistics, best), further)


def _passed_over(statistics: CellStatistics, best: CandidateStatistics) -> str:
    """Why methods with a larger mean gain are not the one to use."""
    return " ".join(
        f"{row.candidate} has a higher mean gain ({_amount(statistics, row)}), but {_why_not(row)}."
        for row in statistics.methods
        if _gain(row) > _gain(best)
    )


def _why_not(row: CandidateStatistics) -> str:
    if row.finding == "better":
        return "plain training with as much compute does as well"
    if row.summary.failed and row.holm_p is not None and row.holm_p < ALPHA:
        return f"{row.summary.failed} of its runs gave no score"
    return "it may be chance"


def _longer(statistics: CellStatistics, best: CandidateStatistics) -> Verdict:
    longer = best.equal_compute.candidate if best.equal_compute else ""
    claim = (
        f"Keep plain training, but for longer: {best.candidate} gains {_amount(statistics, best)} at equal updates, "
        f"and plain training with as much compute ({longer}) does as well"
    )
    return Verdict("keep plain", BASELINE, claim, _evidence(statistics, best), _lost(statistics.rows))


def _promising(statistics: CellStatistics, best: CandidateStatistics) -> Verdict:
    found, worst = best.against_plain, best.worst_case
    assert found is not None
    own = f"{best.candidate} is ahead of plain training by {_amount(statistics, best)} on {statistics.split}"
    if best.holm_p is not None and best.holm_p >= ALPHA:
        but = f"but of {_methods(statistics)} the best is bound to look good (p = {_p(best.holm_p)} after Holm)"
    elif found.interval is not None and found.interval[0] <= 0:
        but = "but the bootstrap interval of the gain includes 0"
    elif worst is not None and worst.mean is not None and worst.mean <= 0:
        but = "but not if the runs that failed count as the worst score"
    else:
        but = "but it is not beyond chance if the runs that failed count as the worst score"
    claim = f"Promising, not shown: {own} (p = {_p(found.p)}), {but}"
    return Verdict("promising", best.candidate, claim, further=_lost(statistics.rows))


def _keep(statistics: CellStatistics, leader: CandidateStatistics) -> Verdict:
    evidence = ""
    if _gain(leader) > 0:
        why = f"the best method, {leader.candidate}, gains {_amount(statistics, leader)}, which may be chance"
        evidence = _evidence(statistics, leader)
    elif all(row.against_plain and row.against_plain.ties == row.against_plain.n for row in statistics.methods):
        why = "every method scores exactly the same with every seed"
    else:
        why = "no method has a higher mean" if statistics.greater_is_better else "no method has a lower mean"
    worse = ", ".join(row.candidate for row in statistics.methods if row.finding == "worse")
    further = _sentences(f"Worse beyond chance: {worse}." if worse else "", _lost(statistics.rows))
    return Verdict("keep plain", BASELINE, f"Keep plain training: on {statistics.split} {why}", evidence, further)


def _sentences(*sentences: str) -> str:
    return " ".join(sentence for sentence in sentences if sentence)


def _evidence(statistics: CellStatistics, row: CandidateStatistics) -> str:
    found = row.against_plain
    assert found is not None
    parts = [f"{found.n} paired seeds"]
    if found.ties:
        parts.append(f"{found.ties} of them equal")
    if found.exact_interval is not None:
        ends = found.exact_interval if statistics.greater_is_better else [-end for end in found.exact_interval[::-1]]
        alone = " of this comparison alone" if len(statistics.methods) > 1 else ""
        parts.append(f"95% interval{alone} {ends[0]:+.2g} to {ends[1]:+.2g}")
    count = len(statistics.methods)
    corrected = f" after Holm's correction over {count} methods" if count > 1 else ""
    p = row.holm_p if row.holm_p is not None else found.p
    parts.append(f"p = {_p(p)}{corrected}")
    return ", ".join(parts)


def _equal_compute(row: CandidateStatistics) -> str:
    view = row.equal_compute
    if view is None or view.paired.mean is None:
        return ""
    shown = "" if view.holm_p < ALPHA else ", which may be chance"
    return (
        f"Over plain training with as much compute ({view.candidate}) it gains {view.paired.mean:.2g}"
        f" (p = {_p(view.holm_p)}){shown}."
    )


def too_few_seeds(seeds: int, methods: int) -> str:
    """What to tell before a comparison that can show nothing; an empty string if it can.

    >>> too_few_seeds(5, 1)
    'With 5 paired seeds no p < 0.05 is possible, whatever the scores: 6 are the least for 1 method.'
    >>> too_few_seeds(7, 2)
    ''
    """
    needed = seeds_needed(methods)
    if methods == 0 or seeds >= needed:
        return ""
    of = f"{methods} method{'s' * (methods != 1)}"
    return (
        f"With {seeds} paired seeds no p < {ALPHA} is possible, whatever the scores: {needed} are the least for {of}."
    )


def _lost(rows: Iterable[CandidateStatistics]) -> str:
    lost = [f"{row.candidate} {row.summary.failed}" for row in rows if row.summary.failed]
    return f"Runs without a score: {', '.join(lost)}." if lost else ""


def _amount(statistics: CellStatistics, row: CandidateStatistics) -> str:
    sign = "+" if statistics.greater_is_better else "-"
    return f"{sign}{_gain(row):.2g} {statistics.metric}"


def _cost(row: CandidateStatistics) -> str:
    step = row.costs.step
    if step is None:
        return ""
    return " at no extra time per update" if step.is_none else f" at {step.median:.2g} x the time per update"


def _methods(statistics: CellStatistics) -> str:
    count = len(statistics.methods)
    return f"{count} method{'s' * (count != 1)}"


def _need(statistics: CellStatistics) -> str:
    return "needs" if len(statistics.methods) == 1 else "need"


def _p(value: float) -> str:
    return f"{value:.2g}" if value >= 0.0001 else "below 0.0001"
