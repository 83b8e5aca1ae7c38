"""What casts doubt on a comparison, what rows and seeds can show, and that a verdict is a value."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import comparisons

from steadytune.comparison.candidates import candidates
from steadytune.comparison.kinds import facts_of_label
from steadytune.comparison.records import Cell, comparison_from_json
from steadytune.comparison.statistics.cells import Ratio, compare_cell
from steadytune.comparison.statistics.detectable import smallest_gain
from steadytune.comparison.statistics.trust import loss_state, trust
from steadytune.comparison.statistics.verdict import verdict
from steadytune.reporting.report import Report
from steadytune.settings.compare import CompareSettings

KEPT = Path(__file__).parents[3] / "benchmarks" / "results" / "detectable.json"


def doubts(cell: Cell) -> str:
    return " | ".join(f"{d.text} {d.remedy}" for d in trust(cell, compare_cell(cell)).doubts)


def changed(cell: Cell, candidate: str, *, rows: int | None = None, **training: Any) -> Cell:
    """The same with other training facts of one candidate, and other numbers of test rows for all."""
    runs = []
    for run in cell.runs:
        metrics: Any = json.loads(json.dumps(run.metrics))
        for scores in metrics["after"].values():
            scores["rows"] = rows or scores["rows"]
        more = training if run.candidate == candidate else {}
        runs.append(replace(run, metrics=metrics, training={**run.training, **more}))
    return replace(cell, runs=tuple(runs))


PAIR = {"none": (0.0, 0.0), "smart": (0.012, 0.003)}
FLAT = [[u, 0.7] for u in range(20)]
EXPLODING = [[u, 0.7 + u] for u in range(20)]
FALLING = [[u, 2.0 - 0.1 * u] for u in range(20)]
SETTLED = [[u, 0.1 + 0.6 * 0.5**u] for u in range(20)]


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (comparisons.cell(PAIR, 4), "4 paired seeds cannot show anything, whatever the scores. --seeds 6"),
        (changed(comparisons.cell(PAIR, 8), "smart", rows=100), "of 100 test rows. more rows in --test-file"),
        (comparisons.cell({"none": (0, 0), "smart": (0, 0)}, 8), "the same score as plain training with 8 of 8 seeds"),
        (
            comparisons.cell(PAIR, 8, chosen_learning_rate={"none": 1e-4, "smart": 2e-4}),
            "smart: the chosen rate, 2e-4, is the largest one tried. --learning-rates 5e-5,1e-4,2e-4,4e-4",
        ),
        (changed(comparisons.cell(PAIR, 8), "smart", curve=FLAT), "smart: the training loss hardly moves."),
        (changed(comparisons.cell(PAIR, 8), "none", curve=EXPLODING), "none: the training loss grows. smaller"),
        (changed(comparisons.cell(PAIR, 8), "smart", curve=FALLING), "still falling at the end. a larger --num-train"),
        (comparisons.cell(PAIR, 8, [("smart", 43)]), "smart: 1 of 8 runs gave no score. --retry-failed"),
    ],
)
def test_what_casts_doubt_is_named_with_what_would_help(cell: Cell, told: str) -> None:
    assert told in doubts(cell)
    made = Report(comparisons.comparison(cell))
    assert "Can I trust this?" in made.html()
    assert "Try:" in made.markdown()


def test_a_sound_comparison_has_no_doubts_and_says_what_it_could_show() -> None:
    sound = changed(comparisons.cell(PAIR, 8), "smart", curve=SETTLED)
    sound = changed(sound, "none", curve=SETTLED)
    found = trust(sound, compare_cell(sound))
    assert found.doubts == ()
    assert "test has 1,066 rows; the standard error of a score of" in found.facts[0]
    assert "the smallest gain that they could have shown is about 0.00" in found.facts[1]


def test_losses_are_told_apart() -> None:
    states = {name: loss_state(comparisons.run(training={"curve": c})) for name, c in {
        "flat": FLAT, "exploding": EXPLODING, "falling": FALLING, "": SETTLED}.items()}  # fmt: skip
    assert states == {name: name for name in states}
    assert loss_state(comparisons.run(training={"curve": FLAT[:3]})) == ""


def test_the_smallest_gain_is_that_of_the_kept_simulation() -> None:
    kept = json.loads(KEPT.read_text())
    for line in kept["power"]:
        assert smallest_gain(1.0, line["seeds"], line["methods"]) == pytest.approx(line["gain_in_sd"], abs=1e-3)
        assert 0.75 <= line["found"] <= 0.85
    for line in (*kept["standard_error"], *kept["spread_of_gains"]):
        assert line["said"] == pytest.approx(line["seen"], rel=0.05)


def test_a_ratio_near_one_is_no_difference() -> None:
    assert Ratio(0.94, 0.92, 0.96, declared=1.0).is_none, "a method that adds nothing"
    assert Ratio(1.02, 0.97, 1.06).is_none, "seeds on both sides"
    assert not Ratio(0.94, 0.92, 0.96).is_none
    assert not Ratio(1.5, 0.9, 2.0).is_none


def test_colors_follow_the_corrected_test_and_rows_the_gain() -> None:
    gains = {"none": (0, 0), "smart(weight=3)": (-0.03, 0.001)}
    gains |= {"noisytune": (0.0, 0.004), "smart": (0.03, 0.002)}
    made = Report(comparisons.comparison(comparisons.cell(gains, 8)))
    main = made.data.cells[0].main
    assert [m.label for m in main.ordered] == ["plain", "smart", "noisytune", "smart(weight=3)"]
    findings = {m.label: m.statistics.finding for m in main.ordered}
    assert findings["noisytune"] == "not distinguishable"
    body = made.html().split("<tbody>")[1].split("</tbody>")[0]
    rows = {m.label: next(r for r in body.split("<tr") if f"{m.label}</span></th>" in r) for m in main.ordered}
    moods = {name: 'class="up"' in row or 'class="down"' in row for name, row in rows.items()}
    assert moods == {"plain": False, "smart": True, "noisytune": False, "smart(weight=3)": True}


def test_a_larger_mean_that_is_passed_over_is_explained() -> None:
    gains = {"none": (0, 0), "smart": (0.02, 0.002), "noisytune": (0.03, 0.06)}
    statistics = compare_cell(comparisons.cell(gains, 8))
    larger = statistics.row("noisytune").against_plain
    assert larger is not None
    rows = [
        replace(row, against_plain=replace(larger, mean=0.05)) if row.candidate == "noisytune" else row
        for row in statistics.rows
    ]
    found = verdict(replace(statistics, rows=tuple(rows)))
    assert (found.kind, found.candidate) == ("use", "smart")
    assert "noisytune has a higher mean gain (+0.05 accuracy), but it may be chance." in found.further
    assert found.sentence == f"{found.claim} ({found.evidence}). {found.further}"


def test_what_a_candidate_is_is_a_field_and_old_records_are_read_by_their_label() -> None:
    settings = CompareSettings(
        task="movie-reviews", methods=["smart"], vary={"smart.weight": [1, 3]}, equal_compute=True
    )
    facts = {c.label: c.facts for c in candidates(settings)}
    assert {label: found.kind for label, found in facts.items()} == {
        "none": "plain",
        "smart": "method",
        "smart(weight=3)": "method",
        "none@3.00x": "longer plain",
    }
    assert facts["none@3.00x"].more_updates == 3.0
    assert facts["smart(weight=3)"].varied == {"smart.weight": 3}
    assert facts["smart"].varied == {"smart.weight": 1}, "the default is a value of the sweep, too"
    made = comparisons.comparison(comparisons.cell({"none": (0, 0), "none@3.00x": (0, 0), "smart(weight=3)": (0, 0)}))
    content: Any = json.loads(json.dumps(made.as_json()))
    for run in content["cells"][0]["runs"]:
        del run["facts"]
    read = comparison_from_json(content).cells[0]
    assert [read.what(name) for name in read.candidates] == [facts_of_label(name) for name in read.candidates]
    assert comparison_from_json(json.loads(json.dumps(made.as_json()))).cells[0].what("none@3.00x").more_updates == 3.0
