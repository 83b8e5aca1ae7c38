"""The notebook runs as it is, and what it calls: a comparison from Python, with bars and a report to look at."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
import transformers
from helpers import comparisons

import steadytune
from steadytune import notebook as interactive
from steadytune.errors import SettingsError
from steadytune.reporting.report import Report

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


@pytest.mark.long
@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="the dev dependencies nbclient and ipykernel")
    nbclient = pytest.importorskip("nbclient", reason="the dev dependencies nbclient and ipykernel")
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)  # kept without results
    assert "seeds, updates, reviews = 2, 12, 100" in cells[0].source
    cells[0].source = cells[0].source.replace("2, 12, 100", "1, 1, 4")
    client = nbclient.NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises where a cell does

    def shown(cell: Any, kind: str) -> str:
        return "".join(str(output.get("data", {}).get(kind, "")) for output in cell.outputs)

    _, explained, compared, page, scores, again = cells
    assert "x a plain step" in explained.outputs[0].text
    assert "runs:" in "".join(str(output.get("text", "")) for output in compared.outputs)
    assert shown(compared, "text/plain")
    assert shown(page, "text/html").startswith('<iframe title="steadytune report" sandbox srcdoc=')
    assert "&lt;svg" in shown(page, "text/html")
    assert "'smart', 42" in shown(scores, "text/plain")
    assert shown(again, "text/html").startswith("<iframe")
    assert (tmp_path / "runs" / "notebook" / "report.html").is_file()


def record(key: str, status: str = "finished") -> Any:
    return SimpleNamespace(key=key, candidate="smart\x1b[31m", seed=42, status=status, error="a\x1b[31mb")


def plan(key: str) -> Any:
    return SimpleNamespace(key=key, candidate="smart\x1b[31m", settings=SimpleNamespace(seed=42))


def test_bars_show_one_run_of_several_and_end_clean(capsys) -> None:
    bars = interactive.Bars()
    bars.begin(3, 2, 61.0)
    for key in ("a", "b"):
        bars.run_started(plan(key))
    bars.run_step(plan("b"), 7, 10, 0.5)  # of the run that is not shown
    bars.run_step(plan("a"), 4, 10, 0.25)
    assert bars._updates.n == 4
    bars.run_ended(record("b", "failed"), 2, 3, 30.0, "leader smart")
    assert bars._updates is not None
    bars.run_ended(record("a"), 3, 3, 0.0, "leader smart")
    assert bars._whole.n == 3
    bars.stop()
    bars.stop()
    told = capsys.readouterr()
    assert "leader smart" in told.err
    assert r"failed: a\x1b[31mb" in told.out + told.err
    assert "\x1b[31m" not in told.out + told.err  # text out of data does nothing to the terminal


def test_a_comparison_from_python(tmp_path: Path, monkeypatch) -> None:
    given = {}

    def make(settings: Any, reporter: Any, *, remote: Any) -> None:
        given.update(settings=settings, reporter=reporter, quiet=transformers.utils.logging.get_verbosity())
        settings.folder.mkdir()
        (settings.folder / "comparison.json").write_text(json.dumps(comparisons.comparison().as_json()))

    monkeypatch.setattr(interactive, "run_comparison", make)
    levels = transformers.utils.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    made = steadytune.compare(task="movie-reviews", methods=["smart"], seeds=2, output_dir=str(tmp_path / "runs"))
    assert isinstance(made, Report)
    assert given["settings"].methods == ["smart"]
    assert given["settings"].seeds == 2
    assert isinstance(given["reporter"], interactive.Bars)
    assert given["quiet"] == transformers.logging.ERROR
    assert (transformers.utils.logging.get_verbosity(), datasets.are_progress_bars_disabled()) == levels
    assert (tmp_path / "runs" / "report.html").is_file()
    assert steadytune.report(tmp_path / "runs").sentence == made.sentence
    with pytest.raises(SettingsError, match="Did you mean 'seeds'"):
        steadytune.compare(task="movie-reviews", sseeds=2)
