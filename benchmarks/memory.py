"""Memory of one step: the most that is allocated at once, and the most that is saved for backward passes."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.setting import Setting


def peak_allocated(call: Callable[[], object], setting: Setting) -> int:
    """Bytes that a call allocates at most at a time, beyond what was allocated before.

    On the CPU they are taken from the allocator's own events, so every temporary tensor counts.
    """
    gc.collect()
    if setting.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(setting.device)
        before = torch.cuda.memory_allocated(setting.device)
        call()
        torch.cuda.synchronize(setting.device)
        return torch.cuda.max_memory_allocated(setting.device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        call()
    recorded: Any = profile.profiler
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return max(accumulate((event.nbytes() for event in events), initial=0))


def peak_saved(call: Callable[[], object], model: nn.Module) -> int:
    """Bytes of the tensors that a call saves for backward passes, at most at a time, without the parameters.

    Memory that several operations save counts once.
    """
    count = _Count({p.untyped_storage().data_ptr() for p in model.parameters()})
    gc.collect()
    with torch.autograd.graph.saved_tensors_hooks(count.pack, _unpack):
        call()
    return count.peak


def keep_gradients(model: nn.Module) -> None:
    """Allocate the gradients, so that they do not count as memory of a step."""
    for p in model.parameters():
        if p.requires_grad and p.grad is None:
            p.grad = torch.zeros_like(p)


class _Count:
    def __init__(self, weights: set[int]) -> None:
        self.holders: Counter[int] = Counter()
        self.weights = weights
        self.now = self.peak = 0

    def pack(self, tensor: Tensor) -> _Saved:
        return _Saved(self, tensor.detach())

    def take(self, storage: torch.UntypedStorage) -> None:
        place = storage.data_ptr()
        self.holders[place] += 1
        if self.holders[place] == 1 and place not in self.weights:
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)

    def let_go(self, storage: torch.UntypedStorage) -> None:
        place = storage.data_ptr()
        self.holders[place] -= 1
        if self.holders[place] == 0 and place not in self.weights:
            self.now -= storage.nbytes()


def _unpack(saved: _Saved) -> Tensor:
    return saved.tensor


class _Saved:
    """One saved tensor; counted out when its graph lets it go."""

    def __init__(self, count: _Count, tensor: Tensor) -> None:
        self.count, self.tensor = count, tensor
        count.take(tensor.untyped_storage())

    def __del__(self) -> None:
        self.count.let_go(self.tensor.untyped_storage())
