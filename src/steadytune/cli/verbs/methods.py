"""The verb `methods`: what there is, what each costs, and its settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table

from steadytune.cli.quick import refuse_unknown_methods
from steadytune.cli.views.console import Screen, show_lines
from steadytune.settings.fields import METHODS, Settings, setting

if TYPE_CHECKING:
    from steadytune.core.authoring.method import Method
    from steadytune.methods.registry import Entry

#: Where `docs/start/which-method.md` begins, after plain training with a tuned rate.
BEGIN_WITH = ("noisytune", "r_drop", "smart")

SUMMARY = "List the methods with role, paper and cost; with names, their settings and ranges."
PANEL = "What there is"
PLACE = 1
EXAMPLE = "steadytune methods freelb"


class Options(Settings):
    """What `methods` can be asked for."""

    names: list[str] = setting(
        [],
        "Show these with their settings.",
        METHODS,
        metavar="NAME",
        positional=True,
        first=1,
        repeated=True,
        completes="single_methods",
    )
    role: Literal["weights", "loss", "step", "optimizer", "model"] | None = setting(
        None, "Only methods that change this part of the training.", METHODS, first=2, metavar="ROLE"
    )


def run(options: Options) -> None:
    """Print all methods as a table, or the settings of the named ones."""
    refuse_unknown_methods(options.names)
    from steadytune.methods.registry import all_methods, method_classes  # which import torch

    console = Screen()
    if options.names:
        for method in method_classes(options.names):
            _show_settings(console, method())
        return
    shown = [entry for entry in all_methods().values() if options.role in (None, *_roles(entry))]
    console.print(_table(shown))
    console.print(
        "* begin here. step: arithmetic of a training step, plain = 1. copies: extra copies of the trainable weights. "
        "Names combine: noisytune,smart. `steadytune methods NAME` shows paper and settings.",
        style="dim",
    )


def _table(shown: Iterable[Entry]) -> Table:
    """One line for most methods at 80 columns, without a frame."""
    from steadytune.core.authoring.cost import PLAIN_STEP
    from steadytune.core.stack.composition import total_cost

    table = Table(header_style="bold", box=None, padding=(0, 1, 0, 0))
    for column in ("name", "role", "step", "copies", "what it does"):
        number = column in ("step", "copies")
        table.add_column(column, justify="right" if number else "left", no_wrap=column != "what it does")
    for entry in shown:
        total = total_cost(entry.methods())
        name = f"{entry.name} *" if entry.name in BEGIN_WITH else entry.name
        relative = f"{total.units / PLAIN_STEP.units:.2f} x"
        table.add_row(name, "+".join(_roles(entry)), relative, str(total.weight_copies), entry.summary)
    return table


def _roles(entry: Entry) -> list[str]:
    return list(dict.fromkeys(method.role for method in entry.methods()))


def _show_settings(console: Console, method: Method) -> None:
    from steadytune.core.authoring.hyperparameters import allowed_values
    from steadytune.core.stack.composition import total_cost
    from steadytune.core.stack.explain import in_words

    console.print(f"[bold]{method.name}[/]  ({method.role}) {method.paper}", highlight=False)
    show_lines(console, f"  {method.effect()}; {in_words(total_cost([method]))}")
    settings = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for f in fields(method):
        default = f.default if f.default not in (None, ()) else "none"
        limits = allowed_values(f.metadata)
        settings.add_row(
            f.name, str(default), f"{f.metadata['doc']}" + ("" if limits == "any value" else f"; {limits}")
        )
    console.print(settings, highlight=False, markup=False)
