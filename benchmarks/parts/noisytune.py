"""NoisyTune in memory: its speed beside an in-place add, and the memory that it takes."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.networks import network
from benchmarks.parts import Found
from benchmarks.rounds import interleaved, ratios, spread
from benchmarks.rows import Row, measured
from benchmarks.setting import Setting
from steadytune import noisytune
from steadytune.testing import tiny
from steadytune.training.meter import Meter

ROUNDS = 7
#: Large enough that a copy of it would show, with tensors of every size.
MODEL = "bert-base"


def measure(setting: Setting) -> Found:
    """Measure bert-base's shape, with random weights."""
    model = network(MODEL, setting)
    method = noisytune()
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    largest = max(p.numel() * p.element_size() for p in model.parameters())
    method.transform(tiny.model(), 0)  # what is imported on the way is no memory of the method
    meter = Meter(setting.device)  # before anything else is allocated: freed memory would hide what a call takes
    meter.begin()
    method.transform(model, 0)
    meter.end()
    peak = meter.summary(1)["peak_memory_bytes"]
    noise = [torch.rand_like(p) * 1e-6 for p in model.parameters()]
    drawn = [torch.empty(p.shape) for p in model.parameters()]

    @torch.no_grad()
    def add() -> None:
        for p, numbers in zip(model.parameters(), noise, strict=True):
            p.add_(numbers)

    taken = interleaved(
        {
            "noisytune": lambda: method.transform(model, 0),
            "add": add,
            "draw": lambda: [numbers.uniform_() for numbers in drawn],
        },
        seconds=setting.seconds,
        rounds=setting.rounds(ROUNDS),
    )
    speed = spread([100 * ratio for ratio in ratios(taken, "add", "noisytune")])
    drawing = spread([100 * ratio for ratio in ratios(taken, "add", "draw")])
    gigabytes = {name: size / spread(seconds).median / 1e9 for name, seconds in taken.items()}
    rows = [
        measured(
            f"NoisyTune in place, {MODEL}",
            "% of the speed of an in-place add",
            speed,
            bound="at least",
            limit=50.0,
            note=f"{gigabytes['noisytune']:.2f} GB/s of weights, the add {gigabytes['add']:.1f}; drawing the numbers "
            f"and nothing else: {drawing.median:.0f} %, {gigabytes['draw']:.2f} GB/s",
        ),
        Row(
            "memory that it takes beside the model",
            "x the model",
            peak / size,
            limit=largest / size,
            note=f"the limit is the largest tensor, {largest / 1e6:.0f} MB",
        ),
    ]
    details: dict[str, Any] = {"model_bytes": size, "largest_tensor_bytes": largest, "peak_bytes": peak}
    return Found(rows, details | {"seconds": {name: spread(seconds).as_json() for name, seconds in taken.items()}})
