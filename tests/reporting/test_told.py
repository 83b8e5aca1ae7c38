"""What a reader of a comparison is told: when nothing was learned, which interval is shown, and what is missing."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import comparisons
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from steadytune.cli import main
from steadytune.cli.views.comparison import show_comparison
from steadytune.comparison.cells import PreparedCell
from steadytune.comparison.folder import CONFIG
from steadytune.comparison.leader import leader
from steadytune.comparison.plan import CellKey
from steadytune.comparison.records import FILE_NAME, Cell, Comparison, RunRecord, read_comparison
from steadytune.comparison.statistics.cells import compare_cell
from steadytune.comparison.statistics.constant_predictions import in_words
from steadytune.comparison.statistics.verdict import verdict
from steadytune.comparison.unfinished import unfinished
from steadytune.heads.scores.metrics import compute_metrics
from steadytune.reporting.model_card import best_run
from steadytune.reporting.report import Report
from steadytune.reporting.words import table_cell
from steadytune.settings.compare import CompareSettings
from steadytune.support.plain_yaml import write_yaml
from steadytune.support.text import interval, plain_text, signed
from steadytune.training.collapse import ONE_CLASS, ONE_VALUE, one_prediction

#: What a model scores that predicts the class 1 of two for each of 100 rows, 51 of them rightly.
ALL_ONE = compute_metrics("classification", np.tile([0.0, 1.0], (100, 1)), np.array([1] * 51 + [0] * 49))


def printed(made: Comparison, width: int = 160) -> str:
    terminal = Console(file=io.StringIO(), width=width)
    show_comparison(terminal, made)
    file: Any = terminal.file
    return file.getvalue()


def constant_cell(learned: tuple[str, ...] = (), **changes: Any) -> Cell:
    """Every run predicts one class, but for those of some candidates; those of plain training with the larger loss."""
    gains: dict[str, tuple[float, float]] = dict.fromkeys(("none", "noisytune", "smart"), (0.0, 0.0))
    made = comparisons.cell(gains, seeds=8, **changes)
    runs = []
    for run in made.runs:
        scores = {**ALL_ONE, "loss": 0.7 + 0.01 * (run.candidate == "none")}
        after = dict.fromkeys(run.metrics["after"], scores)
        runs.append(run if run.candidate in learned else replace(run, metrics={"after": after}))
    return replace(made, runs=tuple(runs))


def test_long_names_can_be_told_apart_on_80_columns():
    names = [f"smoothness(noise_std=0.00000000001234{last})" for last in (1, 2)]
    shown = printed(comparisons.comparison(comparisons.cell(dict.fromkeys(("none", *names), (0.0, 0.004)))), width=80)
    first_column = "".join(line.strip().split(" ")[0] for line in shown.splitlines())
    assert all(first_column.count(name) == 2 for name in names), "one table a split"
    assert max(map(len, shown[: shown.index("test has")].splitlines())) <= 80
    assert "…" not in shown


def test_a_comparison_in_which_every_run_predicts_one_class_is_no_finding():
    made = comparisons.comparison(constant_cell())
    view = Report(made).data.cells[0]
    assert (view.verdict.kind, view.verdict.candidate) == ("nothing learned", "none")
    assert view.verdict.sentence == (
        "Nothing was learned: all 24 runs predict one class (positive); raise the learning rates or the epochs, "
        "or give more rows."
    )
    row = compare_cell(made.cells[0]).row("smart")
    assert row.against_plain is not None
    assert (row.against_plain.interval, row.against_plain.exact_interval) == (None, None)
    for form in (printed(made), Report(made).markdown(), Report(made).html()):
        assert "[0.000, 0.000]" not in form
        assert "Nothing was learned: all 24 runs predict one class (positive)" in form
    assert "<dl class=" not in Report(made).html().split("</header>")[0], "no figures stand on top"


def test_on_a_tie_the_model_of_plain_training_is_the_best():
    best = best_run(Report(comparisons.comparison(constant_cell())).data, "movie-reviews")
    assert best is not None
    assert best[1].candidate == "none"
    # The one whose model a comparison keeps; among the rates of one candidate the loss still decides.
    facts: Any = (None, CellKey("movie-reviews", "500"), "movie-reviews", "accuracy", ("test",), 500, {}, {}, ())
    kept = PreparedCell(*facts).best(constant_cell().runs)
    assert kept is not None
    assert kept.key == best[1].key
    worse, better = (
        replace(best[1], metrics={"after": {"validation": {"accuracy": 0.5, "loss": loss}}}, learning_rate=rate)
        for loss, rate in ((0.7, 1e-4), (0.6, 2e-4))
    )
    assert PreparedCell(*facts).best([worse, better]) == better


def test_a_method_that_learns_where_others_predict_one_class_is_judged():
    statistics = compare_cell(constant_cell(("smart",)))
    assert verdict(statistics).kind == "use"
    assert (statistics.row("none").constant, statistics.row("smart").constant) == ({"class 1": 8}, {})
    made = constant_cell(("none", "noisytune", "smart"))
    mixed = replace(made, runs=(*constant_cell().runs[:2], *made.runs[2:]))
    assert "none: 1 of 8 runs predict one class (positive)." in compare_cell(mixed).notes


def test_constant_predictions_are_told_by_the_scores_alone():
    rng = np.random.default_rng(3)
    for classes in (2, 3, 7):
        labels = rng.integers(0, classes, 60)
        for index in range(classes):
            constant = compute_metrics("classification", np.tile(np.eye(classes)[index], (60, 1)), labels)
            assert one_prediction(constant, "accuracy") == (f"class {index}" if classes == 2 else ONE_CLASS)
            outputs = np.tile(np.eye(classes)[index], (60, 1))
            outputs[rng.integers(60)] = np.eye(classes)[index - 1]
            assert one_prediction(compute_metrics("classification", outputs, labels), "accuracy") is None
        for _ in range(50):
            scores = compute_metrics("classification", rng.normal(size=(60, classes)), labels)
            assert one_prediction(scores, "accuracy") is None
    impossible = {"accuracy": 0.5, "f1_macro": 1 / 3, "matthews": 0.0, "f1": 0.4}
    assert one_prediction(impossible, "accuracy") is None
    numbers = rng.normal(size=60)
    assert one_prediction(compute_metrics("regression", np.full(60, 2.5), numbers), "spearman") == ONE_VALUE
    assert one_prediction(compute_metrics("regression", rng.normal(size=60), numbers), "spearman") is None
    none = compute_metrics("multi_label", np.full((60, 3), -1.0), rng.integers(0, 2, (60, 3)))
    assert in_words([one_prediction(none, "f1_micro") or ""], "mine") == "get nothing right"
    # A test set of one label alone cannot tell; the validation split can.
    made = constant_cell()
    other = compute_metrics("classification", rng.normal(size=(60, 2)), rng.integers(0, 2, 60))
    runs = [replace(r, metrics={"after": {**r.metrics["after"], "validation": other}}) for r in made.runs]
    assert compare_cell(replace(made, runs=tuple(runs))).row("smart").constant == {}


@pytest.mark.parametrize("seeds", [5, 8])
def test_the_interval_that_is_shown_is_the_exact_one_and_has_its_name(seeds):
    made = comparisons.comparison(comparisons.cell({"none": (0.0, 0.0), "smart": (0.012, 0.006)}, seeds))
    found = compare_cell(made.cells[0]).row("smart").against_plain
    assert found is not None
    assert found.interval is not None
    assert found.interval != found.exact_interval
    ends = interval(found.exact_interval) if seeds == 8 else "–"
    out = printed(made)
    assert re.search(r"gain +95 % exact", out)
    assert re.search(rf"{re.escape(signed(found.mean))} +{re.escape(ends)} ", out)
    assert interval(found.interval) not in out
    page = Report(made).html()
    assert f"<small>95 % exact {ends}</small>" in page
    assert page.count(interval(found.interval)) == 2, "the bootstrap's stands in two tables, named"


def test_no_candidate_leads_alone_and_each_counts_with_its_best_rate():
    place = CellKey("movie-reviews", "500")
    facts: Any = (None, place, "movie-reviews", "accuracy", ("test",), 500, {}, {}, ())
    cell = PreparedCell(*facts)

    def ended(candidate: str, rate: float, score: float, seed: int = 42, **changes: Any) -> RunRecord:
        return comparisons.run(candidate, seed, score, learning_rate=rate, **changes)

    plain = [ended("none", 2e-4, 0.615), ended("none", 5e-4, 0.690)]
    assert leader(cell, plain, {}) == ""
    assert leader(cell, [*plain, ended("smart", 2e-4, 0.680)], {}) == "leader none, 0.690 on validation"
    assert leader(cell, [*plain, ended("smart", 2e-4, 0.680, train_size="100")], {}) == "", "another size"
    # Once the rates are chosen, the means over the seeds of the runs with these count.
    chosen = {"none": 5e-4, "smart": 2e-4}
    more = [ended("smart", 2e-4, 0.680), ended("none", 5e-4, 0.60, 43), ended("smart", 2e-4, 0.70, 43)]
    assert leader(cell, [*plain, ended("smart", 5e-4, 0.9), *more], chosen) == "leader smart, 0.690 on validation"
    # Whose turn it is changes nothing: a seed counts once every candidate has it.
    hard = [ended("smart", 2e-4, 0.1, 44)]
    assert leader(cell, [*plain, *more, *hard], chosen) == "leader smart, 0.690 on validation"
    assert leader(cell, [plain[1], ended("smart", 2e-4, 0.7, 43)], chosen) == "", "no seed in common"
    assert leader(replace(cell, metric="loss"), [*plain, *more[:1]], {}).startswith("leader none, 0.555")


@pytest.fixture
def extended(tmp_path: Path) -> Callable[..., Path]:
    """A comparison of three candidates, rates and two seeds, whole, and what was asked for in its folder since."""

    def made(cell: Cell | None = None, **asked: Any) -> Path:
        settings = CompareSettings(
            task="movie-reviews", train_size=500, methods="noisytune,smart", seeds=2, learning_rates=comparisons.RATES
        )
        gains = {name: comparisons.METHODS[name][:2] for name in ("none", "noisytune", "smart")}
        whole = comparisons.comparison(cell or comparisons.cell(gains, 2), settings=settings.resolved())
        (tmp_path / FILE_NAME).write_text(json.dumps(whole.as_json()))
        values = {k: v for k, v in settings.resolved().items() if v is not None} | asked
        (tmp_path / CONFIG).write_text(write_yaml(CompareSettings(**values).resolved()))
        return tmp_path

    return made


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, ""),
        ({"workers": 2, "output_dir": "elsewhere"}, ""),
        ({"seeds": 6}, "12 of 27 runs are missing; this is the report of the earlier comparison."),
        ({"methods": ["none", "noisytune", "smart", "r3f"]}, "5 of 20 runs are missing; this is the report of the"),
        ({"train_sizes": ["500", "100"]}, "15 of 30 runs are missing; this is the report of the earlier comparison."),
        ({"num_train_epochs": 5.0}, "15 of 15 runs are missing; this is the report of the earlier comparison."),
        ({"learning_rates": [1e-4]}, "6 of 6 runs are missing; this is the report of the earlier comparison."),
    ],
)
def test_a_report_of_a_comparison_that_was_extended_since_says_so(extended, asked, told):
    folder = extended(**asked)
    missing = unfinished(folder, read_comparison(folder))
    assert missing.startswith(told)
    assert bool(missing) == bool(told)


def test_a_report_of_a_comparison_that_was_stopped_says_so(extended, capsys):
    gains = {name: comparisons.METHODS[name][:2] for name in ("none", "noisytune", "smart")}
    whole = comparisons.cell(gains, 2)
    folder = extended(replace(whole, runs=whole.runs[:-1]))
    assert main(["report", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"1 of 15 runs is missing. `steadytune compare --config {folder / CONFIG}` resumes it.\n")
    for form in ("html", "md"):
        assert out.splitlines()[0].partition(" `")[0] in (folder / f"report.{form}").read_text()
    for damaged in ("[", "seeds: x", "seeds: 99999999999999999999", "learning_rates: 3\nmethods: [smrat]"):
        (folder / CONFIG).write_text(damaged)
        assert unfinished(folder, read_comparison(folder)) == ""


WORDS = (
    "p < 0.05 & r_drop > none__2 a<b <b> </b> <!-- <?x &lt; &#60; &#x3c; &amp "
    + "_a_ __a__ *b* `c` [d](e) |f| ~~g~~ $h$ #1 \\\\* > "
)


@given(st.lists(st.sampled_from([*WORDS.split(), "_", "<", "&", "a", " ", ";", "\\\\"]), max_size=8).map("".join))
def test_markdown_shows_a_text_as_it_is_and_only_what_needs_it_is_escaped(text):
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    [row] = Tables(parser.render(f"|a|b|\n|-|-|\n| {table_cell(text)} | x |\n")).rows
    assert row == [plain_text(text), "x"]
    [item] = Tables(parser.render(f"- n {table_cell(text)}\n")).texts
    assert item == f"n {plain_text(text)}".strip()


def test_reports_and_cards_have_nothing_escaped_that_means_nothing():
    gains = {"none": (0.0, 0.0), "r_drop": (0.05, 0.004)}
    made = Report(comparisons.comparison(comparisons.cell(gains, 5)))
    for form in (made.markdown(), made.model_card()):
        assert "no p < 0.05 is possible" in form
        assert "r_drop" in form
        assert not re.search(r"&\w+;|\\\\", form)


def test_evaluate_names_the_kept_models_of_a_comparison(extended, capsys):
    folder = extended()
    assert main(["evaluate", str(folder)]) == 2
    assert "holds no run but a comparison, and no model was kept of it" in capsys.readouterr().err
    record = comparisons.run("smart", 43)
    run = folder / "runs" / record.key
    (run / "model").mkdir(parents=True)
    (run / "record.json").write_text(json.dumps(vars(record)))
    assert main(["evaluate", str(folder)]) == 2
    error = capsys.readouterr().err
    assert f"give the run whose model was kept: {run} (smart, movie-reviews, 500 rows)." in error
    assert error.count("\n") == 1
    for other in "abcd":
        (folder / "runs" / other / "model").mkdir(parents=True)
    assert main(["evaluate", str(folder)]) == 2
    assert re.search(
        r"one of the runs whose models were kept: .*, or one of 2 more in .*runs", capsys.readouterr().err
    )


class Tables(HTMLParser):
    """The cells of the last row of a table, or the items of a list; a tag within them is an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert tag in {"table", "thead", "tbody", "tr", "th", "td", "ul", "li"}, tag
        if tag == "tr":
            self.rows = [[]]
        elif tag == "td":
            self.rows[-1].append("")
        elif tag == "li":
            self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.texts:
            self.texts[-1] += data.strip("\n")
        elif self.rows and self.rows[-1]:
            self.rows[-1][-1] += data.strip("\n")
