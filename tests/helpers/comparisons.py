"""Comparisons made of invented numbers, for whatever reads them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from steadytune.comparison.records import Cell, Comparison, RunRecord

#: Mean gain, spread of the gain, and time of a step by candidate.
METHODS: dict[str, tuple[float, float, float]] = {
    "none": (0.0, 0.0, 1.0),
    "noisytune": (0.000, 0.004, 1.0),
    "smart": (0.012, 0.003, 3.1),
    "noisytune+smart": (0.010, 0.006, 3.12),
}
RATES = (5e-5, 1e-4, 2e-4)


def run(candidate: str = "none", seed: int = 42, score: float | None = 0.75, **changes: Any) -> RunRecord:
    """One run; without a score it failed."""
    step = METHODS.get(candidate.partition("(")[0], (0, 0, 1.0))[2]
    chance = random.Random(f"{candidate} {seed}")
    curve = [[u, 0.15 + 0.55 * 0.97**u + chance.gauss(0, 0.02)] for u in range(1, 97, 5)]
    split = {} if score is None else {"accuracy": score, "loss": 0.9 - score / 2, "f1": score - 0.004, "rows": 1066}
    values: dict[str, Any] = {
        "key": f"{candidate}-{seed}".encode().hex()[:16],
        "candidate": candidate,
        "methods": tuple(n.partition("(")[0] for n in candidate.split("+") if n != "none" and "@" not in n),
        "method_settings": {},
        "task": "movie-reviews",
        "train_size": "500",
        "learning_rate": 1e-4,
        "seed": seed,
        "status": "failed" if score is None else "finished",
        "error": "OutOfMemoryError: 12 GiB asked for, 3 GiB free" if score is None else None,
        "metrics": {
            "before": {name: {"accuracy": 0.5, "loss": 0.7, "rows": 1066} for name in ("validation", "test", "imdb")},
            "after": {
                "validation": split,
                "test": split,
                "imdb": {k: v if k == "rows" else v - 0.03 for k, v in split.items()},
            },
        },
        "training": {
            "updates": 96,
            "seconds": 31.0 * step,
            "seconds_per_update": 0.3 * step * chance.uniform(0.95, 1.05),
            "peak_memory_bytes": int(4e8 * (1 + 0.2 * (step > 1))),
            "curve": curve,
            "validation_curve": [[e, (score or 0.7) - 0.05 / e] for e in (1.0, 2.0, 3.0)],
        },
        "environment": {"python": "3.11.4", "torch": "2.13.0"},
    }
    return RunRecord(**values | changes)


def cell(
    gains: Mapping[str, tuple[float, float]] | None = None,
    seeds: int = 6,
    failed: Sequence[tuple[str, int]] = (),
    base: float = 0.76,
    **changes: Any,
) -> Cell:
    """Candidates with given mean gains and spreads, over paired seeds; ``failed`` names candidate and seed."""
    gains = gains if gains is not None else {name: values[:2] for name, values in METHODS.items()}
    size = changes.get("train_size", "500")
    runs, tuning = [], []
    for seed in range(42, 42 + seeds):
        level = base + random.Random(seed).gauss(0, 0.008)
        for candidate, (gain, spread) in gains.items():
            drawn = random.Random(f"{candidate}{seed}").gauss(gain, spread)
            score = None if (candidate, seed) in failed else round(level + drawn, 4)
            settings = _settings(candidate)
            runs.append(run(candidate, seed, score, train_size=size, method_settings=settings))
    for candidate in gains:
        if "@" not in candidate:
            for i, learning_rate in enumerate(RATES):
                tuning.append(run(candidate, 42, 0.75 - 0.004 * abs(i - 1), learning_rate=learning_rate))
    values: dict[str, Any] = {
        "task": "movie-reviews",
        "train_size": "500",
        "metric": "accuracy",
        "greater_is_better": True,
        "test_splits": ("test", "imdb"),
        "chosen_learning_rate": dict.fromkeys(gains, 1e-4),
        "tuning": tuple(tuning),
        "runs": tuple(runs),
    }
    return Cell(**values | changes)


def _settings(candidate: str) -> dict[str, dict[str, Any]]:
    name, _, rest = candidate.partition("(")
    if not rest:
        return {}
    key, _, value = rest.rstrip(")").partition("=")
    return {name: {key: float(value)}}


def comparison(*cells: Cell, **changes: Any) -> Comparison:
    """A comparison of these cells; of one as `cell` makes it by default."""
    values: dict[str, Any] = {
        "settings": {"model": "minilm", "tasks": ["movie-reviews"], "train_sizes": ["500"], "seeds": 6, "vary": {}},
        "task": "movie-reviews",
        "metric": "accuracy",
        "cells": cells or (cell(),),
        "environment": {"python": "3.11.4", "torch": "2.13.0", "machine": "x86_64, 2 cores", "commit": "3048f29"},
        "command": "steadytune compare --model minilm --task movie-reviews --train-size 500 "
        "--methods none,noisytune,smart,noisytune+smart --seeds 6 --output-dir runs/first",
    }
    return Comparison(**values | changes)


def rich_comparison() -> Comparison:
    """Three sizes, a sweep, equal compute, lost runs, calibration and perturbation."""
    gains = {name: values[:2] for name, values in METHODS.items()}
    gains |= {"smart(weight=3.0)": (0.009, 0.004), "smart(weight=5.0)": (-0.006, 0.004), "none@3.00x": (0.003, 0.004)}
    cells = []
    for size, factor, base in (("100", 1.8, 0.68), ("500", 1.0, 0.76), (None, 0.15, 0.84)):
        scaled = {name: (gain * factor, spread) for name, (gain, spread) in gains.items()}
        lost = [("smart(weight=5.0)", 44), ("noisytune", 45)] if size == "100" else []
        cells.append(cell(scaled, 8, lost, base, train_size=size))
    for one in cells[0].runs:
        after = one.metrics["after"].get("test")
        if after and one.candidate in ("none", "smart"):
            shift = 0.02 * (one.candidate == "smart")
            bins = [[c, c - 0.12 * (c - 0.5) + shift, 40] for c in (0.55, 0.65, 0.75, 0.85, 0.95)]
            measured: Any = one.metrics
            measured["calibration"] = {
                "test": {"rows": 200, "ece": 0.05 - shift, "ece_scaled": 0.02, "brier": 0.3, "nll": 0.5, "bins": bins}
            }
            noise = [[s, after["accuracy"] - (0.3 - shift * 4) * s] for s in (0.0, 0.05, 0.1, 0.2)]
            measured["perturbations"] = {"typos": noise, "word_drop": noise}
            measured["embedding_attack"] = {"attack": [[r, after["accuracy"] - 20 * r] for r in (0.0, 0.01, 0.02)]}
            measured["evaluated_split"] = {"perturbations": "test", "embedding_attack": "test"}
    made = comparison(*cells)
    return comparison(*cells, settings={**made.settings, "vary": {"smart.weight": [1.0, 3.0, 5.0]}})
