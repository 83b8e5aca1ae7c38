"""Fuzzing that keeps what reaches new lines of ours: a mutant that does is mutated further."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from types import CodeType, FrameType
from typing import Any, Protocol

from fuzz_command import Fault

import steadytune

SOURCE = str(Path(steadytune.__file__).parent)
LARGEST_KEPT = 1 << 16
WATCHED = 0.15


@dataclass(frozen=True)
class Case:
    """One input: a file with its name, and options of the command."""

    name: str
    content: bytes = b""
    arguments: tuple[str, ...] = ()


class Target(Protocol):
    """What is fuzzed."""

    name: str

    def seeds(self) -> Sequence[Case]:
        """Inputs to begin with."""
        ...

    def mutated(self, case: Case, other: Case, chance: Random) -> Case:
        """Another input, made of one or two."""
        ...

    def run(self, case: Case) -> str:
        """Say how it ended (accepted, refused), or raise `Fault`."""
        ...


@dataclass
class Found:
    """What fuzzing of one target found."""

    target: str
    seed: int
    cases: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    faults: dict[str, Case] = field(default_factory=dict)
    kept: int = 0
    lines: int = 0
    slowest_seconds: float = 0.0
    seconds: float = 0.0


class Lines:
    """The lines of steadytune that have run, by code object."""

    def __init__(self) -> None:
        self.seen: set[tuple[CodeType, int]] = set()
        self._ours: dict[str, bool] = {}

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, _event: str, _argument: Any) -> Callable[..., Any] | None:
        name = frame.f_code.co_filename
        ours = self._ours.get(name)
        if ours is None:
            ours = self._ours[name] = name.startswith(SOURCE)
        return self._line if ours else None

    def _line(self, frame: FrameType, event: str, _argument: Any) -> Callable[..., Any]:
        if event == "line":
            self.seen.add((frame.f_code, frame.f_lineno))
        return self._line


def fuzz(
    target: Target,
    cases: int,
    seed: int,
    *,
    first: int = 0,
    before: Callable[[int, Case], None] = lambda _number, _case: None,
) -> Found:
    """Run so many cases; `before` is told of each. The same seed gives the same cases while the code is the same."""
    lines, found, began = Lines(), Found(target.name, seed), time.monotonic()
    corpus = list(target.seeds())
    for case in corpus:
        with lines.watched():
            ended = _run(target, case, found)
        if ended != "accepted":
            found.faults.setdefault(f"a sound input was {ended}", case)
    chance = Random(f"{target.name}/{seed}/{first}")
    for number in range(first, first + cases):
        parent = chance.choice(corpus if chance.random() < 0.5 else corpus[-50:])
        case = target.mutated(parent, chance.choice(corpus), chance)
        before(number, case)
        known = len(lines.seen)
        # Watching costs several times the case itself, so that most go unwatched.
        with lines.watched() if chance.random() < WATCHED else contextlib.nullcontext():
            ended = _run(target, case, found)
        found.cases += 1
        found.ends[ended] = found.ends.get(ended, 0) + 1
        if len(lines.seen) > known and len(case.content) <= LARGEST_KEPT:
            corpus.append(case)
            found.kept += 1
    found.lines, found.seconds = len(lines.seen), time.monotonic() - began
    return found


def _run(target: Target, case: Case, found: Found) -> str:
    began = time.process_time()
    try:
        return target.run(case)
    except Fault as fault:
        found.faults.setdefault(str(fault), replace(case))
        return "fault"
    finally:
        found.slowest_seconds = max(found.slowest_seconds, time.process_time() - began)
