"""Some cases of every kind of input on each run of the tests; `make fuzz` runs ten thousand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import fuzz_files
import fuzz_folders
import fuzz_states
import fuzz_targets
import pytest
from fuzz_bytes import spoiled
from fuzz_command import Fault
from fuzz_coverage import Case, Found, fuzz
from fuzz_model import tiny_model_folder

from steadytune.tasks.files.formats.delimited import Csv

#: The short form is the same on each run; `make fuzz SEED=...` goes elsewhere.
SEED = 11


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def fuzzed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Found]]:
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)

    def run(kind: Callable[[Path, Path], object], cases: int) -> Found:
        return fuzz(kind(place, model), cases, SEED)  # type: ignore[arg-type]

    yield run
    os.chdir(tmp_path)


@pytest.mark.parametrize(
    ("kind", "cases"),
    [
        (fuzz_targets.DataFiles, 40),
        (fuzz_files.GeneratedFiles, 40),
        (fuzz_targets.Configurations, 35),
        (fuzz_targets.CommandLines, 35),
        (fuzz_folders.Results, 15),
        (fuzz_folders.ModelFolders, 4),
        (fuzz_folders.Checkpoints, 4),
        (fuzz_states.States, 40),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_any_input_is_read_rightly_or_refused_in_one_line(fuzzed, kind, cases: int) -> None:
    found = fuzzed(kind, cases)
    assert found.faults == {}
    assert found.cases == cases
    assert sum(found.ends.values()) == cases


def test_the_slow_reader_sees_a_row_that_was_lost(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fuzzing can find must not depend on luck: a reader that drops a row is a fault at once."""
    target = fuzz_targets.DataFiles(tmp_path, model)
    sound = Case("a.csv", b"text,label\na,x\nb,y\nc,x\n")  # of odd length: no row is held out
    assert target.run(sound) == "accepted"
    real = Csv.read
    monkeypatch.setattr(Csv, "read", lambda *given: real(*given).slice(0, 2))
    with pytest.raises(Fault, match="2 rows of 3"):
        target.run(sound)


def test_spoiled_bytes_follow_from_the_seed() -> None:
    from random import Random

    first, second = (spoiled(b"text,label\na,b\n", b"x", Random(3)) for _ in range(2))
    assert first == second


def test_a_command_that_breaks_a_promise_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    import fuzz_command

    monkeypatch.setattr(fuzz_command, "main", lambda _given: print("\x1b[31mred") or 0)
    with pytest.raises(Fault, match="reached the terminal"):
        fuzz_command.command(["methods"])
    monkeypatch.setattr(fuzz_command, "main", lambda _given: 1)
    with pytest.raises(Fault, match="status 1"):
        fuzz_command.command(["methods"])


def test_cases_are_plain_values() -> None:
    assert Case("a.csv", b"x") == Case("a.csv", b"x")
