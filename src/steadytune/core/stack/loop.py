"""The step of a plain PyTorch loop: the model's own loss is the task loss, and the stack runs all passes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from steadytune.core.authoring.per_item import scales_by_items
from steadytune.core.model.outputs import loss_of
from steadytune.core.model.wrappers import refuse_bare_backward, refuse_engines
from steadytune.core.stack.arguments import require_batch, require_gradients
from steadytune.core.stack.runner import StepRunner
from steadytune.errors import HostError

logger = logging.getLogger("steadytune")


class PlainLoop:
    """The steps of one training in a loop of the user's own.

    Args:
        runner: runs its micro-batches.
    """

    def __init__(self, runner: StepRunner) -> None:
        self._runner = runner
        self._heeds_items: bool | None = None

    def backward(
        self,
        model: nn.Module,
        batch: Mapping[str, Any],
        *,
        scale: float = 1.0,
        backward: Callable[[Tensor], Any] = Tensor.backward,
        update: Callable[[], None] | None = None,
    ) -> Tensor:
        """See `Stack.backward`."""
        require_batch(model, batch)
        require_gradients()
        step = self._runner.step_method
        if step is not None and step.updates_within and update is None and backward is not Tensor.backward:
            raise HostError(
                f"{step.name} updates the weights within a batch, and only the loop knows how (scaler, clipping): "
                "pass update=..., a function that clips, steps the optimizer and clears the gradients."
            )

        if backward is Tensor.backward:
            refuse_bare_backward(model, batch, scale)

        def run() -> Tensor:
            loss = self._loss(model, batch)
            backward(loss * scale)
            return loss.detach()

        return self._runner.run_step(batch, loss=lambda: self._loss(model, batch), run=run, update=update, model=model)

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """See `Stack.loss`."""
        require_batch(model, batch)
        step = self._runner.step_method
        if step is not None:
            raise HostError(
                f"{step.name} runs the backward passes itself: write `stack.backward(model, batch)` in "
                "place of `stack.loss(model, batch).backward()`."
            )
        self._runner.low.refuse_own_backward()
        return self._loss(model, batch)

    def _loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        def task() -> tuple[Tensor, Any]:
            outputs = model(**batch)
            return loss_of(outputs), outputs

        runner = self._runner
        if runner.methods and not runner.host_is_checked:
            refuse_engines(model)
        with runner.clean_pass() as clean:
            loss, outputs = task() if clean is None or clean.known is None else clean.known
        items = None if clean is None else self._items(model, batch)
        return runner.add_terms(loss, outputs, clean, model=model, inputs=batch, run_task=task, denominator=items)

    def _items(self, model: nn.Module, batch: Mapping[str, Any]) -> Any:
        """What the model has divided the task loss by, where the loop has told it and it has listened."""
        items = batch.get("num_items_in_batch")
        if items is not None and self._heeds_items is None:
            self._heeds_items = scales_by_items(
                lambda given, n: loss_of(model(**given | {"num_items_in_batch": n})), model, dict(batch)
            )
            if self._heeds_items is False:
                logger.warning(
                    "%s does not heed num_items_in_batch: its loss is an average over each micro-batch, and so are "
                    "the terms. Weigh the micro-batches with scale=... where they hold different numbers of items.",
                    type(self._runner.session.model).__name__,
                )
        return items if self._heeds_items is not False else None
