"""The papers' tables as configurations: each can be planned at every scale, and its columns are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from steadytune.comparison.candidates import candidates
from steadytune.settings.compare import CompareSettings
from steadytune.settings.multi_task import MultiTaskSettings
from steadytune.settings.resolve import read_config, resolve
from steadytune.settings.train import TrainSettings
from steadytune.tasks.named.registry import task_record

SUITES = sorted((Path(__file__).parents[2] / "suites").glob("*.yaml"))
MULTI_TASK = {"smart-multi-task"}


def _scales(path: Path) -> list[str | None]:
    return [None, *read_config(path).get("scales", {})]


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_a_suite_can_be_planned_at_each_scale(path: Path) -> None:
    for scale in _scales(path):
        if path.stem in MULTI_TASK:
            settings: TrainSettings = resolve(MultiTaskSettings, {}, path, scale)
            assert settings.methods
            continue
        settings = resolve(CompareSettings, {}, path, scale)
        labels = [candidate.label for candidate in candidates(settings)]
        assert labels[0] == "none"
        assert len(labels) >= 2
        for task in settings.tasks:
            assert not task_record(task).evaluation_only
        table = settings.published
        for column in table.columns if table is not None else ():
            if column.task is not None and column.metric is not None:
                assert column.metric in task_record(column.task).metrics, column


def test_every_table_and_figure_of_both_papers_has_a_suite() -> None:
    titles = " ".join(path.read_text(encoding="utf-8") for path in SUITES)
    for number in (2, 3):
        assert f"NoisyTune, table {number}" in titles
    for number in (2, 3, 4, 5, 6):
        assert f"NoisyTune, figure {number}" in titles
    for number in (1, 3, 4, 5, 6, 7):
        assert f"SMART, table {number}" in titles
    assert "SMART, figure 2" in titles


def test_published_averages_are_those_of_their_rows() -> None:
    """A number that was copied wrongly shows in the mean that the paper prints."""
    settings = resolve(CompareSettings, {}, SUITES[0].with_name("noisytune-glue.yaml"))
    assert settings.published is not None
    for row in settings.published.rows:
        *values, average = [value for value in row.values if value is not None]
        assert average == pytest.approx(sum(values) / len(values), abs=0.06), row
