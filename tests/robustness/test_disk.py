"""Disks that fill up, cannot be written, are slow or lose a folder, and several processes at one run."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from doom import Fate
from forked import OUTPUT, Running, attempt
from killing import NEVER, Undisturbed
from places import Command, compare_command, differences, results, train_command

from steadytune.integrations.transformers.checkpoints import remove_older
from steadytune.support import atomic_files as atomic

TRAIN = train_command("noisytune,bregman", max_steps=8, save_total_limit=1, logging_steps=3)
COMPARE = compare_command("noisytune", learning_rates="1e-3", max_steps=2)

Expected = Callable[[Command], Undisturbed]


def one_line(error: str) -> str:
    lines = [line for line in error.splitlines() if line.strip()]
    assert len(lines) == 1, error
    assert lines[0].startswith("steadytune: ")
    assert "internal error" not in lines[0]
    return lines[0]


def ends_right(known: Undisturbed, place: Path) -> None:
    """The same command, with nothing in its way, ends as if nothing had been."""
    made = attempt(known.command.arguments, place, NEVER)
    assert made.status == 0, made
    assert differences(results(place), known.results) == []


# ---------------------------------------------------------------- disks


@pytest.mark.parametrize(
    ("kind", "within", "said"),
    [
        ("full", "open config.yaml", "No space left on device"),
        ("full", "checkpoint-4/model.safetensors", "No space left on device"),
        ("full", "model.unfinished/config.json", "No space left on device"),
        ("read-only", "run.lock", "Read-only file system"),
        ("vanish", "checkpoint-4/optimizer.pt", ""),
    ],
)
def test_a_disk_that_fails_is_told_in_one_line_and_loses_nothing(
    expected: Expected, place: Path, kind: str, within: str, said: str
) -> None:
    known = expected(TRAIN)
    made = attempt(TRAIN.arguments, place, Fate(kind, within=within))  # pyright: ignore[reportArgumentType]
    assert made.status == 2, made
    assert said in one_line(made.error)
    ends_right(known, place)


@pytest.mark.parametrize("size", [500, 4000])
def test_files_that_the_system_cuts_off(expected: Expected, place: Path, size: int) -> None:
    """What is written by safetensors and torch fails in ways of its own, here for real."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    # The screen of the child is a file, too.
    made = attempt([*TRAIN.arguments, "--quiet"], place, NEVER, prepare=limit)
    assert made.status == 2, made
    assert one_line(made.error)
    ends_right(expected(TRAIN), place)


def test_a_full_disk_loses_no_run_of_a_comparison(expected: Expected, place: Path) -> None:
    known = expected(COMPARE)
    made = attempt(COMPARE.arguments, place, Fate("full", within="os.rename runs/"))
    assert made.status in (0, 2), made
    assert "Traceback" not in made.error
    ends_right(known, place)


def test_a_slow_disk_changes_nothing(expected: Expected, place: Path) -> None:
    assert attempt(TRAIN.arguments, place, Fate("slow", at=1)).status == 0
    assert differences(results(place), expected(TRAIN).results) == []


# ---------------------------------------------------------------- processes


def test_a_second_process_is_told_that_the_run_is_taken(expected: Expected, place: Path) -> None:
    first = Running(TRAIN.arguments, place, Fate("halt", within="checkpoint-4/model.safetensors"))
    first.wait_for_halt()
    second = attempt(TRAIN.arguments, place, NEVER)
    first.go_on()
    assert second.status == 2
    assert one_line(second.error).startswith("steadytune: out: another process is at this run")
    assert first.wait().status == 0
    assert differences(results(place), expected(TRAIN).results) == []


def test_processes_that_start_together_share_a_comparison(expected: Expected, place: Path) -> None:
    known = expected(COMPARE)
    both = [Running(COMPARE.arguments, place, NEVER) for _ in range(2)]
    assert [running.wait().status for running in both] == [0, 0]
    assert differences(results(place), known.results) == []


def test_a_name_says_whether_its_process_lives() -> None:
    host = atomic.this_process().rpartition("-")[0]
    assert atomic.is_abandoned(f"metrics.json.{host}-4194300.unfinished")
    assert not atomic.is_abandoned(f"metrics.json.{host}-{os.getpid()}.unfinished"), "or one that has its number now"
    assert not atomic.is_abandoned("metrics.json.elsewhere-4194300.unfinished")
    assert not atomic.is_abandoned("metrics.json")


# ---------------------------------------------------------------- clocks


def test_clocks_that_jump_change_nothing(expected: Expected, place: Path) -> None:
    def jump() -> None:
        real, jumps = time.time, iter(range(0, 10**9, 40_000))
        time.time = lambda: real() - next(jumps)

    known = expected(TRAIN)
    made = attempt(TRAIN.arguments, place, Fate("kill", within="os.rename checkpoints/checkpoint-6"), prepare=jump)
    assert made.status == -signal.SIGKILL
    for n, folder in enumerate(sorted((place / OUTPUT / "checkpoints").iterdir())):
        os.utime(folder, (4e9 - n, 4e9 - n))  # in the future, and the newest is the oldest
    ends_right(known, place)


def test_the_newest_checkpoint_is_kept_whatever_the_clock_says(tmp_path: Path) -> None:
    for n, time_ in ((2, 4e9), (4, 3e9), (6, 1e9), (900, 2e9)):
        (tmp_path / f"checkpoint-{n}").mkdir()
        os.utime(tmp_path / f"checkpoint-{n}", (time_, time_))
    remove_older(tmp_path / "checkpoint-6", 2)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"checkpoint-4", "checkpoint-6"}, "900 is of an earlier training"
    remove_older(tmp_path / "checkpoint-6", 1, best=str(tmp_path / "checkpoint-4"))
    assert {path.name for path in tmp_path.iterdir()} == left
    remove_older(tmp_path / "checkpoint-6", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-6"]
