"""Which candidate leads during a comparison, by validation data alone: the test splits are for the end."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping

from steadytune.comparison.cells import PreparedCell
from steadytune.comparison.records import RunRecord


def leader(cell: PreparedCell, records: Iterable[RunRecord], chosen: Mapping[str, float]) -> str:
    """The candidate of the best mean so far, in words; empty until two candidates share a seed.

    Only seeds with which every candidate has a score count, so that the mean does not move with whose turn it is.
    A candidate counts with its chosen learning rate, and until one is chosen with the settings that are best so far:
    those that it would take now.

    Args:
        cell: task and size.
        records: of runs that ended, of other tasks too.
        chosen: learning rates by candidate, as far as they are chosen.
    """
    scores: dict[str, dict[tuple[float, str], dict[int, float]]] = {}
    for record in records:
        score = cell.score(record)
        if score is None or chosen.get(record.candidate, record.learning_rate) != record.learning_rate:
            continue
        tried = (record.learning_rate, repr(record.method_settings))
        scores.setdefault(record.candidate, {}).setdefault(tried, {})[record.seed] = score
    if len(scores) < 2:
        return ""
    seeds = set.intersection(*({seed for by_seed in found.values() for seed in by_seed} for found in scores.values()))
    if not seeds:
        return ""
    sign = 1 if cell.greater_is_better else -1
    best = {}
    for name, found in scores.items():
        shared = [[by_seed[s] for s in seeds if s in by_seed] for by_seed in found.values()]
        best[name] = max(sign * statistics.mean(values) for values in shared if values)
    name = max(best, key=lambda name: best[name])
    return f"leader {name}, {sign * best[name]:.3f} on validation"
