"""The plots of lines: over the course of training, over training sizes, over a setting's values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steadytune.comparison.records import RunRecord
from steadytune.reporting.views import CellView, MethodView, ReportData, is_number
from steadytune.reporting.words import label, size
from steadytune.support.text import plain_text

CURVE_POINTS = 120


@dataclass(frozen=True)
class Line:
    """A line of a plot; ``band`` holds ``(x, lowest, highest)``."""

    label: str
    slot: int
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...] = ()
    dashed: bool = False


@dataclass(frozen=True)
class CurveView:
    """A plot of lines; ``ticks`` names places on the x axis, where they are not simply numbers."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    ticks: tuple[tuple[float, str], ...] = ()
    marked: bool = False
    caption: str = ""


def training_curves(view: CellView) -> list[CurveView]:
    """Loss and validation score in training."""
    metric = plain_text(view.cell.metric)
    loss = candidate_lines(view, lambda run: run.training.get("curve"))
    scores = candidate_lines(view, lambda run: run.training.get("validation_curve"))
    found = [
        CurveView("Training loss", "update", "training loss", loss),
        CurveView("Validation score", "epoch", f"validation {metric}", scores),
    ]
    return [found_view for found_view in found if found_view.lines]


def candidate_lines(view: CellView, points_of: Callable[[RunRecord], Any]) -> tuple[Line, ...]:
    """One line for each candidate: the mean of its runs, with the range of them."""
    lines = []
    for candidate in view.cell.candidates:
        runs = [_points(points_of(run)) for run in view.cell.of(candidate) if run.status == "finished"]
        dashed = view.cell.what(candidate).kind == "longer plain"
        line = _mean_line(
            label(candidate), view.slots[candidate], [points for points in runs if points], dashed=dashed
        )
        if line is not None:
            lines.append(line)
    return tuple(lines)


def _mean_line(name: str, slot: int, runs: Sequence[Mapping[float, float]], *, dashed: bool) -> Line | None:
    """The mean over the runs where all of them were measured, thinned; the longest run alone if they share nothing."""
    if not runs:
        return None
    shared = sorted(set.intersection(*(set(run) for run in runs)))
    if len(shared) < 2:
        longest = max(runs, key=len)
        runs, shared = [longest], sorted(longest)
    if len(shared) < 2:
        return None
    every = math.ceil(len(shared) / CURVE_POINTS)
    shared = [*shared[:-1][::every], shared[-1]]
    points = tuple((x, sum(run[x] for run in runs) / len(runs)) for x in shared)
    band = tuple((x, min(run[x] for run in runs), max(run[x] for run in runs)) for x in shared)
    return Line(name, slot, points, band if len(runs) > 1 else (), dashed=dashed)


def _points(values: Any) -> dict[float, float]:
    pairs = [pair for pair in values or () if isinstance(pair, list | tuple) and len(pair) >= 2]
    return {float(pair[0]): float(pair[1]) for pair in pairs if is_number(pair[0]) and is_number(pair[1])}


def size_curves(data: ReportData) -> list[CurveView]:
    """For each task that was trained at several sizes, the scores by size."""
    found = []
    for task in dict.fromkeys(view.cell.task for view in data.cells):
        views = [view for view in data.cells if view.cell.task == task]
        if len(views) > 1:
            found += _by_size(task, sorted(views, key=_rows))
    return [view for view in found if view.lines]


def sweep_curves(data: ReportData) -> list[CurveView]:
    """For each setting that was varied, the gain by its value."""
    vary = data.comparison.settings.get("vary") or {}
    found = [_sweep(view, key, values) for view in data.cells for key, values in vary.items()]
    return [view for view in found if view.lines]


def _rows(view: CellView) -> tuple[float, str]:
    """A key that sorts training sizes."""
    text = view.cell.train_size
    if text is None:
        return math.inf, ""
    try:
        return float(text.removesuffix("%")), text
    except ValueError:
        return math.inf, text


def _by_size(task: str, views: Sequence[CellView]) -> list[CurveView]:
    """Two plots: scores, and gains over plain training."""
    counts = [_rows(view)[0] for view in views]
    as_numbers = all(0 < count < math.inf for count in counts) and len({_unit(view) for view in views}) == 1
    xs = [math.log10(count) for count in counts] if as_numbers else [float(i) for i in range(len(views))]
    ticks = tuple((x, size(view.cell.train_size).removesuffix(" rows")) for x, view in zip(xs, views, strict=True))
    scores, gains = _Lines(), _Lines()
    for x, view in zip(xs, views, strict=True):
        for method in view.main.methods:
            known = [score for score in method.scores.values() if score is not None]
            scores.add(method, x, method.summary.mean, (min(known), max(known)) if known else None)
            if method.gain is not None:
                gains.add(method, x, method.gain.mean, method.gain.interval)
    metric = f"{plain_text(views[0].cell.metric)} on {views[0].main.name}"
    plain = Line("plain", 0, ((xs[0], 0.0), (xs[-1], 0.0)), dashed=True)
    over_plain = gains.lines()
    return [
        CurveView(f"{plain_text(task)}: score", "training rows", metric, scores.lines(), ticks, True),
        CurveView(
            f"{plain_text(task)}: gain over plain training",
            "training rows",
            f"gain in {metric}",
            (*over_plain, plain) if over_plain else (),
            ticks,
            True,
        ),
    ]


class _Lines:
    """Lines that grow point by point, one for each candidate."""

    def __init__(self) -> None:
        self.points: dict[MethodName, list[tuple[float, float]]] = {}
        self.bands: dict[MethodName, list[tuple[float, float, float]]] = {}

    def add(self, method: MethodView, x: float, y: float | None, ends: tuple[float, float] | None) -> None:
        name = (method.label, method.slot, method.statistics.kind == "longer plain")
        if y is not None:
            self.points.setdefault(name, []).append((x, y))
        if ends is not None:
            self.bands.setdefault(name, []).append((x, *ends))

    def lines(self) -> tuple[Line, ...]:
        few = len(self.points) <= 4  # more bands than that hide each other
        return tuple(
            Line(name, slot, tuple(points), tuple(self.bands.get((name, slot, dashed), ())) if few else (), dashed)
            for (name, slot, dashed), points in self.points.items()
        )


MethodName = tuple[str, int, bool]


def _unit(view: CellView) -> str:
    return "%" if (view.cell.train_size or "").endswith("%") else ""


def _sweep(view: CellView, key: str, values: Sequence[Any]) -> CurveView:
    varied: dict[str, dict[int, MethodView]] = {}
    bases = {found.statistics.candidate: found for found in view.main.tested[1:]}
    for found in bases.values():
        what = view.cell.what(found.statistics.candidate)
        if what.varied_from is not None and what.varied.get(key) in values:
            varied.setdefault(what.varied_from, {})[list(values).index(what.varied[key])] = found
    lines = []
    for varied_from, places in varied.items():
        missing = [i for i in range(len(values)) if i not in places]
        base = bases.get(varied_from)
        if base is not None and len(missing) == 1:  # equal to the defaults, so it was trained once, under that name
            places[missing[0]] = base
        gains = [(float(i), places[i].gain) for i in sorted(places)]
        points = tuple((x, gain.mean) for x, gain in gains if gain is not None)
        band = tuple((x, *gain.interval) for x, gain in gains if gain is not None and gain.interval)
        if len(points) > 1:
            slot = (base or next(iter(places.values()))).slot
            lines.append(Line(plain_text(varied_from), slot, points, band))
    plain = Line("plain", 0, ((0.0, 0.0), (float(len(values) - 1), 0.0)), dashed=True)
    ticks = tuple((float(i), plain_text(f"{v:g}" if is_number(v) else v)) for i, v in enumerate(values))
    y_label = f"gain in {plain_text(view.cell.metric)} over plain training"
    return CurveView(view.title, plain_text(key), y_label, (*lines, plain) if lines else (), ticks, marked=True)
