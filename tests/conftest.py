"""One thread, no network, and what several test files share."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import gc
import logging
import signal
from collections.abc import Callable, Iterator

import pytest
import torch
from helpers import tiny
from torch import Tensor

from steadytune.core.authoring.step import Step
from steadytune.methods import smoothness as smoothness_file

torch.set_num_threads(1)
# No test outlives a power cut, and each of thousands of files would wait some milliseconds for the disk.
os.fsync = lambda _descriptor: None
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell script ignores Ctrl-C in what it starts with `&`, and so would every process that a test stops by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Keep the imported modules out of the garbage collections that every Trainer asks for: 5 times as fast."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from one random state, so that none depends on those before it."""
    torch.manual_seed(1234)


@pytest.fixture
def messages() -> Iterator[list[str]]:
    """What steadytune logs during the test."""
    handler = tiny.Records()
    logger = logging.getLogger("steadytune")
    logger.addHandler(handler)
    yield handler.messages
    logger.removeHandler(handler)


@pytest.fixture
def start_noises(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The starting points of all ascents of the test, in order."""
    seen: list[Tensor] = []
    draw = Step.normal_noise

    def recorded(self: Step, standard_deviation: float) -> Tensor:
        seen.append(draw(self, standard_deviation))
        return seen[-1].clone()

    monkeypatch.setattr(Step, "normal_noise", recorded)
    return seen


@pytest.fixture
def deltas(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The perturbations that all ascents of the test end with, in order."""
    seen: list[Tensor] = []
    climb: Callable[..., tuple[Tensor, Tensor]] = smoothness_file.ascend

    def recorded(*args: object, **kwargs: object) -> tuple[Tensor, Tensor]:
        delta, non_finite = climb(*args, **kwargs)
        seen.append(delta.clone())
        return delta, non_finite

    monkeypatch.setattr(smoothness_file, "ascend", recorded)
    return seen
