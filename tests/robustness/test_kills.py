"""The short form of `make torture`: kills at the places that matter, and that the machinery itself finds faults."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from doom import Fate, Kill, cut_power
from forked import JOURNAL, OUTPUT, attempt
from killing import NEVER, Undisturbed, drawn_fate, story
from places import (
    Command,
    compare_command,
    differences,
    hybrid_command,
    multitask_command,
    results,
    search_command,
    train_command,
)

from steadytune.support import atomic_files as atomic

#: 8 updates with 4 checkpoints, of which one is kept.
TRAIN = train_command("noisytune,bregman", max_steps=8, save_total_limit=1, logging_steps=3)
COMPARE = compare_command("noisytune", learning_rates="1e-3", max_steps=2)

Expected = Callable[[Command], Undisturbed]

#: Each kill comes between this operation and the next, in the attempt after the one before.
OF_A_TRAINING: tuple[tuple[Kill, str], ...] = (
    ("kill", "open config.yaml."),
    ("power", "open checkpoints/checkpoint-4/model.safetensors"),
    ("kill", "open checkpoints/checkpoint-4/optimizer.pt"),
    ("power", "os.rename checkpoints/checkpoint-4/steadytune.safetensors"),
    ("kill", "os.remove checkpoints/checkpoint-4/"),  # the older one, while 6 is whole, but not evaluated yet
    ("power", "open checkpoints/checkpoint-8/trainer_state.json"),
    ("kill", "fsync model.unfinished/model.safetensors"),
    ("kill", "os.rename model.unfinished"),
    ("power", "os.rename metrics.json"),
)
OF_A_COMPARISON: tuple[tuple[Kill, str], ...] = (
    ("power", "open compare.yaml."),
    ("kill", "os.rename metrics.json"),
    ("int", "checkpoint-2/optimizer.pt"),
    ("kill-one", "open runs/"),
    ("kill", "record.json"),
    ("power", "os.rename comparison.json"),
    ("kill", "open report.html"),
)


def within(place: str, kind: Kill, seed: int) -> tuple[Fate, None]:
    """A kill between an operation and the next: what was opened there is half written."""
    return Fate(kind, within=place, tears=True, seed=seed), None


def test_a_training_killed_anywhere_ends_as_if_nothing_had_been(expected: Expected, place: Path) -> None:
    fates = [within(name, kind, n) for n, (kind, name) in enumerate(OF_A_TRAINING)]
    happened = story(expected(TRAIN), place, fates)
    assert happened.faults == []
    assert sum(happened.kills.values()) == len(fates)


@pytest.mark.parametrize("kind", ["kill-one", "int", "int-twice", "term"])
def test_other_kinds_of_kill(expected: Expected, place: Path, kind: Kill) -> None:
    happened = story(expected(TRAIN), place, [within("checkpoint-6/scheduler.pt", kind, 5)])
    assert happened.faults == []
    assert happened.kills == {kind: 1}


@pytest.mark.long
def test_a_comparison_killed_anywhere_ends_as_if_nothing_had_been(expected: Expected, place: Path) -> None:
    fates = [within(name, kind, n) for n, (kind, name) in enumerate(OF_A_COMPARISON)]
    happened = story(expected(COMPARE), place, fates)
    assert happened.faults == []
    assert sum(happened.kills.values()) >= 4, "after the killed worker the others go on, and less is left to be killed"


OF_A_SEARCH: tuple[tuple[Kill, str], ...] = (
    ("kill", "open search/"),
    ("power", "fsync search/"),
    ("int", "checkpoint-2/optimizer.pt"),
    ("kill", "/record.json"),
    ("power", "os.rename comparison.json"),
)
OF_SEVERAL_TASKS: tuple[tuple[Kill, str], ...] = (
    ("power", "open checkpoints/checkpoint-4/model.safetensors"),
    ("kill", "os.rename checkpoints/checkpoint-8/steadytune.safetensors"),
    ("kill", "fsync model.unfinished/"),
    ("power", "fine-tuned/rte/checkpoints/checkpoint-2/optimizer.pt"),
    ("kill", "os.rename fine-tuned/rte/metrics.json"),
    ("int", "fine-tuned/sst2/checkpoints/checkpoint-4/scheduler.pt"),
)
OF_A_HYBRID: tuple[tuple[Kill, str], ...] = (
    ("power", "open checkpoints/checkpoint-2/model.safetensors"),
    ("int", "checkpoint-4/scheduler.pt"),
    ("kill", "os.rename checkpoints/checkpoint-6/steadytune.safetensors"),
    ("power", "hybrid.safetensors"),
)


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "kills"),
    [
        (search_command("noisytune", trials=3, max_steps=2), OF_A_SEARCH),
        (multitask_command("smart"), OF_SEVERAL_TASKS),
        (hybrid_command("noisytune,bregman"), OF_A_HYBRID),
    ],
    ids=lambda given: given.name if isinstance(given, Command) else "",
)
def test_other_verbs_end_as_if_nothing_had_been(
    expected: Expected, place: Path, command: Command, kills: tuple[tuple[Kill, str], ...]
) -> None:
    happened = story(expected(command), place, [within(name, kind, n) for n, (kind, name) in enumerate(kills)])
    assert happened.faults == []
    assert sum(happened.kills.values()) == len(kills)


def test_random_kills(expected: Expected, place: Path) -> None:
    known, chance = expected(TRAIN), random.Random(3)
    fates = [drawn_fate(chance, known.operations, known.seconds) for _ in range(3)]
    assert story(known, place, fates).faults == []


# ---------------------------------------------------------------- the machinery itself


def test_the_machinery_finds_files_that_were_not_synced(
    expected: Expected, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = expected(TRAIN)
    monkeypatch.setattr(atomic, "sync", lambda _path: None)
    assert story(known, place, [within("os.rename checkpoints/checkpoint-4/steadytune", "power", 4)]).faults


def test_the_machinery_sees_what_is_missing_more_and_different(expected: Expected) -> None:
    known = expected(TRAIN).results
    name = "model/model.safetensors"
    assert differences(known, known) == []
    assert differences({k: v for k, v in known.items() if k != name}, known) == [f"/{name}: is missing"]
    assert differences({**known, "half.unfinished": b""}, known) == ["/half.unfinished: should not be there"]
    assert len(differences({**known, name: known[name][:-1] + b"\1"}, known)) == 1
    assert len(differences({**known, "log.jsonl": known["log.jsonl"][1:]}, known)) > 1


def test_a_power_cut_tears_what_was_not_synced_and_nothing_else(tmp_path: Path) -> None:
    root, journal = tmp_path / "root", tmp_path / "journal"
    root.mkdir()
    for name in ("kept", "lost"):
        (root / name).write_bytes(b"x" * 1000)
    status = (root / "kept").stat()
    journal.write_bytes(f"{status.st_ino} {status.st_mtime_ns} {status.st_size}\n".encode())
    assert cut_power(root, journal, seed=1) == ["lost"]
    assert (root / "kept").read_bytes() == b"x" * 1000
    assert (root / "lost").read_bytes() != b"x" * 1000
    assert cut_power(root, journal, seed=2) == [], "what is there after the start lies on the disk"


def test_what_a_killed_process_left_is_gone(base: Path, place: Path) -> None:
    host = atomic.this_process().rpartition("-")[0]
    names = [f"compare.yaml.{host}-4194300.unfinished", f"estimate-{host}-4194301"]
    theirs = ["comparison.json.elsewhere-4194300.unfinished", f"report.md.{atomic.this_process()}.unfinished"]
    root = place / OUTPUT
    root.mkdir()
    (root / names[0]).write_text("half")
    made = attempt(COMPARE.arguments, place, NEVER)
    assert made.status == 0, "a folder in which only the first file was begun is not somebody else's"
    (root / names[1]).mkdir()
    for name in [names[0], *theirs]:
        (root / name).write_text("half")
    assert attempt(COMPARE.arguments, place, NEVER).status == 0
    left = {path.name for path in root.iterdir()}
    assert not left & set(names)
    assert left >= set(theirs), "a process that lives, or lives elsewhere, may still be at it"
    assert "comparison.json" in results(place)
    assert (place / JOURNAL).exists()
