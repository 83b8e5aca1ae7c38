"""The benchmarks run and count rightly; no time is asserted."""

from __future__ import annotations

import doctest
import gc
import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from scipy.stats import quantile_test
from torch import nn

from benchmarks import __main__ as command
from benchmarks import counting, memory, rounds, rows
from benchmarks.parts import Found, perturb
from benchmarks.setting import Setting
from steadytune.cli import main as steadytune

DOCS = Path(__file__).parents[2] / "tools" / "docs"
SETTING = Setting(torch.device("cpu"), torch.float32, ("tiny",), threads=1, quick=True, tiny=True)
#: Each runs here; `perturb` has a test of its own, and `start` only starts processes.
PARTS = ("step", "empty", "noisytune", "length", "methods")
#: As `make bench-gpu` does; bfloat16 and its autocast are there on the CPU, too.
AS_ON_A_GPU = ("--precision", "bf16", "--models", "bert-base")


@pytest.fixture(scope="module")
def tables():
    """The module that makes the tables of the page."""
    sys.path.insert(0, str(DOCS))
    try:
        return importlib.import_module("speed_table")
    finally:
        sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """The file that the whole command writes."""
    path = tmp_path_factory.mktemp("results") / "speed_cpu.json"
    assert run(path, PARTS, *AS_ON_A_GPU) == 0
    return path


def run(path: Path, parts: tuple[str, ...], *more: str) -> int:
    return command.main(
        ["--quick", "--tiny", "--threads", "1", "--only", ",".join(parts), "--output", str(path), *more]
    )


def test_every_part_runs_and_each_row_has_its_figure(measured):
    content = json.loads(measured.read_text())
    assert tuple(content["parts"]) == PARTS
    assert content["versions"]["torch"]
    for part in content["parts"].values():
        assert part["failed"] == ""
        assert len(part["commit"]) == 40
        for row in part["rows"]:
            assert row["value"] is not None or "not installed" in row["note"]
            assert row["limit"] is None or row["verdict"]


def test_what_is_counted_of_a_step(measured):
    """Passes are the declared ones; operations follow them; ``memory="low"`` needs less than ``smart`` without it."""
    figures = json.loads(measured.read_text())["parts"]["step"]["details"]["bert-base"]
    assert figures["plain"]["operations_ratio"] == figures["plain"]["peak_saved_ratio"] == 1
    assert figures["smoothness"]["passes"] == {
        "forwards": 3,
        "forwards_without_graph": 0,
        "backwards": 2,
        "backwards_to_embeddings": 1,
    }
    for name in ("smoothness", "bregman", "smart"):
        assert figures[name]["operations_ratio"] == pytest.approx(figures[name]["arithmetic"], rel=0.05)
    for memory_of in ("peak_allocated", "peak_saved"):
        assert figures["smart, memory=low"][memory_of] < figures["smart"][memory_of]


def test_the_page_has_every_row_and_says_what_is_missed(measured, tables):
    text = "\n".join(tables.speed_tables(measured.parent))
    for part in json.loads(measured.read_text())["parts"].values():
        for row in part["rows"]:
            line = next(line for line in text.splitlines() if line.startswith(f"| {row['what']} |"))
            assert row["verdict"] in line
            in_the_readme = any(f"| {row['what']} |" in line for line in tables.missed_table(measured.parent))
            assert in_the_readme == row["verdict"].startswith("missed")
    assert doctest.testmod(tables).failed == 0


def test_a_part_that_is_measured_is_left_alone_and_one_that_fails_leaves_the_others(measured, tmp_path, monkeypatch):
    path = Path(shutil.copy(measured, tmp_path))
    module = importlib.import_module("benchmarks.parts.empty")

    def fail(_: Setting) -> Found:
        raise RuntimeError("no room")

    monkeypatch.setattr(module, "measure", fail)
    assert run(path, ("empty",), *AS_ON_A_GPU, "--resume") == 0
    assert path.read_bytes() == measured.read_bytes()
    assert run(path, ("empty",), *AS_ON_A_GPU) == 1
    parts = json.loads(path.read_text())["parts"]
    assert parts["empty"]["failed"] == "RuntimeError: no room"
    assert parts["step"]["rows"]


def test_figures_of_another_machine_are_not_mixed_in(measured, tmp_path, monkeypatch):
    path = Path(shutil.copy(measured, tmp_path))
    monkeypatch.setattr("benchmarks.results._processor", lambda: "another")
    monkeypatch.setattr(importlib.import_module("benchmarks.parts.empty"), "measure", lambda _: Found([]))
    assert run(path, ("empty",), *AS_ON_A_GPU) == 0
    assert list(json.loads(path.read_text())["parts"]) == ["empty"]


def test_each_of_several_models_has_rows(tmp_path):
    assert run(tmp_path / "speed.json", ("teacher",), "--models", "bert-base,roberta-large") == 0
    rows_of_it = json.loads((tmp_path / "speed.json").read_text())["parts"]["teacher"]["rows"]
    assert [row["what"].split(":")[0] for row in rows_of_it[:2]] == ["bert-base", "roberta-large"]
    copies = rows_of_it[2]
    assert (copies["value"], copies["verdict"]) == (0, "met")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "stepp", "--output", "x"], "no part 'stepp'"),
        (["--tiny"], "give --output"),
        (["--models", "gpt-5"], "no model 'gpt-5'"),
    ],
)
def test_mistakes_get_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert message in capsys.readouterr().err


def test_perturb_is_measured_on_a_checkpoint_in_shards(monkeypatch):
    """In this process: what it starts as commands is called here."""

    def call(line: list[str]) -> None:
        if line[0] == "cp":
            shutil.copytree(line[2], line[3])
        elif "perturb" in line:
            assert steadytune(line[4:]) == 0
            Path(line[3]).write_text("1000")

    monkeypatch.setattr(perturb, "_run", call)
    peak, speed = perturb.measure(SETTING).rows
    assert peak.value == 1000 * 1024 / 1e6
    assert peak.verdict == "met"
    assert speed.value is not None


@pytest.mark.parametrize("count", [6, 7, 20, 21, 101])
def test_the_interval_of_a_median_is_the_exact_one(count):
    values = torch.rand(count, generator=torch.Generator().manual_seed(count)).tolist()
    expected = quantile_test(values, p=0.5).confidence_interval(0.95)
    found = rounds.spread(values)
    assert (found.low, found.high) == (expected.low, expected.high)
    assert found.confidence >= 0.95


def test_each_comes_first_equally_often_and_no_garbage_is_collected_within_a_round():
    order: list[str] = []
    enabled: list[bool] = []

    def call(name: str) -> None:
        order.append(name)
        enabled.append(gc.isenabled())

    calls = {name: (lambda name=name: call(name)) for name in "abc"}
    taken = rounds.interleaved(calls, seconds=lambda one: (one(), 1.0)[1], rounds=6, warm_ups=0)
    assert [len(seconds) for seconds in taken.values()] == [6, 6, 6]
    assert sorted(order[::3]) == sorted(order[2::3]) == list("aabbcc")
    assert not any(enabled)
    assert gc.isenabled()


def test_verdicts():
    ends = rounds.spread([0.9, 1.0, 1.0, 1.1, 1.2, 1.3])
    assert rows.measured("a", "x", ends, limit=1.4).verdict == "met"
    assert rows.measured("a", "x", ends, limit=1.06).verdict == "met, within the spread"
    assert rows.measured("a", "x", ends, limit=1.0).verdict == "missed, within the spread"
    assert rows.measured("a", "x", ends, limit=0.8).verdict == "missed"
    assert rows.measured("a", "x", ends, bound="at least", limit=1.4).verdict == "missed"


def test_memory_and_operations_are_counted():
    layer = nn.Linear(256, 512, bias=False)
    given = torch.rand(64, 256, requires_grad=True)  # so that the weights are saved, too

    def step() -> None:
        layer(given).exp().sum().backward()

    step()
    inputs, outputs, weights = 64 * 256 * 4, 64 * 512 * 4, 256 * 512 * 4
    assert memory.peak_saved(step, layer) == inputs + outputs  # the weights are not counted
    # At the end of the backward pass: the gradient of the outputs, and the new ones of inputs and weights.
    peak = memory.peak_allocated(step, SETTING)
    assert inputs + weights + outputs <= peak <= inputs + weights + 3 * outputs + 1024
    assert counting.operations(step) == 3 * (2 * 64 * 256 * 512)  # forward, and backward to weights and inputs


def test_examples_in_the_benchmarks_are_right():
    assert doctest.testmod(rounds).failed == doctest.testmod(rows).failed == 0
