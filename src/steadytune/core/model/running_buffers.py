"""Keeps extra passes from moving what a forward pass updates: running statistics, counters, power iterations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class RunningBuffers:
    """The buffers that a forward pass of the model moves, such as those of BatchNorm.

    Plain training moves them once for each micro-batch. Which buffers move is observed in the first pass, so that no
    list of modules is needed; most transformers have none, and then nothing is done.

    Args:
        model: without the host's wrapper.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> buffers = RunningBuffers(norm)
        >>> with buffers.kept():
        ...     _ = norm(torch.randn(4, 2))
        >>> norm.num_batches_tracked
        tensor(0)
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._moving: list[tuple[nn.Module, str]] | None = None

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Run a pass that may move them, and note which it moves, the first time."""
        if self._moving is not None:
            yield
            return
        before = [(module, name, buffer, buffer.clone()) for module, name, buffer in self._all()]
        yield
        self._note(before)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Run an extra pass on copies: the buffers themselves stay, also for the graph of the clean pass."""
        places = [(m, n) for m, n, _ in self._all()] if self._moving is None else self._moving
        taken = [(module, name, module._buffers[name]) for module, name in places]
        copies = []
        try:
            for module, name, buffer in taken:
                assert buffer is not None  # only those that are there are listed
                module._buffers[name] = buffer.clone()
                copies.append((module, name, module._buffers[name], buffer))
            yield
        finally:
            if self._moving is None and self._model.training:
                self._note([(module, name, now, before) for module, name, now, before in copies if now is not None])
            for module, name, buffer in taken:
                module._buffers[name] = buffer

    def _all(self) -> Iterator[tuple[nn.Module, str, Tensor]]:
        for module in self._model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    yield module, name, buffer

    def _note(self, seen: list[tuple[nn.Module, str, Tensor, Tensor]]) -> None:
        """Note what a pass has moved: ``seen`` has each buffer after the pass, and a copy from before."""
        self._moving = [
            (module, name)
            for module, name, _, before in seen
            if (now := module._buffers.get(name)) is not None and not torch.equal(now, before)
        ]
