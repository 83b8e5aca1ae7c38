"""A tiny random BERT, batches for it, and plain training loops: what the contract's checks run on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from steadytune.core.arithmetic import noise
from steadytune.core.arithmetic.randomness import Streams
from steadytune.core.authoring.method import Method
from steadytune.core.stack.stack import Stack

VOCABULARY = 60
UPDATES = 6
LEARNING_RATE = 1e-2

Batch = dict[str, Tensor]


def model(*, dropout: float = 0.0, dtype: torch.dtype = torch.float32, **settings: Any) -> nn.Module:
    """A classifier of two layers and width 16, the same in every call, in training mode."""
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 40,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "initializer_range": 0.2,
        "num_labels": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = BertForSequenceClassification(BertConfig(**sizes | settings))
    return nn.Module.to(network, dtype).train()


def batch(count: int = 4, *, seed: int = 0, padding: int = 0, longest: int = 8) -> Batch:
    """Sentences of 3 to ``longest`` tokens with two classes, padded to the longest and ``padding`` further."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, longest + 1, (count,), generator=generator).tolist()
    width = max(lengths) + padding
    ids, mask = torch.zeros(count, width, dtype=torch.long), torch.zeros(count, width, dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(5, VOCABULARY, (length,), generator=generator)
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.randint(2, (count,), generator=generator)}


def rows(whole: Mapping[str, Tensor], start: int, stop: int) -> Batch:
    """Some examples of a batch, with no more padding than they need."""
    part = {name: tensor[start:stop] for name, tensor in whole.items()}
    length = int(part["attention_mask"].sum(1).max())
    return {name: tensor[:, :length] if tensor.dim() > 1 else tensor for name, tensor in part.items()}


def batches() -> Iterator[Batch]:
    """The training batches, one for each update."""
    return (batch(seed=update) for update in range(UPDATES))


def loop(network: nn.Module, methods: Sequence[Method] | None, *, updates: int = 3, seed: int = 0) -> list[float]:
    """A plain PyTorch loop with AdamW; with ``None`` not a line of ours takes part. Returns the losses."""
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    stack, scheduler = None, None
    if methods is not None:
        stack = Stack(methods, seed=seed)
        stack.prepare(network, total_updates=UPDATES, batches=batches)
        optimizer = stack.optimizer(optimizer)
        scheduler = stack.scheduler(optimizer)
    losses = []
    for update in range(updates):
        torch.manual_seed(1000 + update)
        given = batch(seed=update)
        if stack is None:
            loss = network(**given).loss
            loss.backward()
        else:
            loss = stack.backward(network, given)
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
        losses.append(float(loss.detach()))
    if stack is not None:
        stack.finish()
    return losses


@contextmanager
def one_update(
    network: nn.Module, methods: Sequence[Method], micro_batches: Sequence[Batch]
) -> Iterator[tuple[Stack, float, dict[str, Tensor]]]:
    """Prepare, run the micro-batches of one update with teachers moved off the student, and yield what came out."""
    network.zero_grad()
    stack = Stack(methods)
    stack.prepare(network, total_updates=UPDATES, batches=batches)
    optimizer = stack.optimizer(torch.optim.SGD(network.parameters(), lr=0.1))
    stack.scheduler(optimizer)
    move_teachers(stack)
    torch.manual_seed(5)
    scale = 1 / len(micro_batches)
    loss = sum(float(stack.backward(network, given, scale=scale)) * scale for given in micro_batches)
    found = gradients(network)
    try:
        yield stack, loss, found
    finally:
        stack.close()


def move_teachers(stack: Stack) -> None:
    """Move all teachers away from the student, so that their terms have a gradient at once."""
    generator = torch.Generator().manual_seed(3)
    for teacher in stack.teacher_weights().values():
        for tensor in teacher.values():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.dtype))


def weights(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the parameters."""
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def gradients(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the gradients, zero where there is none."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
        for name, p in network.named_parameters()
    }


def differing(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not equal bit for bit."""
    return [name for name in first if not torch.equal(first[name], second[name])]


def distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Largest difference between two mappings of tensors, relative to the largest entry of the second."""
    scale = max(float(t.abs().max()) for t in second.values())
    return max(float((first[name] - second[name]).abs().max()) for name in second) / max(scale, 1e-300)


@contextmanager
def noise_by_position() -> Iterator[None]:
    """Make the noise of a token depend on its place in the sentence alone, and the noise of outputs on nothing."""

    def fixed(site: noise.Site, draw: Callable[..., Tensor]) -> Tensor:  # noqa: ARG001 - the signature it replaces
        shape = site.seen.shape
        table = torch.rand(shape[1:], generator=torch.Generator().manual_seed(0)) * 2 - 1
        return table.to(site.seen.device, site.seen.dtype) * site.mask.unsqueeze(-1)

    def fixed_outputs(like: Tensor, _generator: object, mask: Tensor | None = None) -> Tensor:  # noqa: ARG001
        table = torch.rand(like.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
        return table.to(like).expand(like.shape)

    with patch.object(noise, "_at_real_tokens", fixed), patch.object(noise, "output_noise", fixed_outputs):
        yield


@contextmanager
def all_examples_drawn() -> Iterator[None]:
    """Make a term that takes a random part of the examples take all of them: which ones depends on their order."""
    with patch.object(Streams, "draw_examples", lambda _self, _owner, count, _one_in: list(range(count))):
        yield


def enable_checkpointing(network: Any) -> None:
    """Let the model run its layers again in the backward pass; newer versions of Transformers renamed it."""
    if hasattr(network, "activation_checkpointing_enable"):
        network.activation_checkpointing_enable({"use_reentrant": False})
    else:
        network.gradient_checkpointing_enable({"use_reentrant": False})
