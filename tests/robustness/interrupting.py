"""Ctrl-C at a chosen line of steadytune or at a chosen operation of torch, and what must be as before afterwards."""

from __future__ import annotations

import linecache
import random
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import transformers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import steadytune
from steadytune.core.model import tap
from steadytune.testing import tiny
from steadytune.testing.surroundings import _global_hooks, _surface

OURS = str(Path(steadytune.__file__).parent)
Place = tuple[str, int]
torch.optim.SGD([torch.zeros(1)])  # the first one of a class wraps its `step`
#: Attributes that Accelerate and the Trainer put on a model and leave there, with or without methods.
HOSTS_LEAVE = {"_is_accelerate_prepared", "accelerator"}


class Lines:
    """Counts the lines of steadytune as they run, and interrupts before one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.seen = at, 0
        self.places: list[Place] = []
        self._entered: set[tuple[int, int]] = set()

    def _call(self, frame: FrameType, _event: str, _argument: Any) -> Any:
        return self._line if frame.f_code.co_filename.startswith(OURS) else None

    def _line(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line" and not self._leaves_a_block(frame):
            self.seen += 1
            if self.at is None:
                self.places.append((frame.f_code.co_filename, frame.f_lineno))
            elif self.seen == self.at:
                raise KeyboardInterrupt
        return self._line

    def _leaves_a_block(self, frame: FrameType) -> bool:
        """Whether a `with` line comes the second time: Python looks for no signal between a block and its exit."""
        place = (id(frame), frame.f_lineno)
        is_second = place in self._entered
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if text.startswith("with "):
            self._entered ^= {place}
            return is_second
        return False

    def __enter__(self) -> Lines:
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def worth_trying(self) -> list[int]:
        """The first and the last time that each line ran, counted from 1."""
        first: dict[Place, int] = {}
        last: dict[Place, int] = {}
        for number, place in enumerate(self.places, 1):
            first.setdefault(place, number)
            last[place] = number
        return sorted({*first.values(), *last.values()})


class Operations(TorchDispatchMode):
    """Counts the operations of torch, of backward passes too, and interrupts one of them."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()
        self.at, self.seen = at, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += 1
        if self.seen == self.at:
            raise KeyboardInterrupt
        return func(*args, **(kwargs or {}))


def patched() -> dict[str, Any]:
    """What a library could replace in torch and Transformers, and in the process."""
    classes = (nn.Module, nn.Linear, nn.Embedding, torch.Tensor, torch.optim.Optimizer, torch.optim.SGD)
    found: dict[str, Any] = {f"{c.__name__}.{k}": v for c in classes for k, v in vars(c).items() if callable(v)}
    for module in (torch, nn.functional, torch.autograd, torch.nn.init, transformers.Trainer):
        found |= {f"{module.__name__}.{k}": v for k, v in vars(module).items() if callable(v)}
    found["grad mode"] = torch.is_grad_enabled()
    found["signals"] = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return {name: value if isinstance(value, (bool, list)) else id(value) for name, value in found.items()}


@contextmanager
def left_as_found(network: nn.Module) -> Iterator[None]:
    """Assert that a block leaves everything about a model but its weights and its gradients as it was."""
    surface, hooks, functions = _surface(network), _global_hooks(), patched()
    objects = {name: id(p) for name, p in network.named_parameters()}
    yield
    after = _surface(network)
    for what, value in surface.items():
        now = after[what]
        if what == "a module's attributes":
            now = {n: [a for a in own if a in value.get(n, ()) or a not in HOSTS_LEAVE] for n, own in now.items()}
        assert now == value, f"{what} changed"
    assert {name: id(p) for name, p in network.named_parameters()} == objects, "a parameter was replaced"
    assert _global_hooks() == hooks, "a hook is left on all optimizers"
    are = patched()
    replaced = [name for name in functions if are.get(name) != functions[name]]
    assert not replaced, f"replaced: {replaced}"
    assert tap._DELTAS == {}, "a perturbation is left"


def plain_loop(methods: list[Any], network: nn.Module, folder: Path) -> None:
    """Two updates in a plain PyTorch loop."""
    stack = steadytune.Stack(methods)
    try:
        stack.prepare(network, total_updates=2, batches=tiny.batches)
        optimizer = stack.optimizer(torch.optim.SGD(network.parameters(), lr=0.01))
        scheduler = stack.scheduler(optimizer)
        for update in range(2):
            stack.backward(network, tiny.batch(seed=update))
            optimizer.step()
            optimizer.zero_grad()
            if scheduler is not None:
                scheduler.step()
        stack.save(folder)
        stack.finish()
    finally:
        sys.settrace(None)
        stack.close()


def interrupted_everywhere(methods: Callable[[], list[Any]], folder: Path, *, most: int | None = None) -> list[str]:
    """Interrupt a training at each line and operation, or at ``most`` of each, and say where something was left."""
    lines, operations = Lines(), Operations()
    network = tiny.model(dropout=0.1)
    with lines:
        plain_loop(methods(), network, folder)
    network = tiny.model(dropout=0.1)
    with operations:
        plain_loop(methods(), network, folder)
    chance = random.Random(0)
    places = lines.worth_trying(), list(range(1, operations.seen))
    chosen = [numbers if most is None else chance.sample(numbers, most) for numbers in places]
    found = []
    for kind, numbers in zip((Lines, Operations), chosen, strict=True):
        for number in numbers:
            where = lines.places[number - 1] if kind is Lines else f"operation {number}"
            network = tiny.model(dropout=0.1)
            try:
                with left_as_found(network):
                    try:
                        with kind(number):
                            plain_loop(methods(), network, folder)
                        found.append(f"{where}: Ctrl-C was swallowed")
                    except KeyboardInterrupt:
                        pass
            except AssertionError as left:
                found.append(f"{where}: {left}")
                tap._DELTAS.clear()
    return found
