"""Which plots a page has, and what a screen reader says of each."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

from markupsafe import Markup

from steadytune.reporting import plots
from steadytune.reporting.curves import CurveView, size_curves, sweep_curves, training_curves
from steadytune.reporting.extent import METHODS, cells_with_plots, fewer_lines, left_out, most_telling
from steadytune.reporting.measured import calibration_curves, robustness_curves
from steadytune.reporting.svg import Draw, inline
from steadytune.reporting.views import CellView, MethodView, ReportData
from steadytune.support.text import interval, number, plain_text, ratio, signed


@dataclass(frozen=True)
class Picture:
    """A plot with its words."""

    title: str
    caption: str
    svg: Markup


@dataclass
class Figures:
    """The plots of a report: for each cell, and over all cells; ``note`` says which cells have none."""

    cells: list[list[Picture]] = field(default_factory=list)
    sizes: list[Picture] = field(default_factory=list)
    sweeps: list[Picture] = field(default_factory=list)
    note: str = ""


def figures(data: ReportData) -> Figures:
    """Draw every plot that the comparison has values for."""
    made = Figures()
    count = cells_with_plots(data.cells)
    for place, view in enumerate(data.cells):
        made.cells.append(_of_cell(view, f"c{place}") if place < count else [])
    if len(data.cells) > count:
        made.note = f"The first {count} of {len(data.cells)} have plots; the tables are the same for all."
    for place, view in enumerate(size_curves(data)):
        made.sizes.append(_curve(view, f"size{place}", "Mean of the seeds."))
    for place, view in enumerate(sweep_curves(replace(data, cells=data.cells[:count]))):
        made.sweeps.append(_curve(view, f"sweep{place}", "The band is the exact 95 % interval, from six seeds on."))
    return made


def _of_cell(view: CellView, name: str) -> list[Picture]:
    metric = f"{plain_text(view.cell.metric)} on {view.main.name}"
    tested = most_telling(view.main.tested)
    omitted = left_out(view.main.tested, tested)
    drawn: list[Picture] = []

    def add(title: str, caption: str, draw: Draw, description: str) -> None:
        drawn.append(Picture(title, f"{caption} {omitted}".strip(), inline(draw, f"{name}-{len(drawn)}", description)))

    if _has_gain(tested):
        add(
            "Gain over plain training",
            f"The diamond is the mean of the seeds, each dot one seed{_interval_in_words(tested)}",
            partial(plots.gains, tested, metric),
            "; ".join(_gain_in_words(m) for m in tested[1:]),
        )
        add(
            "Every seed, plain and with the method",
            "A line is one seed with the same data order and the same new head on both sides. "
            "Solid lines rise to a better score, dashed ones to a worse; a cross is a run that gave no score.",
            partial(plots.paired_scores, tested, metric),
            "; ".join(_wins_in_words(m) for m in tested[1:]),
        )
    if any(m.step_ratio and m.gain for m in tested[1:]):
        add(
            "What it costs, what it gains",
            "Upper left is good. Time of a step is measured in the same runs, as a multiple of plain training.",
            partial(plots.cost_against_gain, tested, metric),
            "; ".join(f"{m.label}: {ratio(m.step_ratio)} the time, {_gain_in_words(m)}" for m in tested[1:]),
        )
    found = (*training_curves(view), *calibration_curves(view), *robustness_curves(view))
    for curve in (fewer_lines(curve, tested) for curve in found):
        add(curve.title, _curve_caption(curve), partial(plots.curves, curve), _in_words(curve))
    return drawn


def _curve(view: CurveView, name: str, caption: str) -> Picture:
    if len(view.lines) > METHODS + 1:
        caption += f" The first {METHODS + 1} of {len(view.lines)} lines are drawn."
        view = replace(view, lines=view.lines[: METHODS + 1])
    return Picture(view.title, caption, inline(partial(plots.curves, view), name, _in_words(view)))


def _curve_caption(view: CurveView) -> str:
    banded = any(line.band for line in view.lines)
    band = "Mean of the seeds; the band goes from the lowest to the highest." if banded else ""
    return " ".join(part for part in (band, view.caption) if part)


def _has_gain(methods: tuple[MethodView, ...]) -> bool:
    return any(m.gain is not None for m in methods[1:])


def _interval_in_words(methods: tuple[MethodView, ...]) -> str:
    if not any(m.gain is not None and m.gain.interval for m in methods[1:]):
        return "; for an interval the seeds are too few, or all score the same."
    return ", the line the exact 95 % interval. One that touches the line at 0 may be chance."


def _gain_in_words(method: MethodView) -> str:
    if method.gain is None:
        return f"{method.label}: no pair of runs"
    return f"{method.label}: mean gain {signed(method.gain.mean)} {interval(method.gain.interval)}".strip()


def _wins_in_words(method: MethodView) -> str:
    if method.paired is None or not method.paired.n:
        return f"{method.label}: no pair of runs"
    return f"{method.label}: better on {method.paired.wins} of {method.paired.n} seeds"


def _in_words(view: CurveView) -> str:
    ends = "; ".join(f"{line.label} {number(line.points[-1][1])}" for line in view.lines)
    return f"{view.y_label} by {view.x_label}; at the right end: {ends}"
