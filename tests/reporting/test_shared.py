"""What a report that is given away tells of the machine and of who sat at it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from steadytune.comparison.records import FILE_NAME, Cell, Comparison, RunRecord
from steadytune.reporting.report import report

HOST = "alices-workstation"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home" / "alice"
    monkeypatch.setenv("HOME", str(home))
    place = home / "work" / "runs" / "first"
    place.mkdir(parents=True)
    run = RunRecord(
        **{"key": "k1", "candidate": "none", "methods": (), "method_settings": {}, "task": "t", "train_size": None},
        **{"learning_rate": 1e-4, "seed": 7, "status": "failed", "metrics": {}, "training": {}},
        error=f"ended with status 1; {place}/workers.log may tell why; {tmp_path}/other/x.py failed on {HOST}",
        environment={
            "machine": {"system": f"Linux-of-{HOST}", "processors": 2, "device": "cpu", "threads": 1},
            "made_by": [f"{HOST}:4711", f"{socket.gethostname()}:12345"],
        },
    )
    cell = Cell("t", None, "accuracy", True, ("test",), {"none": 1e-4}, (), (run,))
    settings = {"output_dir": str(place), "train_file": f"{home}/work/my data.csv", "model": "/opt/models/secret name"}
    command = f"steadytune compare --train-file {home}/work/rows.csv --output-dir {place}"
    comparison = Comparison(settings, "t", "accuracy", (cell,), {"machine": {"system": HOST}}, command)
    (place / FILE_NAME).write_text(json.dumps(comparison.as_json()))
    return place


def test_a_report_names_no_person_host_or_process(folder: Path) -> None:
    files = report(folder).write(folder / "shared")
    text = "".join(path.read_text() for path in files)
    for word in ("alice", HOST, socket.gethostname(), "4711", "12345", str(folder), "/opt/models"):
        assert word not in text, word
    for word in ("workers.log", "../../my data.csv", "../../rows.csv", "x.py failed on machine-", "secret name"):
        assert word in text, word


def test_the_full_environment_keeps_all(folder: Path) -> None:
    text = "".join(path.read_text() for path in report(folder, full_environment=True).write(folder / "full"))
    for word in (f"{HOST}:4711", str(folder), "/opt/models/secret name"):
        assert word in text, word
