"""The arithmetic of noise on a weight, a part of a tensor at a time: the same bits in memory and in a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from steadytune.core.arithmetic.randomness import derive_seed

Noise = Literal["uniform", "gaussian"]

#: Entries that are worked on together: small enough for the cache of a processor.
PART = 1 << 16
#: Size of the groups in which torch draws normal numbers; a shorter last group would get different numbers.
GROUP = 16


def parts(size: int, at_once: int = PART) -> Iterator[slice]:
    """Split a flat tensor of ``size`` entries into pieces of ``at_once`` entries; the last may be shorter.

    >>> [(part.start, part.stop) for part in parts(70, 32)]
    [(0, 32), (32, 70)]
    """
    start = 0
    while size - start >= at_once + GROUP:
        yield slice(start, start + at_once)
        start += at_once
    if size > start:
        yield slice(start, size)


@dataclass(frozen=True)
class Spread:
    """How many numbers, their mean, and the sum of their squared distances to it, in float64.

    Spreads add up (Chan et al. 1979), so that a tensor never has to be there whole.

    Example:
        >>> (Spread.of(np.array([1.0, 2.0])) + Spread.of(np.array([6.0]))).squares
        14.0
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: np.ndarray) -> Spread:
        """The spread of a flat array; NumPy adds up in one order, whatever the number of threads."""
        if values.size == 0:
            return cls()
        with np.errstate(invalid="ignore", over="ignore"):
            wide = values.astype(np.float64)
            mean = wide.mean()
            wide -= mean
            return cls(values.size, float(mean), float(np.multiply(wide, wide, out=wide).sum()))

    def __add__(self, other: Spread) -> Spread:
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * other.count / count
        return Spread(count, mean, self.squares + other.squares + apart * apart * self.count * other.count / count)

    def standard_deviation(self, dtype: torch.dtype) -> float:
        """The sample standard deviation; NaN for one entry.

        Args:
            dtype: of the weights; the result is rounded to it, or to float32 where that is wider.
        """
        if self.count < 2:
            return float("nan")
        with np.errstate(invalid="ignore", over="ignore"):
            deviation = np.sqrt(np.float64(self.squares) / (self.count - 1))
        return float(deviation if computed_in(dtype) == torch.float64 else np.float32(deviation))


def spread_of(values: Iterable[Tensor]) -> Spread:
    """The spread of the parts of a tensor on the CPU, in their order."""
    arrays = (part.to(computed_in(part.dtype)).numpy() for part in values)
    return reduce(Spread.__add__, map(Spread.of, arrays), Spread())


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """The type in which noise is added to weights of a type.

    >>> computed_in(torch.bfloat16)
    torch.float32
    """
    return torch.promote_types(dtype, torch.float32)


class UnitNoise:
    """The random matrix of one parameter, part by part: U(-1/2, 1/2), or a normal with the same variance, 1/12.

    It depends on the seed and the parameter's name alone, and is drawn on the CPU: the same in every process and
    for every device.

    Args:
        name: the parameter's name.
        seed: seed of the noise.
        noise: ``"uniform"`` or ``"gaussian"``.
        still: places that get none.
    """

    def __init__(self, name: str, seed: int, noise: Noise = "uniform", still: range | None = None) -> None:
        self._generator = torch.Generator().manual_seed(derive_seed("noisytune", seed, name))
        self._noise = noise
        self._still = still or range(0)
        self._place: Tensor | None = None

    def draw(self, part: slice) -> Tensor:
        """The noise of a part, float32; parts must be drawn one after the other, as `parts` gives them.

        The next call overwrites what this one returns.
        """
        count = part.stop - part.start
        if self._place is None or self._place.numel() < count:
            self._place = torch.empty(count, dtype=torch.float32)
        unit = self._place[:count]
        if self._noise == "gaussian":
            torch.randn(count, generator=self._generator, dtype=torch.float32, out=unit).div_(12**0.5)
        else:
            torch.rand(count, generator=self._generator, dtype=torch.float32, out=unit).sub_(0.5)
        first, last = (min(max(place - part.start, 0), count) for place in (self._still.start, self._still.stop))
        unit[first:last] = 0
        return unit


def change_of(unit: Tensor, strength: float, dtype: torch.dtype) -> Tensor:
    """What is added to weights of a type: unit noise times intensity and standard deviation; in the same place."""
    wide = computed_in(dtype)
    return unit.to(wide).mul_(torch.tensor(strength, dtype=wide))


def move(values: Tensor, change: Tensor) -> None:
    """Add the change to the weights, in place."""
    if values.dtype == change.dtype:
        values.add_(change)
    else:
        values.copy_(values.to(change.dtype) + change)


def sum_of_squares(change: Tensor) -> float:
    """Sum of squares, in float64."""
    return float(torch.linalg.vector_norm(change, dtype=torch.float64)) ** 2
