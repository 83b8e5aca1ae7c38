"""The stack's state in a checkpoint: one safetensors file, written atomically, with a format version."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from steadytune.core.model.sharding import whole
from steadytune.core.state.checksums import checksum_of, checksums, first_damaged
from steadytune.core.state.teacher import Teacher
from steadytune.errors import CheckpointError, DamagedCheckpointError
from steadytune.support.atomic_files import replaced_when_whole
from steadytune.support.writing import make_folder

FILE_NAME = "steadytune.safetensors"
FORMAT = 2
#: Format 1 had teachers only, their tensors named by their number.
READABLE = (1, 2)


@dataclass(frozen=True)
class StackState:
    """What a stack needs to continue.

    Attributes:
        updates: updates done.
        description: the methods it had, with their settings and the seed.
        teachers: the teachers' weights.
        anchor: the pretrained weights, where a method compares with them.
        tensors: the state of each method by the method's name.
        source: the folder that it was read from, for messages.
    """

    updates: int
    description: Mapping[str, Any]
    teachers: Mapping[Teacher, Mapping[str, Tensor]]
    anchor: Mapping[str, Tensor] = field(default_factory=dict)
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    source: str = "The checkpoint"


def write_state(folder: Path, state: StackState, *, write: bool = True, seal: bool = False) -> Path:
    """Write the state to ``folder``; a reader sees the whole file or none.

    Args:
        folder: the checkpoint.
        state: its sharded tensors are gathered, for which every process must call this.
        write: false only gathers.
        seal: also note the checksums of what lies in the folder, where all else of the checkpoint is written.
    """
    path = folder / FILE_NAME
    tensors: dict[str, Tensor] = {}
    for name, tensor in all_tensors(state.teachers.values(), state.anchor, state.tensors).items():
        full = whole(tensor.detach())
        if write:  # tied or shared storage is not for safetensors to find out about
            tensors[name] = full.contiguous().clone()
    if not write:
        return path
    make_folder(folder)
    metadata = {
        "format": str(FORMAT),
        "updates": str(state.updates),
        "description": json.dumps(state.description, sort_keys=True),
        "teachers": json.dumps([asdict(key) for key in state.teachers]),
    }
    if seal:
        metadata["files"] = json.dumps(checksums(folder, without=(FILE_NAME,)))
    metadata["checksum"] = checksum_of(metadata, tensors)
    with replaced_when_whole(path) as unfinished:
        save_file(tensors, unfinished, metadata=metadata)
    return path


def all_tensors(
    teachers: Iterable[Mapping[str, Tensor]], anchor: Mapping[str, Tensor], methods: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Every tensor of a state by its name in the file."""
    groups = {f"teacher/{index}": weights for index, weights in enumerate(teachers)} | {"anchor": anchor}
    groups |= {f"method/{name}": own for name, own in methods.items()}
    return {f"{group}/{name}": tensor for group, own in groups.items() for name, tensor in own.items()}


def read_state(folder: Path) -> StackState:
    """Read the state from ``folder``.

    Raises:
        DamagedCheckpointError: it cannot be read, or is not what was written.
        CheckpointError: there is no state, or a newer version wrote it.
    """
    path = folder / FILE_NAME
    require_checkpoint(folder)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if str(metadata.get("format")) not in map(str, READABLE):
                raise CheckpointError(
                    f"{path} has format {metadata.get('format')}, and this version of steadytune reads up to "
                    f"{FORMAT}: resume with the version that wrote it."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            texts = {name: text for name, text in metadata.items() if name != "checksum"}
            if metadata.get("checksum", found := checksum_of(texts, tensors)) != found:  # older files have none
                raise ValueError("its content is not what was written")
            groups: dict[str, dict[str, Tensor]] = {}
            for full_name, tensor in tensors.items():
                group, name = _split(full_name)
                groups.setdefault(group, {})[name] = tensor
            saved = [Teacher(**key) for key in json.loads(metadata["teachers"])]
            teachers = {key: groups.get(f"teacher/{i}", {}) for i, key in enumerate(saved)}
            methods = {g.removeprefix("method/"): own for g, own in groups.items() if g.startswith("method/")}
            description = json.loads(metadata["description"])
            return StackState(
                int(metadata["updates"]), description, teachers, groups.get("anchor", {}), methods, str(folder)
            )
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError, OSError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise DamagedCheckpointError(f"{path} cannot be read ({error}): resume from an earlier checkpoint.") from error


def require_checkpoint(folder: Path) -> None:
    """Refuse a folder that holds no state, and say what it is and where one may be.

    Raises:
        CheckpointError: it is not there, holds checkpoints rather than being one, is a saved model, or has lost its
            state.
    """
    if (folder / FILE_NAME).is_file():
        return
    if not folder.exists():
        near = _newest_checkpoint(folder.parent)
        hint = f" The newest checkpoint beside it is {near}." if near else ""
        raise CheckpointError(f"There is no folder {folder} to resume from.{hint}")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: resume from the folder of a checkpoint.")
    newest = _newest_checkpoint(folder)
    if newest is not None:
        raise CheckpointError(f"{folder} holds checkpoints, and is none itself: resume from the newest, {newest}.")
    kind = next((kind for name, kind in _MODELS.items() if (folder / name).is_file()), None)
    is_unfinished = folder.name.startswith("checkpoint-") or (folder / "trainer_state.json").is_file()
    if kind is not None and not is_unfinished:
        near = _newest_checkpoint(folder.parent)
        raise CheckpointError(
            f"{folder} holds {kind}, not a checkpoint: load it with from_pretrained to train it further, or resume "
            f"from {near or 'a checkpoint, checkpoint-N, of its training'}."
        )
    raise CheckpointError(
        f"{folder} holds no {FILE_NAME}, so the state of the methods is lost: "
        "resume from a checkpoint that steadytune wrote to the end, or start a new run."
    )


#: What saves a model alone, by the file that shows it.
_MODELS = {"adapter_config.json": "an adapter", "config.json": "a model"}


def checkpoint_number(name: str) -> int | None:
    """The updates that the name of a checkpoint's folder tells, as Trainers name them; ``None`` for other names.

    >>> checkpoint_number("checkpoint-12"), checkpoint_number("checkpoint-²"), checkpoint_number("checkpoint-٣")
    (12, None, None)
    """
    found = re.fullmatch(r"checkpoint-([0-9]{1,18})", name)
    return int(found[1]) if found else None


def _newest_checkpoint(folder: Path) -> Path | None:
    """The whole checkpoint with the highest number in a folder, as Trainers name them."""
    numbered = {
        path.parent: number
        for path in folder.glob(f"checkpoint-*/{FILE_NAME}")
        if (number := checkpoint_number(path.parent.name)) is not None
    }
    return max(numbered, key=lambda path: numbered[path], default=None)


def require_sealed(folder: Path) -> None:
    """Check the files of a checkpoint by the checksums in its state, which those of older versions have not.

    Raises:
        DamagedCheckpointError: a file is missing or not what was written.
    """
    path = folder / FILE_NAME
    try:
        with safe_open(path, framework="pt") as file:
            files = json.loads((file.metadata() or {}).get("files", "{}"))
        damage = first_damaged(folder, files)
    except (SafetensorError, AttributeError, TypeError, ValueError, RecursionError, OSError) as error:
        damage = f"{FILE_NAME} cannot be read ({error})"
    if damage is not None:
        raise DamagedCheckpointError(f"{folder} is damaged, {damage}: resume from an earlier checkpoint.")


def _split(full_name: str) -> tuple[str, str]:
    """Group and name of a tensor; in format 1, ``0.bert.pooler.weight`` is of teacher 0."""
    parts = full_name.split("/")
    if parts[0] in ("teacher", "method"):
        return "/".join(parts[:2]), "/".join(parts[2:])
    if parts[0] == "anchor":
        return "anchor", "/".join(parts[1:])
    number, name = full_name.split(".", 1)
    return f"teacher/{number}", name
