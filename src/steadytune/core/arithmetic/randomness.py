"""Which random numbers a pass uses: the ones of the clean pass again, or fresh ones, never the host's next ones.

Every extra pass runs on a stream of its own, so the host's random state after a step is what plain training would
have left: the same dropout masks and the same data order with or without a method.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from steadytune.errors import HostError


def derive_seed(*parts: int | str) -> int:
    """Derive a 63-bit seed from integers and strings; the same parts give the same seed in every process.

    >>> derive_seed(0, "bert.pooler.weight") == derive_seed(0, "bert.pooler.weight")
    True
    """
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


class Streams:
    """The random numbers of one update, by owner, so that no method's numbers depend on which others are there.

    Args:
        derive: turns parts into a seed that is this update's and this process's own.
        seed: what all processes share; what is drawn of the batches must be drawn alike in all of them.
        update: how many updates are done.

    Example:
        >>> streams = Streams(lambda *parts: derive_seed(0, *parts))
        >>> streams.masks("r3f") == streams.masks("r3f")
        False
    """

    def __init__(self, derive: Callable[..., int], seed: int = 0, update: int = 0) -> None:
        self._derive, self._seed, self._update = derive, seed, update
        self._noise: dict[tuple[str, torch.device], torch.Generator] = {}
        self._passes: dict[str, int] = {}
        self._examples: dict[str, int] = {}

    def noise(self, owner: str, device: torch.device) -> torch.Generator:
        """The generator of the owner's perturbations, from which its micro-batches draw in turn."""
        key = (owner, device)
        if key not in self._noise:
            self._noise[key] = torch.Generator(device).manual_seed(self._derive("noise", owner))
        return self._noise[key]

    def masks(self, owner: str) -> int:
        """A seed for the dropout masks of the owner's next pass."""
        self._passes[owner] = self._passes.get(owner, 0) + 1
        return self._derive("masks", owner, self._passes[owner])

    def draws_update(self, owner: str, every: int) -> bool:
        """Whether this update is the one that is drawn out of its ``every``, counted from the first of the training.

        >>> [Streams(derive_seed, update=update).draws_update("r3f", 3) for update in range(6)].count(True)
        2
        """
        block, place = divmod(self._update, every)
        return derive_seed(self._seed, "update", owner, block) % every == place

    def draw_examples(self, owner: str, count: int, one_in: int) -> list[int]:
        """Which of the owner's next ``count`` examples are drawn: one out of each ``one_in`` of the update, in order.

        How an update is split into micro-batches does not change which of its examples are drawn.

        >>> whole, split = Streams(derive_seed), Streams(derive_seed)
        >>> parts = [[i + at for i in split.draw_examples("r3f", 2, 4)] for at in (0, 2, 4, 6)]
        >>> whole.draw_examples("r3f", 8, 4) == sum(parts, [])
        True
        """
        begin = self._examples.get(owner, 0)
        end = self._examples[owner] = begin + count
        blocks = range(begin // one_in, -(-end // one_in))
        drawn = (b * one_in + derive_seed(self._seed, self._update, "example", owner, b) % one_in for b in blocks)
        return [i - begin for i in drawn if begin <= i < end]


@dataclass(frozen=True)
class RandomState:
    """A snapshot of the generators that dropout on a device draws from."""

    cpu: Tensor
    device: torch.device
    on_device: Tensor | None

    @classmethod
    def capture(cls, device: torch.device) -> RandomState:
        """Take a snapshot for the given device; of one that is neither a CPU nor a CUDA GPU, the CPU's part alone."""
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), device, on_device)

    def restore(self) -> None:
        """Set the generators back to the snapshot."""
        torch.set_rng_state(self.cpu)
        if self.on_device is not None:
            torch.cuda.set_rng_state(self.on_device, self.device)


def require_replay(device: torch.device) -> None:
    """Refuse a device whose dropout masks cannot be replayed.

    Raises:
        HostError: the device is neither a CPU nor a CUDA GPU, whose generators are the ones known here.
    """
    if device.type not in ("cpu", "cuda"):
        raise HostError(
            f"Dropout masks on a {device.type} device cannot be replayed yet, so terms that run the model again are "
            "refused there: train on the CPU (use_cpu=True) or on a CUDA GPU."
        )


@contextmanager
def replayed(state: RandomState) -> Iterator[None]:
    """Run a block on the random numbers of ``state``, then continue as if it had drawn nothing."""
    before = RandomState.capture(state.device)
    state.restore()
    try:
        yield
    finally:
        before.restore()


@contextmanager
def fresh(seed: int, device: torch.device) -> Iterator[None]:
    """Run a block on the stream of ``seed``, then continue as if it had drawn nothing."""
    before = RandomState.capture(device)
    try:
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
    finally:
        before.restore()
