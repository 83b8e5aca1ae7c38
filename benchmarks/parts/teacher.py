"""What a teacher costs beside its pass: the update of its average, and its copies under LoRA."""

from __future__ import annotations

from typing import Any

from torch import nn

from benchmarks.networks import network, random_batch
from benchmarks.parts import Found
from benchmarks.rounds import interleaved, ratios, spread
from benchmarks.rows import Row, absent, measured
from benchmarks.setting import Setting
from benchmarks.training import Plain
from steadytune import Stack, bregman
from steadytune.core.state.teacher import Shadow

ROUNDS, WARM_UPS = 15, 2


def measure(setting: Setting) -> Found:
    """Measure each model of the setting."""
    rows: list[Row] = []
    details: dict[str, Any] = {}
    for name in setting.models:
        found, details[name] = _average(name, setting)
        rows += [row.of(name) for row in found] if len(setting.models) > 1 else found
    rows.append(_under_lora(setting))
    return Found(rows, details)


def _average(name: str, setting: Setting) -> tuple[list[Row], dict[str, Any]]:
    model = network(name, setting)
    plain, shadow = Plain(model, random_batch(model, setting), setting), Shadow(model)
    others = [p.detach().clone() for p in model.parameters()]
    taken = interleaved(
        {
            "plain": plain.update,
            "average": lambda: shadow.step(model, 0.999),
            # The least that an average can cost: it reads two numbers and writes one.
            "add": lambda: _add(list(shadow.tensors.values()), others),
        },
        seconds=setting.seconds,
        rounds=setting.rounds(ROUNDS),
        warm_ups=1 if setting.quick else WARM_UPS,
    )
    share = spread([100 * ratio for ratio in ratios(taken, "average", "plain")])
    of_add = spread(ratios(taken, "average", "add"))
    floor = spread([100 * ratio for ratio in ratios(taken, "add", "plain")])
    note = f"{of_add.median:.2f} x an in-place add of the same tensors, which alone takes {floor.median:.1f} %"
    row = measured("the update of a teacher's average", "% of a plain update", share, limit=2.0, note=note)
    return [row], {"seconds": spread(taken["average"]).as_json(), "of_add": of_add.as_json(), "add": floor.as_json()}


def _add(tensors: list[Any], others: list[Any]) -> None:
    for tensor, other in zip(tensors, others, strict=True):
        tensor.add_(other)


def _under_lora(setting: Setting) -> Row:
    what, unit = "copies of frozen base weights that a teacher makes under LoRA", "tensors"
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError:
        return absent(what, unit, "peft is not installed here: pip install 'steadytune[lora]'", limit=0)
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=8, target_modules=["query", "value"])
    base: Any = network(setting.models[0], setting)
    model: nn.Module = get_peft_model(base, config)
    with Stack([bregman()]) as stack:
        stack.prepare(model, total_updates=10)
        (copies,) = stack.teacher_weights().values()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    held = sum(t.numel() for t in copies.values()) / 1e6
    whole = sum(p.numel() for p in model.parameters()) / 1e6
    note = f"it holds {held:.2f} M numbers beside a model of {whole:.1f} M"
    return Row(what, unit, len(copies.keys() - trained), limit=0, note=note)
