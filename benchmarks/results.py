"""The file of results: machine, versions, and one entry per part with the commit and the load it was measured at."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from benchmarks.setting import Setting
from steadytune.training.folder import describe_environment, write_json

FOLDER = Path(__file__).parent / "results"


def default_file(setting: Setting) -> Path:
    """``speed_cpu.json``, or by the name of the GPU."""
    if setting.device.type != "cuda":
        return FOLDER / "speed_cpu.json"
    import torch

    return FOLDER / f"speed_{torch.cuda.get_device_name(setting.device).lower().replace(' ', '-')}.json"


class Results:
    """Takes the parts as they are finished and writes each at once, so that a stopped run keeps what it has.

    Parts of another machine, or of other versions of what is measured, are dropped: one table is of one machine.

    Args:
        path: the file; parts that are in it stay until they are measured again.
        setting: what all parts are measured on.
    """

    def __init__(self, path: Path, setting: Setting) -> None:
        self.path = path
        environment = {**describe_environment(seed=0), "setting": setting.described()}
        environment["machine"]["processor"] = _processor()
        del environment["seed"]
        held = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        is_same = all(held.get(name) == value for name, value in environment.items())
        self.parts: dict[str, Any] = held["parts"] if is_same else {}
        self.environment = environment

    def has(self, name: str) -> bool:
        """Whether a part was measured whole at this commit."""
        return self.parts.get(name, {}).get("commit") == commit() and not self.parts[name]["failed"]

    @contextmanager
    def part(self, name: str) -> Iterator[dict[str, Any]]:
        """Collects a part's ``rows`` and ``details``, and writes them with when and at which load they were taken."""
        entry: dict[str, Any] = {
            "commit": commit(),
            "changed_since": bool(_git("status", "--porcelain", "--untracked-files=no", "--", "src")),
            "began": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "load_at_start": os.getloadavg()[0],
            "failed": "",
            "rows": [],
            "details": {},
        }
        began = time.perf_counter()
        try:
            yield entry
        finally:
            entry |= {"seconds": round(time.perf_counter() - began, 1), "load_at_end": os.getloadavg()[0]}
            entry["rows"] = [row.as_json() if isinstance(row, Row) else row for row in entry["rows"]]
            self.parts[name] = entry
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, {**self.environment, "parts": self.parts})


def commit() -> str:
    """The commit that is checked out."""
    return _git("rev-parse", "HEAD")


def _git(*arguments: str) -> str:
    run = subprocess.run(
        ["git", *arguments], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False
    )
    return run.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
