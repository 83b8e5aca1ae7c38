"""Checksums of a checkpoint's files: truncated, swapped or changed files are reported before training resumes."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, uint8

from steadytune.support.reading import open_regular

_BLOCK_BYTES = 1 << 20
#: Files that training resumes from; others, such as a README, may change.
_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_NAMES = ("trainer_state.json", "config.json", "adapter_config.json")


def checksums(folder: Path, without: Iterable[str] = ()) -> dict[str, str]:
    """Size and CRC-32 of the weights and states that lie directly in a folder, by name (against accidents only)."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in without and (path.suffix in _SUFFIXES or path.name in _NAMES):
            found[path.name] = _of_file(path)
    return found


def first_damaged(folder: Path, expected: Mapping[str, str]) -> str | None:
    """Name and fault of the first file that is not as it was, or ``None``."""
    for name, checksum in expected.items():
        path = folder / Path(name).name  # never a path that a file from elsewhere names
        if not path.is_file():
            return f"{path.name} is missing"
        size = path.stat().st_size
        if str(size) != checksum.partition("-")[0]:
            return f"{path.name} has {size:,} bytes and was written with {checksum.partition('-')[0]}"
        if _of_file(path) != checksum:
            return f"{path.name} is not what was written"
    return None


def checksum_of(texts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of named texts and tensors; the order in which they come does not matter.

    >>> checksum_of({"a": "1", "b": "2"}, {}) == checksum_of({"b": "2", "a": "1"}, {})
    True
    """
    found = 0
    for name in sorted(texts):
        found = zlib.crc32(f"{name}\0{texts[name]}\0".encode(), found)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found = zlib.crc32(f"{name}\0{tensor.dtype}{tuple(tensor.shape)}\0".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(uint8).numpy().data, found)
    return f"{found:08x}"


def _of_file(path: Path) -> str:
    found = 0
    with open_regular(path) as file:
        while block := file.read(_BLOCK_BYTES):
            found = zlib.crc32(block, found)
    return f"{path.stat().st_size}-{found:08x}"
