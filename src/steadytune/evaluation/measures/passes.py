"""One batch put to a model in evaluation mode: its answer, and its answers when the word embeddings are moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from steadytune.core.arithmetic import divergence, noise
from steadytune.core.model import outputs as heads
from steadytune.core.model.tap import Tap, is_length_first, word_embedding

Batch = Mapping[str, Any]


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Evaluate: no dropout, and gradients to perturbations only; afterwards the model is as it was."""
    training = {module: module.training for module in model.modules()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)
        for module, mode in training.items():
            module.training = mode


@contextmanager
def in_double(model: nn.Module) -> Iterator[None]:
    """Compute in float64, so that what a small perturbation changes is not rounding; afterwards as it was.

    >>> layer = nn.Linear(1, 1)
    >>> with in_double(layer):
    ...     layer.weight.dtype
    torch.float64
    >>> layer.weight.dtype
    torch.float32
    """
    kept = [(t, t.data) for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    for tensor, data in kept:
        tensor.data = data.double()
    try:
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


class Asked:
    """A batch, its clean answer, and the model to ask again; inside `at_rest`.

    Attributes:
        clean: the answer, ``(batch, ..., outputs)``, detached.
        prediction: how answers are compared.
        supervised: ``(batch, ...)``, which predictions count; all of them where it is ``None``.
        mask: ``(batch, length)``, the real tokens.
        seen: shape, type and device of the embeddings.

    Raises:
        HostError: the model has no word embeddings, or gives nothing to compare.
    """

    def __init__(self, model: nn.Module, batch: Batch) -> None:
        self.model = model
        self.inputs = heads.question(model, batch)
        self._tap = Tap(word_embedding(model), length_first=is_length_first(model))
        with torch.no_grad(), self._tap.watching():
            outputs = model(**self.inputs)
        labels = batch.get("labels")
        self.clean = heads.logits_of(outputs, self.inputs).detach()
        self.prediction: heads.Prediction = heads.prediction_of(model, outputs, self.clean, labels)
        self.supervised = heads.supervised_items(model, self.clean, batch)
        self.labels = labels
        self.seen = self._tap.seen
        self.mask = noise.token_mask(self.inputs, self.seen)

    def moved(self, delta: Tensor) -> Tensor:
        """The answer with ``delta``, ``(batch, length, width)``, added to the embeddings of the real tokens."""
        delta = torch.where(self.mask.unsqueeze(-1), delta, delta.new_zeros(()))
        with self._tap.perturbing(delta):
            return heads.logits_of(self.model(**self.inputs), self.inputs)

    def zero(self) -> Tensor:
        """No perturbation."""
        return torch.zeros(self.seen.shape, dtype=self._dtype(), device=self.seen.device)

    def normal(self, standard_deviation: float, generator: torch.Generator) -> Tensor:
        """A Gaussian perturbation of the real tokens."""
        return noise.normal_noise(noise.Site(self.seen, self.mask, generator), standard_deviation)

    def divergence(self, answer: Tensor) -> Tensor:
        """The paper's l_s between an answer and the clean one, ``(batch, items)``, 0 for what does not count."""
        found = divergence.of_items(self.prediction, answer, self.clean, self.supervised)
        return torch.where(self.counted(found), found, found.new_zeros(())).flatten(1) if found.dim() > 1 else found

    def items(self) -> int:
        """How many predictions of the batch count."""
        like = self.clean.select(-1, 0) if self.prediction == "classification" else self.clean
        return int(self.counted(like).sum())

    def counted(self, like: Tensor) -> Tensor:
        """Which values count, of one value per prediction."""
        if self.supervised is None or self.supervised.shape != like.shape:
            return torch.ones_like(like, dtype=torch.bool)
        return self.supervised

    def shift(self, answer: Tensor) -> Tensor:
        """L2 norm of how far each example's answer is from the clean one, over all that counts: ``(batch,)``."""
        difference = answer - self.clean
        if self.supervised is not None and self.supervised.shape == difference.shape[:-1]:
            difference = torch.where(self.supervised.unsqueeze(-1), difference, difference.new_zeros(()))
        return difference.flatten(1).norm(dim=1)

    def losses(self, answer: Tensor) -> Tensor:
        """The task loss of every prediction against its label, ``(batch, ...)``, 0 for what does not count."""
        labels = self._labels()
        if self.prediction == "regression":
            return (answer - labels.view_as(answer).to(answer.dtype)).square()
        if self.prediction == "multi_label":
            return functional.binary_cross_entropy_with_logits(answer, labels.to(answer.dtype), reduction="none")
        flat = functional.cross_entropy(answer.flatten(0, -2), labels.flatten(), reduction="none")
        return flat.view(labels.shape)

    def right(self, answer: Tensor) -> Tensor:
        """Which predictions are right, flat and only those that count; not for regression."""
        labels = self._labels()
        if self.prediction == "multi_label":
            found = (answer > 0) == (labels > 0.5)
        else:
            found = (answer.argmax(-1) == labels) & torch.isfinite(answer).all(-1)
        return found[self.counted(found)]

    def _labels(self) -> Tensor:
        if self.labels is None:
            raise ValueError("the batch has no labels")
        return self.labels

    def _dtype(self) -> torch.dtype:
        return torch.promote_types(self.seen.dtype, torch.float32)
