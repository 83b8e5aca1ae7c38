"""Time, memory, passes and operations of an update with each of the other methods, beside plain fine-tuning."""

from __future__ import annotations

from itertools import islice
from typing import Any

from benchmarks.networks import network, random_batch
from benchmarks.parts import Found
from benchmarks.parts.step import count, relative
from benchmarks.rounds import interleaved, ratios, spread
from benchmarks.setting import Setting
from benchmarks.training import Plain, WithStack
from steadytune.methods.registry import REGISTRY

ROUNDS = 6
#: Models that are in memory at a time, the plain one apart.
AT_A_TIME = 4
#: In the part `step`, or the same as one that is there.
ELSEWHERE = (*("smoothness", "bregman", "smart", "smart.paper", "smart.mt_dnn", "smart.recommended", "smart.frugal"),)


def measure(setting: Setting) -> Found:
    """Measure the methods with their default settings on the first model, a few at a time, each time beside plain."""
    model = network(setting.models[0], setting)
    plain = Plain(model, random_batch(model, setting), setting)
    plain.update()
    of_plain = count(plain)
    names = (name for name in REGISTRY if name not in ELSEWHERE)
    names = islice(names, 2) if setting.tiny else names
    figures: dict[str, Any] = {}
    while some := list(islice(names, AT_A_TIME)):
        figures |= _figures(some, plain, of_plain, setting)
    return Found([], figures)


def _figures(names: list[str], plain: Plain, of_plain: dict[str, Any], setting: Setting) -> dict[str, Any]:
    loops: dict[str, Plain] = {"plain": plain}
    for name in names:
        made = network(setting.models[0], setting)
        loops[name] = WithStack(made, plain.batch, setting, REGISTRY[name].methods())
    taken = interleaved(
        {name: loop.updates for name, loop in loops.items()}, seconds=setting.seconds, rounds=setting.rounds(ROUNDS)
    )
    taken = {name: [s / loops[name].cycle for s in seconds] for name, seconds in taken.items()}
    found = {
        name: {"time": spread(ratios(taken, name, "plain")).as_json(), **relative(count(loops[name]), of_plain)}
        for name in names
    }
    for loop in loops.values():
        loop.close()
    return found
