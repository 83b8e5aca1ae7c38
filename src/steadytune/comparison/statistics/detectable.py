"""How exact a score is, and the smallest gain that rows and seeds can show.

`benchmarks/detectable.py` checks the formulas by simulation; `benchmarks/results/detectable.json` keeps its result.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from scipy.stats import t as student

from steadytune.comparison.statistics.paired_tests import ALPHA, seeds_needed

#: Chance that a true gain of the smallest size shown is found.
POWER = 0.8
#: Metrics that are a share of rows, so that the number of rows says how exact they are.
SHARES = frozenset({"accuracy", "exact_match"})
#: Share of the predictions that two models trained with one seed are assumed to differ in, before any was trained.
DISAGREEMENT = 0.1


def standard_error(metric: str, score: float | None, rows: int | None) -> float | None:
    """Return the standard error of a score over test rows; ``None`` where the rows alone do not tell it.

    >>> standard_error("accuracy", 0.8, 100), standard_error("f1", 0.8, 100)
    (0.04, None)
    """
    if metric not in SHARES or score is None or not rows or not 0 <= score <= 1:
        return None
    return round(math.sqrt(score * (1 - score) / rows), 12)


def smallest_gain(sd: float, seeds: int, methods: int = 1) -> float | None:
    """Return the mean gain that the exact test finds 8 times in 10; ``None`` where it can find none.

    Args:
        sd: standard deviation of the gains over the seeds.
        seeds: paired runs.
        methods: tested together, with Holm's correction.

    >>> round(smallest_gain(0.01, 8), 4), smallest_gain(0.01, 5)
    (0.0119, None)
    """
    if methods < 1 or seeds < seeds_needed(methods):
        return None
    alpha = ALPHA / methods
    significant = math.ceil(alpha * 2 ** (min(seeds, 60) - 1)) - 1  # sign patterns with p below alpha
    if significant <= 1:  # every seed has to gain
        return sd * NormalDist().inv_cdf(POWER ** (1 / seeds))
    needed = float(student.ppf(1 - alpha / 2, seeds - 1) + student.ppf(POWER, seeds - 1))
    return sd * needed / math.sqrt(seeds) * (1 + 0.2 / significant)  # few patterns make the test coarse


def smallest_gain_of_rows(rows: int, seeds: int, methods: int = 1) -> float | None:
    """Return the smallest gain in accuracy to expect from rows and seeds, before anything was trained.

    Assumes that one in ten predictions differs between a method and plain training with the same seed.

    >>> round(smallest_gain_of_rows(100, 8), 3), round(smallest_gain_of_rows(2000, 8), 3)
    (0.038, 0.008)
    """
    return smallest_gain(math.sqrt(DISAGREEMENT / rows), seeds, methods) if rows else None
