"""Results under a URL: nothing is lost or made twice, and what cannot be reached is one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from helpers import tiny_model
from helpers.comparing import InProcess, Notes, outcome

from steadytune.cli import main
from steadytune.comparison.compare import compare
from steadytune.comparison.remote import RemoteFolder
from steadytune.errors import SettingsError
from steadytune.settings.compare import CompareSettings

tiny_folder = tiny_model.tiny_folder
URL = "memory://lab/first"

Settings = Callable[..., CompareSettings]


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()


@pytest.fixture
def settings(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, memory: Any) -> Settings:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("train", 0), ("validation", 1), ("test", 2)):
        tiny_model.write_csv(tmp_path / f"{name}.csv", tiny_model.rows(16, seed=seed))
    values: dict[str, Any] = {
        "model": str(tiny_folder),
        "train_file": "train.csv",
        "validation_file": "validation.csv",
        "test_file": "test.csv",
        "methods": "noisytune",
        "max_length": 16,
        "max_steps": 3,
        "learning_rates": [1e-3, 1e-2],
        "seeds": 2,
        "output_dir": URL,
    }
    return lambda **changes: CompareSettings(**values | changes)


def kept(memory: Any) -> dict[str, bytes]:
    return {name.removeprefix("/lab/first/"): memory.cat_file(name) for name in memory.find("/lab/first")}


@pytest.mark.long
def test_another_machine_goes_on_with_what_lies_under_the_url(settings, memory) -> None:
    first = compare(settings(), engine=InProcess())
    sent = kept(memory)
    records = [name for name in sent if name.endswith("/record.json")]
    assert len(records) == len({r.key for r in (*first.cells[0].tuning, *first.cells[0].runs)})
    assert "comparison.json" in sent
    assert len([name for name in sent if name.endswith("model.safetensors")]) == 1, "of the best run"
    assert not [name for name in sent if "checkpoints" in name or "locks" in name]

    shutil.rmtree(RemoteFolder(URL).local)
    engine = InProcess()
    again = compare(settings(), engine=engine)
    assert (engine.made, outcome(again)) == ([], outcome(first))
    shutil.rmtree(RemoteFolder(URL).local)
    engine = InProcess()
    compare(settings(seeds=3), engine=engine)
    assert [plan.settings.seed for plan in engine.made] == [44, 44]


@pytest.mark.long
def test_a_run_that_was_half_sent_is_made_again_and_what_is_here_is_not_overwritten(settings, memory) -> None:
    first = compare(settings(learning_rates=[1e-3]), engine=InProcess())
    lost, other = first.cells[0].runs[:2]
    memory.rm_file(f"/lab/first/runs/{lost.key}/record.json")
    shutil.rmtree(RemoteFolder(URL).local)
    remote = RemoteFolder(URL)
    remote.fetch()
    assert not (remote.local / "runs" / lost.key).exists()
    record = remote.local / "runs" / other.key / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "error": "mine"}))
    RemoteFolder(URL).fetch()
    assert json.loads(record.read_text())["error"] == "mine"
    engine = InProcess()
    compare(settings(learning_rates=[1e-3]), engine=engine)
    assert [plan.key for plan in engine.made] == [lost.key]
    assert kept(memory)[f"runs/{other.key}/record.json"] == record.read_bytes(), "the newer one is sent"


@pytest.mark.long
def test_a_url_that_cannot_be_written_loses_nothing(settings, memory, monkeypatch) -> None:
    def full(self: Any, *args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    notes, engine = Notes(), InProcess()
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "put_file", full)
        with pytest.raises(SettingsError, match=r"No space left on device.*the same command sends them again"):
            compare(settings(learning_rates=[1e-3]), notes, engine=engine)
    assert len([line for line in notes.lines if "cannot be written" in line]) == 1
    assert len(engine.made) == 4, "all runs were made"
    engine = InProcess()
    compare(settings(learning_rates=[1e-3]), engine=engine)
    assert engine.made == []
    assert len([name for name in kept(memory) if name.endswith("/record.json")]) == 4


@pytest.mark.long
def test_the_command_line_says_where_the_report_lies(settings, memory, capsys) -> None:
    given = settings(learning_rates=[1e-3], seeds=1, methods="none")
    names = ("model", "train_file", "validation_file", "test_file", "methods", "max_length", "max_steps", "seeds")
    options = [p for name in names for p in (f"--{name.replace('_', '-')}", _text(getattr(given, name)))]
    assert main(["compare", *options, "--learning-rates", "1e-3", "--output-dir", URL]) == 0
    assert f"{RemoteFolder(URL).local}/report.html (all of it in {URL})" in capsys.readouterr().out.replace("\n", " ")
    assert b"<!doctype html>" in kept(memory)["report.html"]


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


@pytest.mark.parametrize(
    ("url", "said"),
    [("nonsense://a/b", "nonsense"), ("gdrive://a/b", "gdrive_?fs"), ("abfs://a/b", "adlfs")],
)
def test_what_cannot_be_opened_is_one_line(settings, url, said) -> None:
    with pytest.raises(SettingsError, match=rf"--output-dir {url}: .*{said}") as caught:
        compare(settings(output_dir=url), engine=InProcess())
    assert "\n" not in str(caught.value)
    assert not Path("runs").exists()


def test_what_cannot_be_read_is_one_line(settings, memory, monkeypatch) -> None:
    def refused(self: Any, *args: Any, **kwargs: Any) -> None:
        raise PermissionError("not yours")

    monkeypatch.setattr(type(memory), "find", refused)
    with pytest.raises(SettingsError, match="cannot be read"):
        compare(settings(), engine=InProcess())
