"""The verb `explain`: what a stack of methods does to a step, and what conflicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator

from steadytune.cli.quick import refuse_unknown_methods
from steadytune.cli.views.console import Screen, show_lines
from steadytune.settings.fields import METHODS, MODEL, setting
from steadytune.settings.groups import MethodsOfARun, SeedSettings, as_names

if TYPE_CHECKING:
    from torch import nn

SUMMARY = "Say what methods do to a step: passes, memory, what they touch, what conflicts."
PANEL = "What there is"
PLACE = 2
EXAMPLE = "steadytune explain noisytune,smart --model minilm --set smart.weight=3"


class Options(SeedSettings, MethodsOfARun):
    """What `explain` can be asked for."""

    methods: Annotated[list[str], BeforeValidator(as_names)] = setting(
        ...,
        "Methods by name, separated by commas.",
        METHODS,
        metavar="METHODS",
        positional=True,
        first=1,
        required=True,
        completes="methods",
    )
    model: str | None = setting(None, "Also say how far each weight of this model would move.", MODEL, first=3)
    tensors: bool = setting(False, "With --model: one line for every tensor.", MODEL)


def run(options: Options) -> None:
    """Print what a stack of methods does, or what is refused about it and what can be done."""
    refuse_unknown_methods(options.methods)
    from steadytune.core.stack.composition import conflicts, ways_out  # these import torch
    from steadytune.core.stack.explain import explain
    from steadytune.methods.registry import build_methods

    methods = build_methods(options.methods, options.method_settings(), refuse_conflicts=False)
    seed, loaded = options.seed, None if options.model is None else _load(options.model)
    low_memory = options.memory == "low"
    explanation = explain(methods, loaded, seed, {}, low_memory=low_memory)
    refusals = conflicts(methods)
    console = Screen()
    if not refusals:
        show_lines(console, str(explanation))
    else:
        for row in explanation.methods:
            show_lines(console, str(row))
        for refusal in refusals:
            show_lines(console, f"Refused: {refusal}")
        for way in ways_out(methods):
            left_out = ", ".join(m.name for m in methods if m not in way)
            show_lines(
                console, f"\nWithout {left_out}:\n{explain(way, None, seed, {}, low_memory=low_memory).totals()}"
            )
    if options.tensors:
        for report in explanation.weight_reports.values():
            print(report.table())


def _load(model: str) -> nn.Module:
    from steadytune.models.load import load_model
    from steadytune.support.quiet_libraries import quiet_libraries
    from steadytune.tasks.task import Task

    quiet_libraries()
    two_classes = Task("explain", "classification", "", "", "text", None, "label", ("0", "1"), {}, "accuracy")
    loaded, _, _ = load_model(model, two_classes, new_head=True)
    return loaded
