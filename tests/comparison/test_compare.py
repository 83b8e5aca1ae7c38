"""Comparisons: that they are fair, that nothing of them is lost, and that what goes wrong in one run stays there."""

from __future__ import annotations

import errno
import gc
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
import yaml
from helpers import comparisons, tiny_model
from helpers.comparing import InProcess, Notes, outcome
from safetensors.torch import load_file

from steadytune.cli import main
from steadytune.comparison import cells as cells_file
from steadytune.comparison.candidates import candidates
from steadytune.comparison.compare import compare
from steadytune.comparison.dry_run import plan_comparison, time_comparison
from steadytune.comparison.engines import execute as engine
from steadytune.comparison.engines.execute import execute
from steadytune.comparison.engines.local import LocalEngine
from steadytune.comparison.plan import RunPlan
from steadytune.comparison.records import Cell, Comparison, RunRecord, read_comparison, read_record
from steadytune.comparison.reporter import SilentComparison
from steadytune.errors import DivergedError, MethodError, SettingsError
from steadytune.integrations.transformers.trainer import SteadyTrainer
from steadytune.methods.registry import all_methods
from steadytune.settings.compare import CompareSettings
from steadytune.settings.resolve import resolve
from steadytune.settings.train import TrainSettings
from steadytune.support.atomic_files import this_process
from steadytune.training import run as run_file
from steadytune.training.folder import RunFolder
from steadytune.training.meter import Meter
from steadytune.training.run import Extent, train

tiny_folder, changed_model = tiny_model.tiny_folder, tiny_model.changed_model

ROWS, TEST_ROWS, BATCH = 24, 8, 4
UPDATES = 2 * ROWS // BATCH
RATES = [1e-3, 1e-2]

Settings = Callable[..., CompareSettings]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name, count, seed in (("train", ROWS, 0), ("validation", TEST_ROWS, 1), ("test", TEST_ROWS, 2)):
        tiny_model.write_csv(folder / f"{name}.csv", tiny_model.rows(count, seed=seed))
    return folder


@pytest.fixture
def options(place: Path, tiny_folder: Path) -> dict[str, Any]:
    return {
        "model": str(tiny_folder),
        "train_file": "train.csv",
        "validation_file": "validation.csv",
        "test_file": "test.csv",
        "methods": "noisytune,smart",
        "max_length": 16,
        "num_train_epochs": 2.0,
        "per_device_train_batch_size": BATCH,
        "learning_rates": "1e-3,1e-2",
        "seeds": 2,
        "first_seed": 7,
        "output_dir": "out",
    }


@pytest.fixture
def settings(options: dict[str, Any]) -> Settings:
    return lambda **changes: CompareSettings(**options | changes)


@pytest.fixture(scope="module", autouse=True)
def _loaded(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Load all that a run needs, and keep it out of the garbage collections of every run."""
    folder = tmp_path_factory.mktemp("first")
    rows = tiny_model.write_csv(folder / "train.csv", tiny_model.rows(ROWS))
    given = {"model": str(tiny_folder), "train_file": str(rows), "max_length": 16, "max_steps": 1}
    train(TrainSettings(**given, output_dir=str(folder / "run")))
    gc.collect()
    gc.freeze()


def compared(settings: CompareSettings, reporter: Any = None) -> Comparison:
    return compare(settings, reporter, engine=InProcess())


def run_of(cell: Cell, candidate: str, seed: int) -> RunRecord:
    return next(r for r in cell.of(candidate) if r.seed == seed)


def command(options: Mapping[str, Any], **changes: Any) -> list[str]:
    given = {**options, **changes}
    return ["compare", *(part for name, v in given.items() for part in (f"--{name.replace('_', '-')}", str(v)))]


# ---------------------------------------------------------------- settings and candidates


def test_settings_come_from_a_file_as_well(place) -> None:
    content = {
        "task": "movie-reviews",
        "train-size": [100, "10%"],
        "methods": ["smart", "noisytune+smart"],
        "learning_rate": 1e-4,
        "seed": 3,
        "vary": {"smart.weight": [1, 3]},
        "search": ["trials=3"],
    }
    (place / "c.yaml").write_text(yaml.safe_dump(content))
    found = resolve(CompareSettings, {"seeds": 4, "set": {}}, "c.yaml")
    assert (found.tasks, found.train_sizes) == (["movie-reviews"], ["100", "10%"])
    assert (found.first_seed, found.seeds, found.learning_rates) == (3, 4, [1e-4])
    assert list(found.all_seeds) == [3, 4, 5, 6]
    assert CompareSettings(**found.resolved()) == found, "what is kept can be given again"
    assert found.run_settings(seed=9).seed == 9


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": 1, "first_seed": 2}, "give one of them"),
        ({"learning_rates": "1e-4,0"}, "above 0"),
        ({"seeds": 0}, "--seeds"),
        ({"sedes": 3}, "Did you mean 'seeds'"),
        ({"learning_rates": "fast"}, "--learning-rates"),
        ({"keep_models": "some"}, "--keep-models"),
    ],
)
def test_mistakes_in_settings_are_told(given, message) -> None:
    with pytest.raises(SettingsError, match=message):
        resolve(CompareSettings, {"set": {}, **given})


def test_plain_training_is_always_a_candidate_and_each_is_there_once() -> None:
    found = candidates(CompareSettings(methods="smart,noisytune+smart,none,smart", vary={"smart.weight": "1,3"}))
    assert [c.label for c in found] == [
        "none",
        "smart",  # its weight is 1
        "smart(weight=3)",
        "noisytune+smart",
        "noisytune+smart(weight=3)",
    ]
    assert [c.relative_cost for c in found[:3]] == [1.0, 3.0, 3.0]
    assert found[-1].changes(CompareSettings())["set"] == {"smart.weight": 3}


def test_settings_of_a_method_go_to_the_candidates_that_have_it() -> None:
    found = candidates(CompareSettings(methods="noisytune,smart", set={"smart.weight": 2}))
    assert [dict(c.set) for c in found] == [{}, {}, {"smart.weight": 2}]
    with pytest.raises(SettingsError, match="no candidate has such a method"):
        candidates(CompareSettings(methods="noisytune", set={"smart.weight": 2}))
    with pytest.raises(SettingsError, match="Did you mean 'smart'"):
        candidates(CompareSettings(methods="smart", vary={"smrat.weight": [2]}))
    with pytest.raises(MethodError, match="There is no method"):
        candidates(CompareSettings(methods="smort"))


def test_equal_compute_gives_plain_training_the_updates_that_the_others_cost(settings) -> None:
    *_, longer = candidates(settings(equal_compute=True))
    assert (longer.label, longer.names) == ("none@3.00x", ())
    assert longer.changes(settings())["num_train_epochs"] == 6.0
    assert longer.changes(settings(max_steps=5))["max_steps"] == 15
    cell = compared(settings(equal_compute=True, methods="smart", seeds=1, learning_rates=[1e-3])).cells[0]
    assert {r.candidate: r.training["updates"] for r in cell.runs} == {
        "none": UPDATES,
        "smart": UPDATES,
        "none@3.00x": 3 * UPDATES,
    }


# ---------------------------------------------------------------- fair


def test_all_candidates_see_the_same_head_and_the_same_rows_in_the_same_order(settings, monkeypatch) -> None:
    seen: dict[tuple[str, int], list[Any]] = {}
    real = SteadyTrainer.training_step

    def recorded(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if "estimate" in self.args.output_dir:
            return real(self, model, inputs, *args, **kwargs)
        run = seen.setdefault((str(self.stack.methods), self.args.seed), [model.classifier.weight.detach().clone()])
        run.append(inputs["input_ids"].clone())
        return real(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(run_file.RunTrainer, "training_step", recorded)
    # The noise of NoisyTune is on the pretrained weights and not on the head.
    compared(settings(learning_rates=[1e-3]))
    by_seed: dict[int, list[list[Any]]] = {}
    for (_, seed), tensors in seen.items():
        by_seed.setdefault(seed, []).append(tensors)
    assert {seed: len(runs) for seed, runs in by_seed.items()} == {7: 3, 8: 3}
    for first, *others in by_seed.values():
        assert len(first) == UPDATES + 1
        for other in others:
            assert all(torch.equal(a, b) for a, b in zip(first[1:], other[1:], strict=True)), "same rows"
    heads = {seed: [run[0] for run in runs] for seed, runs in by_seed.items()}
    plain = heads[7][0]
    assert torch.equal(plain, heads[7][2]), "same head with smart"
    assert not torch.equal(plain, heads[8][0]), "another seed, another head"


class EnoughError(Exception):
    """The updates that a test looks at are made."""


def beginning(given: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The head before the first update of a run, then the rows of its updates, past the end of the first epoch."""
    seen: list[torch.Tensor] = []
    real = SteadyTrainer.training_step

    def recorded(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        head = model.classifier
        weight = head.parametrizations.weight.original if hasattr(head, "parametrizations") else head.weight
        seen.extend([] if seen else [weight.detach().clone()])
        if len(seen) > UPDATES // 2 + 2:
            raise EnoughError
        seen.append(inputs["input_ids"].clone())
        return real(self, model, inputs, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(run_file.RunTrainer, "training_step", recorded)
        with pytest.raises(EnoughError):
            train(given, extent=Extent(before=False, each_epoch=False, checkpoint_seconds=1e9))
    return seen


@pytest.mark.long
def test_every_method_starts_from_the_head_of_plain_training_and_sees_its_rows(settings, monkeypatch) -> None:
    def of(method: str, seed: int = 7) -> list[torch.Tensor]:
        common: dict[str, Any] = {"learning_rate": 1e-3, "output_dir": f"{method}-{seed}"}
        return beginning(settings().run_settings(methods=[method], seed=seed, **common), monkeypatch)

    plain = of("none")
    assert len(plain) == 1 + UPDATES // 2 + 2
    others = {method: of(method) for method in all_methods()}
    different = [m for m, seen in others.items() if not all(map(torch.equal, seen, plain)) or len(seen) != len(plain)]
    assert not different
    other_seed = of("smart", seed=8)
    assert not torch.equal(other_seed[0], plain[0])
    assert not all(map(torch.equal, other_seed[1:], plain[1:]))


@pytest.mark.long
def test_test_splits_are_not_looked_at_before_the_learning_rate_is_chosen(settings, place, monkeypatch) -> None:
    looked: list[tuple[str, ...]] = []
    real = run_file._Run._evaluate

    def recorded(self: Any, names: Sequence[str]) -> Any:
        looked.append(tuple(names))
        return real(self, names)

    monkeypatch.setattr(run_file._Run, "_evaluate", recorded)
    cell = compared(settings()).cells[0]
    assert looked[1:7] == [("validation",)] * 6, "three candidates, two learning rates (the first is the estimate)"
    assert looked[7:10] == [("test",)] * 3, "the chosen runs of the first seed are only evaluated"
    assert looked[10:] == [("validation", "test")] * 3
    assert all(set(r.metrics["after"]) == {"validation"} for r in cell.tuning)
    assert all(set(r.metrics["after"]) == {"validation", "test"} for r in cell.runs)

    # Labels of the test split that say the opposite change no choice and no weight.
    flipped = [(text, {"no": "yes", "yes": "no"}[label]) for text, label in tiny_model.rows(TEST_ROWS, seed=2)]
    tiny_model.write_csv(place / "test.csv", flipped)
    other = compared(settings()).cells[0]
    assert other.chosen_learning_rate == cell.chosen_learning_rate
    assert [r.score("validation", "loss") for r in other.runs] == [r.score("validation", "loss") for r in cell.runs]
    for candidate in cell.candidates:
        for seed, score in cell.scores(candidate, "test").items():
            assert score is not None
            assert other.scores(candidate, "test")[seed] == pytest.approx(1 - score)


def test_the_learning_rate_is_the_best_on_validation_data(settings) -> None:
    cell = compared(settings(learning_rates=[1e-5, 3e-2], num_train_epochs=6.0, seeds=1)).cells[0]
    for candidate in cell.candidates:
        tried = {r.learning_rate: r for r in cell.tuning if r.candidate == candidate}
        assert set(tried) == {1e-5, 3e-2}
        best = max(tried.values(), key=lambda r: (r.score("validation", "accuracy"), -r.score("validation", "loss")))
        assert cell.chosen_learning_rate[candidate] == best.learning_rate
        assert run_of(cell, candidate, 7).key == best.key
    assert set(cell.chosen_learning_rate.values()) != {1e-5}


def test_a_run_evaluated_later_scores_like_one_evaluated_at_once(settings) -> None:
    cell = compared(settings(methods="smart", keep_models="all")).cells[0]
    record = run_of(cell, "smart", 7)
    whole = train(settings().run_settings(methods=["smart"], learning_rate=record.learning_rate, seed=7))
    assert whole.metrics["after"] == record.metrics["after"]


@pytest.mark.long
def test_runs_of_workers_are_those_of_train_to_the_last_bit(settings) -> None:
    cell = compare(settings(keep_models="all", workers=2, learning_rates=[1e-3])).cells[0]
    for record in cell.runs:
        alone = train(
            settings().run_settings(
                methods=list(record.methods) or ["none"],
                learning_rate=1e-3,
                seed=record.seed,
                output_dir=record.key,
                logging_steps=1,  # as a comparison does with runs of few updates
            )
        )
        assert record.metrics["after"] == alone.metrics["after"]
        folders = (Path("out/runs") / record.key, alone.folder)
        weights, same = (load_file(folder / "model" / "model.safetensors") for folder in folders)
        assert weights.keys() == same.keys()
        assert all(torch.equal(weights[name], same[name]) for name in weights)
        losses = [line["loss"] for line in RunFolder(alone.folder).read_log() if "loss" in line]
        assert [y for _, y in record.training["curve"]] == losses


# ---------------------------------------------------------------- what is kept


def test_a_finished_comparison_is_only_read(settings, place, capsys, options) -> None:
    first = compared(settings())
    kept = {p: p.stat().st_mtime_ns for p in (place / "out" / "runs").rglob("*") if p.is_file()}
    engine = InProcess()
    again = compare(settings(), engine=engine)
    assert engine.made == []
    assert outcome(again) == outcome(first)
    assert {p: p.stat().st_mtime_ns for p in (place / "out" / "runs").rglob("*") if p.is_file()} == kept
    assert read_comparison("out") == again
    assert not list(place.rglob("*unfinished*"))

    # More seeds: only the further ones are run.
    engine = InProcess()
    more = compare(settings(seeds=3), engine=engine)
    assert [(plan.candidate, plan.settings.seed) for plan in engine.made] == [(c, 9) for c in more.cells[0].candidates]
    assert main(command(options, seeds=3)) == 0
    out = capsys.readouterr().out
    assert "15 runs, 15 of them made before." in out
    assert "Report: out/report.html" in out
    assert (place / "out" / "report.html").is_file()


@pytest.mark.long
def test_only_the_best_model_is_kept_unless_asked(settings) -> None:
    cell = compared(settings()).cells[0]
    kept = {p.parent.name for p in Path("out/runs").glob("*/model")}

    def order(run: RunRecord) -> tuple[float, ...]:
        score, loss = (run.score("validation", name) for name in ("accuracy", "loss"))
        assert score is not None
        assert loss is not None
        return score, run.candidate == "none", -loss

    best = max(cell.runs, key=order)
    assert kept == {best.key}
    assert not list(Path("out/runs").glob("*/checkpoints"))
    compared(settings(output_dir="none", keep_models="none"))
    assert not list(Path("none/runs").glob("*/model"))
    compared(settings(output_dir="all", keep_models="all"))
    assert len(list(Path("all/runs").glob("*/model"))) == 9


def test_costs_and_curves_are_measured(settings) -> None:
    cell = compared(settings(logging_steps=1, learning_rates=[1e-3], evaluate_each_epoch=True)).cells[0]
    for record in cell.runs:
        training = record.training
        assert training["updates"] == UPDATES
        assert 0 < training["seconds_per_update"] <= training["seconds"] < training["wall_seconds"]
        assert training["peak_memory_bytes"] > 0
        assert [x for x, _ in training["curve"]] == list(range(1, UPDATES + 1))
        assert [x for x, _ in training["validation_curve"]] == [1.0, 2.0]
        assert training["validation_curve"][-1][1] == record.score("validation", "accuracy")
        assert record.environment["versions"]["torch"] == torch.__version__
    plain, smart = (cell.of(name)[0].training["seconds_per_update"] for name in ("none", "smart"))
    assert smart > plain


def test_memory_is_that_of_the_updates_alone() -> None:
    meter = Meter(torch.device("cpu"))
    meter.begin()
    block = torch.ones(50_000_000)
    del block
    meter.end()
    between = torch.ones(100_000_000)  # an evaluation, say
    del between
    meter.begin()
    meter.end()
    found = meter.summary(2)
    assert 190e6 < found["peak_memory_bytes"] < 260e6
    assert found["seconds"] >= found["seconds_per_update"] > 0


def test_several_sizes_are_several_cells(settings) -> None:
    found = compared(settings(methods="none", train_sizes=[8, "50%"], seeds=1))
    assert [(c.task, c.train_size, c.runs[0].training["rows"]) for c in found.cells] == [
        ("train", "8", 8),
        ("train", "50%", 12),
    ]
    assert [run.train_size for cell in found.cells for run in cell.tuning] == ["8", "8", "50%", "50%"]


# ---------------------------------------------------------------- nothing is mixed


def test_runs_of_other_code_are_not_used_and_that_is_told(settings, monkeypatch) -> None:
    first = compared(settings(methods="none", seeds=1))
    notes = Notes()
    monkeypatch.setattr(cells_file, "code_digest", lambda: "other")
    engine = InProcess()
    second = compare(settings(methods="none", seeds=1), notes, engine=engine)
    assert len(engine.made) == 3
    assert not {r.key for r in first.cells[0].runs} & {r.key for r in second.cells[0].runs}
    assert any("2 earlier runs" in line and "another version of the code" in line for line in notes.lines)


@pytest.mark.parametrize("change", ["weight_decay", "data", "model"])
def test_runs_of_other_settings_data_or_model_are_not_used_and_that_is_told(
    settings, change, place, changed_model
) -> None:
    given = {"methods": "none", "seeds": 1, "learning_rates": [1e-3], "model": str(changed_model())}
    compared(settings(**given))
    if change == "weight_decay":
        given["weight_decay"] = 0.1
    elif change == "data":
        tiny_model.write_csv(place / "train.csv", tiny_model.rows(ROWS, seed=5))
    else:
        config = Path(given["model"]) / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_dropout_prob": 0.2}))
    notes = Notes()
    engine = InProcess()
    compare(settings(**given), notes, engine=engine)
    assert len(engine.made) == 1
    assert any("1 earlier runs" in line and "other settings, data or model" in line for line in notes.lines)


def test_a_folder_of_something_else_is_refused(settings, place) -> None:
    (place / "out").mkdir()
    (place / "out" / "thesis.txt").write_text("")
    with pytest.raises(SettingsError, match="holds no comparison"):
        compared(settings())
    train(settings().run_settings(methods=["none"], output_dir="single", max_steps=1))
    with pytest.raises(SettingsError, match="single run"):
        compared(settings(output_dir="single"))
    with pytest.raises(SettingsError, match="is a file"):
        compared(settings(output_dir="train.csv"))


# ---------------------------------------------------------------- what goes wrong in a run stays there


def test_a_run_that_raises_is_kept_with_its_error_and_the_rest_goes_on(
    settings, options, changed_model, capsys
) -> None:
    still = str(changed_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    given = {"model": still, "methods": "r_drop,noisytune", "learning_rates": "1e-3"}
    cell = compared(settings(**given)).cells[0]
    assert [r.status for r in cell.of("r_drop")] == ["failed", "failed"]
    assert "dropout" in (cell.of("r_drop")[0].error or "")
    assert all(score is None for score in cell.scores("r_drop", "test").values())
    assert {r.status for name in ("none", "noisytune") for r in cell.of(name)} == {"finished"}
    assert main(command(options, **given)) == 0
    out = capsys.readouterr().out
    assert "failed: r_drop, learning rate 1e-3, seed 7: " in out
    assert "Runs without a score: r_drop 2." in out

    engine = InProcess()
    compare(settings(**given), engine=engine)
    assert engine.made == []
    compare(settings(**given, retry_failed=True), engine=engine)
    assert [plan.candidate for plan in engine.made] == ["r_drop", "r_drop"]


def test_a_full_disk_fails_one_run(settings, monkeypatch) -> None:
    real = RunFolder.save_model

    def full(self: RunFolder, *args: Any) -> None:
        if (
            "noisytune" in (self.path / "config.yaml").read_text()
            and "seed: 8" in (self.path / "config.yaml").read_text()
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.model))
        real(self, *args)

    monkeypatch.setattr(RunFolder, "save_model", full)
    cell = compared(settings(learning_rates=[1e-3])).cells[0]
    wrong = [(r.candidate, r.seed, r.error) for r in cell.runs if r.status != "finished"]
    assert [w[:2] for w in wrong] == [("noisytune", 8)]
    assert "No space left on device" in (wrong[0][2] or "")


def test_a_disk_too_full_for_records_fails_nothing_else(settings, monkeypatch) -> None:
    from steadytune.comparison.engines import execute as engine_file

    def full(path: Path, content: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(engine_file, "write_json", full)
        cell = compared(settings(methods="none", learning_rates=[1e-3])).cells[0]
    assert [r.status for r in cell.runs] == ["finished", "finished"]
    again = compared(settings(methods="none", learning_rates=[1e-3])).cells[0]
    assert [r.metrics for r in again.runs] == [r.metrics for r in cell.runs]


@pytest.mark.parametrize("rates", [[10.0], [1e-3, 10.0]])
def test_a_run_that_diverges_is_shown_as_such(settings, options, rates, capsys) -> None:
    # Decoupled weight decay multiplies the weights by 1 - 10 * 10 in each update.
    given = {"methods": "none", "weight_decay": 10.0, "num_train_epochs": 8.0}
    cell = compared(settings(**given, learning_rates=rates)).cells[0]
    if len(rates) == 1:
        assert [r.status for r in cell.runs] == ["diverged", "diverged"]
        record = cell.runs[0]
    else:
        assert [r.status for r in cell.tuning] == ["finished", "diverged"]
        assert cell.chosen_learning_rate["none"] == 1e-3
        record = cell.tuning[1]
    assert "training diverged" in (record.error or "")
    assert record.training.get("updates") is None, "it ended early"
    assert main(command(options, **given, learning_rates=",".join(map(str, rates)))) == 0
    out = capsys.readouterr().out
    assert "diverged: none, learning rate 1e1, seed 7: training diverged" in out


def test_a_loss_that_is_no_number_ends_a_training_in_one_line(settings, monkeypatch, capsys) -> None:
    real = SteadyTrainer.training_step
    calls: list[int] = []

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        loss = real(self, *args, **kwargs)
        return loss * float("nan") if len(calls) == 3 else loss

    monkeypatch.setattr(SteadyTrainer, "training_step", broken)
    with pytest.raises(DivergedError, match="the loss of update 3 is nan"):
        train(settings().run_settings(methods=["none"], output_dir="single"))
    assert len(calls) == 3


class Killer(SilentComparison):
    """Kills the worker of the first run of a candidate."""

    def __init__(self, candidate: str) -> None:
        self.candidate, self.killed = candidate, 0

    def run_step(self, plan: RunPlan, done: int, total: int, loss: float | None) -> None:
        if plan.candidate == self.candidate and not self.killed:
            [worker] = [
                p for p in psutil.Process().children() if "steadytune.comparison.engines.local_worker" in p.cmdline()
            ]
            worker.kill()
            self.killed = worker.pid


@pytest.mark.long
def test_a_run_whose_process_is_killed_fails_and_the_rest_goes_on(settings) -> None:
    given = {"learning_rates": [1e-3], "seeds": 1, "num_train_epochs": 20.0, "methods": "noisytune,smart"}
    killer = Killer("noisytune")
    cell = compare(settings(**given), killer).cells[0]
    assert killer.killed
    assert {r.candidate: r.status for r in cell.runs} == {
        "none": "finished",
        "noisytune": "failed",
        "smart": "finished",
    }
    error = run_of(cell, "noisytune", 7).error
    assert error == "the process of the run was ended by SIGKILL (out of memory?)"
    assert read_record(Path("out/runs") / run_of(cell, "noisytune", 7).key) is not None
    assert not psutil.Process().children(), "no process is left"
    again = compare(settings(**given, retry_failed=True)).cells[0]
    assert {r.status for r in again.runs} == {"finished"}


@pytest.mark.long
def test_what_a_method_warns_of_in_its_runs_is_told_once_for_each_candidate(settings) -> None:
    notes = Notes()
    compare(settings(methods="recadam,recadam(midpoint=99)", learning_rates=[1e-3]), notes)
    warnings = [line for line in notes.lines if "midpoint is" in line]
    assert sorted(note.partition(":")[0] for note in warnings) == ["recadam", "recadam(midpoint=99)"]
    assert all("12 updates" in note for note in warnings)


def test_a_worker_that_cannot_start_is_told_in_one_line(settings, monkeypatch) -> None:
    real = subprocess.Popen

    def broken(arguments: list[str], **kwargs: Any) -> Any:
        return real([sys.executable, "-c", "raise SystemExit(3)"], **kwargs)

    monkeypatch.setattr("steadytune.comparison.engines.local.subprocess.Popen", broken)
    with pytest.raises(SettingsError, match="could not start"):
        compare(settings())


# ---------------------------------------------------------------- in processes of their own


@pytest.fixture
def long_options(options: dict[str, Any]) -> dict[str, Any]:
    """Runs of a second or two, with checkpoints; the Trainer averages logged losses from where it resumed."""
    longer = {"num_train_epochs": 20.0, "logging_steps": 1, "save_steps": 6}
    return {**options, **longer, "methods": "noisytune", "learning_rates": "1e-3,3e-3"}


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "steadytune", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "not within 90 seconds"
        time.sleep(0.01)


def records() -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in Path("out/runs").glob("*/record.json")}


@pytest.fixture(scope="module")
def undisturbed() -> list[Any]:
    """Filled by the first test that needs it."""
    return []


@pytest.mark.long
def test_a_comparison_in_the_background_of_a_script_stops_at_sigterm(long_options) -> None:
    # There SIGINT is ignored, by which a worker is asked to save a checkpoint, in training and outside of it.
    given = [sys.executable, "-m", "steadytune", *command(long_options, num_train_epochs=2000.0)]
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *given]
    process = subprocess.Popen(ignoring, stderr=subprocess.PIPE, text=True)
    until(lambda: bool(list(Path("out/runs").glob("*/checkpoints/*/steadytune.safetensors"))), process)
    workers = psutil.Process(process.pid).children()
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert (process.returncode, "the same command continues" in error) == (130, True)
    assert not psutil.wait_procs(workers, timeout=10)[1]


@pytest.mark.long
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_stopped_comparison_is_continued_by_the_same_command(long_options, sent, undisturbed, capsys) -> None:
    given = command(long_options)
    process = start(given)
    # In the middle of the third run, with a checkpoint.
    until(
        lambda: len(records()) >= 2 and bool(list(Path("out/runs").glob("*/checkpoints/*/steadytune.safetensors"))),
        process,
    )
    workers = psutil.Process(process.pid).children()
    process.send_signal(sent)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if sent is signal.SIGKILL else 130)
    if sent is not signal.SIGKILL:
        assert error == "steadytune: stopped; what is done is kept in out, the same command continues.\n"
    gone, alive = psutil.wait_procs(workers, timeout=10)
    assert gone
    assert not alive, "the workers do not outlive it"
    done = records()
    assert 2 <= len(done) < 6
    # A kill may fall between the end of one run and the first checkpoint of the next.
    begun = {path.parents[2].name for path in Path("out/runs").glob("*/checkpoints/*/steadytune.safetensors")}
    unfinished = begun - {Path(path).parent.name for path in done}
    # Or between the end of a training and its record.
    unfinished = {key for key in unfinished if "after" not in RunFolder(Path("out/runs", key)).read_metrics()}

    assert main(given) == 0
    out = capsys.readouterr().out
    assert ("Continuing from out/runs/" in out) == bool(unfinished)
    if not undisturbed:
        assert main(command(long_options, output_dir="undisturbed")) == 0
        undisturbed.extend(outcome(read_comparison("undisturbed")))
    assert outcome(read_comparison("out")) == undisturbed
    kept = {path: made for path, made in records().items() if path in done}
    changed = [path for path, made in kept.items() if made != done[path]]
    chosen = {r.key for r in read_comparison("out").cells[0].runs if r.seed == 7}
    assert {Path(path).parent.name for path in changed} <= chosen, "only their test splits were evaluated"


@pytest.mark.long
def test_two_processes_share_the_work(long_options, undisturbed, capsys) -> None:
    given = command(long_options)
    both = [start(given), start(given)]
    texts = [process.communicate(timeout=180) for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    found = read_comparison("out")
    if not undisturbed:
        assert main(command(long_options, output_dir="undisturbed")) == 0
        undisturbed.extend(outcome(read_comparison("undisturbed")))
    assert outcome(found) == undisturbed
    cell = found.cells[0]
    made: dict[str, list[str]] = {r.key: r.environment["made_by"] for r in (*cell.tuning, *cell.runs)}
    for record in cell.runs:  # first seeds: once trained, once evaluated
        assert len(made[record.key]) == (2 if record.seed == 7 else 1)
    assert len({process for makers in made.values() for process in makers}) == 2, "both worked"
    # The last table of both says the same.
    tables = [out[out.index("accuracy on test") : out.index("Report:")] for out, _ in texts]
    assert tables[0] == tables[1]


@pytest.mark.long
def test_the_command_line_shows_estimate_progress_table_and_report(options, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(command(options, methods="smart", vary="smart.weight=1,3", workers=2)) == 0
    out = capsys.readouterr().out
    assert "none, smart, smart(weight=3); 2 seeds" in out
    assert "12 runs; about " in out
    assert "12/12 " in out
    assert "leader " in out
    for text in ("candidate", "mean ± sd", "log loss", "gain", "95 % exact", "p (Holm)", "step", "memory", "8 rows"):
        assert text in out
    assert "With 2 paired seeds no p < 0.05 is possible" in out
    assert "Report: out/report.html" in out
    last = out.rstrip().splitlines()[-1]
    assert last.startswith(("Too few seeds: ", "Nothing was learned: ")), "the verdict is the last thing said"
    assert main([*command(options, methods="smart", vary="smart.weight=1,3"), "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_mistakes_are_told_before_anything_runs(options, capsys, place) -> None:
    for changes, message in (
        ({"methods": "smrat"}, "Did you mean 'smart'"),
        ({"model": "nowhere/at/all"}, "no such folder"),
        ({"train_file": "nothing.csv"}, "nothing.csv"),
        ({"vary": "sam.radius=1"}, "no candidate has such a method"),
    ):
        assert main(command(options, **changes)) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
    assert not (place / "out").exists()


# ---------------------------------------------------------------- locks


@pytest.mark.long
def test_a_run_is_made_once_even_if_several_want_it(settings) -> None:
    given = settings(methods="none", learning_rates=[1e-3], seeds=1)
    [cell] = cells_file.plan_cells(given)
    plan = cell.plan(candidates(given)[0], 1e-3, 7, evaluate_test=True)
    engines = [LocalEngine(Path("out")), LocalEngine(Path("out"))]

    class Unseen:
        def started(self, plan: RunPlan) -> None: ...
        def step(self, plan: RunPlan, done: int, total: int, loss: float | None) -> None: ...
        def note(self, plan: RunPlan, text: str) -> None: ...
        def warning(self, plan: RunPlan, kind: str, text: str) -> None: ...

    try:
        runs = [engine.run([plan], Unseen()) for engine in engines]
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(list, runs)
    finally:
        for engine in engines:
            engine.close()
    assert first == second
    assert len(first[0].environment["made_by"]) == 1


def test_a_plan_survives_the_way_to_another_process(settings) -> None:
    given = settings(methods="smart", set={"smart.weight": 3})
    [cell] = cells_file.plan_cells(given)
    plan = cell.plan(candidates(given)[1], 1e-3, 7, evaluate_test=False)
    assert RunPlan.from_json(json.loads(json.dumps(plan.as_json()))) == plan
    assert isinstance(plan.settings, TrainSettings)
    assert replace(plan, evaluate_test=True) != plan
    assert execute(plan).candidate == "smart"
    assert Extent() == Extent(before=True, test=True, keep_model=True)


def test_what_a_process_left_that_was_killed_while_it_kept_a_record_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = this_process().rpartition("-")[0]
    left, living = (tmp_path / f"record.json.{host}-{number}.unfinished" for number in (ended.pid, os.getppid()))
    for path in (left, living):
        path.write_text("{")
    engine._keep(SimpleNamespace(folder=tmp_path), comparisons.run())  # pyright: ignore[reportArgumentType]
    assert read_record(tmp_path) is not None
    assert not left.exists()
    assert living.exists()


# ---------------------------------------------------------------- the plan


def test_the_plan_counts_the_runs_that_are_made_and_trains_nothing(
    settings, options, capsys, place, monkeypatch
) -> None:
    asked = {"methods": "noisytune,smart", "seeds": 2}
    monkeypatch.setattr("steadytune.comparison.dry_run.LocalEngine", lambda folder: InProcess())
    assert main([*command(options, **asked), "--plan"]) == 0
    out = capsys.readouterr().out
    assert not (place / "out").exists()
    assert re.search(r"About \d+ min on this machine \(\d+ processors?\), \d+% of it to score rows", out)
    assert "12 runs, 6 of them to choose settings on validation data; 0 are made already." in out
    # Two rates, and one more seed: 3 x (1 + 1 + 3), for the first seed only adds the scores of the test.
    assert "Arithmetic: about 15 plain runs, 15 plain runs of it to be done." in out
    assert "to be chosen" in out
    engine = InProcess()
    compare(settings(**asked), engine=engine)
    plan = plan_comparison(settings(**asked))
    assert time_comparison(settings(**asked), InProcess()) is None, "nothing is missing"
    seeds = plan_comparison(settings(**asked | {"seeds": 8, "max_eval_samples": 8}))
    assert any("8 rows in test: the standard error of a score of 0.8 is 0.141" in note for note in seeds.notes)
    assert (plan.runs, plan.made, plan.arithmetic, plan.arithmetic_left) == (12, 12, 15.0, 0.0)
    assert sum(row.trainings for row in plan.cells[0].candidates) == len({made.key for made in engine.made})
    more = plan_comparison(settings(**asked | {"seeds": 3, "train_sizes": ["8", "24"]}))
    assert [cell.updates for cell in more.cells] == [4, UPDATES]
    assert (more.runs, more.made, more.arithmetic_left) == (30, 0, 40.0)
    assert main([*command(options, **asked), "--plan", "--seeds", "3"]) == 0
    out = capsys.readouterr().out
    assert "15 runs, 6 of them to choose settings on validation data; 12 are made already." in out
    assert "about 20 plain runs, 5 plain runs of it to be done" in out
