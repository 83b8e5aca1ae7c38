"""Folders from strangers: links out of them, pipes in them, modules beside the data, and files that never end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz_command import DONE, REFUSED, Outcome, command
from fuzz_model import tiny_model_folder
from helpers import tiny_model
from helpers.comparing import InProcess

import steadytune
from steadytune.comparison.compare import compare
from steadytune.comparison.engines.starting import import_path, python_command, safe_environment
from steadytune.errors import SettingsError
from steadytune.reporting.report import Report, report
from steadytune.settings.compare import CompareSettings
from steadytune.settings.resolve import read_config
from steadytune.support import reading, writing
from steadytune.support.atomic_files import replaced_when_whole, sync_all
from steadytune.training.folder import RunFolder
from steadytune.training.predictions import read_predictions

BATCHES = ("--max-steps", "2", "--save-steps", "1", "--per-device-train-batch-size", "4", "--max-length", "16")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows and a model."""
    place = tmp_path_factory.mktemp("made")
    tiny_model_folder(place)
    tiny_model.write_csv(place / "t.csv", tiny_model.rows(12))
    return place


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "file").write_text("mine")
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: Path) -> Iterator[Path]:
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert [path.name for path in outside.rglob("*")] == ["file"], "something was written or removed"
    assert (outside / "file").read_text() == "mine"


def train(made: Path, *more: str) -> Outcome:
    files = ("--train-file", f"{made}/t.csv", "--validation-file", f"{made}/t.csv", "--model", f"{made}/tiny")
    return command(["train", *files, *BATCHES, "--output-dir", "run", "--use-cpu", *more])


def compared(made: Path, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "model": f"{made}/tiny",
        "train_file": f"{made}/t.csv",
        "validation_file": f"{made}/t.csv",
    }
    more: dict[str, Any] = {"methods": "none", "seeds": 1, "learning_rates": [1e-3], "max_steps": 1, "max_length": 16}
    return compare(CompareSettings(**values | more | {"output_dir": "out"} | changes), engine=InProcess())


# ---------------------------------------------------------------- links


IN_A_RUN = (
    *("model", "model.unfinished", "model.removed.unfinished", "checkpoints", "checkpoints/checkpoint-1"),
    *("checkpoints/checkpoint-2/optimizer.pt", "predictions", "log.jsonl", "run.lock", "environment.json"),
    *("metrics.json", "record.json", "predictions/validation.npz"),
)


@pytest.mark.parametrize("name", IN_A_RUN)
@pytest.mark.parametrize("target", ["folder", "file", "nowhere"])
def test_a_run_writes_through_no_link(made: Path, place: Path, outside: Path, name: str, target: str) -> None:
    link = place / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to({"folder": outside, "file": outside / "file", "nowhere": outside / "new"}[target])
    outcome = train(made)
    assert outcome.status == REFUSED, outcome
    assert "is a link" in outcome.line or "is not empty" in outcome.line


IN_A_COMPARISON = (
    *("runs", "locks", "search", "workers.log", "compare.yaml", "comparison.json", "runs/a", "locks/a.lock"),
    *("runs/a/model.unfinished", "runs/a/checkpoints", "report.html"),
)


@pytest.mark.parametrize("name", IN_A_COMPARISON)
def test_a_comparison_writes_through_no_link(made: Path, place: Path, outside: Path, name: str) -> None:
    (place / "out").mkdir()
    (place / "out" / "compare.yaml").write_text("")
    link = place / "out" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(outside if "." not in link.name else outside / "file")
    with pytest.raises(SettingsError, match="is a link"):
        compared(made)


def test_the_folder_that_a_person_gives_may_be_a_link(made: Path, place: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (place / "run").symlink_to(tmp_path / "disk")
    assert train(made).status == DONE
    assert (tmp_path / "disk" / "metrics.json").is_file()


@pytest.mark.parametrize("name", ["report.html", "report.json", "model-card.md"])
def test_a_report_replaces_a_link_and_not_what_it_leads_to(place: Path, outside: Path, name: str) -> None:
    from steadytune.comparison.records import Comparison

    (place / name).symlink_to(outside / "file")
    Report(Comparison({}, "movie-reviews", "accuracy", (), {}, "steadytune compare")).write(place)
    assert not (place / "report.html").is_symlink()


def _below(place: Path) -> tuple[Path, Path]:
    (place / "own").mkdir()
    return place / "own", place / "own" / "a" / "b"


OPERATIONS: dict[str, Callable[[Path], Any]] = {
    "open": lambda path: writing.open_file(path, "wb"),
    "append": lambda path: writing.append_text(path, "x"),
    "change": lambda path: writing.open_file(path, "r+b"),
    "replace": lambda path: replaced_when_whole(path).__enter__(),
    "make": writing.make_folder,
    "remove": writing.remove_file,
    "remove all": writing.remove_folder,
    "rename": lambda path: writing.rename(path, path.with_name("other")),
    "rename to": lambda path: writing.rename(path.parents[1] / "whole", path),
    "lock": writing.file_lock,
    "permit": lambda path: writing.permit(path, 0o777),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_operation_passes_a_link_below_the_given_folder(place: Path, outside: Path, name: str) -> None:
    own, path = _below(place)
    (own / "whole").write_text("x")
    (own / "a").symlink_to(outside)
    with writing.writes_below(own), pytest.raises(SettingsError, match="is a link"):
        OPERATIONS[name](path.with_name("file"))


@pytest.mark.parametrize("name", [n for n in OPERATIONS if n not in ("remove", "rename", "rename to", "replace")])
def test_no_operation_follows_a_link_at_the_end(place: Path, outside: Path, name: str) -> None:
    (place / "link").symlink_to(outside if name in ("make", "remove all") else outside / "file")
    with writing.writes_below(place), pytest.raises(SettingsError, match="is a link"):
        OPERATIONS[name](place / "link")


def test_a_link_that_is_put_there_meanwhile_is_not_followed(place: Path, outside: Path) -> None:
    """Between the look and the writing: the system itself refuses the link."""
    own, _ = _below(place)
    with writing.writes_below(own):
        writing.make_folder(own / "a")
        (own / "a").rmdir()
        (own / "a").symlink_to(outside)
        with pytest.raises(SettingsError, match="is a link"):
            writing.write_text(own / "a" / "file", "evil")


def test_a_second_name_of_a_file_elsewhere_is_not_written(place: Path, outside: Path) -> None:
    os.link(outside / "file", place / "log.jsonl")
    with pytest.raises(SettingsError, match="second name"):
        RunFolder(place).append_log({"step": 1})


def test_a_pipe_where_a_file_must_be_is_refused_at_once(made: Path, place: Path) -> None:
    (place / "run").mkdir()
    os.mkfifo(place / "run" / "log.jsonl")
    with pytest.raises(SettingsError, match="is a pipe"):
        RunFolder(place / "run").append_log({"step": 1})
    sync_all(place)
    assert "is a pipe" in train(made).line


# ---------------------------------------------------------------- modules beside the data


def shadows(folder: Path) -> None:
    """Modules of the standard library and of ours, as a data folder may hold them."""
    for name in ("csv", "queue", "json", "torch", "steadytune", "yaml", "random"):
        (folder / f"{name}.py").write_text(f"import os\nos.mkdir({str(folder / 'executed')!r})\nraise SystemExit(9)\n")


@pytest.mark.parametrize("relative", [False, True])
def test_a_worker_imports_nothing_of_the_current_folder(
    place: Path, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    shadows(place)
    monkeypatch.setattr(sys, "path", ["" if relative else str(place), *sys.path])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    arguments = python_command("steadytune.comparison.engines.local_worker")
    environment = {**safe_environment(), "PYTHONSAFEPATH": ""}  # as in Python 3.10, which does not know it
    for given in (environment, safe_environment()):
        ended = subprocess.run(arguments, env=given, input=b"", capture_output=True, timeout=120, check=False)
        assert ended.returncode == 1, ended.stderr  # without a parent it ends
        assert not (place / "executed").exists()


def test_a_worker_finds_the_same_steadytune(place: Path) -> None:
    code = "import steadytune; print(steadytune.__file__)"
    arguments = [sys.executable, "-c", f"import sys; sys.path[:] = {import_path()!r}; {code}"]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert Path(ended.stdout.strip()) == Path(steadytune.__file__)
    assert str(place) not in import_path()


def test_a_path_that_the_user_names_stays(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(place))
    monkeypatch.setattr(sys, "path", [str(place), *sys.path])
    assert import_path()[0] == str(place)


# ---------------------------------------------------------------- files that never end


def in_time(read: Callable[[], Any]) -> Any:
    """What reading ends with; it may wait for nothing."""
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(read())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(20)
    assert found, "it hangs"
    return found[0]


READERS: dict[str, Callable[[Path], Any]] = {
    "comparison.json": report,
    "evaluation.json": lambda folder: reading.read_json(folder / "evaluation.json"),
    "config.yaml": lambda folder: read_config(folder / "config.yaml"),
    "metrics.json": lambda folder: RunFolder(folder).read_metrics(),
}


@pytest.mark.parametrize("name", READERS)
def test_devices_and_endless_files_are_refused_at_once(place: Path, name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(reading, "SILENCE", 0.2)
    (place / name).symlink_to("/dev/zero")
    error = in_time(lambda: READERS[name](place))
    assert isinstance(error, SettingsError | OSError | dict), error
    (place / name).unlink()
    with (place / name).open("wb") as file:
        file.truncate(2**40)
    error = in_time(lambda: READERS[name](place))
    assert "more than the" in str(error)
    (place / name).unlink()
    os.mkfifo(place / name)
    error = in_time(lambda: READERS[name](place))
    assert isinstance(error, SettingsError | OSError | dict), error


def test_a_log_or_record_that_is_a_pipe_is_as_if_it_were_not_there(place: Path) -> None:
    from steadytune.comparison.records import read_record

    for name in ("log.jsonl", "record.json"):
        os.mkfifo(place / name)
    assert in_time(RunFolder(place).read_log) == []
    assert in_time(lambda: read_record(place) or "none") == "none"


def test_a_configuration_may_come_through_a_pipe(place: Path) -> None:
    os.mkfifo(place / "pipe")
    writer = threading.Thread(target=lambda: (place / "pipe").write_text("seed: 3\n"))
    held = os.open(place / "pipe", os.O_RDWR)
    writer.start()
    writer.join()
    closing = threading.Timer(0.3, os.close, [held])
    closing.start()
    assert read_config(place / "pipe") == {"seed": 3}


def test_an_archive_of_predictions_that_unpacks_to_more_is_not_read(place: Path) -> None:
    (place / "predictions").mkdir()
    file = place / "predictions" / "test.npz"
    np.savez_compressed(file, logits=np.zeros((3, 2), np.float32), labels=np.zeros(3), head="classification")
    assert read_predictions(place, "test") is not None
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 2), }"
    for rows, body in ((10**12, b"\0" * 24), (3, b"\0" * 200_000_000)):
        text = header % rows
        content = b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n" + body
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("logits.npy", content)
        assert read_predictions(place, "test") is None


def test_a_working_folder_that_was_removed_is_one_line(place: Path) -> None:
    code = "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); from steadytune.cli import main; "
    arguments = [sys.executable, "-c", f"{code} sys.exit(main(['methods']))"]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False, env=safe_environment())
    assert (ended.returncode, ended.stdout) == (REFUSED, "")
    assert ended.stderr.splitlines() == ["steadytune: the current folder was removed: change to one that is there."]


def test_a_folder_without_permission_is_one_line(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # as under `umask 777`, of which root sees nothing
    with pytest.raises(SettingsError, match="umask"):
        writing.make_folder(place / "new")
