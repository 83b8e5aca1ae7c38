"""An evaluation as tables that fit 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from steadytune.cli.views.console import PlainTable
from steadytune.support.text import printable

Content = Mapping[str, Any]
MOST_METRICS = 4


def tables(content: Content, only: Sequence[str] = ()) -> Iterator[Table | str]:
    """Yield a table for every part that the content holds, and a line for each that was not done.

    Args:
        content: of ``evaluation.json``.
        only: parts to show; all of them if empty.
    """
    for name, show in _PARTS.items():
        if (not only or name in only) and name in content:
            found = show(content)
            yield from found if isinstance(found, list) else [found]
    for name, reason in content["not_done"].items():
        if not only or name in only:
            yield f"[bold]{escape(printable(name))}[/] not done: {escape(printable(str(reason)))}"


def _sets(content: Content) -> Table:
    metric, found = content["task"]["metric"], content["sets"]
    first = next(iter(found.values()))["metrics"]
    names = [metric, *(n for n in first if n not in (metric, "non_finite"))][:MOST_METRICS]
    table = _table("Sets", "set", "kind", "rows", *names)
    for name, entry in found.items():
        kind = entry["kind"].replace("_", " ")
        table.add_row(name, kind, f"{entry['rows']:,}", *(_number(entry["metrics"].get(n)) for n in names))
    return table


def _annotators(content: Content) -> Table:
    table = _table(
        "By agreement of annotators", "set", "agree", "rows", "accuracy", "KL", "cross", "JS", "TV", "KL 100"
    )
    for name, entry in content["annotators"].items():
        for agreement, group in entry["groups"].items():
            five, hundred = group["five"], group["hundred"] or {}
            values = (group["accuracy"], five["kl"], five["cross_entropy"], five["js"], five["total_variation"])
            shown = [_number(v, 3) for v in (*values, hundred.get("kl"))]
            table.add_row(name, agreement, f"{group['rows']:,}", *shown)
            name = ""  # noqa: PLW2901 - once per set
    return table


def _calibration(content: Content) -> Table:
    table = _table("Calibration (after temperature scaling)", "set", "T", "ECE", "Brier", "NLL")
    for name, entry in content["calibration"].items():
        shown = [f"{_number(entry[key], 3)} ({_number(entry['scaled'][key], 3)})" for key in ("ece", "brier", "nll")]
        table.add_row(name + (" *" if entry["in_sample"] else ""), _number(entry["temperature"], 2), *shown)
    table.caption = "* the temperature was fitted on this set"
    return table


def _perturbations(content: Content) -> Table:
    found, settings = content["perturbations"], content["settings"]["perturbations"]
    rates = list(next(iter(found.values())))
    table = _table(
        f"{settings['metric']} on {settings['split']} ({settings['rows']:,} rows) under noise, by rate",
        "noise",
        *rates,
    )
    for kind, entry in found.items():
        shown = [
            _number(entry[r]["mean"], 3)
            + (f" ±{_number(entry[r]['std'], 3)}" if r != "0.0" and entry[r]["std"] else "")
            for r in rates
        ]
        table.add_row(kind.replace("_", " "), *shown)
    table.caption = f"mean and standard deviation over {settings['seeds']} seeds"
    return table


def _embedding_attack(content: Content) -> Table:
    found, settings = content["embedding_attack"], content["settings"]["embedding_attack"]
    keys = [key for key in next(iter(found.values())) if key != "non_finite"]
    title = (
        f"Attack on the word embeddings, {settings['steps']} steps, {settings['rows']:,} rows of {settings['split']}"
    )
    table = _table(title, "radius", *(key.replace("_", " ") for key in keys))
    for radius, entry in found.items():
        table.add_row(radius, *(_number(entry[key]) for key in keys))
    return table


def _smoothness(content: Content) -> Table:
    settings = content["settings"]["smoothness"]
    title = f"Smoothness, {settings['rows']:,} rows of {settings['split']}"
    table = _table(title, "radius", "adversarial", "random", "Lipschitz", "largest", "at random")
    for radius, entry in content["smoothness"].items():
        steepest, at_random = entry["lipschitz"], entry["random_lipschitz"]
        values = (entry["adversarial"], entry["random"], steepest["mean"], steepest["largest"], at_random["mean"])
        table.add_row(radius, *(_scientific(v) for v in values))
    return table


def _movement(content: Content) -> Table:
    pretrained = content["settings"]["movement"]["pretrained"]
    table = _table(f"Movement from {pretrained}", "layer", "weights", "relative L2", "relative L1", "CKA")
    for layer in content["movement"]["layers"]:
        distance = layer["distance"]
        values = (_scientific(distance["relative_l2"]), _scientific(distance["relative_l1"]), _number(layer["cka"]))
        table.add_row(layer["name"], f"{layer['weights']:,}", *values)
    total = content["movement"]["total"]
    table.add_row("all", "", _scientific(total["relative_l2"]), _scientific(total["relative_l1"]), "")
    return table


def _retrieval(content: Content) -> list[Table]:
    settings = content["settings"]["retrieval"]
    shown = []
    for task, found in content["retrieval"].items():
        keys = list(next(iter(found["languages"].values())))[1:]
        title = f"Retrieval, {task}, layer {settings['layer']} of {settings['layers']}"
        table = _table(
            title, "language", "pairs", *("to English" if key == "accuracy_to_english" else key for key in keys)
        )
        for language, scores in found["languages"].items():
            table.add_row(language, f"{scores['rows']:,}", *(_number(scores[key]) for key in keys))
        table.add_section()
        table.add_row("mean", "", *(_number(found["mean"].get(key)) for key in keys))
        shown.append(table)
    return shown


_PARTS: Mapping[str, Callable[[Content], Table | list[Table]]] = {
    "sets": _sets,
    "annotators": _annotators,
    "calibration": _calibration,
    "perturbations": _perturbations,
    "embedding_attack": _embedding_attack,
    "smoothness": _smoothness,
    "movement": _movement,
    "retrieval": _retrieval,
}


def _table(title: str, first: str, *numbers: str) -> Table:
    table = PlainTable(title=title, title_justify="left", header_style="bold", caption_justify="left")
    table.add_column(first, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="left" if name in ("kind", "agree") else "right")
    return table


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _scientific(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
