"""Kills a command again and again, starts it again, and compares what it ends with."""

from __future__ import annotations

import random
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from doom import KILLS, Fate, Kill, cut_power
from forked import JOURNAL, OUTPUT, Attempt, attempt
from places import Command, differences, results

#: Exit statuses of an attempt that was ended: by a signal, gently, or one worker only.
ENDED = frozenset({-9, -15, 130})
NEVER = Fate()


@dataclass(frozen=True)
class Undisturbed:
    """A command's results without a kill.

    Attributes:
        command: the command.
        results: as `places.results` reads them.
        operations: file operations of the whole command.
        seconds: that it took.
    """

    command: Command
    results: Mapping[str, Any]
    operations: int
    seconds: float


@dataclass
class Story:
    """What befell one training or comparison from its first start to its end.

    Attributes:
        fates: of the attempts, in order.
        faults: what was wrong, in words; empty if all was right.
        kills: attempts that were ended before their end.
        torn: files that a power cut tore.
    """

    fates: list[tuple[Fate, float | None]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    kills: dict[str, int] = field(default_factory=dict)
    torn: int = 0


def undisturbed(command: Command, place: Path) -> Undisturbed:
    """Run a command to its end, and keep what it ended with."""
    made = attempt(command.arguments, place, NEVER)
    assert made.status == 0, made
    return Undisturbed(command, results(place), made.operations, made.seconds)


def drawn_fate(
    chance: random.Random, count: int, seconds: float, spared: Container[Kill] = frozenset()
) -> tuple[Fate, float | None]:
    """A random fate: at an operation four times of five, else after some time; of the kinds that are not spared."""
    kind = chance.choices(KILLS, weights=(4, 2, 2, 1, 1, 5))[0]
    kind = "kill" if kind in spared else kind
    last = count if chance.random() < 0.5 else count // 3  # little is left to do after some kills
    fate = Fate(kind, chance.randint(1, last), tears=chance.random() < 0.6, seed=chance.getrandbits(30))
    if chance.random() < 0.8:
        return fate, None
    return Fate(kind, tears=fate.tears, seed=fate.seed), chance.uniform(0.02, seconds)


def story(expected: Undisturbed, place: Path, fates: list[tuple[Fate, float | None]]) -> Story:
    """Let one fate after the other befall a command, then let it end, and look at what it ended with."""
    happened = Story()
    journal, root = place / JOURNAL, place / OUTPUT
    finished = False
    for fate, after in [*fates, (NEVER, None)]:
        happened.fates.append((fate, after))
        made = attempt(expected.command.arguments, place, fate, after=after)
        if fault := _fault(made, fate):
            happened.faults.append(fault)
            return happened
        finished = made.status == 0
        if not finished:
            happened.kills[fate.kind] = happened.kills.get(fate.kind, 0) + 1
        if fate.kind == "power" and not finished:
            happened.torn += len(cut_power(root, journal, fate.seed)) if root.is_dir() else 0
        if finished and fate.kind == "kill-one":
            # The rest of a comparison went on; it tells of the failed run, and the same command makes it again.
            happened.kills[fate.kind] = happened.kills.get(fate.kind, 0) + 1
    if not finished:
        happened.faults.append("the last attempt, which nothing befell, did not end with status 0")
        return happened
    try:
        found, wanted = results(place), expected.results
        if "kill-one" in happened.kills:
            found, wanted = _compared(found), _compared(wanted)
        happened.faults += differences(found, wanted)
    except Exception as error:  # a damaged file is a finding
        happened.faults.append(f"the results cannot be read: {type(error).__name__}: {error}")
    return happened


def _compared(found: Mapping[str, Any]) -> dict[str, Any]:
    """Without the runs that a comparison only chose by.

    When a worker is killed its run counts as failed until it is made again, and the choice may fall on another one, of
    which the test splits are then looked at.
    """
    cells = found["comparison.json"]["cells"] if "comparison.json" in found else []
    kept = {run["key"] for cell in cells for run in cell["runs"]}
    return {k: v for k, v in found.items() if not k.startswith("runs/") or k.split("/")[1] in kept}


def _fault(made: Attempt, fate: Fate) -> str | None:
    """What is wrong with how an attempt ended, or nothing."""
    lines = [line for line in made.error.splitlines() if line.strip()]
    if made.status is None:
        return f"hangs after {fate}: {made.out[-300:]} {made.error[-300:]}"
    if "Traceback" in made.error or "internal error" in made.error:
        return f"no clear line at {fate}, status {made.status}: {made.error[-1500:]}"
    if "Passed over" in made.out:
        return f"a checkpoint that looked whole was damaged: {made.out[-500:]}"
    if made.status != 0 and (fate is NEVER or made.status not in ENDED):
        return f"status {made.status} at {fate}: {lines[-1] if lines else made.out[-300:]}"
    own = [line for line in lines if line.startswith("steadytune: ")]
    if made.status == 130 and (len(own) != 1 or lines[-1] != own[0]):  # before it there may be warnings
        return f"not one line at {fate}: {made.error[-500:]}"
    return None
