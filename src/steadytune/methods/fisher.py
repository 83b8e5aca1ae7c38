"""The diagonal Fisher information of a model's weights on training data, as Child-Tuning and its like use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steadytune.core.arithmetic import randomness
from steadytune.core.authoring import Training
from steadytune.core.model.sharding import is_sharded_model, mean_of_processes
from steadytune.errors import HostError


def fisher_information(training: Training, names: Sequence[str], owner: str) -> dict[str, Tensor]:
    """Mean over the batches of the squared gradient of a batch's loss, for the named parameters.

    In training mode, on random numbers of its own; the host's gradients, modes and random state stay as they were.

    Args:
        training: the training, with ``batches``.
        names: which parameters.
        owner: the name of the method, for the random numbers and messages.

    Returns:
        By name, of the parameter's shape, at least float32; the same on every process.

    Raises:
        HostError: there is no batch, a batch without a loss, or a model that is sharded already.
    """
    parameters = training.parameters()
    if is_sharded_model(training.model):
        raise HostError(
            f"{owner} looks at the gradients of each process before training, and FSDP2 keeps a part of each: let the "
            "Trainer or Accelerate wrap the model after the optimizer is made."
        )
    device = next(iter(parameters.values())).device
    sums = {name: torch.zeros_like(parameters[name], dtype=_wide(parameters[name])) for name in names}
    count = 0

    def stream(*parts: int | str) -> AbstractContextManager[None]:
        return randomness.fresh(randomness.derive_seed(training.seed, owner, "fisher", *parts), device)

    with _untouched(training.model), stream("data"):
        for batch in training.batches() if training.batches is not None else ():
            count += 1
            for p in parameters.values():
                p.grad = None
            with stream(count):  # of its own: loaders draw numbers too, each its own way
                _loss(training.model, batch, device, owner).backward()
            for name, total in sums.items():
                gradient = parameters[name].grad
                if gradient is not None:
                    total.add_(gradient.to(total.dtype).square())
    if count == 0:
        raise HostError(f"{owner} was given no batch to look at: `batches` is empty.")
    return _mean_of_all_processes(sums, count)


def largest(values: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """True at the ``share`` of all entries together that are largest; never at an entry that is 0.

    Raises:
        HostError: no entry is above 0.

    >>> largest({"a": torch.tensor([1.0, 4.0]), "b": torch.tensor([2.0, 3.0])}, 0.5)
    {'a': tensor([False,  True]), 'b': tensor([False,  True])}
    """
    every = torch.cat([v.flatten() for v in values.values()]) if values else torch.zeros(1)
    if not bool(every.max() > 0):
        raise HostError("The transformer layers got no gradient from the batches, so there is nothing to choose from.")
    count = max(round(share * every.numel()), 1)
    threshold = every.kthvalue(every.numel() - count + 1).values
    return {name: (v >= threshold) & (v > 0) for name, v in values.items()}


def _wide(p: Tensor) -> torch.dtype:
    return torch.promote_types(p.dtype, torch.float32)


@contextmanager
def _untouched(model: nn.Module) -> Iterator[None]:
    """Run a block in training mode, and leave modes and gradients as they were."""
    modes = {module: module.training for module in model.modules()}
    gradients = {p: p.grad for p in model.parameters()}
    model.train()
    try:
        yield
    finally:
        for p, gradient in gradients.items():
            p.grad = gradient
        for module, mode in modes.items():
            module.training = mode


def _loss(model: nn.Module, batch: Mapping[str, Any], device: torch.device, owner: str) -> Tensor:
    outputs = model(**{name: v.to(device) if isinstance(v, Tensor) else v for name, v in batch.items()})
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if not isinstance(loss, Tensor):
        raise HostError(f"{owner} needs batches with labels: the model returned no loss.")
    return loss


def _mean_of_all_processes(sums: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: mean_of_processes(tensor.div_(count)) for name, tensor in sums.items()}
