"""Time, memory, passes and operations of an update with each method, beside plain fine-tuning."""

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


def measure(setting: Setting) -> Found:
    """Measure all methods with their default settings on the first model, a few at a time, each time beside plain."""
    names = iter(["noisytune", "smart"] if setting.tiny else list(REGISTRY))
    figures: dict[str, Any] = {}
    while some := list(islice(names, AT_A_TIME)):
        figures |= _figures(some, setting)
    return Found([], figures)


def _figures(names: list[str], setting: Setting) -> dict[str, Any]:
    model = network(setting.models[0], setting)
    batch = random_batch(model, setting)
    plain = Plain(model, batch, setting)
    loops: dict[str, Plain] = {"plain": plain}
    for name in names:
        made = network(setting.models[0], setting)
        loops[name] = WithStack(made, batch, setting, REGISTRY[name].methods())
    taken = interleaved(
        {name: loop.updates for name, loop in loops.items()}, seconds=setting.seconds, rounds=setting.rounds(ROUNDS)
    )
    taken = {name: [s / loops[name].cycle for s in seconds] for name, seconds in taken.items()}
    of_plain = count(plain)
    found = {
        name: {"time": spread(ratios(taken, name, "plain")).as_json(), **relative(count(loops[name]), of_plain)}
        for name in names
    }
    for loop in loops.values():
        loop.close()
    return found
