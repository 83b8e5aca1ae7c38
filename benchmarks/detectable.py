"""Whether `statistics.detectable` says how exact scores are, and how small a gain is found, by simulation.

    python -m benchmarks.detectable --result benchmarks/results/detectable.json

Three questions. A gain of the size that `smallest_gain` gives: how often does the exact test find it, after Holm's
correction over methods that do nothing? It should be 0.8. The standard error of an accuracy: is it the spread of
the accuracy over test sets of that size? The spread of gains that `smallest_gain_of_rows` assumes: is it that of two
models that differ in one of ten predictions at random?
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from steadytune.comparison.statistics.detectable import DISAGREEMENT, smallest_gain, standard_error
from steadytune.comparison.statistics.paired_tests import ALPHA, seeds_needed

SEEDS, METHODS = (6, 7, 8, 10, 12), (1, 2, 3, 6)
ROWS, SCORES = (50, 100, 1000), (0.6, 0.8, 0.95)


def found_share(seeds: int, methods: int, gain: float, draws: int, chance: np.random.Generator) -> float:
    """The share of simulated comparisons in which a method of this gain is significant; the others gain nothing."""
    signs = ((np.arange(2 ** (seeds - 1))[:, None] >> np.arange(seeds)) & 1) * 2 - 1
    found = 0
    for _ in range(draws):
        gains = chance.normal(0, 1, (methods, seeds))
        gains[0] += gain
        p = (np.abs(gains @ signs.T) >= np.abs(gains.sum(axis=1))[:, None] - 1e-9).mean(axis=1)
        # Holm: among methods without effect the first is nearly always the smallest.
        rank = int((p < p[0]).sum())
        smaller = all(q * (methods - i) < ALPHA for i, q in enumerate(np.sort(p)[: rank + 1]))
        found += smaller
    return found / draws


def simulate(draws: int) -> dict[str, Any]:
    """All three answers."""
    chance = np.random.default_rng(0)
    powers = []
    for seeds in SEEDS:
        for methods in METHODS:
            if seeds >= seeds_needed(methods) and (gain := smallest_gain(1.0, seeds, methods)) is not None:
                share = found_share(seeds, methods, gain, draws, chance)
                powers.append({"seeds": seeds, "methods": methods, "gain_in_sd": round(gain, 3), "found": share})
    errors = []
    for rows in ROWS:
        for score in SCORES:
            said = standard_error("accuracy", score, rows)
            seen = float((chance.binomial(rows, score, 20_000) / rows).std())
            errors.append({"rows": rows, "score": score, "said": said, "seen": round(seen, 5)})
    spreads = []
    for rows in ROWS:
        differs = chance.random((2000, rows)) < DISAGREEMENT
        gains = (differs * chance.choice([-1, 1], (2000, rows))).mean(axis=1)
        said = math.sqrt(DISAGREEMENT / rows)
        spreads.append({"rows": rows, "said": round(said, 5), "seen": round(float(gains.std()), 5)})
    return {"draws": draws, "power": powers, "standard_error": errors, "spread_of_gains": spreads}


def main() -> None:
    """Simulate and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1500)
    parser.add_argument("--result", type=Path, required=True)
    given = parser.parse_args()
    given.result.write_text(json.dumps(simulate(given.draws), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
