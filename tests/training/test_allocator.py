"""Freed memory is kept while a model trains on the CPU, and given back afterwards."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from steadytune.training.allocator import _glibc, freed_memory_is_kept

#: Two blocks above 32 MiB, which glibc by itself always gives back: 20,480 pages that the system clears in each step.
BLOCKS, ENTRIES = 2, 10 * 2**20
#: Steps until the heap has room for both: two to five in 20 processes, as small blocks lie between.
WARM_UP = 12


def pages_cleared_by_a_step() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(ENTRIES) for _ in range(BLOCKS)]
    del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def steps_reuse_what_was_freed() -> None:
    """In a process of its own: what other tests have freed would do for a step."""
    pages_cleared_by_a_step()
    assert pages_cleared_by_a_step() >= 20  # or 40 large pages, or 20,480
    with freed_memory_is_kept() as kept:
        assert kept
        for _ in range(WARM_UP):
            pages_cleared_by_a_step()
        assert pages_cleared_by_a_step() < 20
    pages_cleared_by_a_step()
    assert pages_cleared_by_a_step() >= 20  # it is given back again


@pytest.mark.skipif(not sys.platform.startswith("linux") or _glibc() is None, reason="glibc alone has these settings")
@pytest.mark.long
def test_a_step_reuses_what_the_last_one_freed() -> None:
    code = "import test_allocator; test_allocator.steps_reuse_what_was_freed()"
    place = Path(__file__).parent
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], cwd=place, env=surroundings, check=False).returncode == 0


def test_switched_off_it_does_nothing() -> None:
    with freed_memory_is_kept(on=False) as kept:
        assert not kept
