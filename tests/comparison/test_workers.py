"""Worker processes: that none waits for ever, and that none is left when it or its parent is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from helpers import tiny_model

from steadytune.comparison.compare import compare
from steadytune.heads import features
from steadytune.settings.compare import CompareSettings

tiny_folder = tiny_model.tiny_folder

#: One row more than makes a split large, for whatever is done differently with large splits.
LARGE = features.LARGE + 1


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, count in (("train", 16), ("validation", 8), ("test", LARGE)):
        tiny_model.write_csv(tmp_path / f"{name}.csv", tiny_model.rows(count, seed=count))
    return tmp_path


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes of a test; whatever becomes of it, they end with their children."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        family = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        for member in family:
            member.kill()
        process.communicate()


def start(started: list[subprocess.Popen[str]], *code: str, folder: Path) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)]),
    }
    process = subprocess.Popen(
        [sys.executable, *code], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    started.append(process)
    return process


def test_a_large_split_goes_through_a_worker(data: Path, tiny_folder: Path, monkeypatch) -> None:
    def too_late(*_: object) -> None:
        raise TimeoutError("the worker does not answer")

    monkeypatch.chdir(data)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(data / "cache"))
    settings = CompareSettings(
        model=str(tiny_folder),
        train_file="train.csv",
        validation_file="validation.csv",
        test_file="test.csv",
        methods=["none"],
        seeds=1,
        learning_rates=[1e-3],
        max_steps=2,
        max_length=8,
        per_device_eval_batch_size=512,
        use_cpu=True,
        output_dir="out",
    )
    before = signal.signal(signal.SIGALRM, too_late)
    signal.alarm(240)
    try:
        [run] = compare(settings).cells[0].runs
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert run.metrics["after"]["test"]["rows"] == LARGE


#: A worker that starts a child and is then busy for as long as it may; without the libraries of a run.
FAMILY = """
import os, sys, time, types
from pathlib import Path
from steadytune.comparison.engines import execute

sys.modules["steadytune.support.quiet_libraries"] = types.SimpleNamespace(quiet_libraries=lambda: None)
sys.modules["steadytune.training.run"] = types.SimpleNamespace(Interrupted=KeyboardInterrupt)

def busy(plan, reporter=None, *, wait=True):
    if os.fork() == 0:
        time.sleep(600)
    Path("pids").write_text(f"{os.getpid()}")
    time.sleep(600)

execute.execute = busy
"""
PARENT = """
from pathlib import Path
from steadytune.comparison.engines.local import LocalEngine
from steadytune.comparison.plan import RunPlan
from steadytune.comparison.reporter import SilentListener
from steadytune.settings.train import TrainSettings

settings = TrainSettings(train_file="train.csv", output_dir="out/runs/a")
engine = LocalEngine(Path("out"))
for record in engine.run([RunPlan("a", "none", settings, "accuracy")], SilentListener()):
    print(record.status, record.error, flush=True)
engine.close()
"""


@pytest.mark.parametrize("killed", ["parent", "worker"])
def test_nothing_is_left_running_after_kill(tmp_path: Path, started, killed: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'local_worker' in ' '.join(sys.orig_argv):\n"
        + "".join(f"    {line}\n" for line in FAMILY.splitlines())
    )
    parent = start(started, "-c", PARENT, folder=tmp_path)
    end = time.monotonic() + 60
    while not (tmp_path / "pids").is_file() or not (tmp_path / "pids").read_text():
        assert parent.poll() is None, parent.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    worker = psutil.Process(int((tmp_path / "pids").read_text()))
    family = [worker, *worker.children()]
    assert len(family) == 2
    (parent if killed == "parent" else worker).send_signal(signal.SIGKILL)
    out, error = parent.communicate(timeout=20)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    if killed == "worker":
        assert (out, error) == ("failed the process of the run was ended by SIGKILL (out of memory?)\n", "")
