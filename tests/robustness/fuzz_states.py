"""What is fuzzed: a stack's state in the checkpoints of other hosts (Accelerate, Lightning, one's own loop)."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from fuzz_command import LONGEST_LINE, Fault
from fuzz_coverage import Case
from helpers import tiny
from torch import Tensor

from steadytune import Stack
from steadytune.errors import CheckpointError
from steadytune.methods.registry import build_methods

METHODS = ("smart", "recadam", "mixout", "weight_averaging")
JUNK: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: -1,
    lambda: 10**30,
    lambda: float("nan"),
    lambda: "1",
    lambda: "[" * 100_000,
    lambda: "[1]",
    lambda: '{"methods": [{"name": ["x"]}, 3]}',
    lambda: [],
    lambda: [[]],
    lambda: {},
    lambda: {"a": 1, 2: {}},
    lambda: True,
    lambda: torch.zeros(()),
    lambda: torch.zeros(2, 3).to_sparse(),
    lambda: b"\0",
)


class States:
    """A state that is taken as it was written, without a change to what trains, or refused in one line."""

    name = "states in other hosts' checkpoints"

    def __init__(self, place: Path, model: Path) -> None:
        del place, model
        with _stack() as stack:
            _train(stack)
            self.written = copy.deepcopy(stack.state_dict())

    def seeds(self) -> Sequence[Case]:
        return [Case("0")]

    def mutated(self, case: Case, other: Case, chance: Random) -> Case:
        return Case(str(chance.getrandbits(40)))

    def run(self, case: Case) -> str:
        chance = Random(case.name)
        state = copy.deepcopy(self.written)
        for _ in range(chance.randint(1, 3) if case.name != "0" else 0):
            _spoil(state, chance)
        with _stack() as stack:
            before = _held(stack)
            try:
                stack.load_state_dict(state)
            except CheckpointError as error:
                _check(str(error))
                if _held(stack) != before:
                    raise Fault("a state that was refused has changed the stack") from error
                _train(stack)
                return "refused"
            if _plain(state) != _plain(self.written):
                raise Fault("a state that was changed was taken")
            return "accepted"


def _stack() -> Stack:
    random.seed(0)
    stack = Stack(build_methods(METHODS, {"recadam": {"midpoint": 2}}))
    stack.prepare(tiny.bert(num_hidden_layers=1), total_updates=4)
    return stack


def _train(stack: Stack) -> None:
    model: Any = stack._session.model
    optimizer = stack.optimizer(torch.optim.AdamW(model.parameters(), lr=1e-3))
    stack.backward(model, tiny.batch(seed=1))
    optimizer.step()
    optimizer.zero_grad()


def _held(stack: Stack) -> str:
    """All that a training goes on with."""
    model: Any = stack._session.model
    return json.dumps([_plain(stack.state_dict()), _plain(tiny.weights(model))])


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return [str(value.dtype), list(value.shape), value.to_dense().tolist()]
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items() if part != {}}  # no tensors, nothing to lose
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else repr(value)


def _places(value: Any, chance: Random) -> tuple[Any, Any]:
    """A container somewhere within, and one of its keys."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = chance.choice(keys)
        inner = value[key]
        if not isinstance(inner, dict | list) or not inner or chance.random() < 0.2:
            return value, key
        value = inner


def _spoil(state: dict[str, Any], chance: Random) -> None:
    if not state:
        return
    place, key = _places(state, chance)
    kind = chance.randrange(5)
    if kind == 0:
        del place[key]
    elif kind == 1 and isinstance(place[key], Tensor):
        place[key] = _other_tensor(place[key], chance)
    elif kind == 2 and isinstance(place, dict):
        place[f"{key}x"] = place.pop(key)
    elif kind == 3:
        other, name = _places(state, chance)
        other[name], place[key] = place[key], copy.deepcopy(other[name])
    else:
        place[key] = chance.choice(JUNK)()


def _other_tensor(tensor: Tensor, chance: Random) -> Tensor:
    if tensor.is_sparse or tensor.numel() == 0:  # junk of an earlier change
        return tensor.to(torch.float64)
    match chance.randrange(5):
        case 0:
            return tensor.reshape(-1)[:-1].clone()
        case 1:
            return torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor - 1
        case 2:
            return tensor.to(torch.float16 if tensor.is_floating_point() else torch.float32)
        case 3:
            return tensor.to_sparse()
    changed = tensor.clone()
    changed.view(-1)[chance.randrange(changed.numel())] += 1
    return changed


def _check(line: str) -> None:
    if "\n" in line or len(line) > LONGEST_LINE or any(not c.isprintable() for c in line):
        raise Fault(f"no clean line: {line[:300]!r}")
