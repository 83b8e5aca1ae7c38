"""NoisyTune on a checkpoint folder: tensor by tensor from file to file, the same bits as in memory."""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from torch import nn

from steadytune.errors import MethodError, SettingsError
from steadytune.methods.noisytune import (
    NoisyTune,
    TensorMovement,
    WeightNoiseReport,
    nothing_moves,
    padding_rows,
    pooled,
)
from steadytune.methods.weight_noise import Spread, change_of, move, parts, spread_of, sum_of_squares
from steadytune.models.checkpoint.files import StoredTensor, copy_bytes, is_other_weights, stored_tensors, weight_files
from steadytune.models.checkpoint.names import Named, empty_model, named, untie
from steadytune.models.load import find_model
from steadytune.support.atomic_files import is_abandoned, remove_abandoned, sync_all, this_process
from steadytune.support.reading import open_regular
from steadytune.support.writing import make_folder, open_file, remove_folder, rename, sync, write_text
from steadytune.version import __version__

#: What says in the new folder where it comes from.
RECORD = "noisytune.json"
_MOST_WORKERS = 4

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class PerturbedCheckpoint:
    """A checkpoint with noise.

    Attributes:
        folder: where it lies.
        report: how far each tensor moved, under the names of the model's parameters.
        left_out: files that were not copied because they hold the weights without noise, in another format.
    """

    folder: Path
    report: WeightNoiseReport
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Movement:
    """What happens to one parameter: the tensors that store it, and why it stays (or "")."""

    name: str
    parameter: nn.Parameter
    tensors: list[StoredTensor]
    spread: Spread
    reason: str

    @property
    def scale(self) -> float:
        return self.spread.standard_deviation(self.parameter.dtype)


def perturb_checkpoint(
    source: str | Path,
    destination: str | Path,
    intensity: float = 0.15,
    *,
    seed: int = 42,
    head: str | None = None,
    perturb_head: bool = False,
    overwrite: bool = False,
    tell: Tell | None = None,
    **settings: Any,
) -> PerturbedCheckpoint:
    """Write a checkpoint whose weights NoisyTune has moved; all other files are copied.

    The bits are those of ``Stack([noisytune(...)], seed=seed).prepare(model)`` on the model that ``from_pretrained``
    gives in the stored type. The weights are never in memory as a whole: each tensor is read, moved and written in
    parts. The folder appears when it is whole; a call that was stopped leaves nothing.

    Args:
        source: a folder with safetensors, a finished run, 'minilm', or a Hub id.
        destination: the new folder.
        intensity: lambda, 0 to 1.
        seed: seed of the noise; that of ``train``.
        head: name the parameters as the model that is trained with this head names them ("classification", ...), so
            that plain training of the result is training of the source with NoisyTune. Otherwise they are named as by
            the class that the checkpoint was saved from.
        perturb_head: NoisyTune's ``head``: perturb the task's head as well.
        overwrite: replace a saved model at the destination.
        tell: called with the bytes done and in all.
        settings: the other settings of `NoisyTune`.

    Raises:
        CheckpointError: the weights are damaged, are no safetensors, or are not those of config.json.
        MethodError: a setting is out of range, or no weight would move.
        SettingsError: the destination exists, is the source, or cannot be written.
        ModelNotFoundError: there is no such source.

    Example:
        >>> import tempfile
        >>> new = Path(tempfile.mkdtemp()) / "noisy"
        >>> made = perturb_checkpoint("minilm", new, intensity=0.1, seed=7)
        >>> (new / "model.safetensors").is_file(), len(made.report.tensors)
        (True, 103)
    """
    method = NoisyTune(intensity=intensity, head=perturb_head, **settings)
    place = Path(destination).expanduser()
    folder = _local_folder(str(source))
    _clear_up(place)
    _refuse_destination(place, folder, overwrite=overwrite)
    tensors, found = _look(folder, head)
    movements = _plan(found, method)
    others, left_out = _other_files(folder, set(tensors))
    _refuse_full_disk(place, [*tensors, *others])
    with _folder_when_whole(place) as unfinished:
        _copy_files(others, folder, unfinished)
        moves = _write(tensors, unfinished, movements, _Noise(found.model, method, seed, movements), tell)
        _write_record(unfinished, method, seed, head, source)
    return PerturbedCheckpoint(place, WeightNoiseReport(moves), left_out)


# --- what moves --------------------------------------------------------------------------------------


def _look(folder: Path, head: str | None) -> tuple[dict[Path, list[StoredTensor]], Named]:
    """Return the tensors of each file, and the model whose parameters they store."""
    tensors = {file: stored_tensors(file) for file in weight_files(folder)}
    found = named(empty_model(folder, head), (t for held in tensors.values() for t in held), folder)
    _separate(found)
    return tensors, found


def _separate(found: Named) -> None:
    """Take tied parameters for separate ones where they are stored twice and differ, as Transformers does."""
    tied: dict[int, list[str]] = {}
    for name, p in found.model.named_parameters(remove_duplicate=False):
        tied.setdefault(id(p), []).append(name)
    for name, stored in list(found.tensors.items()):
        names = tied[id(found.model.get_parameter(name))]
        for tensor in stored[1:]:
            if _is_same(stored[0], tensor):
                continue
            other = next((n for n in names[1:] if tensor.name.endswith(n) or n.endswith(tensor.name)), names[-1])
            untie(found.model, other)
            stored.remove(tensor)
            found.tensors[other] = [tensor]


def _is_same(one: StoredTensor, other: StoredTensor) -> bool:
    if one.dtype != other.dtype or one.dtype is None:
        return False
    with open_regular(one.file) as first, open_regular(other.file) as second:
        return all(one.read(first, p).equal(other.read(second, p)) for p in parts(one.size))


def _plan(found: Named, method: NoisyTune) -> list[_Movement]:
    """Say for every stored parameter whether it moves; for that all of them are read once."""
    import torch

    why = method.reasons_to_stay(found.model)
    ids = {name: p for name, p in found.model.named_parameters() if name in found.tensors}

    def spread(tensor: StoredTensor) -> Spread:
        if tensor.dtype is None:
            return Spread()
        with open_regular(tensor.file) as source:
            return spread_of(tensor.read(source, part) for part in parts(tensor.size))  # pyright: ignore

    with _workers() as pool:
        spreads = list(pool.map(spread, [found.tensors[name][0] for name in ids]))
    movements = []
    for (name, p), of in zip(ids.items(), spreads, strict=True):
        dtype = found.tensors[name][0].dtype
        reason = why(name, p, of.standard_deviation(dtype or torch.float32))
        typed = nn.Parameter(torch.empty(p.shape, dtype=dtype, device="meta")) if dtype is not None else p
        movements.append(_Movement(name, typed, found.tensors[name], of, reason))
    if all(m.reason for m in movements):
        raise MethodError(nothing_moves(found.model, {m.reason for m in movements}))
    return movements


class _Noise:
    """The change of each tensor's parts."""

    def __init__(self, model: nn.Module, method: NoisyTune, seed: int, movements: Sequence[_Movement]) -> None:
        self.method, self.seed = method, seed
        moving = [m for m in movements if not m.reason]
        self._pooled = pooled(m.spread for m in moving) if method.scope == "global" else None
        padding = padding_rows(model)
        self._still = {name: padding[p] for name, p in model.named_parameters() if p in padding}

    def scale(self, movement: _Movement) -> float:
        """The standard deviation that the noise is relative to."""
        return movement.scale if movement.reason or self._pooled is None else self._pooled

    def write(self, tensor: StoredTensor, movement: _Movement, source: BinaryIO, target: BinaryIO) -> float:
        """Write the tensor with its noise; return the root mean square of the change."""
        noises = self.method.unit_noise(movement.name, self.seed, self._still.get(movement.name))
        strength, squares = self.method.intensity * self.scale(movement), 0.0
        for part in parts(tensor.size):
            values = tensor.read(source, part)
            change = change_of(noises.draw(part), strength, values.dtype)
            squares += sum_of_squares(change)
            move(values, change)
            tensor.write(target, part, values)
        return (squares / tensor.size) ** 0.5


# --- files -------------------------------------------------------------------------------------------


def _copy_files(files: Sequence[Path], folder: Path, unfinished: Path) -> None:
    for path in files:
        copy = unfinished / path.relative_to(folder)
        make_folder(copy.parent)
        with open_regular(path) as original, open_file(copy, "xb") as target:
            shutil.copyfileobj(original, target, 1 << 20)


def _write(
    tensors: dict[Path, list[StoredTensor]],
    folder: Path,
    movements: Sequence[_Movement],
    noise: _Noise,
    tell: Tell | None,
) -> tuple[TensorMovement, ...]:
    of = {(t.file, t.name): movement for movement in movements for t in movement.tensors}
    total = sum(file.stat().st_size for file in tensors)
    done, moved_by = 0, {}
    for file, held in tensors.items():
        with open_regular(file) as source, open_file(folder / file.name, "wb") as target:
            target.truncate(file.stat().st_size)
            copy_bytes(source, target, 0, held[0].start if held else file.stat().st_size)

    def one(tensor: StoredTensor) -> float:
        movement = of.get((tensor.file, tensor.name))
        target_file = folder / tensor.file.name
        with open_regular(tensor.file) as source, open_file(target_file, "r+b") as target:
            if movement is None or movement.reason or noise.method.intensity == 0:
                tensor.copy(source, target)  # pyright: ignore[reportArgumentType]
                return 0.0
            return noise.write(tensor, movement, source, target)  # pyright: ignore[reportArgumentType]

    largest_first = sorted((t for held in tensors.values() for t in held), key=lambda t: t.start - t.stop)
    with _workers() as pool:
        waiting = {pool.submit(one, tensor): tensor for tensor in largest_first}
        for ended in as_completed(waiting):
            tensor = waiting[ended]
            moved_by[tensor.file, tensor.name] = ended.result()
            done += tensor.stop - tensor.start
            if tell is not None:
                tell(done, total)
    return tuple(
        TensorMovement(
            m.name, m.tensors[0].size, noise.scale(m), moved_by[m.tensors[0].file, m.tensors[0].name], m.reason
        )
        for m in movements
    )


def _write_record(folder: Path, method: NoisyTune, seed: int, head: str | None, source: str | Path) -> None:
    record = {
        "noisytune": method.settings() | {"seed": seed if method.seed is None else method.seed},
        "head": head,
        "source": str(source),
        "steadytune": __version__,
    }
    write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Threads for tensors, of which each draws its own noise; an error, or Ctrl-C, ends what has not begun."""
    pool = ThreadPoolExecutor(min(_MOST_WORKERS, os.cpu_count() or 1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _local_folder(source: str) -> Path:
    place = find_model(source)
    if place.found_in != "hub":
        return Path(place.location)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(place.location, ignore_patterns=["*.bin", "*.h5", "*.msgpack", "*.onnx", "*.gguf"]))


def _other_files(folder: Path, weights: set[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """The files to copy, and the names of those that hold the same weights in another format."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path not in weights)
    others = [path for path in files if not is_other_weights(path)]
    return others, tuple(str(path.relative_to(folder)) for path in files if path not in others)


def _refuse_destination(place: Path, source: Path, *, overwrite: bool) -> None:
    here, there = place.resolve(), source.resolve()
    if here == there or there in here.parents or here in there.parents:
        raise SettingsError(f"{place}: the new folder must lie outside the old one, {source}.")
    if not place.exists():
        return
    if not place.is_dir():
        raise SettingsError(f"{place}: is a file; give a folder.")
    if any(place.iterdir()) and not (place / "config.json").is_file():
        raise SettingsError(f"{place}: is not empty and holds no saved model; give another folder.")
    if any(place.iterdir()) and not overwrite:
        raise SettingsError(f"{place}: exists; give another folder, or --overwrite.")


def _refuse_full_disk(place: Path, files: Sequence[Path]) -> None:
    needed = sum(file.stat().st_size for file in files)
    above = next(parent for parent in (place, *place.resolve().parents) if parent.exists())
    free = shutil.disk_usage(above).free
    if free < needed:
        raise SettingsError(f"{place}: needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there.")


@contextmanager
def _folder_when_whole(place: Path) -> Iterator[Path]:
    """Yield a folder beside the real one, which takes its place when the block ends without an error."""
    make_folder(place.parent)
    unfinished, old = (place.with_name(f".{place.name}.{kind}{this_process()}.unfinished") for kind in ("", "old."))
    try:
        make_folder(unfinished)
        yield unfinished
        sync_all(unfinished)  # after a power cut a folder of this name is whole as well
        if place.exists():
            rename(place, old)
        rename(unfinished, place)
        sync(place.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(f"{place}: cannot be written ({reason}); nothing of it was kept.") from error
    finally:
        if old.exists() and not place.exists():  # it was moved away, and the new one did not take its place
            rename(old, place)
        for leftover in (unfinished, old):
            remove_folder(leftover)


def _clear_up(place: Path) -> None:
    """Take away what a process that was killed has left; a folder that it was about to replace comes back."""
    name = glob.escape(place.name)
    for old in place.parent.glob(f".{name}.old.*.unfinished"):
        if is_abandoned(old.name) and not place.exists():
            rename(old, place)
    remove_abandoned(place.parent, f".{name}.*.unfinished")
