"""Two processes and unequal numbers of labeled tokens: every host comes to the weights of one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import host_ranks, tiny
from torch import Tensor

pytest.importorskip("trl", reason="the extra `trl`")
pytest.importorskip("lightning", reason="the extra `lightning`")

pytestmark = pytest.mark.long

Outcomes = dict[tuple[str, int], dict[str, Tensor]]


def free_port() -> str:
    """A port that nobody listens on now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    folder = tmp_path_factory.mktemp("processes")
    surroundings = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    surroundings |= {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TORCHELASTIC_RUN_ID": "tests",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", host_ranks.__file__, str(folder / "outcomes.pt")],
            env={**os.environ, **surroundings, "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"},
            stdout=subprocess.DEVNULL,
            stderr=(folder / f"{rank}.log").open("wb"),
        )
        for rank in range(2)
    ]
    for process in processes:
        process.wait(timeout=300)
    assert (folder / "outcomes.pt").exists(), [
        Path(folder / f"{rank}.log").read_text(errors="replace")[-3000:] for rank in range(2)
    ]
    return torch.load(folder / "outcomes.pt")


@pytest.fixture(scope="module")
def of_one() -> Outcomes:
    return host_ranks.outcomes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("host", host_ranks.HOSTS)
def test_two_processes_train_as_one(host: str, of_one: Outcomes, of_two: Outcomes) -> None:
    expected = of_one[host, 1]
    for found in (of_one[host, 2], of_two[host, 1], of_two[host, 2]):
        assert tiny.distance(found, expected) < 1e-8
