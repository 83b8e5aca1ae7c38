"""Weights that lie on several processes: FSDP2 keeps a part of each on every process, as a ``DTensor``.

Copies of weights (teachers, pretrained values, averages) are made before the model is wrapped, and are cut as the
weights are when it has been. All arithmetic on them is by entry, so it needs no communication.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger("steadytune")


def process_rank() -> int:
    """The number of this process among those that train together; 0 where there is one."""
    return torch.distributed.get_rank() if _is_distributed() else 0


def is_sharded(tensor: Tensor) -> bool:
    """Whether this process holds a part of the tensor.

    >>> is_sharded(torch.zeros(1))
    False
    """
    # Importing the module costs time, and where nobody has, there is no such tensor.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_sharded_model(model: nn.Module) -> bool:
    """Whether some parameter of the model is sharded."""
    return any(is_sharded(p) for p in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """The full tensor; every process must ask, because a sharded one is gathered from all of them."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


def own_part(tensor: Tensor) -> Any:
    """What this process holds of the tensor, sharing its storage."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # pyright: ignore[reportAttributeAccessIssue]


def laid_like(tensor: Tensor, model_tensor: Tensor) -> Tensor:
    """The tensor on the device of another one and cut as that is; its own type stays. Needs no communication.

    Args:
        tensor: full and equal on every process, or cut already.
        model_tensor: where to lie, of the same full shape.
    """
    if not is_sharded(model_tensor) or is_sharded(tensor):
        return tensor.to(model_tensor.device)
    from torch.distributed.tensor import DTensor, Replicate

    to: Any = model_tensor
    full = tensor.to(to.to_local().device)
    same = DTensor.from_local(full, to.device_mesh, [Replicate()] * to.device_mesh.ndim, run_check=False)
    return same.redistribute(placements=to.placements)


def reshard(model: nn.Module) -> None:
    """Let the parameters of the model be the parts that are kept, not the full weights gathered for a pass."""
    for module in model.modules():
        if hasattr(module, "unshard") and hasattr(module, "reshard"):
            module.reshard()  # pyright: ignore[reportCallIssue]


@contextmanager
def exchanged(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Run a block with other weights in a sharded model, by name, then put its own back bit for bit.

    The passes gather from the parts, so these are what is exchanged, and nothing gathered before or in the block
    may outlive it; the graph of an earlier pass gathers again in its backward pass.
    """
    reshard(model)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        parts = {name: own_part(parameters[name]) for name in weights}
        kept = {name: part.clone() for name, part in parts.items()}
    try:
        with torch.no_grad():
            for name, part in parts.items():
                part.copy_(own_part(weights[name]))
        yield
    finally:
        reshard(model)
        with torch.no_grad():
            for name, part in parts.items():
                part.copy_(kept[name])


@torch.no_grad()
def agree_on_weights(model: nn.Module) -> None:
    """Give every process the weights and buffers of process 0 where they differ, as DDP does when it wraps the model.

    Without it a head that each process has drawn for itself would have a teacher of its own on each. Every process
    must call it. A sharded model, or one without storage, is left alone.
    """
    tensors = [t.detach() for t in (*model.parameters(), *model.buffers())]
    if not _is_distributed() or any(is_sharded(t) or t.is_meta for t in tensors):
        return
    sums = torch.stack([_fingerprint(t) for t in tensors]).to(_home(tensors[0]))
    everywhere = [torch.empty_like(sums) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(everywhere, sums)
    if all(torch.equal(everywhere[0], other) for other in everywhere):
        return
    logger.warning("The processes hold different weights: all continue with those of process 0, as under DDP.")
    for tensor in tensors:
        sent = tensor.to(_home(tensor)).contiguous()
        torch.distributed.broadcast(sent, src=0)
        tensor.copy_(sent)


def mean_of_processes(tensor: Tensor) -> Tensor:
    """The mean over the processes, each with a tensor of this shape; the tensor itself where there is one process."""
    if not _is_distributed():
        return tensor
    total = tensor.to(_home(tensor), copy=True)
    torch.distributed.all_reduce(total)
    return total.div_(torch.distributed.get_world_size()).to(tensor.device)


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _home(tensor: Tensor) -> torch.device:
    """Where a tensor must lie to be sent: NCCL alone sends from GPUs only."""
    if torch.distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return tensor.device


def _fingerprint(tensor: Tensor) -> Tensor:
    """Two sums over the entries, as bits, so that a NaN equals itself; of one whole number where there are none."""
    exact = tensor.double()
    sums = torch.stack([exact.sum(), exact.abs().sum()])
    return sums.view(torch.int64).cpu()
