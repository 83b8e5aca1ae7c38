"""Where and how long a benchmark runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

#: Sizes of a batch and of its rows in tokens that the targets are for.
BATCH, TOKENS = 16, 64


@dataclass(frozen=True)
class Setting:
    """What is measured on what.

    Attributes:
        device: where the models train.
        precision: float32, or the type that ``torch.autocast`` computes in.
        models: names out of `benchmarks.networks.NETWORKS`.
        threads: threads of torch on the CPU.
        quick: as few rounds as show that it runs; the figures mean nothing.
        tiny: tiny random models in place of the named ones; likewise.
    """

    device: torch.device
    precision: torch.dtype
    models: tuple[str, ...]
    threads: int = 2
    quick: bool = False
    tiny: bool = False

    @property
    def batch(self) -> int:
        """Rows of a batch."""
        return 4 if self.tiny else BATCH

    @property
    def tokens(self) -> int:
        """Tokens of a row."""
        return 12 if self.tiny else TOKENS

    def rounds(self, full: int) -> int:
        """How many rounds to measure where ``full`` would be right."""
        return min(full, 2) if self.quick else full

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision as the Trainer's ``bf16=True`` sets it, or nothing in float32."""
        if self.precision is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.precision)

    def seconds(self, call: Callable[[], object]) -> float:
        """How long a call takes, on a GPU between two CUDA events."""
        if self.device.type != "cuda":
            began = time.perf_counter()
            call()
            return time.perf_counter() - began
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(self.device)
        before.record()
        call()
        after.record()
        torch.cuda.synchronize(self.device)
        return before.elapsed_time(after) / 1000

    def described(self) -> dict[str, object]:
        """As plain values, for the file of results."""
        return {
            "device": self.device.type,
            "models": list(self.models),
            "precision": str(self.precision).removeprefix("torch."),
            "batch": self.batch,
            "tokens": self.tokens,
            "threads": self.threads,
            "quick": self.quick,
            "tiny": self.tiny,
        }
