"""The folder of one run: what lies in it, written so that a reader never sees half a file."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import Timeout

from steadytune.errors import DamagedCheckpointError, SettingsError
from steadytune.settings.fields import determining
from steadytune.settings.groups import RunSettings, as_written, left_to_the_recipe, written_before
from steadytune.support.atomic_files import sync_all, write_atomically, write_json
from steadytune.support.plain_yaml import read_yaml, write_yaml
from steadytune.support.reading import RESULTS, SETTINGS, read_json, read_text
from steadytune.support.text import is_url
from steadytune.support.writing import (
    append_text,
    file_lock,
    make_folder,
    permit,
    refuse_links,
    remove_file,
    remove_folder,
    rename,
    sync,
    writes_below,
)
from steadytune.version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from steadytune.models.inputs import ModelInputs

Settings = TypeVar("Settings", bound=RunSettings)

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "safetensors", "scikit-learn", "numpy")


class RunFolder:
    """Paths and files of a run.

    ``config.yaml`` the resolved settings · ``metrics.json`` results · ``log.jsonl`` one line per training log ·
    ``environment.json`` versions, machine and seed · ``model/`` the fine-tuned model · ``checkpoints/`` to resume ·
    ``record.json`` what a comparison keeps of the run · ``run.lock`` held by the process that makes the run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.metrics = path / "metrics.json"
        self.log = path / "log.jsonl"
        self.environment = path / "environment.json"
        self.model = path / "model"
        self.checkpoints = path / "checkpoints"
        self.record = path / "record.json"
        self.lock = path / "run.lock"

    def check(self, settings: RunSettings) -> None:
        """Look whether the folder is this run's or free, and change nothing.

        Raises:
            SettingsError: it holds another run, or something else.
        """
        if is_url(settings.output_dir):
            raise SettingsError(
                f"--output-dir {settings.output_dir}: a run is kept in a local folder; only `compare` writes to a URL."
            )
        refuse_links(self.path)
        if self.config.is_file():
            settings = self.as_begun(settings)
            still_open = left_to_the_recipe(settings)  # compared once the recipe has chosen them
            ignored = still_open or {"recipe"}  # nor does it matter who has chosen what is the same
            wanted, held = (
                {k: v for k, v in determining(type(settings), values).items() if k not in ignored}
                for values in (settings.model_dump(), written_before(type(settings)) | _read_yaml(self.config))
            )
            different = sorted((k for k in wanted.keys() | held.keys() if wanted.get(k) != held.get(k)), key=str)
            if different:
                name = different[0]
                raise SettingsError(
                    f"{self.path} holds another run ({name} is {held.get(name)!r} there, {wanted.get(name)!r} now): "
                    "give another --output-dir, or the same settings to continue that run."
                )
            return
        if self.path.exists() and not self.path.is_dir():
            raise SettingsError(f"--output-dir {self.path}: is a file; give a folder.")
        if self.path.is_dir() and any(not self._is_own_beginning(entry) for entry in self.path.iterdir()):
            raise SettingsError(f"--output-dir {self.path}: is not empty and holds no run; give another folder.")

    def as_begun(self, settings: Settings) -> Settings:
        """The settings, with recipe and pooling that a run of this folder was begun with, where none are given.

        Raises:
            SettingsError: the folder's configuration cannot be read.
        """
        if not self.config.is_file():
            return settings
        return as_written(settings, _read_yaml(self.config), () if left_to_the_recipe(settings) else ("recipe",))

    def _is_own_beginning(self, entry: Path) -> bool:
        """Whether a run that was ended before it was claimed may have left this."""
        own = (self.environment, self.record, self.config, self.lock)
        if entry.suffix == ".unfinished":
            return entry.name.startswith(tuple(f"{path.name}." for path in own))
        return entry in own or (entry == self.checkpoints and not any(entry.iterdir()))

    def claim(self, settings: RunSettings) -> None:
        """Make the folder this run's, if it is not already.

        Raises:
            SettingsError: as `check` does.
        """
        self.check(settings)
        if self.config.is_file():
            return
        make_folder(self.path)
        # The settings come last: a folder without them is not a run yet.
        write_json(self.environment, describe_environment(settings.seed))
        write_atomically(self.config, write_yaml(settings.model_dump()))

    @contextmanager
    def held(self, settings: RunSettings) -> Iterator[None]:
        """Make the folder this run's, if it is not already, and keep other processes out of it.

        Raises:
            SettingsError: another process is at the run, or as `check` does.
        """
        with writes_below(self.path):
            make_folder(self.path)
            refuse_links(self.path)
            with self._locked():
                self._remove_unfinished()
                self.claim(settings)
                yield

    def refuse_busy(self) -> None:
        """Look whether another process is at the run.

        Raises:
            SettingsError: it is.
        """
        if self.lock.is_file():
            with self._locked():
                pass

    def _locked(self) -> AbstractContextManager[Any]:
        try:
            return file_lock(self.lock).acquire(timeout=1)
        except Timeout:
            raise SettingsError(
                f"{self.path}: another process is at this run: wait until it has ended, or give another --output-dir."
            ) from None

    def _remove_unfinished(self) -> None:
        """Remove what a process that was killed while it wrote has left."""
        for place in (self.path, self.path / "predictions", *self.checkpoints.glob("checkpoint-*")):
            for path in place.glob("*.unfinished"):
                if path.is_dir():
                    remove_folder(path)
                else:
                    remove_file(path)

    def read_metrics(self) -> dict[str, Any]:
        """What has been measured so far; empty for a new run.

        Raises:
            SettingsError: the file is damaged.
        """
        if not self.metrics.is_file():
            return {}
        try:
            content = read_json(self.metrics)
            if isinstance(content, dict):
                return content
            problem = "it holds no scores by name"
        except (OSError, ValueError) as error:
            problem = str(error)
        raise SettingsError(f"{self.metrics} is damaged ({problem}): delete it to measure again.")

    def last_checkpoint(self, tell: Callable[[str], None] = lambda _line: None) -> Path | None:
        """The newest checkpoint that was written to its end and is still as it was written, or ``None``.

        Args:
            tell: is given one line for each that is damaged and therefore passed over.

        Raises:
            DamagedCheckpointError: there are some, and all are damaged.
        """
        from steadytune.core.state.file import (  # imports torch
            FILE_NAME,
            checkpoint_number,
            read_state,
            require_sealed,
        )

        found = {folder: checkpoint_number(folder.name) for folder in self.checkpoints.glob("checkpoint-*")}
        numbered = {folder: number for folder, number in found.items() if number is not None}
        # The stack's state is the last file of a checkpoint, so its presence says that the others are whole.
        damaged = ""
        for folder in sorted(
            (f for f in numbered if (f / FILE_NAME).is_file()), key=numbered.__getitem__, reverse=True
        ):
            try:
                require_sealed(folder)
                read_state(folder)
            except DamagedCheckpointError as error:
                damaged = str(error).partition(": resume")[0]
                tell(f"Passed over: {damaged}.")
            else:
                return folder
        if damaged:
            raise DamagedCheckpointError(f"{damaged}: no other is whole; remove {self.checkpoints} to begin again.")
        return None

    def save_model(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, inputs: ModelInputs | None = None
    ) -> None:
        """Save the model for plain ``from_pretrained``; the folder appears when it is whole.

        Args:
            model: the trained model.
            tokenizer: its tokenizer.
            inputs: how its rows were read, for `steadytune predict`.
        """
        unfinished = self.path / "model.unfinished"
        remove_folder(unfinished)
        make_folder(unfinished)
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        if inputs is not None:
            inputs.write(unfinished)
        _readable_alike(unfinished)
        sync_all(unfinished)
        self.remove_model()
        rename(unfinished, self.model)
        sync(self.path)

    def checkpoint_bytes(self) -> int:
        """What the checkpoints take on the disk."""
        return sum(path.stat().st_size for path in self.checkpoints.rglob("*") if path.is_file())

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints, which nothing reads once the model and its scores are kept."""
        removed = self.path / "checkpoints.removed.unfinished"
        remove_folder(removed)
        if self.checkpoints.is_dir():
            rename(self.checkpoints, removed)  # so that one that is half removed is told apart from one that is kept
            remove_folder(removed)

    def finish_removal(self, settings: RunSettings, metrics: Mapping[str, Any]) -> None:
        """Remove the checkpoints of a finished run that was killed before it had removed them itself."""
        left = self.checkpoints.is_dir() or (self.path / "checkpoints.removed.unfinished").is_dir()
        # A run of an older version says nothing of its checkpoints: they stay.
        if not left or settings.keep_checkpoints or "checkpoints" in metrics or not self.model.is_dir():
            return
        if "keep_checkpoints" in _read_yaml(self.config):
            with suppress(SettingsError), self.held(settings):  # who is still at the run removes them
                self.remove_checkpoints()

    def remove_model(self) -> None:
        """Remove the saved model, of which no part is ever to be seen."""
        removed = self.path / "model.removed.unfinished"
        remove_folder(removed)
        if self.model.is_dir():
            rename(self.model, removed)
            remove_folder(removed)

    def restore_log(self, history: Iterable[Mapping[str, Any]]) -> None:
        """Make the log what it was when a checkpoint was written: a resumed run writes the rest again.

        Args:
            history: the logs that the checkpoint holds; of a line that a power cut took, it is all that is left.
        """
        written = {_kind(line): line for line in self.read_log()}
        kept = [
            written.get(_kind(entry), _with_step_first(entry)) for entry in history if "train_runtime" not in entry
        ]
        if kept or self.log.is_file():
            write_atomically(self.log, "".join(json.dumps(line) + "\n" for line in kept))

    def read_log(self) -> list[dict[str, Any]]:
        """The lines of the log, without one that was cut off while it was written."""
        lines = []
        text = read_text(self.log, RESULTS, errors="replace") if self.log.is_file() else ""
        for line in text.splitlines():
            try:
                content = json.loads(line)
            except ValueError:
                continue
            if isinstance(content, dict) and "step" in content:
                lines.append(content)
        return lines

    def logged_seconds(self) -> float:
        """Seconds of training up to the last line of the log."""
        return max((line.get("training_seconds", 0.0) for line in self.read_log()), default=0.0)

    def sync_log(self) -> None:
        """Wait until the log lies on the disk; what is written after it may say that the run is finished."""
        if self.log.is_file():
            sync(self.log)

    def append_log(self, record: dict[str, Any]) -> None:
        """Add one line to the log."""
        append_text(self.log, json.dumps(record) + "\n")


def _kind(line: Mapping[str, Any]) -> tuple[int, str | None]:
    """What tells a line of the log from all others: its update, and what it evaluates."""
    return line["step"], next((name for name in line if name.startswith("eval_")), None)


def is_evaluation(line: Mapping[str, Any]) -> bool:
    """Whether a line of a log tells of an evaluation, not of training."""
    return any(name.startswith("eval_") for name in line)


def _readable_alike(folder: Path) -> None:
    """Let whoever may read the configuration read the weights, which come out of a temporary file for one user."""
    mode = (folder / "config.json").stat().st_mode
    for path in folder.glob("*.safetensors"):
        permit(path, mode & 0o777)


def _with_step_first(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {"step": entry["step"], **entry}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = read_yaml(read_text(path, SETTINGS), str(path))
    except (OSError, UnicodeDecodeError, SettingsError) as error:
        raise SettingsError(f"{path} cannot be read ({error}): give another --output-dir.") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} is not a configuration: give another --output-dir.")
    return content


def describe_environment(seed: int) -> dict[str, Any]:
    """Versions, machine and seed of a run, as plain values."""
    versions = {"steadytune": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    machine: dict[str, Any] = {"system": platform.platform(), "processors": os.cpu_count()}
    torch = sys.modules.get("torch")
    if torch is not None:
        cuda = torch.cuda.is_available()
        machine["device"] = torch.cuda.get_device_name() if cuda else "cpu"
        machine["threads"] = torch.get_num_threads()
    return {"versions": versions, "machine": machine, "seed": seed}
