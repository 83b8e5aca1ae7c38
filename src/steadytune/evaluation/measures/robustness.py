"""A score under noise on the texts, against the rate of the noise."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steadytune.evaluation.measures.perturbations import NoiseKind, perturb_rows

if TYPE_CHECKING:
    from datasets import Dataset

    from steadytune.tasks.task import Head


@dataclass(frozen=True)
class UnderNoise:
    """A score at one rate.

    Attributes:
        mean: over the seeds.
        std: sample standard deviation over the seeds; ``None`` with fewer than two.
        changed: share of all characters (words, for ``word_drop``) that the noise hit, mean over the seeds.
        seeds: the score for each seed.
    """

    mean: float
    std: float | None
    changed: float
    seeds: dict[int, float]


def under_noise(
    rows: Dataset,
    head: Head,
    score: Callable[[Dataset], float],
    *,
    kind: NoiseKind,
    rates: Sequence[float],
    seeds: Sequence[int],
    clean: float,
) -> dict[float, UnderNoise]:
    """Score rows under one kind of noise at several rates, each with several seeds; rate 0 is the clean score.

    Args:
        rows: of a held-out split.
        head: tells which columns are text.
        score: of rows, such as the model's accuracy.
        kind: of noise.
        rates: chances of a change, 0 to 1.
        seeds: of the noise.
        clean: the score of the rows as they are.
    """
    found = {0.0: UnderNoise(clean, 0.0 if len(seeds) > 1 else None, 0.0, dict.fromkeys(seeds, clean))}
    for rate in sorted({r for r in rates if r > 0}):
        scores, changed = {}, []
        for seed in seeds:
            noisy, share = perturb_rows(rows, head, kind, rate, seed)
            scores[seed] = score(noisy)
            changed.append(share)
        values = list(scores.values())
        deviation = statistics.stdev(values) if len(values) > 1 else None
        found[rate] = UnderNoise(statistics.fmean(values), deviation, statistics.fmean(changed), scores)
    return found
