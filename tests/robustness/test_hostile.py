"""What strangers hand us does nothing but be read: pickles, model code, markup, escapes, paths, secrets."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow as pa
import pytest
import torch
import yaml
from fuzz_command import DONE, REFUSED, Outcome, command
from fuzz_model import tiny_model_folder
from helpers import tiny_model
from pyarrow import parquet
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import steadytune
from steadytune.cli.views.console import PlainTable
from steadytune.comparison.remote import open_remote
from steadytune.errors import DataError, SettingsError
from steadytune.evaluation.evaluate import check_run
from steadytune.settings.resolve import read_config
from steadytune.settings.train import TrainSettings
from steadytune.support.plain_yaml import read_yaml, write_yaml
from steadytune.tasks import load_files
from steadytune.training.folder import RunFolder
from steadytune.training.predictions import read_predictions

SOURCE = Path(steadytune.__file__).parent
STATE = "steadytune.safetensors"
#: Colors, a link, the clipboard, the title, another direction, a C1 sequence; markup of rich, HTML, a formula.
HOSTILE = (
    "\x1b[31m\x1b]8;;http://evil\x1b\\\x1b]52;c;ZXZpbA==\x07\x1b]0;evil\x07\u202e\x9b2J"
    "[red]x[/red] [/] [link=http://evil]y[/link] <script>evil()</script> =cmd|'/C calc'!A0 {{7*7}} %s"
)
SECRETS = {
    name: f"secret-of-{name.lower()}"
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "OPENAI_API_KEY", "COMET_API_KEY")
}
BATCHES = ("--max-steps", "4", "--save-steps", "2", "--per-device-train-batch-size", "4", "--max-length", "16")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, a model and a finished run; made with secrets in the environment."""
    place = tmp_path_factory.mktemp("place")
    model = tiny_model_folder(place)
    rows = [(text, f"{label}{HOSTILE}") for text, label in tiny_model.rows(12)]
    tiny_model.write_csv(place / "t.csv", rows)
    before = os.getcwd()
    os.chdir(place)
    os.environ.update(SECRETS)
    try:
        outcome = train(model.name, "--keep-checkpoints")
    finally:
        os.chdir(before)
        for name in SECRETS:
            del os.environ[name]
    assert outcome.status == DONE, outcome.line
    (place / "said").write_text(outcome.output + outcome.line)
    return place


def train(model: str, *more: str) -> Outcome:
    files = ("--train-file", "t.csv", "--validation-file", "t.csv", "--model", f"./{model}", "--output-dir", "run")
    return command(["train", *files, *BATCHES, "--methods", "smart", "--use-cpu", *more])


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may spoil."""
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    monkeypatch.chdir(copy)
    return copy


def executed(place: Path) -> bool:
    return (place / "executed").exists()


class _Attack:
    """Runs code when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.mark = str(place / "executed")

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


def test_the_attack_would_work(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(_Attack(tmp_path)))
    assert executed(tmp_path)


# ---------------------------------------------------------------- pickles and code


def unsealed(state: Path) -> None:
    """Take the checksums out of a state, as an attacker would, or an older version wrote it."""
    with safe_open(state, framework="pt") as file:
        metadata = {k: v for k, v in file.metadata().items() if k not in ("files", "checksum")}
    save_file(load_file(state), state, metadata=metadata)


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "scheduler.pt", "training_args.bin"])
def test_no_pickle_of_a_checkpoint_is_run(place: Path, name: str) -> None:
    checkpoint = place / "run" / "checkpoints" / "checkpoint-2"
    shutil.rmtree(place / "run" / "checkpoints" / "checkpoint-4")
    shutil.rmtree(place / "run" / "model")
    (place / "run" / "metrics.json").unlink()
    assert (checkpoint / name).is_file()
    torch.save(_Attack(place), checkpoint / name)
    sealed = train("tiny")
    assert sealed.status == REFUSED
    assert name in sealed.line
    unsealed(checkpoint / STATE)
    outcome = train("tiny")
    # What the Trainer wrote of its own arguments is not read at all.
    assert outcome.status == (DONE if name == "training_args.bin" else REFUSED)
    assert "plain data" in outcome.line or outcome.status == DONE
    assert not executed(place)


def test_pickled_weights_and_predictions_are_not_read(place: Path) -> None:
    (place / "tiny" / "model.safetensors").unlink()
    torch.save(_Attack(place), place / "tiny" / "pytorch_model.bin")
    outcome = command(["train", "--train-file", "t.csv", "--model", "./tiny", "--output-dir", "other"])
    assert outcome.status == REFUSED
    assert "pickled ones are never read" in outcome.line
    predictions = place / "run" / "predictions"
    predictions.mkdir()
    (predictions / "test.npz").write_bytes(pickle.dumps(_Attack(place)))
    assert read_predictions(place / "run", "test") is None
    assert not executed(place)


def brings_code(folder: Path, place: Path) -> None:
    """Make a model of a class that comes with it."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "evil"}))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(place / 'executed')!r})\n")


def test_a_run_from_a_stranger_cannot_allow_its_own_code(place: Path) -> None:
    """Its settings say that code may run; the one who evaluates it has not said so."""
    brings_code(place / "run" / "model", place)
    config = place / "run" / "config.yaml"
    config.write_text(config.read_text().replace("trust_remote_code: false", "trust_remote_code: true"))
    outcome = command(["evaluate", "run", "--only", "calibration"])
    assert outcome.status == REFUSED
    assert "trust_remote_code" in outcome.line or "custom code" in outcome.line
    assert not executed(place)
    assert not check_run(place / "run").trust_remote_code
    assert check_run(place / "run", trust_remote_code=True).trust_remote_code


def test_a_configuration_cannot_allow_code(place: Path) -> None:
    brings_code(place / "tiny", place)
    (place / "c.yaml").write_text("train_file: t.csv\nmodel: ./tiny\noutput_dir: other\ntrust_remote_code: true\n")
    outcome = command(["train", "--config", "c.yaml"])
    assert outcome.status == REFUSED
    assert "--trust-remote-code on the command line" in outcome.line
    assert not executed(place)


def test_nothing_in_the_source_runs_text_or_pickles() -> None:
    forbidden = {"eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "torch.load", "os.system"}
    forbidden |= {"yaml.load", "yaml.unsafe_load", "yaml.full_load", "joblib.load", "marshal.loads", "os.popen"}
    last = {name.rpartition(".")[2] for name in forbidden}
    wrong = {"shell": "True", "allow_pickle": "True", "weights_only": "False"}
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            place = f"{path.name}:{node.lineno}"
            settings = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg in (*wrong, "Loader")}
            found += [f"{place} {name}" for name, value in wrong.items() if settings.get(name) == value]
            if getattr(node.func, "attr", getattr(node.func, "id", None)) in last:
                name = ast.unparse(node.func)
                if name in forbidden and settings.get("Loader") != "_PlainLoader":
                    found.append(f"{place} {name}")
    assert found == []


# ---------------------------------------------------------------- text on the terminal


def shown(renderable: Any) -> str:
    console = Console(force_terminal=True, color_system=None, width=200, legacy_windows=False)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_a_table_shows_any_text_as_it_is_written() -> None:
    table = PlainTable(HOSTILE, title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row("[link=http://evil]y[/link]", HOSTILE)
    text = shown(table)
    assert all(c.isprintable() or c == "\n" for c in text.replace("\x1b[1m", "").replace("\x1b[0m", ""))
    assert "[link=http://evil]y[/link]" in text


def test_hostile_labels_and_names_do_nothing(finished: Path, place: Path) -> None:
    said = (finished / "said").read_text()  # `command` has refused control characters already
    assert "rejected" in said
    names = json.loads((finished / "run" / "model" / "config.json").read_text())["id2label"].values()
    assert all(HOSTILE in name for name in names)
    file = f"{HOSTILE.replace('/', '')[:80]}.csv"
    shutil.copy("t.csv", file)
    for verb in (["init"], ["train", "--output-dir", "other", "--model", "./none", "--train-file"]):
        outcome = command([*verb, file])
        assert "\x1b" not in outcome.output + outcome.line


def test_a_configuration_that_init_writes_says_only_what_it_should(place: Path) -> None:
    column = 'a: "b"\ntrust_remote_code: true\n#'
    tiny_model.write_csv(place / "x.csv", tiny_model.rows(12), (column, HOSTILE))
    outcome = command(["init", "x.csv", "--text-column", column, "--label-column", HOSTILE, "--output", "c.yaml"])
    assert outcome.status == DONE, outcome.line
    found = read_config("c.yaml")
    assert "trust_remote_code" not in found
    assert (found["text_column"], found["label_column"]) == (column, HOSTILE)


@pytest.mark.parametrize("change", [HOSTILE, None, 3, {}, []])
def test_a_hostile_evaluation_file_is_shown_or_refused(place: Path, change: Any) -> None:
    content = json.loads(command(["evaluate", "run", "--only", "calibration", "--json"], allowed=(DONE,)).output)
    content["calibration"] = {HOSTILE: change} if change is not HOSTILE else HOSTILE
    content["not_done"] = {"sets": HOSTILE}
    (place / "run" / "evaluation.json").write_text(json.dumps(content))
    outcome = command(["evaluate", "run", "--only", "calibration,annotators"])
    assert outcome.status in (DONE, REFUSED)


# ---------------------------------------------------------------- YAML


def test_yaml_has_no_objects_no_bombs_and_no_surprises() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    refused = {
        bomb: "more than 10,000 values",
        "a: [*a]": "undefined alias",
        "&a [*a]": "holds itself",
        "[" * 5000: "nested more than",
        "a: !!python/object/apply:os.system [id]": "are not read",
        "a: !!binary aGk=": "are not read",
        "a: !!int x": "cannot be read as int",
        "!!int ": "cannot be read as int",
        "a: " + "9" * 5000: "cannot be read as int",
        "a: 1\na: 2": "there twice, first in line 1",
        "a: 1\n---\na: 2": "another document",
        "x" * 300_000: "too many for settings",
    }
    for text, problem in refused.items():
        with pytest.raises(SettingsError, match=problem) as error:
            read_yaml(text, "--config x")
        assert "\n" not in str(error.value)
    assert read_yaml("a: 017\nb: 1:30\nc: 1e-4\nd: 2024-01-01\ne: 0x1F\nf: .5\ng: -.inf\nh: no", "x") == {
        **{"a": "017", "b": "1:30", "c": 1e-4, "d": "2024-01-01", "e": 31, "f": 0.5, "g": float("-inf"), "h": False}
    }


@pytest.mark.parametrize(
    "text", ["1e-4", "017", "yes", "~", "1:30", "2024-01-01", "", HOSTILE, "&a", "- x", "\u2028a"]
)
def test_what_is_written_as_yaml_reads_back_equal(text: str) -> None:
    values = {"a": text, "b": [text, 1e-5, 3, None, True], text: 1}
    assert read_yaml(write_yaml(values), "x") == values
    assert yaml.safe_load(write_yaml(values)) == values  # so do other readers


def test_yes_is_no_number() -> None:
    with pytest.raises(ValueError, match="not yes or no"):
        TrainSettings(learning_rate=True)
    assert TrainSettings(bf16=True).bf16


# ---------------------------------------------------------------- paths and secrets


@pytest.mark.parametrize("name", ["checkpoints", "model", "log.jsonl", "predictions"])
def test_a_run_does_not_write_through_a_link(place: Path, name: str) -> None:
    outside = place / "outside"
    outside.mkdir()
    target = place / "run" / name
    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    target.symlink_to(outside)
    outcome = train("tiny")
    assert outcome.status == REFUSED
    assert "is a link" in outcome.line
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil", "a/../../b", "..", HOSTILE])
def test_names_stay_inside_the_folder(name: str) -> None:
    settings = TrainSettings(train_file=f"{name}.csv", model=name, methods=[name.replace("(", "")])
    assert settings.folder.parent == Path("runs")
    assert settings.folder.name not in ("..", ".")
    assert RunFolder(settings.folder).config.resolve().is_relative_to(Path("runs").resolve())


def test_a_password_in_a_url_is_not_kept() -> None:
    with pytest.raises(SettingsError, match="holds a password") as error:
        open_remote("s3://me:hidden@bucket/first")
    assert "hidden" not in str(error.value)


def test_secrets_of_the_environment_are_nowhere(finished: Path) -> None:
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        content = path.read_bytes()
        assert [name for name, secret in SECRETS.items() if secret.encode() in content] == [], path


def test_a_report_reads_only_below_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steadytune.reporting import measured as report_evaluation

    read: list[Path] = []
    monkeypatch.setattr(report_evaluation, "_read", read.append)
    run: Any = SimpleNamespace(key="../../../secret", metrics={})
    content: Any = SimpleNamespace(runs=[run])
    replaced: Callable[..., Any] = lambda cell, runs: runs  # noqa: E731
    monkeypatch.setattr(report_evaluation, "replace", replaced)
    report_evaluation._with_evaluations(content, tmp_path)
    assert [path.parent for path in read] == [tmp_path / "runs" / "secret"]


def test_a_parquet_file_that_unpacks_to_more_than_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "bomb.parquet"
    table = pa.table({"text": [f"{i}{' ' * 10_000}" for i in range(300)], "label": [i % 2 for i in range(300)]})
    parquet.write_table(table, file, compression="zstd", use_dictionary=False)
    assert file.stat().st_size < 100_000
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**20))
    with pytest.raises(DataError, match=r"unpack to 0\.0 GiB"):
        load_files(file)
