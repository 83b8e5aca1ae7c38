"""What is fuzzed: folders that a run, a comparison or a stranger left, and model folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from random import Random
from unittest.mock import patch

from fuzz_bytes import spoiled
from fuzz_command import DONE, REFUSED, Fault, command
from fuzz_coverage import Case
from fuzz_targets import data_seeds, emptied, nothing_trains
from helpers import comparisons, tiny
from safetensors.torch import load_file, save_file

from steadytune.reporting.report import Report

WEIGHTS, METRICS = "model/model.safetensors", "metrics.json"
SHOWN_IN_FULL = 200


class Checkpoints:
    """A run that was ended and whose files are then damaged: it goes on as if undisturbed, or is refused."""

    name = "checkpoint folders"

    def __init__(self, place: Path, model: Path) -> None:
        self.place, self.kept = place, place.parent / "finished"
        (place / "t.csv").write_bytes(data_seeds()[0].content)
        self.rows = (place / "t.csv").read_bytes()
        self.arguments = [
            *(
                "train",
                "--train-file",
                "t.csv",
                "--validation-file",
                "t.csv",
                "--model",
                str(model),
                "--methods",
                "smart",
            ),
            *("--max-steps", "4", "--save-steps", "2", "--per-device-train-batch-size", "4", "--max-length", "16"),
            *("--output-dir", "run", "--use-cpu", "--quiet"),
        ]
        command(self.arguments, allowed=(DONE,))
        shutil.move(place / "run", self.kept)
        self.weights = load_file(self.kept / WEIGHTS)
        self.after = json.loads((self.kept / METRICS).read_text())["after"]

    def seeds(self) -> Sequence[Case]:
        return [Case("whole"), Case("without checkpoints/checkpoint-4")]

    def mutated(self, case: Case, other: Case, chance: Random) -> Case:
        files = sorted(str(p.relative_to(self.kept)) for p in self.kept.rglob("*") if p.is_file())
        # What was measured is text for people to read, and a finished run is only read.
        files = [name for name in files if not name.startswith(("model/", METRICS)) and "lock" not in name]
        name = chance.choice(files)
        content = (self.kept / name).read_bytes()
        match chance.randrange(6):
            case 0:
                return Case(f"without {name}")
            case 1:
                return Case(name, (self.kept / chance.choice(files)).read_bytes())
            case 2:
                older = name.replace("checkpoint-4", "checkpoint-2")
                return Case(name, (self.kept / older).read_bytes())
            case 3 if name.endswith(".safetensors"):
                return Case(name, self._other_shapes(self.kept / name, chance))
        return Case(name, spoiled(content, content, chance))

    def _other_shapes(self, file: Path, chance: Random) -> bytes:
        tensors = load_file(file)
        name = chance.choice(sorted(tensors))
        tensors[name] = tensors[name].reshape(-1)[:-1].clone()
        copy = self.place / "spoiled"
        save_file(tensors, copy)
        return copy.read_bytes()

    def run(self, case: Case) -> str:
        emptied(self.place)
        (self.place / "t.csv").write_bytes(self.rows)
        run = self.place / "run"
        shutil.copytree(self.kept, run)
        shutil.rmtree(run / "model")
        (run / METRICS).unlink()
        if case.name.startswith("without "):
            gone = run / case.name.removeprefix("without ")
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)
        elif case.name != "whole":
            (run / case.name).write_bytes(case.content)
        outcome = command(self.arguments, allowed=(DONE, REFUSED))
        if outcome.status == REFUSED:
            return "refused"
        if not (run / WEIGHTS).is_file():
            raise Fault(f"{case.name} changed: no weights")
        if wrong := tiny.differences(load_file(run / WEIGHTS), self.weights):
            raise Fault(f"{case.name.partition(' ')[0]} changed: other weights, {wrong[0]}")
        if json.loads((run / METRICS).read_text())["after"] != self.after:
            raise Fault("other scores")
        return "accepted"


class ModelFolders:
    """A pretrained model whose files are damaged or hostile: it loads, or is refused."""

    name = "model folders"

    def __init__(self, place: Path, model: Path) -> None:
        self.place, self.model = place, model

    def seeds(self) -> Sequence[Case]:
        return [Case("config.json", (self.model / "config.json").read_bytes())]

    def mutated(self, case: Case, other: Case, chance: Random) -> Case:
        files = sorted(path for path in self.model.iterdir() if path.is_file())
        file = chance.choice(files)
        content = file.read_bytes()
        if chance.random() < 0.1:
            return Case(chance.choice((*HOSTILE_NAMES, file.name)), chance.choice(files).read_bytes())
        return Case(file.name, spoiled(content, content, chance))

    def run(self, case: Case) -> str:
        emptied(self.place)
        (self.place / "t.csv").write_bytes(data_seeds()[0].content)
        folder = self.place / "model"
        shutil.copytree(self.model, folder)
        (folder / case.name).write_bytes(case.content)
        arguments = [
            "train",
            "--train-file",
            "t.csv",
            "--model",
            "./model",
            "--output-dir",
            "out",
            "--use-cpu",
            "--quiet",
        ]
        outcome = command([*arguments, "--max-steps", "1", "--max-length", "8"], allowed=(DONE, REFUSED))
        return "refused" if outcome.status == REFUSED else "accepted"


HOSTILE_NAMES = (
    "adapter_config.json",
    "pytorch_model.bin",
    "tokenizer.json",
    "generation_config.json",
    "chat_template.jinja",
)


class Results:
    """A comparison's folder from elsewhere: the report is written, or it is refused; nothing else happens."""

    name = "results folders"

    def __init__(self, place: Path, model: Path) -> None:
        self.place = place
        made = comparisons.comparison(comparisons.cell(seeds=2))
        self.content = json.dumps(made.as_json()).encode()
        self.key = made.cells[0].runs[0].key

    def seeds(self) -> Sequence[Case]:
        return [Case("comparison.json", self.content)]

    def mutated(self, case: Case, other: Case, chance: Random) -> Case:
        if chance.random() < 0.5:
            return Case("comparison.json", spoiled(case.content, other.content, chance))
        return Case("comparison.json", _with_other_value(case.content, chance))

    def run(self, case: Case) -> str:
        emptied(self.place)
        folder = self.place / "results"
        folder.mkdir()
        (folder / case.name).write_bytes(case.content)
        # The pictures take most of the time, and take nothing but numbers and labels of the tables.
        with nothing_trains(), patch.object(Report, "html", lambda report: report.markdown()):
            outcome = command(["report", "results"], allowed=(DONE, REFUSED))
        outside = [path for path in self.place.iterdir() if path != folder]
        if outside:
            raise Fault(f"wrote {outside[0]}")
        return "refused" if outcome.status == REFUSED else "accepted"


VALUES = (
    None,
    True,
    -1,
    1e308,
    10**400,
    "",
    "x",
    "\x1b[31m",
    [],
    {},
    [[]],
    {"a": []},
    float("nan"),
    "../../x",
    "\ud800",
)


def _with_other_value(content: bytes, chance: Random) -> bytes:
    """Replace one value somewhere in the JSON."""
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return content
    parent, key = None, None
    at = whole
    while isinstance(at, dict | list) and at and (parent is None or chance.random() < 0.85):
        key = chance.choice(sorted(at)) if isinstance(at, dict) else chance.randrange(len(at))
        parent, at = at, at[key]
    if parent is None:
        return content
    if chance.random() < 0.15 and isinstance(parent, dict):
        del parent[key]
    else:
        parent[key] = chance.choice(VALUES)
    return json.dumps(whole).encode()
