"""Timings that take turns, and what their ratios say."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from scipy.stats import binom

#: Chance that the interval of a median is to hold, at least.
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """A median with its spread.

    Attributes:
        median: of all values.
        low: lower end of the interval of the median; it is an order statistic, so no distribution is assumed.
        high: upper end.
        confidence: chance that the interval holds the median, from the binomial distribution; below 0.95 where there
            are fewer than six values, whose smallest and largest it then ends at.
        quartiles: first and third.
        count: number of values.
    """

    median: float
    low: float
    high: float
    confidence: float
    quartiles: tuple[float, float]
    count: int

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def spread(values: Sequence[float]) -> Spread:
    """The median of values, with the exact interval from order statistics.

    >>> found = spread([3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 7.0])
    >>> found.median, found.low, found.high
    (4.0, 1.0, 7.0)
    """
    ordered, count = sorted(values), len(values)
    # The largest k whose interval from the k-th smallest to the k-th largest still holds often enough.
    k = max(1, int(binom.ppf((1 - CONFIDENCE) / 2, count, 0.5)))
    quartiles = statistics.quantiles(ordered, n=4, method="inclusive") if count > 1 else ordered * 3
    return Spread(
        median=statistics.median(ordered),
        low=ordered[k - 1],
        high=ordered[count - k],
        confidence=float(1 - 2 * binom.cdf(k - 1, count, 0.5)),
        quartiles=(quartiles[0], quartiles[2]),
        count=count,
    )


def ratios(taken: Mapping[str, Sequence[float]], name: str, base: str) -> list[float]:
    """Of each round, the one's seconds over the other's."""
    return [a / b for a, b in zip(taken[name], taken[base], strict=True)]


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    seconds: Callable[[Callable[[], object]], float],
    rounds: int,
    warm_ups: int = 1,
    collect_every: int = 1,
) -> dict[str, list[float]]:
    """Time each call once per round, in an order that changes from round to round.

    Garbage is collected between rounds and never within one.

    Args:
        calls: what to time, by name.
        seconds: how to time a call.
        rounds: rounds that count.
        warm_ups: rounds before them that do not.
        collect_every: rounds between two collections, for calls that are shorter than a collection.

    Returns:
        By name, the seconds of each round.
    """
    names, taken = list(calls), {name: [] for name in calls}
    with _garbage_kept():
        for turn in range(warm_ups + rounds):
            if turn % collect_every == 0:
                gc.collect()
            for name in _order(names, turn):
                lasted = seconds(calls[name])
                if turn >= warm_ups:
                    taken[name].append(lasted)
    return taken


def _order(names: Sequence[str], turn: int) -> list[str]:
    """Each name comes first in turn, forwards and then backwards, so that no name always follows the same other.

    >>> [_order("ab", turn) for turn in range(4)]
    [['a', 'b'], ['b', 'a'], ['b', 'a'], ['a', 'b']]
    """
    start = turn % len(names)
    rotated = [*names[start:], *names[:start]]
    return rotated[::-1] if turn // len(names) % 2 else rotated


@contextmanager
def _garbage_kept() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
