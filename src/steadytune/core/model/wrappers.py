"""What a training loop may wrap a model in, and what is refused, each with its reason."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from steadytune.errors import HostError

#: Wrappers by the name of their class, so that nothing is imported to ask; the reason completes the message.
REFUSED = {
    "DeepSpeedEngine": (
        "DeepSpeed runs the backward pass and the optimizer itself and hides gradients and weights. "
        "FSDP2 shards the same things: fully_shard(model), or fsdp_version: 2 in Accelerate"
    ),
    "FullyShardedDataParallel": (
        "FSDP1 flattens the weights, so that they no longer have names. Use FSDP2: fully_shard(model), or "
        "fsdp_version: 2 in Accelerate"
    ),
    "DataParallel": (
        "nn.DataParallel copies the model in every pass, and what the methods attach to is not copied. Start with "
        "`torchrun` or `accelerate launch`, or show one GPU only (CUDA_VISIBLE_DEVICES=0)"
    ),
}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside of ``torch.compile`` and DistributedDataParallel, in any order.

    >>> unwrapped(nn.Linear(1, 1))
    Linear(in_features=1, out_features=1, bias=True)
    """
    while True:
        inner: Any = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ == "DistributedDataParallel":
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


@contextmanager
def buffers_as_they_are(model: nn.Module) -> Iterator[None]:
    """Run another pass of a step without the broadcast of buffers that DDP begins each pass with.

    It writes into the buffers, and the graph of the clean pass may hold them: older versions of torch then refuse
    the backward pass.
    """
    wrapper: Any = getattr(model, "_orig_mod", model)
    if type(wrapper).__name__ != "DistributedDataParallel":
        yield
        return
    before, wrapper.broadcast_buffers = wrapper.broadcast_buffers, False
    try:
        yield
    finally:
        wrapper.broadcast_buffers = before


@contextmanager
def gradients_not_exchanged(model: nn.Module) -> Iterator[None]:
    """Run a forward and backward pass whose gradients DDP need not exchange, because another follows that adds up."""
    wrapper: Any = getattr(model, "_orig_mod", model)
    if type(wrapper).__name__ != "DistributedDataParallel":
        yield
        return
    with wrapper.no_sync():
        yield


def refusal(kind: str) -> HostError:
    """The error for one of the wrappers in `REFUSED`."""
    return HostError(f"{kind} is not supported: {REFUSED[kind]}.")


def refuse_bare_backward(model: nn.Module, batch: Mapping[str, Any], scale: float) -> None:
    """Refuse a backward pass past Accelerate, which would have divided or scaled the loss.

    Accelerate is asked only where it has been imported and has prepared this model.

    Args:
        model: as the loop runs it.
        batch: with the number of items of the update, if that is what the loss is divided by.
        scale: the loop's own factor of the loss.

    Raises:
        HostError: a gradient scaler is at work, or micro-batches are accumulated and nobody divides by their number.
    """
    accelerate: Any = sys.modules.get("accelerate.state")
    prepared = any(getattr(m, "_is_accelerate_prepared", False) for m in (model, unwrapped(model)))
    if accelerate is None or not prepared:
        return
    gradients: Mapping[str, Any] = accelerate.GradientState._shared_state
    steps = gradients.get("plugin_kwargs", {}).get("num_steps", 1)
    lost = ""
    if accelerate.AcceleratorState._shared_state.get("_mixed_precision") == "fp16":
        lost = "its gradient scaler would be passed by"
    elif not gradients.get("sync_gradients", True) and scale == 1 and "num_items_in_batch" not in batch:
        lost = f"the loss would not be divided by the {steps} micro-batches of an update"
    if lost:
        raise HostError(
            f"Accelerate has prepared this model, and {lost}: write stack.backward(model, batch, "
            "backward=accelerator.backward)."
        )


def refuse_engines(model: nn.Module) -> None:
    """Refuse a wrapper that the methods cannot work in.

    Raises:
        HostError: the model is inside one, or holds what one has made of it.
    """
    for module in model.modules():
        for kind in type(module).__mro__:
            if kind.__name__ in REFUSED and not kind.__module__.startswith("steadytune"):
                raise refusal(kind.__name__)
    for name, p in model.named_parameters():
        if hasattr(p, "ds_id"):
            raise refusal("DeepSpeedEngine")
        if name.rpartition(".")[2] == "_flat_param":
            raise refusal("FullyShardedDataParallel")
        if "tp" in (getattr(getattr(p, "device_mesh", None), "mesh_dim_names", None) or ()):
            raise HostError(
                "Tensor parallelism is not supported: the processes of a group would draw different noise for the "
                "same examples. Use FSDP2 or DDP."
            )
