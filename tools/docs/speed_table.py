"""The tables of docs/methods/speed.md and benchmarks/README.md, from what `make bench` and `bench-gpu` have kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def speed_tables(folder: Path = RESULTS) -> list[str]:
    """A section per machine: the targets with what was measured, and what every method costs."""
    lines: list[str] = []
    for path in sorted(folder.glob("speed_*.json")):
        lines += _section(json.loads(path.read_text(encoding="utf-8")), path.name)
    return lines or ["Nothing has been measured yet."]


def missed_table(folder: Path = RESULTS) -> list[str]:
    """One row for each target that a machine has missed, for benchmarks/README.md."""
    lines = ["| machine | what | measured | target | off by |", "|---|---|---|---|---|"]
    for path in sorted(folder.glob("speed_*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for row in (row for part in content["parts"].values() for row in part["rows"]):
            if row["verdict"].startswith("missed"):
                lines.append(f"| {path.stem.removeprefix('speed_')} {_missed(row)}")
    return lines if len(lines) > 2 else ["Nothing that was measured has missed its target."]


def _missed(row: dict[str, Any]) -> str:
    distance = f"{row['value'] / row['limit'] - 1:+.0%}" if row["limit"] else _number(row["value"])
    within = ", within the spread" if "within" in row["verdict"] else ""
    sign = "≤" if row["bound"] == "at most" else "≥"
    what, value, limit = _cell(row["what"]), _number(row["value"]), _number(row["limit"])
    return f"| {what} | {value} {row['unit']} | {sign} {limit} | {distance}{within} |"


def _section(content: dict[str, Any], name: str) -> list[str]:
    machine, setting, parts = content["machine"], content["setting"], content["parts"]
    on_gpu = setting["device"] != "cpu"
    where = machine["device"] if on_gpu else f"{machine['processor']}, {setting['threads']} threads"
    versions = ", ".join(f"{package} {content['versions'][package]}" for package in ("torch", "transformers"))
    loads = [part[key] for part in parts.values() for key in ("load_at_start", "load_at_end")]
    commits = {part["commit"][:7] + (" with changes" if part["changed_since"] else "") for part in parts.values()}
    lines = [
        f"## {'GPU' if on_gpu else 'CPU'}: {where}",
        "",
        f"{setting['batch']} rows of {setting['tokens']} tokens, {setting['precision']}, {versions}, commit "
        f"{', '.join(sorted(commits))}; {machine['processors']} processors with a load of {min(loads):.1f} to "
        f"{max(loads):.1f} (`benchmarks/results/{name}`).",
        "",
        "| what | measured | 95 % interval | target | |",
        "|---|---|---|---|---|",
    ]
    for part_name, part in parts.items():
        lines += [_row(row) for row in part["rows"]]
        if part["failed"]:
            lines.append(f"| {part_name} | | | | failed: {_cell(part['failed'])} |")
    lines.append("")
    if "step" in parts:
        for model, figures in parts["step"]["details"].items():
            lines += [f"### An update of {model}", "", *_costs(figures), ""]
    if "methods" in parts:
        lines += [f"### The other methods, on {setting['models'][0]}", "", *_costs(parts["methods"]["details"]), ""]
    return lines


def _row(row: dict[str, Any]) -> str:
    value = "" if row["value"] is None else f"{_number(row['value'])} {row['unit']}"
    spread = row["spread"]
    interval = "" if spread is None else _interval(spread)
    sign = "≤" if row["bound"] == "at most" else "≥"
    target = "" if row["limit"] is None else f"{sign} {_number(row['limit'])}"
    verdict = f"**{row['verdict']}**" if row["verdict"] else ""
    note = "; ".join(text for text in (verdict, _cell(row["note"])) if text)
    return f"| {_cell(row['what'])} | {value} | {interval} | {target} | {note} |"


def _costs(figures: dict[str, Any]) -> Iterator[str]:
    """What an update costs with each of some methods, relative to plain training."""
    names = (
        "time",
        "95 % interval",
        "passes alone",
        "operations",
        "arithmetic",
        "peak of activations",
        "saved",
        "passes",
    )
    yield f"| | {' | '.join(names)} |"
    yield f"|{'---|' * (len(names) + 1)}"
    for name, figure in figures.items():
        time = figure["time"]
        cells = [
            f"{time['median']:.2f}",
            _interval(time),
            f"{figure['sum_of_passes']['median']:.2f}" if "sum_of_passes" in figure else "",
            f"{figure['operations_ratio']:.2f}",
            f"{figure['arithmetic']:.2f}" if "arithmetic" in figure else "",
            f"{figure['peak_allocated_ratio']:.2f}",
            f"{figure['peak_saved_ratio']:.2f}",
            _passes(figure.get("passes")),
        ]
        yield f"| `{name}` | {' | '.join(cells)} |"


def _interval(spread: dict[str, Any]) -> str:
    """The interval of a median, with its chance where there were too few rounds for 95 %."""
    ends = f"{_number(spread['low'])} to {_number(spread['high'])}"
    return ends if spread["confidence"] >= 0.95 else f"{ends} ({spread['confidence']:.0%})"


def _passes(counted: dict[str, float] | None) -> str:
    """Forward passes with and without a graph, and backward passes to the weights and to the embeddings alone.

    >>> _passes({"forwards": 3, "forwards_without_graph": 1, "backwards": 2, "backwards_to_embeddings": 1})
    '3 + 1, 2 + 1'
    """
    if counted is None:
        return ""
    names = ("forwards", "forwards_without_graph", "backwards", "backwards_to_embeddings")
    some = [f"{counted[name]:.3g}" for name in names]
    return f"{some[0]} + {some[1]}, {some[2]} + {some[3]}"


def _number(value: float) -> str:
    """Three significant figures, and no more than a small number needs.

    >>> [_number(value) for value in (3.14159, 482.7, 0.0, 1700.0)]
    ['3.14', '483', '0', '1700']
    """
    return f"{value:.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
