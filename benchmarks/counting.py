"""What a step does, counted: passes over the model, and floating-point operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

FORWARD, WITHOUT_GRAPH = "forwards", "forwards_without_graph"
BACKWARD, TO_EMBEDDINGS = "backwards", "backwards_to_embeddings"


def passes(call: Callable[[], object], model: nn.Module, rows: int) -> dict[str, float]:
    """Passes over the model that a call makes, seen at the model and in the autograd engine.

    Args:
        call: forward and backward passes.
        model: what they go over.
        rows: of a whole batch; a pass over some of them counts as that part of a pass.
    """
    counts: dict[str, float] = dict.fromkeys((FORWARD, WITHOUT_GRAPH, BACKWARD, TO_EMBEDDINGS), 0.0)
    within_ascent = [False]

    def forward_pass(_module: nn.Module, _inputs: object, outputs: Any) -> None:
        share = outputs.logits.shape[0] / rows
        if not outputs.logits.requires_grad:
            counts[WITHOUT_GRAPH] += share
            return
        counts[FORWARD] += share
        outputs.logits.register_hook(lambda _: backward_pass(share))

    def backward_pass(share: float) -> None:
        counts[TO_EMBEDDINGS if within_ascent[0] else BACKWARD] += share

    handle = model.register_forward_hook(forward_pass)
    try:
        with _watched_ascents(within_ascent):
            call()
    finally:
        handle.remove()
    return counts


@contextmanager
def _watched_ascents(within: list[bool]) -> Iterator[None]:
    """Tell while `torch.autograd.grad` runs, which an ascent calls."""
    original = torch.autograd.grad

    def watched(*args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        within[0] = True
        try:
            return original(*args, **kwargs)
        finally:
            within[0] = False

    torch.autograd.grad = watched
    try:
        yield
    finally:
        torch.autograd.grad = original


def operations(call: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and the attention of a call."""
    counter = FlopCounterMode(display=False, custom_mapping=_attention_of_the_cpu())
    with counter:
        call()
    return counter.get_total_flops()


def _attention_of_the_cpu() -> dict[Any, Any]:
    """Formulas for the CPU's fused attention; torch knows those of GPUs alone."""

    def forward(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(output: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(output, query, key, value)

    operators = torch.ops.aten
    return {
        operators._scaled_dot_product_flash_attention_for_cpu: forward,
        operators._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
