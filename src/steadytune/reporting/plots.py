"""The plots of a report. Each says its names beside its marks, and holds its values as text under the mouse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from steadytune.reporting.curves import CurveView
from steadytune.reporting.extent import some
from steadytune.reporting.svg import BAD, GOOD, GRID, INK, MUTED, SURFACE, WIDE, axes, canvas, height, series, tip
from steadytune.reporting.views import Gain, MethodView
from steadytune.support.text import interval, shortened, signed

LABEL_GAP = 15.0


def paired_scores(methods: Sequence[MethodView], metric: str, width: int) -> Figure:
    """For each method a panel with a line per seed, from plain training to training with the method."""
    plain, others = methods[0], methods[1:]
    columns = min(len(others), 3 if width == WIDE else 2)
    rows = math.ceil(len(others) / columns)
    left, gap, head, tall, foot = 44, 14, 54, 150, 34
    figure = canvas(width, rows * (head + tall + foot))
    wide = min((width - left - (columns - 1) * gap - 4) / columns, 200)
    known = [score for method in methods for score in method.scores.values() if score is not None]
    low, high = padded(known, 0.08)
    for place, method in enumerate(others):
        row, column = divmod(place, columns)
        panel = axes(figure, left + column * (wide + gap), row * (head + tall + foot) + head, wide, tall)
        panel.set(xlim=(-0.22, 1.22), ylim=(low, high), xticks=(0, 1), xticklabels=("plain", "with it"))
        panel.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        panel.tick_params(axis="y", labelleft=column == 0)
        _head(panel, method, int(wide // 7.5))
        _slopes(panel, plain, method, metric, low)
    return figure


def _head(panel: Axes, method: MethodView, letters: int) -> None:
    found = method.paired
    panel.annotate(
        shortened(method.label, letters), (-0.02, 1), (0, 26), textcoords="offset points",
        xycoords="axes fraction", color=series(method.slot), fontweight="bold", fontsize=13,
    )  # fmt: skip
    told = "no pair of runs" if not found or not found.n else f"better on {found.wins} of {found.n}"
    failed = method.summary.failed
    told += f", {failed} failed" if failed else ""
    panel.annotate(
        told, (-0.02, 1), (0, 11), textcoords="offset points", xycoords="axes fraction", color=MUTED, fontsize=12
    )


def _slopes(panel: Axes, plain: MethodView, method: MethodView, metric: str, low: float) -> None:
    gains = method.paired.gains if method.paired else {}
    bottom = low + 0.04 * (panel.get_ylim()[1] - low)
    for seed, after in some(method.scores).items():
        before = plain.scores.get(seed)
        if after is None:
            text = tip(f"{method.label}, seed {seed}: failed")
            panel.plot(1, bottom, "x", color=BAD, markersize=7, markeredgewidth=2, clip_on=False, gid=text)
        if before is None and seed in plain.scores:
            text = tip(f"plain, seed {seed}: failed")
            panel.plot(0, bottom, "x", color=BAD, markersize=7, markeredgewidth=2, clip_on=False, gid=text)
        points = [(x, y) for x, y in ((0, before), (1, after)) if y is not None]
        if not points:
            continue
        gain = gains.get(seed)
        color = MUTED if not gain else GOOD if gain > 0 else BAD
        says = ", ".join(
            f"{where} {y:.4f}" for where, y in (("plain", before), (method.label, after)) if y is not None
        )
        panel.plot(
            *zip(*points, strict=True), "-o", color=color, linewidth=1.6, markersize=5, markeredgecolor=SURFACE,
            linestyle="--" if gain is not None and gain < 0 else "-", clip_on=False,
            gid=tip(f"seed {seed}, {metric}: {says}"),
        )  # fmt: skip


def gains(methods: Sequence[MethodView], metric: str, width: int) -> Figure:
    """For each method its mean gain over plain training with the interval, and a dot per seed."""
    shown = [(method, gain) for method in methods[1:] if (gain := method.gain) is not None]
    row, top, foot = 52, 4, 46
    figure = canvas(width, top + row * len(shown) + foot)
    panel = axes(figure, 10, top, width - 24, row * len(shown))
    panel.grid(visible=True, axis="x", color=GRID, linewidth=1)
    panel.grid(visible=False, axis="y")
    values = [0.0]
    for _, gain in shown:
        values += [*gain.by_seed.values(), *(gain.interval or ())]
    panel.set(xlim=padded(values, 0.06), ylim=(len(shown) - 0.35, -0.62), yticks=())
    panel.xaxis.set_major_locator(MaxNLocator(4 if width != WIDE else 6))
    panel.xaxis.set_major_formatter(lambda value, _: signed(value, 4).rstrip("0").rstrip(".") if value else "0")
    panel.axvline(0, color=INK, linewidth=1.4)
    for place, (method, gain) in enumerate(shown):
        _gain_row(panel, place, method, gain, 30 if width == WIDE else 20)
    _below(panel, f"gain in {shortened(metric, _letters(width, 190))}", "worse", "better")
    return figure


def _gain_row(panel: Axes, place: int, method: MethodView, gain: Gain, letters: int) -> None:
    color = series(method.slot)
    figures = f"{signed(gain.mean)}  {interval(gain.interval)}".strip()
    _above_row(panel, place, shortened(method.label, letters), figures, color)
    if gain.interval:
        panel.plot(gain.interval, (place, place), color=color, linewidth=2.4, solid_capstyle="butt")
        for end in gain.interval:
            panel.plot((end, end), (place - 0.1, place + 0.1), color=color, linewidth=2.4)
    for seed, value in some(gain.by_seed).items():
        text = tip(f"{method.label}, seed {seed}: {signed(value, 4)}")
        panel.plot(value, place, "o", color=color, markersize=5, alpha=0.45, markeredgewidth=0, gid=text)
    text = tip(f"{method.label}: mean gain {figures}")
    panel.plot(
        gain.mean, place, "D", color=color, markersize=9, markeredgecolor=SURFACE, markeredgewidth=1.5, gid=text
    )


def _above_row(panel: Axes, place: int, label: str, figures: str, color: str) -> None:
    """Name and figures of a row, above its marks."""
    keep: dict[str, Any] = {"xycoords": panel.get_yaxis_transform(), "textcoords": "offset points", "va": "center"}
    halo: dict[str, Any] = {"bbox": {"facecolor": SURFACE, "edgecolor": "none", "pad": 1.5}}
    panel.annotate(label, (0, place - 0.42), (2, 0), color=color, fontweight="bold", ha="left", **keep, **halo)
    panel.annotate(figures, (1, place - 0.42), (-2, 0), color=INK, fontsize=12.5, ha="right", **keep, **halo)


def _below(panel: Axes, text: str, low: str = "", high: str = "") -> None:
    keep: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "top", "fontsize": 12}
    panel.annotate(text, (0.5, 0), (0, -26), ha="center", color=INK, **keep)
    panel.annotate(f"← {low}" if low else "", (0, 0), (0, -26), ha="left", color=MUTED, **keep)
    panel.annotate(f"{high} →" if high else "", (1, 0), (0, -26), ha="right", color=MUTED, **keep)


def _above(panel: Axes, text: str, left: int) -> None:
    keep: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 12}
    panel.annotate(text, (0, 1), (left, 11), color=INK, **keep)


def cost_against_gain(methods: Sequence[MethodView], metric: str, width: int) -> Figure:
    """What a step costs against what it gains, each relative to plain training."""
    shown = [(m, ratio, gain) for m in methods[1:] if (ratio := m.step_ratio) and (gain := m.gain) is not None]
    figure = canvas(width, 280)
    panel = axes(figure, 58, 22, width - 78, 206)
    panel.grid(visible=True, axis="x", color=GRID, linewidth=1)
    costs = [1.0, *(ratio for _, ratio, _ in shown)]
    ends = [0.0]
    for _, _, gain in shown:
        ends += [gain.mean, *(gain.interval or ())]
    low, high = padded([0.95, 1.3, *costs], 0.1)  # so that noise in the timing does not fill the picture
    panel.set(xlim=(low, high + (high - low) * (0.22 if width == WIDE else 0.4)), ylim=padded(ends, 0.1))
    panel.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    panel.yaxis.set_major_locator(MaxNLocator(5))
    panel.yaxis.set_major_formatter(lambda value, _: signed(value, 4).rstrip("0").rstrip(".") if value else "0")
    panel.axhline(0, color=INK, linewidth=1.2)
    panel.plot(1, 0, "o", color=series(0), markersize=9, markeredgecolor=SURFACE, gid=tip("plain training"))
    labels = [(1.0, 0.0, "plain", series(0))]
    for method, ratio, gain in shown:
        color = series(method.slot)
        if gain.interval:
            panel.plot((ratio, ratio), gain.interval, color=color, linewidth=1.6, alpha=0.55)
        text = tip(f"{method.label}: {ratio:.2f} × the time of a step, gain {signed(gain.mean)}")
        panel.plot(ratio, gain.mean, "D", color=color, markersize=9, markeredgecolor=SURFACE, gid=text)
        labels.append((ratio, gain.mean, shortened(method.label, 22 if width == WIDE else 16), color))
    _labeled(panel, labels)
    _above(panel, f"gain in {shortened(metric, _letters(width, 80))}", -52)
    _below(panel, "time of a training step, plain = 1×")
    return figure


def _labeled(panel: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Texts to the right of their points, moved up or down where two would cover each other."""
    low, high = panel.get_ylim()
    per_pixel = (high - low) / height(panel)
    moved = spread([y / per_pixel for _, y, _, _ in labels], LABEL_GAP)
    for (x, y, text, color), there in zip(labels, moved, strict=True):
        away = there - y / per_pixel
        panel.annotate(
            text, (x, y), (11, away), textcoords="offset points", va="center", color=color, fontsize=12.5,
            fontweight="bold", annotation_clip=False, bbox={"facecolor": SURFACE, "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip


def curves(view: CurveView, width: int) -> Figure:
    """Lines with their names at the right end, and a band from the lowest to the highest run where there is one."""
    tall = max(200.0, LABEL_GAP * len(view.lines) + 10)
    room = 150 if width == WIDE else 104
    figure = canvas(width, tall + 76)
    panel = axes(figure, 50, 26, width - 50 - room, tall)
    ends = []
    for line in view.lines:
        color = series(line.slot)
        if line.band:
            xs, lows, highs = zip(*line.band, strict=True)
            panel.fill_between(xs, lows, highs, color=color, alpha=0.13, linewidth=0)
        xs, ys = zip(*line.points, strict=True)
        marks: dict[str, Any] = {"marker": "o", "markersize": 6, "markeredgecolor": SURFACE} if view.marked else {}
        style = "--" if line.dashed else "-"
        says = (
            "; ".join(f"{_x_text(view, x)}: {y:.4f}" for x, y in line.points)
            if view.marked
            else f"ends at {ys[-1]:.4f}"
        )
        panel.plot(xs, ys, style, color=color, linewidth=2, gid=tip(f"{line.label}: {says}"), **marks)
        ends.append((xs[-1], ys[-1], line.label, color))
    values = [y for line in view.lines for _, y in line.points]
    values += [y for line in view.lines for point in line.band for y in point[1:]]
    panel.set_ylim(*padded(values, 0.06))
    _x_ticks(panel, view)
    panel.yaxis.set_major_locator(MaxNLocator(5))
    _end_labels(panel, ends, 20 if width == WIDE else 14)
    _above(panel, shortened(view.y_label, _letters(width, 20)), -44)
    _below(panel, shortened(view.x_label, _letters(width, 50 + room)))
    return figure


def _letters(width: int, taken: float) -> int:
    """How many letters of the small text fit beside what is taken."""
    return int((width - taken) / 6.6)


def _x_text(view: CurveView, x: float) -> str:
    return dict(view.ticks).get(x, f"{x:g}")


def _x_ticks(panel: Axes, view: CurveView) -> None:
    panel.xaxis.set_minor_locator(NullLocator())
    if view.ticks:
        panel.set_xticks([x for x, _ in view.ticks], [shortened(text, 12) for _, text in view.ticks])
        low, high = view.ticks[0][0], view.ticks[-1][0]
        panel.set_xlim(low - 0.04 * (high - low or 1), high + 0.02 * (high - low or 1))
    else:
        xs = [x for line in view.lines for x, _ in line.points]
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=max(xs) - min(xs) >= 2))
        panel.set_xlim(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1)


def _end_labels(panel: Axes, ends: Sequence[tuple[float, float, str, str]], letters: int) -> None:
    low, high = panel.get_ylim()
    per_pixel = (high - low) / height(panel)
    moved = spread([(y - low) / per_pixel for _, y, _, _ in ends], LABEL_GAP)
    down = max(0.0, max(moved) - height(panel) + 6)
    right = panel.get_xlim()[1]
    for (x, y, text, color), there in zip(ends, moved, strict=True):
        at = low + (there - down) * per_pixel
        panel.add_line(
            Line2D((x, right), (y, y), color=color, linewidth=0.8, linestyle=":", clip_on=False)
            if x < right
            else Line2D((), ())
        )
        short = shortened(text.removesuffix(" updates"), letters)
        panel.annotate(
            short, (right, at), (10, 0), textcoords="offset points", va="center", color=color,
            fontsize=12.5, fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move places apart, as little as that takes, until any two are ``gap`` apart.

    Example:
        >>> spread([10.0, 11.0, 40.0], 15.0)
        [3.0, 18.0, 40.0]
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    groups: list[list[int]] = []
    for i in order:
        groups.append([i])
        while len(groups) > 1 and _start(groups[-1], places, gap) - _end(groups[-2], places, gap) < gap:
            last = groups.pop()
            groups[-1] += last
    moved = list(places)
    for group in groups:
        for rank, i in enumerate(group):
            moved[i] = _start(group, places, gap) + rank * gap
    return moved


def _start(group: Sequence[int], places: Sequence[float], gap: float) -> float:
    return sum(places[i] for i in group) / len(group) - gap * (len(group) - 1) / 2


def _end(group: Sequence[int], places: Sequence[float], gap: float) -> float:
    return _start(group, places, gap) + gap * (len(group) - 1)


def padded(values: Sequence[float], share: float) -> tuple[float, float]:
    """The range of values with a margin; never empty."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = (high - low) * share or abs(high) * share or 0.01
    return low - margin, high + margin
