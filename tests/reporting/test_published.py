"""A paper's table beside our numbers, and the scales of a configuration file."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
from helpers import tiny_model
from helpers.comparisons import cell, comparison

from steadytune.comparison.candidates import candidates
from steadytune.comparison.compare import compare
from steadytune.comparison.engines.execute import execute
from steadytune.errors import SettingsError
from steadytune.reporting.published import beside_published
from steadytune.reporting.report import Report, report
from steadytune.settings.compare import CompareSettings
from steadytune.settings.published import Published
from steadytune.settings.resolve import resolve

tiny_folder = tiny_model.tiny_folder

TABLE = {
    "title": "Table <b>2</b>",
    "source": "Wu et al.",
    "columns": [
        {"name": "Reviews", "task": "movie-reviews"},
        {"name": "IMDB", "split": "imdb", "task": "movie-reviews"},
        {"name": "Avg", "mean": True},
        {"name": "RTE", "task": "rte"},
        {"name": "all", "mean": True},
    ],
    "rows": [{"model": "BERT", "method": "none", "values": [80.0, None, 80.0, 67.7, None]}],
}  # fmt: skip


def test_a_published_table_stands_beside_our_means() -> None:
    found = comparison(cell(), settings={"model": "minilm", "published": TABLE})
    beside = beside_published(found)
    assert beside is not None
    published, plain, *_ = beside.lines
    assert (published.ours, published.values[0], published.values[1]) == (False, (80.0, None), None)
    scores = [100 * score for score in found.cells[0].scores("none", "test").values() if score is not None]
    mean = sum(scores) / len(scores)
    first, second, average, missing, incomplete = plain.values
    assert first is not None
    assert second is not None
    assert average is not None
    assert first[0] == pytest.approx(mean)
    assert first[1] == pytest.approx((sum((s - mean) ** 2 for s in scores) / (len(scores) - 1)) ** 0.5)
    assert average[0] == pytest.approx((first[0] + second[0]) / 2)
    assert missing is None
    assert incomplete is None  # a mean of fewer columns than the paper's would be another number
    report = Report(found)
    assert "Table &lt;b&gt;2&lt;/b&gt;" in report.html()
    assert "67.7" in report.html()
    assert f"{mean:.1f} ± " in report.markdown()


def test_a_table_of_medians_has_our_medians() -> None:
    found = comparison(cell(), settings={"model": "minilm", "published": TABLE | {"statistic": "median"}})
    beside = beside_published(found)
    assert beside is not None
    scores = [100 * score for score in found.cells[0].scores("none", "test").values() if score is not None]
    first = beside.lines[1].values[0]
    assert first is not None
    assert first[0] == pytest.approx(statistics.median(scores))
    assert statistics.median(scores) != pytest.approx(statistics.mean(scores))
    assert "median ± sd" in Report(found).html()


def test_no_table_and_a_strange_one_leave_the_report_as_it_is() -> None:
    for settings in ({"model": "minilm"}, {"model": "minilm", "published": {"new": 1}}):
        found = comparison(cell(), settings=settings)
        assert beside_published(found) is None
        assert 'id="published"' not in Report(found).html()


def test_a_row_of_another_length_is_refused() -> None:
    rows = [{"model": "BERT", "method": "none", "values": [80.0]}]
    with pytest.raises(ValueError, match="row 1 has 1 values for 5 columns"):
        Published(**{**TABLE, "rows": rows})


def test_a_scale_lies_over_the_file_and_under_the_options(tmp_path: Path) -> None:
    config = tmp_path / "suite.yaml"
    config.write_text("model: bert\ntask: rte\nseeds: 5\nscales:\n  small: {model: minilm, max-length: 64}\n")
    small = resolve(CompareSettings, {"seeds": 3}, config, "small")
    assert (small.model, small.max_length, small.seeds) == ("minilm", 64, 3)
    assert resolve(CompareSettings, {}, config).model == "bert"
    with pytest.raises(SettingsError, match=r"--scale smal: .* has small. Did you mean 'small'\?"):
        resolve(CompareSettings, {}, config, "smal")
    with pytest.raises(SettingsError, match="give one with --config"):
        resolve(CompareSettings, {"task": "rte"}, None, "small")


def test_brackets_hold_the_settings_of_one_candidate() -> None:
    settings = CompareSettings(
        task="rte", methods="smoothness, smoothness(radius=0.01, step_size=1), noisytune+smart(weight=3)"
    )
    found = {c.label: c for c in candidates(settings)}
    assert list(found) == ["none", "smoothness", "smoothness(radius=0.01,step_size=1)", "noisytune+smart(weight=3)"]
    assert found["smoothness(radius=0.01,step_size=1)"].set == {"smoothness.radius": 0.01, "smoothness.step_size": 1}
    with pytest.raises(SettingsError, match="write 'smart\\(' as method"):
        candidates(CompareSettings(task="rte", methods=["smart("]))
    with pytest.raises(SettingsError, match="write 'weight' as setting=value"):
        candidates(CompareSettings(task="rte", methods=["smart(weight)"]))


def test_what_chooses_is_not_what_is_scored() -> None:
    several, one = (CompareSettings(task="rte", learning_rates=rates) for rates in ([1e-4, 2e-4], [1e-4]))
    assert several.run_settings(task="rte").hold_out
    assert not one.run_settings(task="rte").hold_out


class Here:
    """Makes the runs in this process."""

    def run(self, plans, watch):
        yield from map(execute, plans)

    def close(self) -> None:
        pass


@pytest.mark.long
def test_what_is_measured_of_each_model_stands_in_the_report(tiny_folder, tmp_path) -> None:
    tiny_model.write_csv(tmp_path / "train.csv", tiny_model.rows(24))
    table = {**TABLE, "columns": [{"name": "L1", "task": "train", "figure": "movement L1", "unit": 1}]}
    settings = CompareSettings(
        model=str(tiny_folder),
        train_file=str(tmp_path / "train.csv"),
        output_dir=str(tmp_path / "out"),
        methods="noisytune",
        seeds=1,
        learning_rates=[1e-3, 1e-2],
        max_steps=3,
        evaluate="movement",
        published=table | {"rows": [{"model": "BERT", "method": "none", "values": [None]}]},
        use_cpu=True,
    )
    (cell,) = compare(settings, engine=Here()).cells
    assert cell.test_splits == ("test",)  # the file has none: its validation rows are kept for it
    made = report(tmp_path / "out")
    moved = [run.metrics["figures"]["movement L1"] for run in made.comparison.cells[0].runs]
    assert len(moved) == 2
    assert all(value > 0 for value in moved)
    beside = made.data.beside
    assert beside is not None
    assert [line.values[0] for line in beside.lines if line.ours] == [(value, None) for value in moved]
    assert "Measured of each model" in made.html()
    assert "movement L1" in made.markdown()
    with pytest.raises(SettingsError, match="--evaluate: there is no part 'movment'"):
        resolve(CompareSettings, {"task": "rte", "evaluate": "movment"})
