"""A place with a tiny model and rows, commands to run there, and all of their results that no kill may change."""

from __future__ import annotations

import gc
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from doom import Kill
from forked import OUTPUT
from helpers import tiny, tiny_model
from helpers.glue_rows import language_model_folder, write_tasks, write_wnli
from safetensors import safe_open
from transformers import BertTokenizerFast

ROWS, TEST_ROWS = 24, 8
#: What a clock, the memory or the number of a process says; and where a run was made.
MEASURED = ("second", "time", "memory", "made_by", "per_second")
#: Files of a run that tell of clocks, of random states of libraries, or of locks.
NOT_COMPARED = frozenset({"environment.json", "training_args.bin", "workers.log", "run.lock"})


def warm(place: Path) -> None:
    """Run a command once in this process, so that no child has to import anything."""
    import steadytune.comparison.engines.local
    import steadytune.comparison.engines.local_worker  # noqa: F401
    from steadytune.cli import main
    from steadytune.comparison.fingerprint import code_digest

    code_digest()  # kept, so that the source may be edited meanwhile
    before = Path.cwd()
    os.chdir(place)
    try:
        given = train_command("noisytune,smart", max_steps=2, num_train_epochs=1.0).arguments
        assert main([*given, "--quiet"]) == 0
    finally:
        os.chdir(before)
    shutil.rmtree(place / OUTPUT)
    gc.collect()
    gc.freeze()


def make_place(place: Path) -> Path:
    """Write a tiny pretrained encoder with dropout, rows of two classes, and what `data_dir` and hybrids need."""
    model = place / "tiny"
    model.mkdir(parents=True)
    words = [*tiny_model.SPECIAL, *tiny_model.WORDS]
    (model / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab=str(model / "vocab.txt")).save_pretrained(model)
    encoder = tiny.bert(dropout=0.1, vocab_size=len(words), max_position_embeddings=tiny_model.POSITIONS)
    encoder.bert.save_pretrained(model)
    for name, count, seed in (("train", ROWS, 0), ("validation", TEST_ROWS, 1), ("test", TEST_ROWS, 2)):
        tiny_model.write_csv(place / f"{name}.csv", tiny_model.rows(count, seed=seed))
    write_wnli(write_tasks(place / "data", {"rte": ROWS // 2, "sst2": ROWS}, TEST_ROWS))
    language_model_folder(place / "masked")
    return place


def copy_place(source: Path, place: Path) -> Path:
    """A place with the same model and rows and no results."""
    shutil.copytree(source, place, ignore=shutil.ignore_patterns(OUTPUT, ".*"))
    return place


@dataclass(frozen=True)
class Command:
    """A command that is killed and started again.

    Attributes:
        name: for people.
        arguments: of the command line.
        spared: kinds of kill that rightly change the results.
    """

    name: str
    arguments: tuple[str, ...]
    spared: frozenset[Kill] = frozenset()


FILES = {"train_file": "train.csv", "validation_file": "validation.csv", "test_file": "test.csv"}


def _command(verb: str, methods: str, **options: Any) -> tuple[str, ...]:
    given = {
        "model": "tiny",
        "methods": methods,
        "max_length": 16,
        "per_device_train_batch_size": 4,
        "output_dir": OUTPUT,
        **options,
    }
    return (verb, *(part for name, v in given.items() for part in (f"--{name.replace('_', '-')}", str(v))))


def train_command(methods: str, **options: Any) -> Command:
    """A training of 24 updates with 12 checkpoints, of which two are kept."""
    given = {"num_train_epochs": 4.0, "learning_rate": 1e-2, "save_steps": 2, "logging_steps": 5, **options}
    return Command(f"train {methods}", _command("train", methods, **FILES, **given))


def multitask_command(methods: str, **options: Any) -> Command:
    """An encoder on two tasks for 18 updates, then 6 and 12 updates on each, with a checkpoint after every second."""
    given = {"data_dir": "data", "tasks": "rte,sst2", "num_train_epochs": 2.0, "learning_rate": 1e-2, "save_steps": 2}
    more = ("--fine-tune", "--fine-tune-epochs", "2")
    return Command(f"multitask {methods}", (*_command("multitask", methods, **given, **options), *more))


def hybrid_command(methods: str, **options: Any) -> Command:
    """A hybrid network on 16 pronouns, with a checkpoint after every second update."""
    given = {"model": "masked", "data_dir": "data", "num_train_epochs": 4.0, "learning_rate": 1e-2, "save_steps": 2}
    return Command(f"hybrid {methods}", _command("hybrid", methods, **given, **options, max_length=40))


def compare_command(methods: str, **options: Any) -> Command:
    """A comparison of runs of 6 updates, with rates to choose from."""
    given = {"learning_rates": "1e-3,1e-2", "seeds": 1, "num_train_epochs": 1.0, "save_steps": 2, **options}
    return Command(f"compare {methods}", (*_command("compare", methods, **FILES, **given), "--retry-failed"))


def search_command(methods: str, trials: int, **options: Any) -> Command:
    """A comparison that searches; a trial that failed has no value, and so changes what is proposed after it."""
    made = compare_command(methods, **options)
    arguments = (*made.arguments, "--search", f"trials={trials}")
    return Command(f"compare --search {methods}", arguments, frozenset({"kill-one"}))


def results(place: Path) -> dict[str, Any]:
    """What must be the same however often the command was killed: by file, without what is measured."""
    root = place / OUTPUT
    found: dict[str, Any] = {}
    older = _older_checkpoints(root)
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = str(path.relative_to(root))
        if path.name in NOT_COMPARED or not older.isdisjoint(path.parents) or name.startswith("locks/"):
            continue  # a gentle end adds checkpoints of its own
        found[name] = _content(path)
    return found


def _older_checkpoints(root: Path) -> set[Path]:
    """All but the newest of each run."""
    found = [
        sorted(place.iterdir(), key=lambda p: int(p.name.partition("-")[2])) for place in root.rglob("checkpoints")
    ]
    return {path for checkpoints in found for path in checkpoints[:-1]}


def _content(path: Path) -> Any:
    if path.name.startswith(("report.", "model-card")) or path.suffix == ".journal":
        return _is_whole(path)  # costs are measured; a search's journal names processes
    read = _READERS.get(path.name) or _READERS.get(path.suffix)
    return path.read_bytes() if read is None else read(path)


def _arrays(path: Path) -> Any:
    with np.load(path) as arrays:
        return {name: (arrays[name].dtype.str, arrays[name].tolist()) for name in arrays.files}


def _state(path: Path) -> Any:
    with safe_open(path, framework="np") as file:
        tensors = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118 - not a dict
        metadata = file.metadata()
    # Checksums are of files that tell of clocks, too.
    return {k: v for k, v in metadata.items() if k not in ("files", "checksum")}, tensors


_READERS: Mapping[str, Callable[[Path], Any]] = {
    ".json": lambda path: _unmeasured(json.loads(path.read_text(encoding="utf-8"))),
    ".jsonl": lambda path: [_unmeasured(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()],
    ".npz": _arrays,
    "steadytune.safetensors": _state,
    # Its bytes tell which numbers were one object, too.
    "optimizer.pt": lambda path: _plain(torch.load(path, weights_only=True)),
}


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _unmeasured(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _unmeasured(v) for k, v in value.items() if not any(word in k for word in MEASURED)}
    return [_unmeasured(v) for v in value] if isinstance(value, list) else value


def _is_whole(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    last = {".html": "</html>", ".journal": "}"}.get(path.suffix, "")
    return bool(text.strip()) and "\0" not in text and text.rstrip().endswith(last)


def differences(found: Any, expected: Any, where: str = "") -> list[str]:
    """Where two results differ, in words."""
    if isinstance(found, dict) and isinstance(expected, dict):
        missing = [f"{where}/{name}: is missing" for name in sorted(expected.keys() - found.keys())]
        more = [f"{where}/{name}: should not be there" for name in sorted(found.keys() - expected.keys())]
        shared = [d for k in found if k in expected for d in differences(found[k], expected[k], f"{where}/{k}")]
        return missing + more + shared
    if isinstance(found, list | tuple) and isinstance(expected, list | tuple):
        counts = [f"{where}: {len(found)} items instead of {len(expected)}"] if len(found) != len(expected) else []
        pairs = enumerate(zip(found, expected, strict=False))
        return counts + [d for i, (a, b) in pairs for d in differences(a, b, f"{where}[{i}]")]
    return [] if found == expected else [f"{where}: {str(found)[:80]} instead of {str(expected)[:80]}"]
