"""What an empty stack adds to an update of the plain Trainer, on the same model and batch."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from benchmarks.networks import Batch, network, random_batch, small_network
from benchmarks.parts import Found
from benchmarks.rounds import interleaved, ratios, spread
from benchmarks.rows import Row, measured
from benchmarks.setting import Setting
from benchmarks.training import LEARNING_RATE
from steadytune import SteadyTrainer

PAIRS, PAIRS_OF_THE_NAMED_MODEL = 400, 25
_WARM_UPS = 5


def measure(setting: Setting) -> Found:
    """Measure a small model, on which a host's own work weighs most, and the first model of the setting."""
    small, named = small_network(setting), setting.models[0]
    of_small = _pairs(small, setting, setting.rounds(PAIRS))
    of_named = _pairs(network(named, setting), setting, setting.rounds(PAIRS_OF_THE_NAMED_MODEL))
    added = spread(
        [with_stack - plain for with_stack, plain in zip(of_small["empty"], of_small["plain"], strict=True)]
    )
    milliseconds = 1000 * spread(of_small["plain"]).median
    seconds_named = spread(of_named["plain"]).median
    microseconds = f"{1e6 * added.median:+.0f} us, interval {1e6 * added.low:+.0f} to {1e6 * added.high:+.0f}"
    size = sum(p.numel() for p in small.parameters()) / 1e6
    rows = [
        _row(f"an update with an empty stack, {named}", of_named),
        _row(
            "the same on a small model",
            of_small,
            note=f"{size:.1f} M parameters, {milliseconds:.1f} ms an update; added: {microseconds}",
        ),
        Row(
            f"what it adds on the small model, of an update of {named}",
            "%",
            100 * added.median / seconds_named,
            limit=1.0,
            note=f"at most {100 * added.high / seconds_named:.3f} % by the interval",
        ),
    ]
    return Found(rows, {"small": _details(of_small), named: _details(of_named)})


def _row(what: str, taken: dict[str, list[float]], note: str = "") -> Row:
    found = spread([100 * (ratio - 1) for ratio in ratios(taken, "empty", "plain")])
    return measured(what, "% over the plain Trainer", found, limit=1.0, note=note)


def _details(taken: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "seconds_plain": spread(taken["plain"]).as_json(),
        "seconds_empty": spread(taken["empty"]).as_json(),
        "ratio": spread(ratios(taken, "empty", "plain")).as_json(),
    }


def _pairs(model: nn.Module, setting: Setting, pairs: int) -> dict[str, list[float]]:
    batch = random_batch(model, setting)
    with tempfile.TemporaryDirectory() as folder:
        calls = {
            "plain": _Updates(Trainer, model, batch, setting, folder),
            "empty": _Updates(SteadyTrainer, model, batch, setting, folder),
        }
        found = interleaved(
            calls, seconds=setting.seconds, rounds=pairs, warm_ups=min(pairs, _WARM_UPS), collect_every=20
        )
        for updates in calls.values():
            updates.close()
    return found


class _Updates:
    """A Trainer's updates one by one: its training step, its optimizer and its zero_grad."""

    def __init__(self, kind: type[Trainer], model: nn.Module, batch: Batch, setting: Setting, folder: str) -> None:
        arguments = TrainingArguments(
            folder,
            report_to=[],
            use_cpu=setting.device.type == "cpu",
            bf16=setting.precision is torch.bfloat16,
            learning_rate=LEARNING_RATE,
            disable_tqdm=True,
        )
        self.trainer = kind(model=model, args=arguments)
        self.model, self.batch = model, batch
        self.optimizer = self.trainer.create_optimizer()
        self.trainer.current_gradient_accumulation_steps = 1  # the Trainer's loop sets it before its first step
        self.items = torch.tensor(len(batch["labels"]), device=setting.device)

    def __call__(self) -> None:
        self.trainer.training_step(self.model, dict(self.batch), self.items)
        self.optimizer.step()
        self.model.zero_grad()

    def close(self) -> None:
        """Leave the model as it came."""
        if isinstance(self.trainer, SteadyTrainer):
            self.trainer.stack.close()
