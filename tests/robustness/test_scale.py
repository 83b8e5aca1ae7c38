"""Many runs, rows and rounds, in short; `make scale` is the long form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import scale
from helpers import comparisons, tiny_model

from steadytune.reporting.extent import EXTENTS, SEEDS
from steadytune.reporting.report import Report

tiny_folder = tiny_model.tiny_folder


@pytest.mark.long
def test_rounds_of_compare_leave_nothing_alive(tiny_folder: Path, tmp_path: Path) -> None:
    found = scale.measure_rounds(tmp_path, tiny_folder, rounds=2, warm=1)
    grown = {name: count for name, count in found["grown"].items() if count > 0 and name != "threads"}
    assert grown == {}, "what was alive after the first round has grown"


@pytest.mark.long
def test_a_training_on_many_rows_needs_no_more_memory_as_it_goes_on(tiny_folder: Path, tmp_path: Path) -> None:
    # In a process of its own: what earlier tests left to this one's allocator would be measured too.
    output = tmp_path / "scale.json"
    part = ["--part", "rows", "--rows", "4000", "--updates", "100", "--model", tiny_folder, "--output", output]
    subprocess.run([sys.executable, scale.__file__, *map(str, part)], check=True, capture_output=True)
    found = json.loads(output.read_text())["rows"]
    assert found["updates"] == 100
    assert found["mb_at_most"] - found["mb_after_a_fifth"] < 24


@pytest.mark.parametrize(("cells", "seeds"), [(11, 5), (1, 60)], ids=["many cells", "many seeds"])
@pytest.mark.long
def test_a_large_comparison_is_told_whole_and_drawn_in_part(cells: int, seeds: int) -> None:
    gains = {"none": (0.0, 0.0)} | {f"smart(weight={k}.0)": (0.001 * k, 0.004) for k in range(1, 20)}
    made = [comparisons.cell(gains, seeds, train_size=str(100 * n), tuning=()) for n in range(1, cells + 1)]
    report = Report(comparisons.comparison(*made))
    page = report.html()
    assert f"All runs ({len(gains) * seeds * cells})" in page
    assert "of 19 methods: the largest gains, the largest losses" in page
    _, (_, most) = EXTENTS
    assert (f"The first {most} of {cells} have plots" in page) == (cells > most)
    assert (f"Of {seeds} seeds {SEEDS} are drawn one by one." in page) == (seeds > SEEDS)


@pytest.mark.long
def test_a_small_comparison_is_drawn_whole() -> None:
    page = Report(comparisons.comparison(*(comparisons.cell(train_size=str(n)) for n in (100, 200)))).html()
    assert "Drawn are" not in page
    assert "have plots" not in page
    assert "drawn one by one" not in page
