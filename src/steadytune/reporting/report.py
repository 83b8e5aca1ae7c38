"""The report of a comparison: one HTML file that opens from disk, and Markdown, CSV, JSON and a model card."""

from __future__ import annotations

import csv
import importlib
import io
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import escape

from steadytune.comparison.records import Comparison, RunRecord, read_comparison
from steadytune.comparison.unfinished import unfinished
from steadytune.reporting import words
from steadytune.reporting.columns import columns, groups, spread_of
from steadytune.reporting.measured import calibration_rows, figure_rows, with_evaluations
from steadytune.reporting.model_card import model_cards
from steadytune.reporting.shared import for_sharing, text_for_sharing
from steadytune.reporting.views import CellView, ReportData, report_data
from steadytune.support import text
from steadytune.support.atomic_files import write_atomically
from steadytune.support.text import plain_text
from steadytune.support.writing import make_folder, writes_below
from steadytune.version import __version__

COSTS = ("updates", "seconds", "seconds_per_update", "peak_memory_bytes")
FILTERS = {
    **{name: getattr(words, name) for name in ("label", "size", "table_cell")},
    **{name: getattr(text, name) for name in (
        "plain_text", "number", "signed", "interval_or_dash", "ratio", "chance", "rate", "duration", "percent",
    )},
    "spread_of": spread_of,
}  # fmt: skip
#: Runs of a comparison whose json file is laid out for people.
LAID_OUT = 1000
HTML, MARKDOWN, CSV, JSON, CARD = "report.html", "report.md", "report.csv", "report.json", "model-card.md"


def report(folder: str | Path, *, full_environment: bool = False) -> Report:
    """Read the comparison in a folder and work out its report.

    Args:
        folder: of the comparison.
        full_environment: keep absolute paths, hosts, processes and the whole description of the machine; else the
            report can be given away.

    Raises:
        SettingsError: the folder holds no comparison, or a damaged one.
    """
    folder = Path(folder)
    comparison = read_comparison(folder)
    missing = unfinished(folder, comparison)
    found = with_evaluations(comparison, folder)
    if full_environment:
        return Report(found, missing=missing)
    made = Report(for_sharing(found, folder), missing=text_for_sharing(missing, comparison, folder))
    made.missing_here = missing
    return made


class Report:
    """What a comparison says, in the forms that people and programs read.

    Args:
        comparison: what is known of its runs.
        missing: what a reader must know where runs that were asked for are missing.

    Example:
        >>> empty = Report(Comparison({}, "movie-reviews", "accuracy", (), {}, "steadytune compare"))
        >>> empty.markdown().splitlines()[0]
        '# Nothing was compared.'
    """

    def __init__(self, comparison: Comparison, missing: str = "") -> None:
        self.comparison, self.missing = comparison, missing
        #: The same with the paths of this machine, for who sits at it.
        self.missing_here = missing
        self.data: ReportData = report_data(comparison)

    @property
    def sentence(self) -> str:
        """The verdict."""
        return self.data.sentence

    def html(self) -> str:
        """One page with its style and pictures; it has no scripts and fetches nothing."""
        from steadytune.reporting.figures import figures

        return _template("report.html").render(figures=figures(self.data), **self._names())

    def markdown(self) -> str:
        """The verdict and the tables, for a pull request or a README."""
        return _template("report.md").render(**self._names())

    def csv(self) -> str:
        """One line for each run and split, tuning runs included; text cannot start a formula in a spreadsheet."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(_Line.__dataclass_fields__))
        writer.writeheader()
        for view in self.data.cells:
            for stage, runs in (("tuning", view.cell.tuning), ("compared", view.cell.runs)):
                for run in runs:
                    writer.writerows(_lines(view, stage, run))
        return text.getvalue()

    def json(self) -> str:
        """All figures of the report, and the comparison they come from."""
        cells = [
            {
                "task": view.cell.task,
                "train_size": view.cell.train_size,
                "verdict": {**asdict(view.verdict), "sentence": view.verdict.sentence},
                "trust": asdict(view.trust),
                "statistics": [asdict(split.statistics) for split in view.splits],
            }
            for view in self.data.cells
        ]
        content = {
            "format_version": 1,
            "steadytune": __version__,
            "verdict": {"kind": self.data.kind, "sentence": self.sentence},
            "missing": self.missing,
            "cells": cells,
            "comparison": self.comparison.as_json(),
        }
        # An indented file is written ten times as slowly.
        indent = 2 if len(self.data.runs) <= LAID_OUT else None
        try:
            text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
            text.encode()
        except (ValueError, TypeError):  # repairing all values takes longer than writing them
            text = json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)
        return text + "\n"

    def model_card(self) -> str:
        """A card for the best model, with its results in the form of ``model-index``; empty without any result.

        Of several tasks it is the first one's; `write` makes a card for each.
        """
        return next(iter(model_cards(self.data).values()), "")

    def write_html(self, path: str | Path) -> Path:
        """Write `html`."""
        return _write(path, self.html())

    def write_markdown(self, path: str | Path) -> Path:
        """Write `markdown`."""
        return _write(path, self.markdown())

    def write_csv(self, path: str | Path) -> Path:
        """Write `csv`."""
        return _write(path, self.csv())

    def write_json(self, path: str | Path) -> Path:
        """Write `json`."""
        return _write(path, self.json())

    def write_model_card(self, path: str | Path) -> Path:
        """Write `model_card`."""
        return _write(path, self.model_card())

    def write(self, folder: str | Path) -> list[Path]:
        """Write every form into a folder, under its usual name, and return the files, the page first."""
        folder = Path(folder)
        with writes_below(folder):
            make_folder(folder)
            written = [
                self.write_html(folder / HTML),
                self.write_markdown(folder / MARKDOWN),
                self.write_csv(folder / CSV),
                self.write_json(folder / JSON),
            ]
            for place, (task, card) in enumerate(model_cards(self.data).items()):
                written.append(_write(folder / (_card_name(task) if place else CARD), card))
        return written

    def show(self, height: int = 900) -> None:
        """Show the page in a notebook; elsewhere print the Markdown.

        Args:
            height: of the frame in pixels.
        """
        running = sys.modules.get("IPython")  # a notebook has it loaded
        if running is None or running.get_ipython() is None:
            print(self.markdown())
            return
        display: Any = importlib.import_module("IPython.display")
        display.display(display.HTML(self._frame(height)))

    def _repr_html_(self) -> str:
        return self._frame(900)

    def _frame(self, height: int) -> str:
        # A frame keeps the notebook's style and the page's apart.
        style = f"width:100%;height:{int(height)}px;border:0"
        page = escape(self.html())
        return f'<iframe title="steadytune report" sandbox srcdoc="{page}" style="{style}"></iframe>'

    def _names(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "comparison": self.comparison,
            "missing": self.missing,
            "version": __version__,
            "columns": columns,
            "column_groups": lambda statistics: groups(columns(statistics)),
            "calibration_rows": calibration_rows,
            "figure_rows": figure_rows,
        }


@dataclass(frozen=True)
class _Line:
    """A line of the CSV file."""

    task: str
    train_size: str
    stage: str
    candidate: str
    seed: int
    learning_rate: float
    status: str
    error: str
    split: str
    metric: str
    score: float | None
    updates: Any
    seconds: Any
    seconds_per_update: Any
    peak_memory_bytes: Any
    key: str


def _lines(view: CellView, stage: str, run: RunRecord) -> list[dict[str, Any]]:
    cell = view.cell
    splits = ("validation",) if stage == "tuning" else ("validation", *cell.test_splits)
    costs = {
        name: run.training.get(name) for name in ("updates", "seconds", "seconds_per_update", "peak_memory_bytes")
    }
    lines = []
    for split in dict.fromkeys(splits):
        line = _Line(
            task=run.task,
            train_size="all" if run.train_size is None else run.train_size,
            stage=stage,
            candidate=run.candidate,
            seed=run.seed,
            learning_rate=run.learning_rate,
            status=run.status,
            error=run.error or "",
            split=split,
            metric=cell.metric,
            score=run.score(split, cell.metric),
            key=run.key,
            **costs,
        )
        lines.append({name: _no_formula(value) for name, value in vars(line).items()})
    return lines


def _no_formula(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = plain_text(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _finite(value: Any) -> Any:
    """JSON knows neither NaN nor infinity, and files no lone surrogates."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {_finite(str(key)): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _card_name(task: str) -> str:
    safe = "".join(c if c.isalnum() or c in "+._-" else "_" for c in task)
    return f"{Path(CARD).stem}-{safe}.md"


def _write(path: str | Path, text: str) -> Path:
    path = Path(path)
    write_atomically(path, text)
    return path


def _template(name: str) -> Any:
    environment = Environment(
        loader=PackageLoader("steadytune.reporting", "templates"),
        autoescape=name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    environment.filters["as_json"] = lambda value: json.dumps(_finite(value), ensure_ascii=False, sort_keys=True)
    return environment.get_template(name)
