"""Calibration and robustness in a report: from what the runs kept, and from what `steadytune evaluate` measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from steadytune.comparison.records import Cell, Comparison, RunRecord
from steadytune.reporting.curves import CurveView, Line, candidate_lines
from steadytune.reporting.views import CellView, is_number
from steadytune.reporting.words import label
from steadytune.support.reading import read_json
from steadytune.support.text import plain_text

FILE, FORMAT = "evaluation.json", 1
#: Width of a bin of the reliability diagram is the 15th part of 1.
BINS = 15
#: Fewest rows of a bin, all seeds together; the accuracy of fewer says little.
LEAST_ROWS = 10
NOISES = {
    "typos": "typing errors",
    "casing": "flipped case",
    "keyboard": "neighboring keys",
    "ocr": "misread characters",
    "word_drop": "dropped words",
}


def with_evaluations(comparison: Comparison, folder: Path) -> Comparison:
    """Add to the runs' metrics what `steadytune evaluate` has written into their folders.

    ``calibration`` by split, ``perturbations`` and ``embedding_attack`` as ``{name: [[strength, score], ...]}`` with
    ``evaluated_split`` they are of. A run without the file, or with one of another format, stays as it is.
    """
    return replace(comparison, cells=tuple(_with_evaluations(cell, folder) for cell in comparison.cells))


def _with_evaluations(cell: Cell, folder: Path) -> Cell:
    runs = []
    for run in cell.runs:
        content = _read(folder / "runs" / Path(run.key).name / FILE)  # no way out of the folder
        runs.append(replace(run, metrics={**run.metrics, **_measured(run, content)}) if content else run)
    return replace(cell, runs=tuple(runs))


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def _measured(run: RunRecord, content: Mapping[str, Any]) -> dict[str, Any]:
    kept = dict(run.metrics.get("calibration", {}))
    for split, found in content.get("calibration", {}).items():
        bins = [[b["confidence"], b["accuracy"], b["count"]] for b in found.get("bins", ()) if b.get("count")]
        values = {name: found.get(name) for name in ("rows", "ece", "brier", "nll", "temperature")}
        scaled = found.get("scaled") or {}
        kept.setdefault(split, {**values, "ece_scaled": scaled.get("ece"), "bins": bins})
    noises = {
        kind: sorted([float(rate), found.get("mean")] for rate, found in rates.items())
        for kind, rates in content.get("perturbations", {}).items()
    }
    attack = content.get("embedding_attack", {})
    points = sorted([float(radius), found.get("robust_accuracy")] for radius, found in attack.items())
    settings = content.get("settings", {})
    splits = {part: settings.get(part, {}).get("split", "") for part in ("perturbations", "embedding_attack")}
    return {
        "calibration": kept,
        "perturbations": noises,
        "embedding_attack": {"attack": points},
        "evaluated_split": splits,
        "figures": figures_of(content),
    }


def calibration_curves(view: CellView) -> list[CurveView]:
    """The reliability diagram of each test split: all seeds' predictions in one."""
    found = []
    for split in view.cell.test_splits or ("validation",):
        lines = [line for candidate in view.cell.candidates if (line := _pooled(view, candidate, split)) is not None]
        if lines:
            even = Line("perfectly calibrated", 0, ((0.0, 0.0), (1.0, 1.0)), dashed=True)
            title = f"Calibration on {plain_text(split)}"
            caption = (
                "All seeds' predictions together, by confidence. Below the dashed line the model is "
                f"overconfident. Bins of fewer than {LEAST_ROWS} rows are left out."
            )
            lowest = min(min(point) for line in lines for point in line.points)
            even = replace(even, points=((lowest, lowest), (1.0, 1.0)))
            found.append(CurveView(title, "confidence", "share that is right", (*lines, even), (), True, caption))
    return found


def _pooled(view: CellView, candidate: str, split: str) -> Line | None:
    sums: dict[int, list[float]] = {}
    for run in view.cell.of(candidate):
        measured = run.metrics.get("calibration", {}).get(split) or {}
        for confidence, accuracy, count in measured.get("bins", ()):
            if is_number(confidence) and is_number(accuracy) and is_number(count):
                place = min(max(math.ceil(confidence * BINS) - 1, 0), BINS - 1)
                total = sums.setdefault(place, [0.0, 0.0, 0.0])
                for i, value in enumerate((confidence * count, accuracy * count, count)):
                    total[i] += value
    points = tuple((c / n, a / n) for _, (c, a, n) in sorted(sums.items()) if n >= LEAST_ROWS)
    return Line(label(candidate), view.slots[candidate], points) if len(points) > 1 else None


def robustness_curves(view: CellView) -> list[CurveView]:
    """The score under each kind of noise by its rate, and under the attack on the embeddings by its radius."""
    finished = [run for run in view.cell.runs if run.status == "finished"]
    metric = plain_text(view.cell.metric)
    found = []
    for part, x_label in (("perturbations", "rate of the noise"), ("embedding_attack", "radius of the attack")):
        kinds = dict.fromkeys(kind for run in finished for kind in run.metrics.get(part, ()))
        for kind in kinds:
            lines = candidate_lines(view, lambda run, p=part, k=kind: run.metrics.get(p, {}).get(k))
            split = next((s for run in finished if (s := run.metrics.get("evaluated_split", {}).get(part))), "")
            on = f" on {plain_text(split)}" if split else ""
            if part == "embedding_attack":
                title, y_label = f"Attack on the embeddings{on}", f"accuracy{on}"
            else:
                title = f"{NOISES.get(kind, plain_text(kind)).capitalize()}{on}"
                y_label = f"{metric}{on}"
            caption = "Measured by steadytune evaluate, on the runs whose model was kept."
            found.append(CurveView(title, x_label, y_label, lines, (), True, caption))
    return [curve for curve in found if curve.lines]


def calibration_rows(view: CellView) -> list[tuple[str, str, int, list[float | None]]]:
    """Means over the seeds: split, candidate, slot, and ECE, ECE after temperature scaling, Brier score, NLL."""
    rows = []
    for split in view.cell.test_splits or ("validation",):
        for candidate in view.cell.candidates:
            measured = [run.metrics.get("calibration", {}).get(split) or {} for run in view.cell.of(candidate)]
            means = [_mean(measured, name) for name in ("ece", "ece_scaled", "brier", "nll")]
            if means[0] is not None:
                rows.append((plain_text(split), label(candidate), view.slots[candidate], means))
    return rows


def _mean(measured: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [found[name] for found in measured if is_number(found.get(name))]
    return sum(values) / len(values) if values else None


def figure_rows(view: CellView) -> tuple[list[str], list[tuple[str, int, list[float | None]]]]:
    """Means over the seeds of what `steadytune evaluate` measured: names, and rows of candidate, slot, values."""
    of_runs = {c: [run.metrics.get("figures", {}) for run in view.cell.of(c)] for c in view.cell.candidates}
    names = list(dict.fromkeys(name for found in of_runs.values() for figures in found for name in figures))
    rows = [(label(c), view.slots[c], [_mean(found, name) for name in names]) for c, found in of_runs.items()]
    return [plain_text(name) for name in names], [row for row in rows if any(v is not None for v in row[2])]


def figures_of(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The main numbers of an ``evaluation.json`` by name; none for what was not measured.

    >>> figures_of({"movement": {"total": {"relative_l1": 0.02, "relative_l2": 0.03}}})
    {'movement L1': 0.02, 'movement L2': 0.03}
    """
    total = evaluation.get("movement", {}).get("total", {})
    found = {"movement L1": total.get("relative_l1"), "movement L2": total.get("relative_l2")}
    for name, entry in evaluation.get("annotators", {}).items():
        for agreement, group in entry.get("groups", {}).items():
            found[f"accuracy {name} {agreement}"] = group.get("accuracy")
            found[f"cross-entropy {name} {agreement}"] = (group.get("five") or {}).get("cross_entropy")
    for radius, entry in evaluation.get("smoothness", {}).items():
        found[f"smoothness {float(radius):g}"] = entry.get("adversarial")
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}
