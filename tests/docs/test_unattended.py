"""The suite that runs on a borrowed GPU, on a tiny model and without worker processes."""

from __future__ import annotations

import importlib.util
import json
import queue
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import glue_rows, tiny_model

from steadytune.comparison.records import read_comparison
from steadytune.heads.scores.metrics import compute_metrics
from steadytune.reporting.report import report

tiny_folder = tiny_model.tiny_folder


@pytest.fixture(scope="module")
def unattended():
    spec = importlib.util.spec_from_file_location("unattended", Path(__file__).parents[2] / "suites" / "unattended.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["unattended"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("classes", [2, 3])
def test_its_formulas_are_those_of_the_library(unattended, classes) -> None:
    chance = np.random.default_rng(classes)
    logits, labels = chance.normal(size=(60, classes)), chance.integers(0, classes, 60)
    expected = compute_metrics("classification", logits, labels)
    for name, value in unattended.measured("classification", logits, labels).items():
        assert value == pytest.approx(expected[name], abs=1e-12), name
    numbers, targets = chance.normal(size=(60, 1)), chance.integers(0, 5, 60).astype(float)  # with ties
    expected = compute_metrics("regression", numbers, targets)
    for name, value in unattended.measured("regression", numbers, targets).items():
        assert value == pytest.approx(expected[name], abs=1e-12), name


def test_a_suite_is_packed_run_and_collected(unattended, tiny_folder, tmp_path, monkeypatch) -> None:
    data = glue_rows.write_tasks(tmp_path / "data", {"rte": 60}, evaluated=20)
    config = tmp_path / "suite.yaml"
    settings = {"model": str(tiny_folder), "tasks": ["rte"], "train_sizes": ["24"], "seeds": 2, "num_train_epochs": 1}
    methods = ["none", "smoothness(radius=0.01,step_size=1)"]
    config.write_text(
        yaml.safe_dump({**settings, "max_length": 16, "learning_rates": [1e-3, 2e-3], "methods": methods})
    )
    bundle, results = tmp_path / "bundle", tmp_path / "results"
    unattended.pack(config, None, str(data), bundle)
    plan = json.loads((bundle / "plan.json").read_text())
    assert len(unattended.tuning(plan)) == 4
    assert len(unattended.planned(plan)) == 4

    made = []

    class Here:
        """The runs in this process."""

        def __init__(self, *_: object) -> None:
            pass

        def make(self, missing, keep) -> bool:
            rows = unattended.tokenized(bundle, plan, "rte")
            for one in missing[:limit]:
                made.append(one["key"])
                keep({**one, "error": None, **unattended.train(bundle, plan, one, rows), "seconds": 0.1})
            return limit is None

        def stop(self) -> None:
            pass

    monkeypatch.setattr(unattended, "Workers", Here)
    limit: int | None = 3
    unattended.run(bundle, results, 1.0, 1)  # the time is up in the middle of choosing the rates
    assert len(made) == 3
    limit = None
    unattended.run(bundle, results, 1.0, 1)
    assert len(made) == len(set(made)) == 6  # 4 to choose, of which 2 are compared, and 2 with the second seed
    unattended.collect(bundle, results, tmp_path / "out")
    (cell,) = read_comparison(tmp_path / "out").cells
    assert [(r.candidate, r.seed) for r in cell.runs] == [
        (name, seed) for seed in (42, 43) for name in ("none", "smoothness(radius=0.01,step_size=1)")
    ]
    assert cell.test_splits == ("test",)
    for candidate, rate in cell.chosen_learning_rate.items():
        tried = {r.learning_rate: r.score("validation", "accuracy") for r in cell.tuning if r.candidate == candidate}
        assert tried[rate] == max(tried.values())
    assert "smoothness" in report(tmp_path / "out").markdown()


def test_a_run_that_diverges_is_told_from_one_that_fails(unattended, tiny_folder, tmp_path) -> None:
    data = glue_rows.write_tasks(tmp_path / "data", {"rte": 40}, evaluated=8)
    config = tmp_path / "suite.yaml"
    settings = {"model": str(tiny_folder), "tasks": ["rte"], "train_sizes": ["16"], "seeds": 1, "max_grad_norm": 0}
    config.write_text(yaml.safe_dump({**settings, "learning_rates": [1e-3], "methods": ["smoothness"]}))
    unattended.pack(config, None, str(data), tmp_path / "bundle")
    plan = json.loads((tmp_path / "bundle" / "plan.json").read_text())
    todo, done = queue.Queue(), queue.Queue()
    one = {**unattended.planned(plan)[0], "rate": 1e30}
    for item in (one, {**one, "candidate": {**one["candidate"], "names": ["unknown"]}}, None):
        todo.put(item)
    unattended.work(str(tmp_path / "bundle"), todo, done)
    first, second = done.get_nowait(), done.get_nowait()
    assert first["status"] == "diverged", first["error"]
    assert second["status"] == "failed"
    assert "unknown" in second["error"]
