"""Runs: what their folder holds, and that they end the same however often they were interrupted."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from helpers import tiny, tiny_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import steadytune
from steadytune.cli import main
from steadytune.settings.fields import OUTPUT, TRAINING, all_facts
from steadytune.settings.resolve import resolve_settings
from steadytune.settings.train import TrainSettings
from steadytune.training import skeleton
from steadytune.training.arguments import training_arguments
from steadytune.training.callbacks import InterruptCallback
from steadytune.training.folder import RunFolder
from steadytune.training.reporter import Silent
from steadytune.training.rows import load_data
from steadytune.training.run import train
from steadytune.training.skeleton import Interrupted, RunResult

tiny_folder, changed_model = tiny_model.tiny_folder, tiny_model.changed_model

ROWS, TEST_ROWS, BATCH, EPOCHS = 24, 8, 4, 2
PER_EPOCH = ROWS // BATCH
UPDATES = PER_EPOCH * EPOCHS
STATE = "steadytune.safetensors"

Settings = Callable[..., TrainSettings]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with rows of two classes."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, count, seed in (("train", ROWS, 0), ("validation", TEST_ROWS, 1), ("test", TEST_ROWS, 2)):
        tiny_model.write_csv(folder / f"{name}.csv", tiny_model.rows(count, seed=seed))
    return folder


@pytest.fixture
def options(place: Path, tiny_folder: Path) -> dict[str, Any]:
    """A run of two epochs with all methods and dropout."""
    return {
        "model": str(tiny_folder),
        "train_file": "train.csv",
        "validation_file": "validation.csv",
        "test_file": "test.csv",
        "methods": "noisytune,smart",
        "max_length": 16,
        "num_train_epochs": float(EPOCHS),
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "output_dir": "run",
    }


@pytest.fixture
def settings(options: dict[str, Any]) -> Settings:
    return lambda **changes: TrainSettings(**options | changes)


def command(options: Mapping[str, Any], **changes: Any) -> list[str]:
    given = {**options, **changes}
    named = [(f"--{name.replace('_', '-')}", value) for name, value in given.items()]
    return ["train", *(part for name, value in named for part in ([name] if value is True else [name, str(value)]))]


def weights(folder: Path | str) -> dict[str, Tensor]:
    return load_file(Path(folder) / "model" / "model.safetensors")


def assert_same_weights(first: Path | str, second: Path | str) -> None:
    assert tiny.differences(weights(first), weights(second)) == []


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def log_of(folder: Path | str, kind: str = "loss") -> list[dict[str, Any]]:
    """The lines of a run's log that hold ``kind``, without what a clock measured."""
    lines = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
    clock = ("runtime", "second", "time")
    return [{k: v for k, v in line.items() if not any(c in k for c in clock)} for line in lines if kind in line]


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(p.relative_to(folder)): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()
    }


def no_leftovers(folder: Path) -> bool:
    return not [p for p in folder.rglob("*") if "unfinished" in p.name or p.name.endswith(".tmp")]


# ---------------------------------------------------------------- what a run leaves


def test_the_folder_of_a_run_holds_everything(options, place, tiny_folder, capsys) -> None:
    assert main(command(options, seed=7, set="smart.weight=2", keep_checkpoints=True)) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "validation" in captured.out
    assert f"{UPDATES} updates" in captured.out
    assert "f1 (yes)" in captured.out  # which of the two classes it is of
    folder = place / "run"
    assert len({p.stat().st_mode for p in (folder / "model").iterdir()}) == 1  # who reads one file reads all
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ["config.yaml", "metrics.json", "log.jsonl", "environment.json", "model", "checkpoints", "run.lock"]
    )
    assert no_leftovers(folder)

    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert set(kept) == set(TrainSettings.model_fields)
    assert TrainSettings(**kept).model_dump() == kept
    assert (kept["seed"], kept["methods"], kept["set"]) == (7, ["noisytune", "smart"], {"smart.weight": 2})

    environment = read_json(folder / "environment.json")
    assert environment["seed"] == 7
    assert environment["versions"]["steadytune"] == steadytune.__version__
    assert environment["versions"]["torch"] == metadata.version("torch")  # a build may call itself 2.13.0+cpu
    assert {"python", "transformers", "accelerate", "datasets", "safetensors"} <= set(environment["versions"])
    assert environment["machine"]["device"]

    metrics = read_json(folder / "metrics.json")
    for when in ("before", "after"):
        assert set(metrics[when]) == {"validation", "test"}
        for scores in metrics[when].values():
            assert {"rows", "loss", "accuracy", "f1", "f1_macro", "matthews"} == set(scores)
            assert scores["rows"] == TEST_ROWS
    assert metrics["before"] != metrics["after"]
    assert metrics["after"]["validation"]["loss"] < metrics["before"]["validation"]["loss"], "it learns"
    assert metrics["training"]["updates"] == UPDATES
    assert metrics["training"]["rows"] == ROWS
    by_name = {method["name"]: method for method in metrics["methods"]}
    assert list(by_name) == ["noisytune", "smoothness", "bregman"]
    assert (by_name["smoothness"]["weight"], by_name["bregman"]["weight"]) == (2, 1)

    log = log_of(folder)
    assert [line["step"] for line in log] == list(range(1, UPDATES + 1))
    for line in log:
        expected = line["task_loss"] + 2 * line["smoothness"] + line["bregman"]
        assert line["loss"] == pytest.approx(expected, rel=1e-5)
    assert all(line["smoothness"] > 0 for line in log)
    assert log[0]["bregman"] == 0 < log[-1]["bregman"]
    assert [line["step"] for line in log_of(folder, "eval_loss")] == [PER_EPOCH, UPDATES]
    assert log_of(folder, "eval_loss")[-1]["eval_loss"] == metrics["after"]["validation"]["loss"]

    checkpoints = folder / "checkpoints"
    assert {p.name for p in checkpoints.iterdir()} == {f"checkpoint-{n}" for n in (PER_EPOCH, UPDATES)}
    assert all((c / STATE).is_file() for c in checkpoints.iterdir())


def test_a_finished_run_takes_little_more_than_its_model(settings, place) -> None:
    train(settings(output_dir="kept", keep_checkpoints=True))
    train(settings())
    size = {
        name: sum(path.stat().st_size for path in (place / name).rglob("*") if path.is_file())
        for name in ("run", "run/model", "kept")
    }
    assert size["run"] <= 1.3 * size["run/model"] < size["kept"]
    assert_same_weights("run", "kept")
    (place / "kept" / "checkpoints").rename(place / "run" / "checkpoints")  # as after a kill before they are removed
    assert train(settings()).was_finished
    assert not (place / "run" / "checkpoints").exists()


def labeled(labels: Sequence[Any], pair: bool) -> list[tuple[Any, ...]]:
    content = tiny_model.rows(ROWS, labels)
    second = tiny_model.rows(ROWS, labels, seed=9)
    return [(a, b, y) for (a, y), (b, _) in zip(content, second, strict=True)] if pair else content


def write(path: Path, content: Sequence[tuple[Any, ...]], header: Sequence[str]) -> None:
    if path.suffix == ".parquet":
        columns = list(map(list, zip(*content, strict=True)))
        pq.write_table(pa.table(columns, names=list(header)), path)
    else:
        {".csv": tiny_model.write_csv, ".jsonl": tiny_model.write_jsonl}[path.suffix](path, content, header)


@pytest.mark.parametrize(
    ("suffix", "pair", "labels", "names"),
    [
        ("csv", False, ("sad", "glad"), ["glad", "sad"]),
        ("csv", True, (2, 0, 10), ["0", "2", "10"]),
        ("jsonl", False, (0, 1), ["0", "1"]),
        ("jsonl", True, ("no", "so so", "yes"), ["no", "so so", "yes"]),
        ("parquet", False, (1, 2), ["1", "2"]),
        ("parquet", True, ("a", "b"), ["a", "b"]),
        ("csv", False, (0.25, 3.5, 1.0), None),
        ("jsonl", True, (0.5, 2.5, 4.0), None),
        ("parquet", False, (0.5, 2.5, 4.0), None),
    ],
)
def test_the_model_of_a_run_is_an_ordinary_one(settings, place, suffix, pair, labels, names) -> None:
    header = ("text", "text_pair", "label") if pair else ("text", "label")
    for split in ("train", "test"):
        write(place / f"{split}.{suffix}", labeled(labels, pair), header)
    given = {f"{split}_file": f"{split}.{suffix}" for split in ("train", "test")}
    result = train(settings(**given, validation_file=None, num_train_epochs=1.0))

    model, info = AutoModelForSequenceClassification.from_pretrained("run/model", output_loading_info=True)
    assert not any(info.values()), "no missing, unexpected or mismatched keys"
    tokenizer = AutoTokenizer.from_pretrained("run/model")
    if names is None:
        assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    else:
        assert model.config.id2label == dict(enumerate(names))
        assert model.config.label2id == {name: i for i, name in enumerate(names)}

    # The scores are those of the model that was saved, on the rows of the file.
    content = labeled(labels, pair)
    texts = [[row[i] for row in content] for i in range(len(header) - 1)]
    with torch.no_grad():
        logits = model.eval()(**tokenizer(*texts, padding=True, return_tensors="pt")).logits
    scores = result.metrics["after"]["test"]
    if names is None:
        error = (logits[:, 0] - torch.tensor([row[-1] for row in content])).square().mean()
        assert scores["mse"] == pytest.approx(float(error), rel=1e-4)
    else:
        right = sum(names[int(best)] == str(row[-1]) for best, row in zip(logits.argmax(1), content, strict=True))
        assert scores["accuracy"] == pytest.approx(right / ROWS)


# ---------------------------------------------------------------- settings


def test_the_configuration_of_a_run_repeats_it(options, place) -> None:
    assert main(command(options, set="smart.weight=0.5")) == 0
    assert main(["train", "--config", "run/config.yaml", "--output-dir", "again", "--quiet"]) == 0
    assert_same_weights("run", "again")
    assert read_json(place / "run" / "metrics.json")["after"] == read_json(place / "again" / "metrics.json")["after"]
    # Another seed is another run.
    assert main(["train", "--config", "run/config.yaml", "--output-dir", "other", "--seed", "1"]) == 0
    assert tiny.differences(weights("run"), weights("other")) == list(weights("run"))


def test_quiet_shows_nothing(options, capsys) -> None:
    assert main([*command(options, num_train_epochs=0.2), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "in_file",
    [
        {"set": {"smart.weight": 3, "bregman.beta": 0.5}},
        {"set": {"smart": {"weight": 3}, "bregman": {"beta": 0.5}}},
        {"set": {"smart": {"weight": 3}, "bregman.beta": 0.5}},
    ],
)
def test_options_win_over_the_file(tmp_path, in_file) -> None:
    file = tmp_path / "config.yaml"
    content = {"learning-rate": 1e-3, "num_train_epochs": 5, "methods": ["smart"], "train_size": 100, **in_file}
    file.write_text(yaml.safe_dump(content))
    found = resolve_settings({"learning_rate": 2e-3, "seed": None, "set": {"smart.weight": 4}}, file)
    assert (found.learning_rate, found.num_train_epochs, found.seed) == (2e-3, 5.0, 42)
    assert (found.methods, found.train_size) == (["smart"], "100")
    assert found.set == {"smart.weight": 4, "bregman.beta": 0.5}
    assert found.method_settings() == {"smart": {"weight": 4}, "bregman": {"beta": 0.5}}
    assert resolve_settings({}, file).set["smart.weight"] == 3
    assert resolve_settings({"methods": "none"}, file).methods == ["none"]


def test_no_method_can_be_said_in_several_ways(options) -> None:
    for value in ("none", "", ",", []):
        assert TrainSettings(**options | {"methods": value}).methods == ["none"]
    assert TrainSettings(**options | {"methods": " noisytune , smart,"}).methods == ["noisytune", "smart"]


def test_every_training_setting_reaches_the_trainer(settings, tmp_path) -> None:
    changed = {
        "learning_rate": 1e-3,
        "num_train_epochs": 7.0,
        "max_steps": 9,
        "per_device_train_batch_size": 3,
        "per_device_eval_batch_size": 5,
        "gradient_accumulation_steps": 2,
        "weight_decay": 0.2,
        "warmup_steps": 4.0,
        "lr_scheduler_type": "cosine",
        "max_grad_norm": 0.5,
        "label_smoothing_factor": 0.1,
        "bf16": True,
        "gradient_checkpointing": True,
        "use_cpu": True,
        "seed": 5,
        "logging_steps": 6,
        "save_steps": 8,
        "save_total_limit": 4,
    }
    training = {name for name, facts in all_facts(TrainSettings).items() if facts.panel in (TRAINING, OUTPUT)}
    # fp16 needs a GPU, the output folder and what it keeps are the run's, and the recipe chooses what others say.
    assert training - set(changed) == {"fp16", "keep_checkpoints", "output_dir", "recipe"}
    arguments = training_arguments(settings(**changed), RunFolder(tmp_path))
    assert arguments.output_dir == str(tmp_path / "checkpoints")
    new_name = "activation_checkpointing"
    if hasattr(arguments, new_name):
        changed[new_name] = changed.pop("gradient_checkpointing")
    assert {name: getattr(arguments, name) for name in changed} == changed


def test_fewer_training_rows_keep_the_classes_in_proportion(settings, place) -> None:
    content = [(text, "yes" if i % 4 == 0 else "no") for i, (text, _) in enumerate(tiny_model.rows(40))]
    tiny_model.write_csv(place / "train.csv", content)
    for size in (12, "30%"):
        labels = list(load_data(settings(train_size=size)).splits["train"]["label"])
        assert (len(labels), sum(labels)) == (12, 3)
    result = train(settings(train_size=12, num_train_epochs=1.0))
    assert (result.metrics["training"]["rows"], result.metrics["training"]["updates"]) == (12, 3)


def test_fewer_rows_in_evaluation_are_told(options, place, capsys) -> None:
    assert main(command(options, max_eval_samples=6, max_steps=1, train_size=12, max_length=4, seed=7)) == 0
    text = capsys.readouterr().out
    assert "Rows of seed 7: train: 12 of 12 rows are longer, " in text  # which another seed draws anew
    for split in ("validation", "test"):
        assert f"{split}: 6 of {TEST_ROWS} rows (--max-eval-samples)." in text
        assert read_json(place / "run" / "metrics.json")["after"][split]["rows"] == 6


def test_texts_longer_than_the_model_takes_are_cut_and_that_is_told(options, place, capsys) -> None:
    longest = tiny_model.POSITIONS
    content = [(f"{text} " * 30, label) for text, label in tiny_model.rows(ROWS)]
    tiny_model.write_csv(place / "train.csv", content)
    assert main(command(options, max_length=128, max_steps=1)) == 0
    assert f"cut after {longest} tokens" in capsys.readouterr().out
    assert main(command(options, max_length=longest, max_steps=1, output_dir="other")) == 0
    assert "cut after" not in capsys.readouterr().out
    assert_same_weights("run", "other")


def test_weight_noise_of_nothing_is_plain_training(settings) -> None:
    train(settings(methods="none"))
    train(settings(methods="noisytune", set={"noisytune.intensity": 0}, output_dir="noise"))
    assert_same_weights("run", "noise")
    train(settings(methods="noisytune", set={"noisytune.intensity": 0.1}, output_dir="more"))
    assert tiny.differences(weights("run"), weights("more"))


# ---------------------------------------------------------------- the same command again


def test_a_finished_run_is_only_read(options, place, capsys) -> None:
    given = command(options)
    assert main(given) == 0
    first = capsys.readouterr().out
    before = files(place / "run")
    assert main(given) == 0
    again = capsys.readouterr().out
    assert files(place / "run") == before
    assert "finished before" in again
    table = first[first.index("┏") : first.rindex("┘")]
    assert table in again
    # How often it reports does not make it another run.
    assert main(command(options, logging_steps=3)) == 0


class StopsAt(Silent):
    """A user who asks for the end, or loses power, after some updates."""

    def __init__(self, update: int, callbacks: list[InterruptCallback], *, power_fails: bool) -> None:
        self.update, self.callbacks, self.power_fails = update, callbacks, power_fails
        self.began = -1

    def start(self, total: int, done: int) -> None:
        self.began = done

    def step(self, done: int, loss: float | None) -> None:
        if done == self.update and loss is None:
            if self.power_fails:
                raise RuntimeError("power failure")
            self.callbacks[-1].interrupt()


@pytest.fixture
def callbacks(monkeypatch: pytest.MonkeyPatch) -> list[InterruptCallback]:
    """The callbacks of the runs of this test, in order."""
    made: list[InterruptCallback] = []

    class Remembered(InterruptCallback):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(skeleton, "InterruptCallback", Remembered)
    return made


def assert_ends_like(
    undisturbed: RunResult, result: RunResult, *, whole_log: bool = True, updates: int = UPDATES
) -> None:
    assert not result.was_finished
    assert_same_weights(undisturbed.folder, result.folder)
    measured = dict.fromkeys(["seconds", "seconds_in_last_session", "seconds_per_update", "peak_memory_bytes"])
    expected, found = ({**r.metrics, "training": {**r.metrics["training"], **measured}} for r in (undisturbed, result))
    assert found == expected
    assert [line["step"] for line in log_of(result.folder)] == list(range(1, updates + 1))
    assert log_of(result.folder) == log_of(undisturbed.folder)
    if whole_log:
        assert log_of(result.folder, "eval_loss") == log_of(undisturbed.folder, "eval_loss")
    assert no_leftovers(result.folder)


@pytest.mark.parametrize(
    ("save_steps", "asked_after"),
    [(None, 1), (2, PER_EPOCH - 2), (None, PER_EPOCH - 1), (PER_EPOCH, PER_EPOCH), (2, PER_EPOCH + 2)],
)
def test_an_interrupted_run_ends_like_an_undisturbed_one(settings, callbacks, save_steps, asked_after) -> None:
    undisturbed = train(settings(output_dir="undisturbed", save_steps=save_steps))
    given = settings(save_steps=save_steps)
    with pytest.raises(Interrupted) as stopped:
        train(given, StopsAt(asked_after, callbacks, power_fails=False))
    # The request is heard at the end of the next update.
    assert stopped.value.step == asked_after + 1
    assert not (given.folder / "model").exists()
    assert "after" not in read_json(given.folder / "metrics.json")
    again = StopsAt(-1, callbacks, power_fails=False)
    result = train(given, again)
    assert again.began == asked_after + 1
    assert_ends_like(undisturbed, result)
    assert train(given).was_finished


@pytest.mark.parametrize(
    ("save_steps", "fails_after", "continues_after"),
    [
        (None, 3, 0),
        (None, PER_EPOCH + 2, PER_EPOCH),
        (2, 5, 4),
        # Such a checkpoint is written before the evaluation at the end of the epoch, others after it.
        (PER_EPOCH, PER_EPOCH + 2, PER_EPOCH),
        (PER_EPOCH - 1, PER_EPOCH + 1, PER_EPOCH - 1),
    ],
)
def test_a_run_that_broke_off_ends_like_an_undisturbed_one(
    settings, callbacks, save_steps, fails_after, continues_after
) -> None:
    undisturbed = train(settings(output_dir="undisturbed", save_steps=save_steps))
    given = settings(save_steps=save_steps)
    with pytest.raises(RuntimeError, match="power failure"):
        train(given, StopsAt(fails_after, callbacks, power_fails=True))
    again = StopsAt(-1, callbacks, power_fails=False)
    result = train(given, again)
    assert again.began == continues_after
    # With `save_steps` the evaluation at the end of the epoch may come after the checkpoint, and is not repeated.
    assert_ends_like(undisturbed, result, whole_log=save_steps != PER_EPOCH)


@pytest.mark.parametrize("max_steps", [-1, UPDATES - 2])
def test_a_run_that_broke_off_between_training_and_results_ends_the_same(settings, monkeypatch, max_steps) -> None:
    undisturbed = train(settings(output_dir="undisturbed", max_steps=max_steps))

    def fail(*args: object) -> None:
        raise RuntimeError("power failure")

    with monkeypatch.context() as broken:
        broken.setattr(RunFolder, "save_model", fail)
        with pytest.raises(RuntimeError, match="power failure"):
            train(settings(max_steps=max_steps))
    result = train(settings(max_steps=max_steps))
    assert_ends_like(undisturbed, result, updates=UPDATES if max_steps == -1 else max_steps)


def test_checkpoints_that_were_not_written_to_their_end_are_ignored(settings, callbacks, place) -> None:
    undisturbed = train(settings(output_dir="undisturbed"))
    with pytest.raises(Interrupted):
        train(settings(), StopsAt(PER_EPOCH + 1, callbacks, power_fails=False))
    checkpoints = place / "run" / "checkpoints"
    newest = checkpoints / f"checkpoint-{PER_EPOCH + 2}"
    (newest / STATE).unlink()
    (newest / "model.safetensors").write_bytes(b"half")
    (checkpoints / "checkpoint-900").mkdir()
    (checkpoints / "checkpoint-best").mkdir()
    (checkpoints / "checkpoint-best" / STATE).write_bytes(b"")
    assert RunFolder(place / "run").last_checkpoint() == checkpoints / f"checkpoint-{PER_EPOCH}"
    # A line of the log that was cut off while it was written.
    with (place / "run" / "log.jsonl").open("a") as log:
        log.write('{"step": 9, "lo')
    again = StopsAt(-1, callbacks, power_fails=False)
    result = train(settings(), again)
    assert again.began == PER_EPOCH
    assert_ends_like(undisturbed, result)


def test_a_damaged_checkpoint_is_told_in_one_line(settings, options, callbacks, place, capsys) -> None:
    with pytest.raises(Interrupted):
        train(settings(), StopsAt(2, callbacks, power_fails=False))
    state = place / "run" / "checkpoints" / "checkpoint-3" / STATE
    state.write_bytes(state.read_bytes()[:100])
    assert main(command(options)) == 2
    error = capsys.readouterr().err
    assert error.startswith("steadytune: ")
    assert error.count("\n") == 1
    assert STATE in error


def test_damaged_metrics_are_told_in_one_line(options, place, capsys) -> None:
    assert main(command(options, max_steps=1)) == 0
    (place / "run" / "metrics.json").write_text('{"before": {')
    capsys.readouterr()
    assert main(command(options, max_steps=1)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "metrics.json is damaged" in error
    (place / "run" / "metrics.json").unlink()
    assert main(command(options, max_steps=1)) == 0


# ---------------------------------------------------------------- in a process of its own

LONG = 240  # updates; a signal comes long before they are done


@contextmanager
def running(arguments: list[str], folder: Path, update: int) -> Iterator[subprocess.Popen[str]]:
    """A training in a process of its own, as soon as it has saved a checkpoint after ``update`` updates."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "steadytune", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        state = folder / "checkpoints" / f"checkpoint-{update}" / STATE
        end = time.monotonic() + 60
        while not state.is_file():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end, "no checkpoint within a minute"
            time.sleep(0.005)
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def long_run(options: dict[str, Any]) -> dict[str, Any]:
    """A run that takes some seconds, with few checkpoints but early ones."""
    del options["num_train_epochs"]
    return {**options, "max_steps": LONG, "save_steps": 20, "learning_rate": 1e-3, "logging_steps": 50}


@pytest.fixture(scope="module")
def undisturbed_weights() -> dict[str, Tensor]:
    """Filled by the first test that needs them."""
    return {}


@pytest.mark.long
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda s: s.name)
def test_a_stopped_process_is_continued_by_the_same_command(
    long_run, place, sent, capsys, undisturbed_weights
) -> None:
    given = command(long_run)
    with running(given, place / "run", update=20) as process:
        process.send_signal(sent)
        out, error = process.communicate(timeout=60)
    checkpoint = RunFolder(place / "run").last_checkpoint()
    assert checkpoint is not None
    done = int(checkpoint.name.removeprefix("checkpoint-"))
    assert 20 <= done < LONG
    assert AutoModelForSequenceClassification.from_pretrained(checkpoint) is not None
    if sent is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130
        line = f"steadytune: stopped after update {done} of {LONG}; the same command continues from there.\n"
        assert error == line
        assert f"{sent.name}: saving a checkpoint" in out
    assert not (place / "run" / "model").exists()

    assert main(given) == 0
    assert f"Continuing from run/checkpoints/{checkpoint.name}." in capsys.readouterr().out
    if not undisturbed_weights:
        assert main(command(long_run, output_dir="undisturbed")) == 0
        undisturbed_weights.update(weights("undisturbed"))
    assert tiny.differences(weights("run"), undisturbed_weights) == []
    assert no_leftovers(place / "run")


# ---------------------------------------------------------------- a full disk


def test_a_full_disk_is_told_in_one_line(options, place, monkeypatch, capsys) -> None:
    def full(*args: object, **_given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/config.yaml")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert main(command(options)) == 2
    assert capsys.readouterr().err == "steadytune: No space left on device: run/config.yaml.\n"
    assert no_leftovers(place)
    assert main(command(options)) == 0, "nothing that was left stands in the way"


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_disk_that_fills_up_during_training_is_told_in_one_line(options, settings, place, capsys, file) -> None:
    undisturbed = train(settings(output_dir="undisturbed", keep_checkpoints=True))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (place / "undisturbed" / "checkpoints" / f"checkpoint-{PER_EPOCH}" / file).stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, hard))
    try:
        status = main(command(options, keep_checkpoints=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err
    assert status == 2, error
    assert error.startswith("steadytune: a file could not be written")
    assert error.count("\n") == 1
    assert RunFolder(place / "run").last_checkpoint() is None
    assert_ends_like(undisturbed, train(settings(keep_checkpoints=True)))
