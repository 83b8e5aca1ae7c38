"""What training costs while it runs: seconds of each update, and memory above what the process held before."""

from __future__ import annotations

import ctypes
import gc
import math
import statistics
import time
from pathlib import Path
from typing import Any

import psutil
import torch

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class Meter:
    """Measures the updates of one training.

    Evaluation is not in it: the peak is looked for between the beginning and the end of an update only.

    Args:
        device: where the model trains.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.device = device
        self.updates: list[float] = []
        self.earlier_seconds = 0.0
        self._peak = 0
        self._began: float | None = None
        _give_back_memory()
        self._held = torch.cuda.memory_allocated(device) if self.cuda else _resident()

    def begin(self) -> None:
        """An update begins."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _forget_peak()
        self._began = time.perf_counter()

    def end(self) -> None:
        """An update ended."""
        if self._began is None:
            return
        if self.cuda:
            torch.cuda.synchronize(self.device)
        self.updates.append(time.perf_counter() - self._began)
        self._began = None
        peak = torch.cuda.max_memory_allocated(self.device) if self.cuda else _peak_resident()
        self._peak = max(self._peak, peak - self._held)

    @property
    def seconds(self) -> float:
        """Seconds of all updates, those of earlier sessions included."""
        return self.earlier_seconds + math.fsum(self.updates)

    def summary(self, updates: int) -> dict[str, Any]:
        """The measurements by name, for ``updates`` updates in all sessions."""
        median = statistics.median(self.updates) if self.updates else self.seconds / max(updates, 1)
        return {
            "seconds": round(self.seconds, 3),
            "seconds_per_update": float(f"{median:.4g}"),
            "peak_memory_bytes": self._peak if self.updates else None,
        }


def _give_back_memory() -> None:
    """Return what earlier runs in this process left in the allocator, so that it is not taken for free space."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # only glibc has it
        return


def _resident() -> int:
    return psutil.Process().memory_info().rss


def _forget_peak() -> None:
    try:
        _CLEAR.write_text("5")  # Linux: the high-water mark starts again from here
    except OSError:
        return


def _peak_resident() -> int:
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return _resident()
