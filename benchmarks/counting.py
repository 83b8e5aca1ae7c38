"""What a step does, counted: passes over the model, and floating-point operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from steadytune.contract import tiny
from steadytune.contract.accounting import counted_passes
from steadytune.core.method import Method


def passes(methods: Sequence[Method]) -> dict[str, int]:
    """Passes of one micro-batch, counted at a tiny model and in the autograd engine."""
    found = asdict(counted_passes(tiny.model(dropout=0.1), methods))
    return {name: count for name, count in found.items() if "ward" in name}


def operations(call: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and the attention of a call."""
    counter = FlopCounterMode(display=False, custom_mapping=_attention_of_the_cpu())
    with counter:
        call()
    return counter.get_total_flops()


def _attention_of_the_cpu() -> dict[Any, Any]:
    """Formulas for the CPU's fused attention, which torch counts on GPUs alone."""

    def forward(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:  # noqa: ARG001
        return sdpa_flop_count(query, key, value)

    def backward(output: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:  # noqa: ARG001
        return sdpa_backward_flop_count(output, query, key, value)

    operators = torch.ops.aten
    return {
        operators._scaled_dot_product_flash_attention_for_cpu: forward,
        operators._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
