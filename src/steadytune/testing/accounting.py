"""Checks of what a method costs: its passes, its copies of the weights, the activations it keeps."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from steadytune.core.authoring.cost import Cost
from steadytune.core.authoring.method import Method
from steadytune.core.stack.low_memory import Memory
from steadytune.core.stack.stack import Stack
from steadytune.testing import tiny
from steadytune.testing.subject import Subject

#: The passes that are counted, as `Cost` names them.
PASSES = (
    *("forwards", "forwards_without_graph", "backwards", "backwards_to_embeddings"),
    "backwards_through_gradients",
)


def gradients_stay(subject: Subject) -> None:
    """Copies of the weights get no gradient and do not move in a step; a gradient to embeddings leaves ``p.grad``."""
    network = tiny.model(dropout=0.1)
    stack = Stack([subject.build()])
    stack.prepare(network, total_updates=tiny.UPDATES, batches=tiny.batches)
    stack.scheduler(stack.optimizer(torch.optim.SGD(network.parameters(), lr=0.1)))
    tiny.move_teachers(stack)
    copies = stack.copies()
    before = {name: tensor.clone() for name, tensor in copies.items()}
    for p in network.parameters():
        p.grad = torch.full_like(p, 0.25)
    try:
        with _watched_ascents(network):
            stack.backward(network, tiny.batch())
        for name, tensor in copies.items():
            assert not tensor.requires_grad, f"{name} requires a gradient"
            assert tensor.grad is None, f"{name} has a gradient"
            assert torch.equal(tensor, before[name]), f"{name} moved within a step"
    finally:
        stack.close()


@contextmanager
def _watched_ascents(network: nn.Module) -> Iterator[None]:
    """Assert after each call of `torch.autograd.grad` that no weight's gradient has changed."""
    original = torch.autograd.grad

    def watched(*args: Any, **kwargs: Any) -> Any:
        before = tiny.gradients(network)
        result = original(*args, **kwargs)
        assert tiny.differing(tiny.gradients(network), before) == [], "an ascent changed p.grad"
        return result

    torch.autograd.grad = watched
    try:
        yield
    finally:
        torch.autograd.grad = original


def cost_is_counted(subject: Subject) -> None:
    """The passes of a micro-batch, counted at the model and in the autograd engine, are the declared ones."""
    method = subject.build()
    declared = Stack([method]).explain().total
    found = counted_passes(tiny.model(dropout=0.1), [method], updates=period(method))
    for name in PASSES:
        assert getattr(found, name) == getattr(declared, name), (
            f"{getattr(found, name)} {name}, declared {getattr(declared, name)}"
        )


def period(method: Method) -> int:
    """Updates after which what a method does in some of them has been seen: its setting ``every``."""
    return int(method.settings().get("every", 1))


def counted_passes(
    network: nn.Module, methods: Sequence[Method], *, updates: int = 1, memory: Memory = "full"
) -> Cost:
    """Count the passes of a micro-batch, on average over some updates; a pass of a part of it is a part of a pass."""
    counts = dict.fromkeys(PASSES, 0.0)
    given = tiny.batch()
    original, within_ascent = torch.autograd.grad, [False]

    def ascent(*args: Any, **kwargs: Any) -> Any:
        within_ascent[0] = True
        try:
            found = original(*args, **kwargs)
        finally:
            within_ascent[0] = False
        for gradient in found:
            if gradient is not None and gradient.requires_grad:
                gradient.register_hook(through_gradient)
        return found

    def share(logits: Tensor) -> float:
        return len(logits) / len(given["labels"]) / updates

    def through_gradient(gradient: Tensor) -> None:
        counts["backwards_through_gradients"] += share(gradient)

    def backward_pass(gradient: Tensor) -> None:
        counts["backwards_to_embeddings" if within_ascent[0] else "backwards"] += share(gradient)

    def forward_pass(_module: nn.Module, _inputs: object, outputs: Any) -> None:
        with_graph = outputs.logits.requires_grad
        counts["forwards" if with_graph else "forwards_without_graph"] += share(outputs.logits)
        if with_graph:
            outputs.logits.register_hook(backward_pass)

    torch.autograd.grad = ascent
    stack = Stack(methods, memory=memory)
    stack.prepare(network, total_updates=tiny.UPDATES, batches=tiny.batches)
    optimizer = stack.optimizer(torch.optim.SGD(network.parameters(), lr=0.01))
    stack.scheduler(optimizer)
    handle = network.register_forward_hook(forward_pass)
    try:
        for update in range(updates):
            if update > 0:
                optimizer.step()
            stack.backward(network, given)
    finally:
        handle.remove()
        torch.autograd.grad = original
        stack.close()
    return replace(Cost(), **counts)


def memory_is_counted(subject: Subject) -> None:
    """Copies of the weights and sets of activations alive at the worst moment of a step are the declared ones."""
    method = subject.build()
    declared = Stack([method]).explain().total
    copies, sets = measured_memory([method])
    assert abs(copies - declared.weight_copies) < 0.5, f"{copies:.2f} copies, declared {declared.weight_copies}"
    assert abs(sets - declared.activation_sets) < 0.5, f"{sets:.2f} sets, declared {declared.activation_sets}"


def measured_memory(methods: Sequence[Method], memory: Memory = "full") -> tuple[float, float]:
    """Extra copies of the trainable weights, and extra sets of activations, relative to plain training."""
    plain_copies, plain_sets = _worst_moment([], "full")
    copies, sets = _worst_moment(methods, memory)
    return copies - plain_copies, sets / plain_sets - 1


def _worst_moment(methods: Sequence[Method], memory: Memory) -> tuple[float, float]:
    """Tensors alive in units of the weights, and bytes saved for backward passes, each where it is largest."""
    network = tiny.model(dropout=0.1)
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    gc.collect()
    outside = _bytes_alive()
    stack = Stack(methods, memory=memory)
    stack.prepare(network, total_updates=tiny.UPDATES, batches=tiny.batches)
    # The moments of Adam belong to plain training, whichever optimizer a method makes of it.
    optimizer = stack.optimizer(torch.optim.AdamW(network.parameters(), lr=0.01))
    stack.scheduler(optimizer)
    largest = [0]

    def measure(*_: Any) -> None:
        grads = [p.grad for p in network.parameters()]  # Python sees a gradient only when it has been asked for
        largest[0] = max(largest[0], _bytes_alive() - outside)
        del grads

    # The word embeddings get their gradient last, when all others are there.
    words = next(network.parameters())
    handles = [network.register_forward_hook(measure), words.register_post_accumulate_grad_hook(measure)]
    for update in range(2):
        stack.backward(network, tiny.batch(2, seed=update, longest=3))
        measure()
        optimizer.step()
        measure()
        optimizer.zero_grad()
    for handle in handles:
        handle.remove()
    saved = _Saved(network)
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        for _ in range(max(map(period, methods), default=1)):
            stack.backward(network, tiny.batch(16, longest=24))
            optimizer.step()
    stack.close()
    return largest[0] / size, float(saved.peak)


def _bytes_alive() -> int:
    """Bytes of all tensors that Python holds, each storage once; activations, which have a graph, are not counted."""
    storages: dict[int, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # looking at an object may warn that it is deprecated
        for thing in gc.get_objects():
            # A saved random state, of bytes, is as large as this whole tiny model.
            # Tensors of torch.compile have no storage.
            if type(thing) in (Tensor, nn.Parameter) and thing.grad_fn is None and thing.dtype is not torch.uint8:
                storage = thing.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


class _Saved:
    """Counts the bytes saved for backward passes, parameters apart."""

    def __init__(self, network: nn.Module) -> None:
        self._weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
        self.now = 0
        self.peak = 0

    def pack(self, tensor: Tensor) -> _Packed:
        """Count a tensor in; detached, because a node that holds its own output would never be let go."""
        counts = tensor.untyped_storage().data_ptr() not in self._weights
        return _Packed(self, tensor.detach(), tensor.numel() * tensor.element_size() if counts else 0)

    @staticmethod
    def unpack(packed: _Packed) -> Tensor:
        """Give it back."""
        return packed.tensor


class _Packed:
    """One saved tensor; counted out when the graph lets it go."""

    def __init__(self, owner: _Saved, tensor: Tensor, size: int) -> None:
        self.owner, self.tensor, self.size = owner, tensor, size
        owner.now += size
        owner.peak = max(owner.peak, owner.now)

    def __del__(self) -> None:
        self.owner.now -= self.size
