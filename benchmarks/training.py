"""Training loops to be measured: plain, with a stack, and with smart-pytorch where it is installed."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.networks import Batch
from benchmarks.setting import Setting
from steadytune import Stack
from steadytune.core.authoring.method import Method
from steadytune.core.stack.composition import MethodOrMethods

#: Of a training; so long that every schedule is at its beginning.
UPDATES = 100_000
LEARNING_RATE = 1e-6


class Plain:
    """Fine-tuning without a line of ours, and what the other loops have in common.

    Args:
        model: in training mode; it is trained.
        batch: the same in every update.
        setting: device and precision.
    """

    #: Updates that belong together, where not all cost the same.
    cycle = 1

    def __init__(self, model: nn.Module, batch: Batch, setting: Setting) -> None:
        self.model, self.batch, self.setting = model, batch, setting
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

    def backward(self) -> None:
        """Forward and backward passes of one micro-batch."""
        with self.setting.autocast():
            loss = self.model(**self.batch).loss
        loss.backward()

    def update(self) -> None:
        """One update."""
        self.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def updates(self) -> None:
        """The updates that belong together."""
        for _ in range(self.cycle):
            self.update()

    def close(self) -> None:
        """Leave the model as it came."""


class WithStack(Plain):
    """The same with methods, as a loop of one's own runs them.

    Args:
        methods: what to train with.
        options: what the stack takes beside them, such as ``memory="low"``.
    """

    def __init__(
        self, model: nn.Module, batch: Batch, setting: Setting, methods: Iterable[MethodOrMethods], **options: Any
    ) -> None:
        super().__init__(model, batch, setting)
        self.stack = Stack(methods, **options)
        self.stack.prepare(model, total_updates=UPDATES, batches=lambda: iter([batch]))
        self.optimizer = self.stack.optimizer(self.optimizer)
        self.scheduler = self.stack.scheduler(self.optimizer)
        self.cycle = cycle_of(self.stack.methods)

    def backward(self) -> None:
        """Forward and backward passes of one micro-batch, with those that the methods need."""
        with self.setting.autocast():
            self.stack.backward(self.model, self.batch)

    def update(self) -> None:
        """One update, and one step of the schedule where there is one."""
        super().update()
        if self.scheduler is not None:
            self.scheduler.step()

    def close(self) -> None:
        """Leave the model as it came."""
        self.stack.close()


def cycle_of(methods: Sequence[Method]) -> int:
    """Updates after which the methods' work begins again, for those that act on every k-th update only."""
    return math.lcm(*(int(getattr(method, "every", 1)) for method in methods))


class WithSmartPytorch(Plain):
    """R_s by smart-pytorch, called as its documentation shows, with one step of ascent and its own defaults."""

    def backward(self) -> None:
        """Forward and backward passes of one micro-batch."""
        import smart_pytorch  # pyright: ignore[reportMissingImports] - installed by whoever wants to compare

        model: Any = self.model
        with self.setting.autocast():
            embeddings = model.get_input_embeddings()(self.batch["input_ids"])

            def logits(moved: Tensor) -> Tensor:
                return model(inputs_embeds=moved, attention_mask=self.batch["attention_mask"]).logits

            clean = logits(embeddings)
            regularizer = smart_pytorch.SMARTLoss(
                eval_fn=logits, loss_fn=smart_pytorch.kl_loss, loss_last_fn=smart_pytorch.sym_kl_loss, num_steps=1
            )
            loss = cross_entropy(clean, self.batch["labels"]) + regularizer(embeddings, clean)
        loss.backward()


def has_smart_pytorch() -> bool:
    """Whether it is installed."""
    return importlib.util.find_spec("smart_pytorch") is not None
