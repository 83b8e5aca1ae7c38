"""Time and memory of an update with SMART and its halves, beside plain fine-tuning and smart-pytorch."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from torch import nn

from benchmarks.counting import operations, passes
from benchmarks.memory import keep_gradients, peak_allocated, peak_saved
from benchmarks.networks import Batch, network, random_batch
from benchmarks.parts import Found
from benchmarks.rounds import Spread, interleaved, ratios, spread
from benchmarks.rows import Row, absent, measured
from benchmarks.setting import Setting
from benchmarks.training import Plain, WithSmartPytorch, WithStack, has_smart_pytorch
from steadytune import bregman, smart, smoothness

ROUNDS, WARM_UPS = 21, 2
RIVAL = "smart-pytorch"
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
    taken = interleaved(
        {name: loop.updates for name, loop in loops.items()},
        seconds=setting.seconds,
        rounds=setting.rounds(ROUNDS),
        warm_ups=1 if setting.quick else WARM_UPS,
    )
    # A round holds one plain update, and as many of a method as belong together.
    taken = {name: [s / loops[name].cycle for s in seconds] for name, seconds in taken.items()}
    counted = {name: count(loop) for name, loop in loops.items()}
    for loop in loops.values():
        loop.close()
    return {"taken": taken} | {
        name: {
            "seconds": spread(taken[name]).median,
            "time": spread(ratios(taken, name, "plain")).as_json(),
            **relative(counted[name], counted["plain"]),
        }
        for name in loops
    }


def count(loop: Plain) -> dict[str, Any]:
    """Memory at its worst, operations on average, and passes of an update, over a whole cycle of updates."""
    keep_gradients(loop.model)
    found: dict[str, Any] = {
        "peak_allocated": max(_each_update(loop, lambda: peak_allocated(loop.backward, loop.setting))),
        "peak_saved": max(_each_update(loop, lambda: peak_saved(loop.backward, loop.model))),
        "operations": statistics.fmean(_each_update(loop, lambda: operations(loop.backward))),
    }
    if isinstance(loop, WithStack):
        found |= {"passes": passes(loop.stack.methods), "arithmetic": loop.stack.explain().relative_cost}
    return found


def _each_update(loop: Plain, look: Callable[[], float]) -> list[float]:
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

    def time(name: str) -> Spread:
        return spread(ratios(taken, name, "plain"))

    low = figures["smart, memory=low"]
    return [
        measured("an update with R_s, K = 1", "x plain", time("smoothness"), limit=2.75),
        _against_rival(taken),
        measured("an update with SMART complete", "x plain", time("smart"), limit=3.1),
        measured('SMART, memory="low": an update', "x plain", time("smart, memory=low"), limit=3.5),
        Row(
            'SMART, memory="low": peak activation memory',
            "x plain",
            low["peak_allocated_ratio"],
            limit=1.15,
            note=f'saved for backward passes: {low["peak_saved_ratio"]:.2f} x; without memory="low": '
            f"{figures['smart']['peak_allocated_ratio']:.2f} x",
        ),
        measured("an update with SMART frugal", "x plain", time("smart.frugal"), limit=1.4),
    ]


def _against_rival(taken: dict[str, list[float]]) -> Row:
    what, unit = "R_s against smart-pytorch", f"x {RIVAL}"
    if RIVAL not in taken:
        return absent(what, unit, _NOT_INSTALLED, limit=1.0)
    theirs = spread(ratios(taken, RIVAL, "plain"))
    note = f"theirs is {theirs.median:.2f} x plain"
    return measured(what, unit, spread(ratios(taken, "smoothness", RIVAL)), limit=1.0, note=note)
