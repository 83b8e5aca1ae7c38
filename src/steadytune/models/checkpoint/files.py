"""Checkpoints on disk, a tensor at a time: what a safetensors file holds and where its bytes lie.

The library `safetensors` checks a file and reads tensors; it writes only what is in memory as a whole. A changed
tensor keeps its type and shape, so the copy of a file has the header of the original, and only bytes behind it differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steadytune.errors import CheckpointError
from steadytune.models.folder_check import files_of_index
from steadytune.support.reading import open_regular
from steadytune.support.text import brief

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
#: Weights in other formats: copied beside changed safetensors they would be other weights.
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.gguf", "*.pkl")
_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_BYTES_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file.

    Attributes:
        file: the file.
        name: its name there.
        shape: sizes of its dimensions.
        dtype: its type; ``None`` where it is none of the plain floating-point types.
        start: first byte, from the beginning of the file.
        stop: the byte behind its last.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return torch.Size(self.shape).numel()

    def read(self, source: BinaryIO, part: slice) -> Tensor:
        """Read a part of the flat tensor from its opened file."""
        assert self.dtype is not None
        source.seek(self.start + part.start * self.dtype.itemsize)
        content = bytearray((part.stop - part.start) * self.dtype.itemsize)
        if source.readinto(content) != len(content):  # pyright: ignore[reportAttributeAccessIssue]
            raise CheckpointError(f"{self.file}: ended while {self.name} was read: did something change it?")
        return torch.frombuffer(content, dtype=self.dtype)

    def write(self, target: BinaryIO, part: slice, values: Tensor) -> None:
        """Write a part of the flat tensor to the same place of another opened file."""
        target.seek(self.start + part.start * values.dtype.itemsize)
        _write_all(target, values.view(torch.uint8).numpy().data)

    def copy(self, source: BinaryIO, target: BinaryIO) -> None:
        """Copy the tensor as it is."""
        copy_bytes(source, target, self.start, self.stop)


def copy_bytes(source: BinaryIO, target: BinaryIO, start: int, stop: int) -> None:
    """Copy bytes to the same place of another opened file, a few at a time."""
    source.seek(start)
    target.seek(start)
    while start < stop:
        content = source.read(min(_BYTES_AT_ONCE, stop - start))
        if not content:
            raise CheckpointError(f"{source.name}: ended while it was read: did something change it?")
        _write_all(target, memoryview(content))
        start += len(content)


def _write_all(target: BinaryIO, content: memoryview) -> None:
    while len(content):  # an unbuffered file may take less than it is given
        content = content[target.write(content) :]


def weight_files(folder: Path) -> list[Path]:
    """The files that Transformers takes a model's weights from: the single one, or those of the index.

    Raises:
        CheckpointError: there is none, or the index is damaged or names files that are not there.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        pickled = sorted(path.name for path in folder.glob("*.bin"))
        instead = f"; {pickled[0]} is a pickle, which is never read" if pickled else ""
        raise CheckpointError(
            f"{folder}: holds neither {SINGLE} nor {INDEX}{instead}. Load the model once where you trust it, and "
            "save it with save_pretrained(folder), which writes safetensors."
        )
    try:
        return files_of_index(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{error}.") from None


def stored_tensors(file: Path) -> list[StoredTensor]:
    """What a file holds, in the order of its bytes.

    Raises:
        CheckpointError: the file is damaged or not whole.
    """
    try:
        with safe_open(file, "pt") as checked:  # refuses holes, overlaps, sizes that are not those of the shape
            checked.keys()
        with open_regular(file) as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length))
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(
            f"{file}: is damaged or not whole ({brief(error, 200)}); fetch or save it again."
        ) from None
    return sorted(_tensors(file, header, 8 + length), key=lambda tensor: (tensor.start, tensor.stop))


def _tensors(file: Path, header: dict, first: int) -> Iterator[StoredTensor]:
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            shape = tuple(entry["shape"])
            yield StoredTensor(file, name, shape, _TYPES.get(entry["dtype"]), first + start, first + stop)


def is_other_weights(path: Path) -> bool:
    """Whether a file holds weights in a format that is not read here.

    >>> is_other_weights(Path("pytorch_model.bin")), is_other_weights(Path("tokenizer.json"))
    (True, False)
    """
    return any(path.match(pattern) for pattern in OTHER_WEIGHTS)
