"""The stack's state as a dictionary of tensors and plain values, for loops that keep all state in files of theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, strided

from steadytune.core.model.sharding import whole
from steadytune.core.state.checksums import checksum_of
from steadytune.core.state.file import FORMAT, READABLE, StackState, all_tensors
from steadytune.core.state.teacher import Teacher
from steadytune.errors import CheckpointError, DamagedCheckpointError


def as_mapping(state: StackState) -> dict[str, Any]:
    """What `torch.save` can write and `torch.load` reads with ``weights_only=True``; the tensors are shared.

    >>> sorted(as_mapping(StackState(3, {}, {})))
    ['anchor', 'checksum', 'description', 'format', 'methods', 'teachers', 'updates', 'weights']
    """
    mapping = {
        "format": FORMAT,
        "updates": state.updates,
        "description": json.dumps(state.description, sort_keys=True),
        "teachers": [asdict(key) for key in state.teachers],
        "weights": [_full(weights) for weights in state.teachers.values()],
        "anchor": _full(state.anchor),
        "methods": {name: _full(own) for name, own in state.tensors.items()},
    }
    return mapping | {"checksum": _checksum(mapping)}


def from_mapping(mapping: Mapping[str, Any]) -> StackState:
    """The state that `as_mapping` wrote.

    Raises:
        DamagedCheckpointError: it has been changed since.
        CheckpointError: it is something else, or a newer version wrote it.

    >>> from_mapping(as_mapping(StackState(3, {}, {}))).updates
    3
    """
    version = mapping.get("format")
    if not isinstance(version, int) or version not in READABLE:
        raise CheckpointError(
            f"The checkpoint holds a state of steadytune in format {_in_short(version)}, and this version reads up "
            f"to {FORMAT}: resume with the version that wrote it."
        )
    try:
        keys = [Teacher(**key) for key in mapping["teachers"]]
        state = StackState(
            updates=_count(mapping["updates"]),
            description=_described(mapping["description"]),
            teachers=dict(zip(keys, map(_tensors, mapping["weights"]), strict=True)),
            anchor=_tensors(mapping["anchor"]),
            tensors={str(name): _tensors(own) for name, own in mapping["methods"].items()},
        )
        is_as_written = str(mapping["checksum"]) == _checksum(mapping)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        what = _in_short(error)
        raise CheckpointError(f"The checkpoint holds no state of steadytune that can be read ({what}).") from error
    if not is_as_written:
        raise DamagedCheckpointError(
            "The state of steadytune in the checkpoint is not what was written: resume from an earlier "
            "checkpoint. (In memory it shares its tensors with the training: keep copy.deepcopy(stack.state_dict()).)"
        )
    return state


def _checksum(mapping: Mapping[str, Any]) -> str:
    texts = {name: json.dumps(mapping[name]) for name in ("format", "updates", "description", "teachers")}
    return checksum_of(texts, all_tensors(mapping["weights"], mapping["anchor"], mapping["methods"]))


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} updates")
    return value


def _described(text: Any) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise TypeError("the methods are not described")
    return found


def _tensors(named: Mapping[Any, Any]) -> dict[str, Tensor]:
    for name, tensor in named.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout is not strided:
            raise TypeError(f"{name!r} is no dense tensor")
    return dict(named)


def _in_short(value: Any) -> str:
    return " ".join(repr(value).split())[:100]


def _full(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: whole(tensor.detach()) for name, tensor in tensors.items()}
