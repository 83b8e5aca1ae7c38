"""Output and signals of the command line: odd encodings, readers that go away, torchrun, a closed terminal."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from steadytune.cli import app, main
from steadytune.cli.streams import READER_GONE, never_fail_to_print
from steadytune.cli.views.console import before_and_after
from steadytune.support.signals import handled

METRICS = {
    "metric": "accuracy",
    "before": {"test … 你": {"loss": 0.7, "accuracy": 0.5, "rows": 8}},
    "after": {"test … 你": {"loss": 0.6, "accuracy": 0.75, "rows": 8}},
}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "koi8-r", "shift_jis", "utf-8"])
def test_scores_are_printed_whatever_the_encoding_of_the_output(encoding: str, monkeypatch) -> None:
    bytes_written = io.BytesIO()
    stream = io.TextIOWrapper(bytes_written, encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    never_fail_to_print()
    Console(width=80).print(before_and_after(METRICS))
    print("\ud800 a lone surrogate")
    stream.flush()
    text = bytes_written.getvalue().decode(encoding)
    assert "0.5000" in text
    assert "0.7500" in text
    assert "->" in text or "→" in text


def test_a_closed_output_is_no_error(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["--version"]) == 0
    assert main(["trian"]) == 2


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["tasks"], ["tasks", "rte"]])
def test_a_reader_that_has_gone_ends_a_command_quietly(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "steadytune", *arguments]
    with os.fdopen(writing, "w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (READER_GONE, "")


@pytest.mark.parametrize("arguments", [["train", "rows.csv"], ["methods"], ["--help"]])
def test_one_of_several_processes_is_refused_before_anything(arguments: list[str], monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "start it without torchrun" in error
    assert error.count("\n") == 1
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(["--version"]) == 0


@pytest.mark.parametrize("variable", ["HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_HOME"])
def test_a_cache_that_cannot_be_written_is_named(variable: str, tmp_path: Path, monkeypatch) -> None:
    for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    error = PermissionError(13, "Permission denied", str(tmp_path / variable / "x.lock"))
    line, status = app._describe(error)
    assert status == 2
    assert line.endswith(f"It belongs to a cache: set {variable} to a folder that can be written.")
    assert not app._describe(PermissionError(13, "Permission denied", str(tmp_path / "x")))[0].endswith("written.")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "train.csv", "--output-dir", "dangling"],
        ["compare", "train.csv", "--output-dir", "dangling"],
        ["train", "dangling", "--output-dir", "run"],
        ["train", "train.csv", "--model", "./dangling", "--output-dir", "run"],
        ["train", "--config", "dangling"],
        ["report", "dangling"],
        ["evaluate", "dangling"],
        ["init", "dangling"],
        ["perturb", "./dangling", "new"],
    ],
)
def test_a_link_that_leads_nowhere_is_told_in_one_line(
    arguments: list[str], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("text,label\n" + "good,x\nbad,y\n" * 10)
    (tmp_path / "dangling").symlink_to("nowhere")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "dangling" in error
    assert error.count("\n") == 1
    assert "internal error" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_that_asks_to_end_is_handled_and_given_back(name: str) -> None:
    number, heard = getattr(signal, name), []
    before = signal.getsignal(number)
    with handled(heard.append):
        os.kill(os.getpid(), number)
    assert heard == [number]
    assert signal.getsignal(number) is before


def test_a_hang_up_that_the_shell_has_switched_off_stays_off() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        heard: list[int] = []
        with handled(heard.append):
            os.kill(os.getpid(), signal.SIGHUP)
        assert heard == []
    finally:
        signal.signal(signal.SIGHUP, before)
