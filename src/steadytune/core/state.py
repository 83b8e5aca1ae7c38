"""The stack's state in a checkpoint: one safetensors file, written atomically, with a format version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from steadytune.core.atomic import replaced_when_whole
from steadytune.core.errors import CheckpointError
from steadytune.core.shadow import Teacher

FILE_NAME = "steadytune.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class StackState:
    """What a stack needs to continue: updates done, the methods it had, the teachers' weights."""

    updates: int
    description: Mapping[str, Any]
    teachers: Mapping[Teacher, Mapping[str, Tensor]]


def write_state(folder: Path, state: StackState) -> Path:
    """Write the state to ``folder``; a reader sees the whole file or none."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    tensors = {
        f"{index}.{name}": tensor.contiguous()
        for index, weights in enumerate(state.teachers.values())
        for name, tensor in weights.items()
    }
    metadata = {
        "format": str(FORMAT),
        "updates": str(state.updates),
        "description": json.dumps(state.description, sort_keys=True),
        "teachers": json.dumps([asdict(key) for key in state.teachers]),
    }
    with replaced_when_whole(path) as unfinished:
        save_file(tensors, unfinished, metadata=metadata)
    return path


def read_state(folder: Path, keys: tuple[Teacher, ...]) -> StackState:
    """Read the state from ``folder``, for teachers with the given keys.

    Raises:
        CheckpointError: there is no state, it cannot be read, or a newer version wrote it.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no {FILE_NAME}, so the state of the methods is lost: "
            "resume from a checkpoint that steadytune wrote to the end, or start a new run."
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != str(FORMAT):
                raise CheckpointError(
                    f"{path} has format {metadata.get('format')}, and this version of steadytune reads {FORMAT}: "
                    "resume with the version that wrote it."
                )
            saved = {Teacher(**key): i for i, key in enumerate(json.loads(metadata["teachers"]))}
            teachers: dict[Teacher, dict[str, Tensor]] = {}
            for key in keys:
                prefix = f"{saved[key]}." if key in saved else None
                if prefix is not None:
                    names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 - not a dict
                    teachers[key] = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
            return StackState(int(metadata["updates"]), json.loads(metadata["description"]), teachers)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read ({error}): resume from an earlier checkpoint.") from error
