"""Time and memory of an update with SMART and its halves, beside plain fine-tuning and smart-pytorch."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from benchmarks import pieces
from benchmarks.counting import operations, passes
from benchmarks.memory import keep_gradients, peak_allocated, peak_saved
from benchmarks.networks import Batch, network, random_batch
from benchmarks.parts import Found
from benchmarks.rounds import interleaved, ratios, spread
from benchmarks.rows import Row, absent, measured
from benchmarks.setting import Setting
from benchmarks.training import Plain, WithSmartPytorch, WithStack, has_smart_pytorch
from steadytune import bregman, smart, smoothness

ROUNDS, WARM_UPS = 13, 2
RIVAL = "smart-pytorch"
T = TypeVar("T")
_NOT_INSTALLED = "not installed here: pip install --no-deps smart-pytorch"


def measure(setting: Setting) -> Found:
    """Measure each model of the setting."""
    rows: list[Row] = []
    details: dict[str, Any] = {}
    for name in setting.models:
        figures = _figures(_loops(name, setting), setting)
        details[name] = {loop: figure for loop, figure in figures.items() if loop != "taken"}
        found = _rows(figures)
        rows += [row.of(name) for row in found] if len(setting.models) > 1 else found
    return Found(rows, details)


def _loops(name: str, setting: Setting) -> dict[str, Plain]:
    """Each on a model of its own, so that every method meets the weights that it would meet in training."""

    def given() -> tuple[nn.Module, Batch, Setting]:
        model = network(name, setting)
        return model, random_batch(model, setting), setting

    loops: dict[str, Plain] = {
        "plain": Plain(*given()),
        "smoothness": WithStack(*given(), [smoothness()]),
        "bregman": WithStack(*given(), [bregman()]),
        "smart": WithStack(*given(), smart()),
        "smart, memory=low": WithStack(*given(), smart(), memory="low"),
        "smart.frugal": WithStack(*given(), smart.frugal()),
    }
    if has_smart_pytorch():
        loops[RIVAL] = WithSmartPytorch(*given())
    return loops


def _figures(loops: dict[str, Plain], setting: Setting) -> dict[str, Any]:
    """By loop: seconds, ratios to plain, memory, passes, operations; and under ``taken`` the seconds of each round."""
    of_pieces = pieces.calls(loops["plain"])
    taken = interleaved(
        {name: loop.updates for name, loop in loops.items()} | of_pieces,
        seconds=setting.seconds,
        rounds=setting.rounds(ROUNDS),
        warm_ups=1 if setting.quick else WARM_UPS,
    )
    # A round holds one plain update, and as many of a method as belong together.
    taken |= {name: [s / loop.cycle for s in taken[name]] for name, loop in loops.items()}
    alone = pieces.seconds_alone(taken)
    figures: dict[str, Any] = {"taken": taken}
    of_plain = None
    for name, loop in loops.items():
        counted = count(loop)
        of_plain = of_plain or counted
        sums = pieces.sums(alone, counted["passes"])
        figures[name] = {
            "seconds": spread(taken[name]).median,
            "time": spread(ratios(taken, name, "plain")).as_json(),
            "sum_of_passes": spread([a / b for a, b in zip(sums, taken["plain"], strict=True)]).as_json(),
            **relative(counted, of_plain),
        }
        loop.close()
    return figures


def count(loop: Plain) -> dict[str, Any]:
    """Memory at its worst, and operations and passes on average, over a cycle of updates."""
    keep_gradients(loop.model)
    rows = len(loop.batch["labels"])

    def operations_and_passes() -> dict[str, float]:
        found: list[int] = []
        counted = passes(lambda: found.append(operations(loop.backward)), loop.model, rows)
        return counted | {"operations": found[0]}

    each = _each_update(loop, operations_and_passes)
    average = {name: statistics.fmean(counted[name] for counted in each) for name in each[0]}
    found: dict[str, Any] = {
        "peak_allocated": max(_each_update(loop, lambda: peak_allocated(loop.backward, loop.setting))),
        "peak_saved": max(_each_update(loop, lambda: peak_saved(loop.backward, loop.model))),
        "operations": average.pop("operations"),
        "passes": average,
    }
    if isinstance(loop, WithStack):
        found["arithmetic"] = loop.stack.explain().relative_cost
    return found


def _each_update(loop: Plain, look: Callable[[], T]) -> list[T]:
    """What a look at the passes of each update of a cycle finds; gradients stay allocated."""
    found = []
    for _ in range(loop.cycle):
        found.append(look())
        loop.optimizer.step()
        loop.optimizer.zero_grad(set_to_none=False)
    return found


def relative(counted: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """What was counted, with its ratios to plain training."""
    names = ("peak_allocated", "peak_saved", "operations")
    return counted | {f"{name}_ratio": counted[name] / max(plain[name], 1) for name in names}


def _rows(figures: dict[str, Any]) -> list[Row]:
    taken = figures["taken"]

    def time(what: str, name: str, limit: float) -> Row:
        sum_of_passes = figures[name]["sum_of_passes"]["median"]
        note = f"its passes, each timed alone, and the optimizer's step add up to {sum_of_passes:.2f}"
        return measured(what, "x plain", spread(ratios(taken, name, "plain")), limit=limit, note=note)

    low = figures["smart, memory=low"]
    return [
        time("an update with R_s, K = 1", "smoothness", 2.75),
        _against_rival(taken),
        time("an update with SMART complete", "smart", 3.1),
        time('SMART, memory="low": an update', "smart, memory=low", 3.5),
        Row(
            'SMART, memory="low": peak activation memory',
            "x plain",
            low["peak_allocated_ratio"],
            limit=1.15,
            note=f'saved for backward passes: {low["peak_saved_ratio"]:.2f} x; without memory="low": '
            f"{figures['smart']['peak_allocated_ratio']:.2f} x",
        ),
        time("an update with SMART frugal", "smart.frugal", 1.4),
    ]


def _against_rival(taken: dict[str, list[float]]) -> Row:
    what, unit = "R_s against smart-pytorch", f"x {RIVAL}"
    if RIVAL not in taken:
        return absent(what, unit, _NOT_INSTALLED, limit=1.0)
    theirs = spread(ratios(taken, RIVAL, "plain"))
    note = f"theirs is {theirs.median:.2f} x plain"
    return measured(what, unit, spread(ratios(taken, "smoothness", RIVAL)), limit=1.0, note=note)
