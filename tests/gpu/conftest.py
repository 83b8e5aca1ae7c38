"""Which device the tests of this folder run on, and where their figures go."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

#: ``cpu`` runs what does not need a GPU of these tests, to see that they are right themselves.
DEVICE = torch.device(os.environ.get("STEADYTUNE_TEST_DEVICE", "cuda"))
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
_figures: dict[str, Any] = {}


@pytest.fixture(scope="session")
def device() -> torch.device:
    if DEVICE.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA GPU here; STEADYTUNE_TEST_DEVICE=cpu runs what a CPU can show")
    return DEVICE


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Takes what a test measured, for the file of results."""
    found: dict[str, Any] = {}
    yield found.__setitem__
    _figures[request.node.name] = found


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the figures of a run on a GPU; the commit and the versions belong to them."""
    if DEVICE.type != "cuda" or not _figures:
        return
    name = torch.cuda.get_device_name()
    content = {
        "machine": {"gpu": name, "system": platform.platform(), "python": platform.python_version()},
        "versions": {p: version(p) for p in ("torch", "transformers", "accelerate", "steadytune")},
        "commit": _git("rev-parse", "HEAD"),
        "changed_since": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "failed": session.testsfailed,
        "collected": session.testscollected,
        "figures": _figures,
    }
    path = RESULTS / f"gpu-{name.lower().replace(' ', '-')}.json"
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _git(*arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=RESULTS, capture_output=True, text=True, check=False)
    return run.stdout.strip()
