"""A place for commands that are killed, shared by the tests of a process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from killing import Undisturbed, undisturbed
from places import Command, copy_place, make_place, warm


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and rows; this process has run a command there once, so that its children import nothing."""
    place = make_place(tmp_path_factory.mktemp("faults") / "base")
    warm(place)
    return place


@pytest.fixture(scope="session")
def expected(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Command], Undisturbed]:
    """What a command ends with when nothing befalls it; run once."""
    known: dict[Command, Undisturbed] = {}

    def find(command: Command) -> Undisturbed:
        if command not in known:
            known[command] = undisturbed(command, copy_place(base, tmp_path_factory.mktemp("undisturbed") / "place"))
        return known[command]

    return find


@pytest.fixture
def place(base: Path, tmp_path: Path) -> Path:
    """A fresh place."""
    return copy_place(base, tmp_path / "place")
