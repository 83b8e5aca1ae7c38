"""Multi-task runs: interleaved batches, folders that go on bit for bit, and what the second phase starts from."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers import tiny, tiny_model
from helpers.glue_rows import write_tags, write_tasks
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from steadytune.cli import main
from steadytune.settings.multi_task import MultiTaskSettings
from steadytune.settings.train import TrainSettings
from steadytune.training.multi_task.batches import TaskBatches, TaskCollator, TaskRows
from steadytune.training.multi_task.run import MultiTaskResult, train_together
from steadytune.training.reporter import Silent
from steadytune.training.run import train
from steadytune.training.sampling import grouped_order
from steadytune.training.skeleton import Interrupted

tiny_folder = tiny_model.tiny_folder

TRAIN = {"rte": 12, "sst2": 24, "stsb": 8}
BATCH, EPOCHS, EVALUATED = 4, 2, 6
PER_EPOCH = sum(rows // BATCH for rows in TRAIN.values())
UPDATES = PER_EPOCH * EPOCHS

Settings = Callable[..., MultiTaskSettings]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with a few rows of a task of pairs, one of single texts and one of numbers."""
    return write_tasks(tmp_path / "data", TRAIN, EVALUATED)


@pytest.fixture
def options(data: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two epochs on three tasks with SMART and dropout."""
    monkeypatch.chdir(tmp_path)
    return {
        "model": str(tiny_folder),
        "tasks": "rte,sst2,stsb",
        "data_dir": str(data),
        "methods": "smart",
        "max_length": 24,
        "num_train_epochs": float(EPOCHS),
        "per_device_train_batch_size": BATCH,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "use_cpu": True,
        "output_dir": "run",
    }


@pytest.fixture
def settings(options: dict[str, Any]) -> Settings:
    return lambda **changes: MultiTaskSettings(**options | changes)


def alone(options: dict[str, Any], task: str, **changes: Any) -> TrainSettings:
    kept = {name: value for name, value in options.items() if name != "tasks"}
    return TrainSettings(**kept | {"task": task, "output_dir": f"alone-{task}"} | changes)


def command(options: dict[str, Any], *more: str, **changes: Any) -> list[str]:
    given = {k: v for k, v in {**options, **changes}.items() if v is not None}
    flags = [f"--{k.replace('_', '-')}" for k, v in given.items() if v is True]
    pairs = [part for k, v in given.items() if v is not True for part in (f"--{k.replace('_', '-')}", str(v))]
    return ["multitask", *flags, *pairs, *more]


def saved(folder: Path | str, name: str = "model.safetensors") -> dict[str, Tensor]:
    return load_file(Path(folder) / "model" / name)


class StopAfter(Silent):
    """Presses Ctrl-C once when so many updates are done."""

    def __init__(self, updates: int) -> None:
        self.updates = updates

    def step(self, done: int, loss: float | None) -> None:
        if done == self.updates and loss is None:
            self.updates = -1
            os.kill(os.getpid(), signal.SIGINT)


# ---------------------------------------------------------------- batches


def batches_of(sizes: dict[str, int], *, size: int = 4, seed: int = 0, together: int = 4) -> TaskBatches:
    generator = np.random.default_rng(1)
    lengths = {task: generator.integers(3, 20, count) for task, count in sizes.items()}
    return TaskBatches(lengths, size, together, seed)


def test_every_row_comes_once_in_batches_of_one_task() -> None:
    sizes = {"a": 41, "b": 7, "c": 16}
    batches = batches_of(sizes)
    found = list(batches)
    assert len(found) == len(batches) == 11 + 2 + 4
    assert all(len({task for task, _ in batch}) == 1 for batch in found)
    assert Counter(place for batch in found for place in batch) == Counter(
        (task, row) for task, count in sizes.items() for row in range(count)
    )
    assert max(map(len, found)) == 4


def test_tasks_interleave_in_proportion_to_their_sizes() -> None:
    """Over many epochs, each quarter of an epoch holds each task as often as its share of the batches says."""
    batches = batches_of({"large": 48, "small": 16})
    counts = np.zeros((4, 2))
    epochs = 400
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        tasks = [batch[0][0] for batch in batches]
        for quarter in range(4):
            part = tasks[4 * quarter : 4 * quarter + 4]
            counts[quarter] += [part.count("large"), part.count("small")]
    share = counts / counts.sum(1, keepdims=True)
    # 1,600 batches per quarter: the standard deviation of a share is below 0.011.
    assert np.abs(share - [0.75, 0.25]).max() < 0.05


def test_rows_of_a_task_come_as_in_training_on_it_alone() -> None:
    batches = batches_of({"a": 30, "b": 20}, seed=7, together=8)
    batches.set_epoch(3)
    rows = [row for batch in batches for task, row in batch if task == "a"]
    assert rows == list(grouped_order(batches.lengths["a"], 8, (7, 3)))


def test_batches_follow_from_seed_and_epoch() -> None:
    sizes = {"a": 24, "b": 24}
    first = list(batches_of(sizes))
    assert first == list(batches_of(sizes))
    assert first != list(batches_of(sizes, seed=1))
    later = batches_of(sizes)
    later.set_epoch(1)
    assert [b[0][0] for b in later] != [b[0][0] for b in first]
    assert list(later) == list(later)


def test_a_batch_says_its_task_and_refuses_two() -> None:
    rows = TaskRows({"a": [{"labels": 1}], "b": [{"labels": 2}]})
    collate = TaskCollator({task: lambda r: {"labels": [row["labels"] for row in r]} for task in "ab"})
    assert collate([rows["a", 0]]) == {"labels": [1], "task": "a"}
    with pytest.raises(ValueError, match="too many values"):
        collate([rows["a", 0], rows["b", 0]])


# ---------------------------------------------------------------- runs


@pytest.mark.parametrize(("methods", "group_by_length"), [("none", True), ("noisytune,smart", False)])
def test_one_task_is_training_on_it_alone(settings, options, methods: str, group_by_length: bool) -> None:
    """The same head, data order, dropout and perturbations: the same weights, bit for bit."""
    if methods == "noisytune,smart":
        options["set"] = {"noisytune.intensity": 0.0}  # its noise is keyed by the names of the weights
    changes = {"methods": methods, "group_by_length": group_by_length}
    train_together(settings(tasks="sst2", **changes))
    train(alone(options, "sst2", **changes))
    assert tiny.differences(saved("run/tasks/sst2"), saved("alone-sst2")) == []


def test_no_strength_is_plain_training(settings) -> None:
    nothing = {"smart.weight": 0.0, "smart.proximal_weight": 0.0}
    train_together(settings(set=nothing))
    train_together(settings(methods="none", output_dir="plain"))
    assert tiny.differences(saved("run"), saved("plain")) == []
    train_together(settings(output_dir="felt", set={"smart.weight": 100.0, "smart.radius": 0.1, "smart.step_size": 1}))
    assert tiny.differences(saved("felt"), saved("plain"))


def test_the_folder_holds_encoder_models_and_scores(settings) -> None:
    result = train_together(settings())
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics == json.loads(json.dumps(result.metrics))
    assert {task: found["rows"] for task, found in metrics["tasks"].items()} == TRAIN
    assert {task: found["metric"] for task, found in metrics["tasks"].items()} == {
        "rte": "accuracy",
        "sst2": "accuracy",
        "stsb": "pearson",
    }
    for found in metrics["tasks"].values():
        for when in ("before", "after"):
            assert found[when]["validation"]["rows"] == EVALUATED
            assert found["metric"] in found[when]["validation"]
    assert metrics["training"]["updates"] == UPDATES
    encoder = AutoModel.from_pretrained("run/model")
    assert len(AutoTokenizer.from_pretrained("run/model")) > 5
    for task in TRAIN:
        model = AutoModelForSequenceClassification.from_pretrained(f"run/tasks/{task}/model")
        assert tiny.differences(tiny.weights(encoder), tiny.weights(model.base_model)) == []
    assert not [path for path in Path("run").rglob("*") if "unfinished" in path.name]
    again = train_together(settings())
    assert again.was_finished
    assert again.metrics == metrics


def test_scores_are_those_of_the_saved_models(settings, options, data: Path) -> None:
    """Each task is scored by its own head, as plain Transformers computes it from the folder."""
    result = train_together(settings())
    rows = pq.read_table(data / "glue" / "stsb" / "validation.parquet").to_pydict()
    model = AutoModelForSequenceClassification.from_pretrained("run/tasks/stsb/model").eval()
    tokenizer = AutoTokenizer.from_pretrained("run/tasks/stsb/model")
    batch = tokenizer(rows["sentence1"], rows["sentence2"], padding=True, truncation=True, max_length=24)
    with torch.no_grad():
        predicted = model(**{k: torch.tensor(v) for k, v in batch.items()}).logits[:, 0].numpy()
    expected = np.corrcoef(predicted, rows["label"])[0, 1]
    after = result.metrics["tasks"]["stsb"]["after"]["validation"]
    assert after["pearson"] == pytest.approx(expected, abs=1e-5)
    assert after["loss"] == pytest.approx(float(np.mean((predicted - rows["label"]) ** 2)), rel=1e-5)


@pytest.mark.parametrize("asked_after", [2, PER_EPOCH])
def test_a_stopped_run_goes_on_bit_for_bit(settings, asked_after: int) -> None:
    train_together(settings(output_dir="whole"))
    # The request is heard at the end of the next update.
    with pytest.raises(Interrupted, match=f"stopped after update {asked_after + 1} of {UPDATES}"):
        train_together(settings(), StopAfter(asked_after))
    assert not Path("run/model").exists()
    train_together(settings())
    for part in ("", "/tasks/rte", "/tasks/sst2", "/tasks/stsb"):
        assert tiny.differences(saved(f"run{part}"), saved(f"whole{part}")) == []
    lines = [[json.loads(x) for x in Path(f, "log.jsonl").read_text().splitlines()] for f in ("run", "whole")]
    losses = [{x["step"]: x["loss"] for x in own if "loss" in x} for own in lines]
    assert losses[0] == losses[1]


def test_a_run_that_ended_before_its_results_were_kept_only_measures(settings) -> None:
    first = train_together(settings())
    weights = saved("run")
    metrics = Path("run/metrics.json")
    content = json.loads(metrics.read_text())
    for found in content["tasks"].values():
        del found["after"]
    metrics.write_text(json.dumps({"tasks": content["tasks"]}))
    again = train_together(settings())
    assert not again.was_finished
    assert again.metrics["tasks"] == first.metrics["tasks"]
    assert tiny.differences(saved("run"), weights) == []


def test_the_second_phase_starts_from_encoder_and_head_of_the_task(settings) -> None:
    result: MultiTaskResult = train_together(settings(fine_tune=True, fine_tune_methods="none", fine_tune_epochs=1))
    assert set(result.fine_tuned) == set(TRAIN)
    for task, run in result.fine_tuned.items():
        assert run.folder == Path("run/fine-tuned") / task
        after = result.metrics["tasks"][task]["after"]["validation"]
        before = run.metrics["before"]["validation"]
        assert before == pytest.approx(after, rel=1e-5)  # where the first phase ended, the second begins
        assert run.metrics["training"]["updates"] == TRAIN[task] // BATCH
        assert run.metrics["methods"] == []
        assert tiny.differences(saved(run.folder), saved(f"run/tasks/{task}"))


def test_the_second_phase_can_be_asked_for_later(settings) -> None:
    train_together(settings())
    weights = saved("run")
    result = train_together(settings(fine_tune=True))
    assert result.was_finished
    assert set(result.fine_tuned) == set(TRAIN)
    assert not any(run.was_finished for run in result.fine_tuned.values())
    assert tiny.differences(saved("run"), weights) == []
    again = train_together(settings(fine_tune=True))
    assert all(run.was_finished for run in again.fine_tuned.values())


def test_train_accepts_the_encoder_and_draws_a_new_head(settings, options) -> None:
    train_together(settings())
    first = train(alone(options, "sst2", model="run/model", methods="none", num_train_epochs=1))
    kept = train(alone(options, "sst2", model="run/tasks/sst2", methods="none", num_train_epochs=1, output_dir="kept"))
    ended = train_together(settings()).metrics["tasks"]["sst2"]["after"]["validation"]
    assert kept.metrics["before"]["validation"] == pytest.approx(ended, rel=1e-5)
    assert first.metrics["before"]["validation"]["loss"] != pytest.approx(ended["loss"], rel=1e-3)
    assert first.metrics["training"]["updates"] == TRAIN["sst2"] // BATCH


def test_sizes_and_dropout_are_per_task(settings) -> None:
    result = train_together(settings(train_size="sst2=8,rte=50%", task_dropout="sst2=0.4", max_steps=1))
    assert {task: found["rows"] for task, found in result.metrics["tasks"].items()} == {"rte": 6, "sst2": 8, "stsb": 8}
    dropouts = {}
    for task in TRAIN:
        model: Any = AutoModelForSequenceClassification.from_pretrained(f"run/tasks/{task}/model")
        dropouts[task] = model.dropout.p
    assert dropouts == {"rte": 0.1, "sst2": 0.4, "stsb": 0.1}
    assert AutoModel.from_pretrained("run/model").config.classifier_dropout is None


def test_the_paper_drops_more_of_mnli_and_less_of_cola() -> None:
    settings = MultiTaskSettings(tasks="mnli,cola,rte")
    assert [settings.dropout_of(task) for task in settings.tasks] == [0.3, 0.05, 0.1]
    assert MultiTaskSettings(tasks="mnli,rte", task_dropout="0.2").dropout_of("mnli") == 0.2


@pytest.mark.parametrize("methods", ["freelb", "mixout", "l2_sp", "weight_averaging", "sam"])
def test_other_methods_train_several_tasks(settings, methods: str) -> None:
    result = train_together(settings(methods=methods))
    assert result.metrics["training"]["updates"] == UPDATES


def test_tags_train_beside_classes_and_numbers(settings, options, data: Path) -> None:
    """Each head has its own batches and scores; the tagger's model, trained on, begins where this run ended."""
    write_tags(data, {"train": 8, "validation": EVALUATED, "test": 4})
    changes = {"learning_rate": 1e-2, "num_train_epochs": 4.0}
    result = train_together(settings(tasks="wnut17,rte,stsb", **changes))
    found = result.metrics["tasks"]["wnut17"]
    assert found["metric"] == "f1"
    assert found["after"]["validation"]["f1"] > found["before"]["validation"]["f1"]
    kept = train(alone(options, "wnut17", model="run/tasks/wnut17", methods="none", max_steps=1))
    for split in ("validation", "test"):
        assert kept.metrics["before"][split] == pytest.approx(found["after"][split], rel=1e-5)
    # The encoder is the one with a pooler, which the tagger alone has not.
    assert any("pooler" in name for name in saved("run"))


def test_accumulation_mixes_tasks_in_an_update(settings) -> None:
    result = train_together(settings(gradient_accumulation_steps=2, methods="smart"))
    assert result.metrics["training"]["updates"] == -(-PER_EPOCH // 2) * EPOCHS


# ---------------------------------------------------------------- command line


def test_the_command_prints_every_task(options, capsys) -> None:
    assert main(command(options)) == 0
    shown = capsys.readouterr().out
    for task in TRAIN:
        assert task in shown
    assert "epoch" in shown
    assert "validation rte accuracy" in shown
    assert "pearson" in shown
    assert main(command(options, "--fine-tune")) == 0
    shown = capsys.readouterr().out
    assert "finished before" in shown
    assert "fine-tuned" in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": "rte,sts"}, "unknown task 'sts'"),
        ({"tasks": "rte,squad"}, "--tasks: squad is of the kind question_answering; tasks that train together are"),
        ({"tasks": "rte,hans"}, "--tasks: hans is for evaluation only; tasks that train together are classification"),
        ({"tasks": "rte,xquad"}, "--tasks: xquad is"),
        ({"tasks": None}, "--tasks"),
        ({"train_size": "mrpc=10"}, "--train-size mrpc=10: 'mrpc' is none of --tasks."),
        ({"train_size": "rte=1000"}, "there are only 12"),
        ({"task_dropout": "1.5"}, "--task-dropout 1.5: must be a number from 0 to 1 (1 excluded)."),
        ({"task_dropout": "rte=a"}, "--task-dropout a: must be a number"),
        ({"label_smoothing_factor": "0.1"}, "--label-smoothing-factor: is for classes"),
        ({"task": "rte"}, "No such option: --task"),
        ({"methods": "smrat"}, "Did you mean 'smart'?"),
        ({"fine_tune_methods": "freelb,pgd", "fine_tune": True}, "both own"),
        ({"data_dir": "nowhere"}, "nowhere"),
    ],
)
def test_mistakes_are_one_line(options, changes, message: str, capsys) -> None:
    assert main(command(options, **changes)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("run").exists()


def test_a_task_alone_is_refused_in_a_configuration_too(options, tmp_path: Path, capsys) -> None:
    (tmp_path / "config.yaml").write_text("task: rte\n")
    assert main([*command(options), "--config", "config.yaml"]) == 2
    assert "'task' is a setting of `steadytune train`" in capsys.readouterr().err


def test_another_run_in_the_folder_is_refused(options, settings, capsys) -> None:
    train_together(settings(max_steps=1))
    assert main(command(options, tasks="rte")) == 2
    assert "run holds another run (max_steps is 1 there" in capsys.readouterr().err
