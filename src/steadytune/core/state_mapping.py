"""The stack's state as a dictionary of tensors and plain values, for loops that keep all state in files of theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from steadytune.core.errors import CheckpointError
from steadytune.core.shadow import Teacher
from steadytune.core.sharding import whole
from steadytune.core.state import FORMAT, READABLE, StackState


def as_mapping(state: StackState) -> dict[str, Any]:
    """What `torch.save` can write and `torch.load` reads with ``weights_only=True``; the tensors are shared.

    >>> sorted(as_mapping(StackState(3, {}, {})))
    ['anchor', 'description', 'format', 'methods', 'teachers', 'updates', 'weights']
    """
    return {
        "format": FORMAT,
        "updates": state.updates,
        "description": json.dumps(state.description, sort_keys=True),
        "teachers": [asdict(key) for key in state.teachers],
        "weights": [_full(weights) for weights in state.teachers.values()],
        "anchor": _full(state.anchor),
        "methods": {name: _full(own) for name, own in state.tensors.items()},
    }


def from_mapping(mapping: Mapping[str, Any]) -> StackState:
    """The state that `as_mapping` wrote.

    Raises:
        CheckpointError: it is something else, or a newer version wrote it.

    >>> from_mapping(as_mapping(StackState(3, {}, {}))).updates
    3
    """
    if mapping.get("format") not in READABLE:
        raise CheckpointError(
            f"The checkpoint holds a state of steadytune in format {mapping.get('format')}, and this version reads up "
            f"to {FORMAT}: resume with the version that wrote it."
        )
    try:
        keys = [Teacher(**key) for key in mapping["teachers"]]
        return StackState(
            updates=int(mapping["updates"]),
            description=json.loads(mapping["description"]),
            teachers=dict(zip(keys, mapping["weights"], strict=True)),
            anchor=dict(mapping["anchor"]),
            tensors={name: dict(own) for name, own in mapping["methods"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"The checkpoint holds no state of steadytune that can be read ({error!r}).") from error


def _full(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: whole(tensor.detach()) for name, tensor in tensors.items()}
