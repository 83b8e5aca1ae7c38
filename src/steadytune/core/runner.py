"""How a stack runs one micro-batch: the clean pass, the terms, and the passes of a step method."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steadytune.core import randomness
from steadytune.core.errors import HostError
from steadytune.core.heads import logits_of, loss_of, prediction_of, question, supervised_items
from steadytune.core.method import LossMethod, Method, StepMethod
from steadytune.core.passes import Part, Passes
from steadytune.core.precision import precision_now
from steadytune.core.scaling import PerItem, scales_by_items
from steadytune.core.session import Session
from steadytune.core.sharding import process_rank
from steadytune.core.step import CleanPass, PassCounts, Step
from steadytune.core.wrappers import refuse_engines

logger = logging.getLogger("steadytune")


class StepRunner(ABC):
    """The half of a stack that runs micro-batches; `Stack` adds what comes before and after training."""

    def __init__(self, methods: tuple[Method, ...], seed: int) -> None:
        self.methods = methods
        self.loss_methods = tuple(m for m in methods if isinstance(m, LossMethod))
        self.step_method = next((m for m in methods if isinstance(m, StepMethod)), None)
        self.seed = seed
        self.total_updates: int | None = None
        self.updates = 0
        self.last_passes = PassCounts()
        self._session: Session | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._is_open = False
        self._host_is_checked = False
        self._heeds_items: bool | None = None
        self._update_has_begun = False
        self._micro_batches = 0
        self._clean_passes = 0
        self._counts_updates = True
        self._streams = randomness.Streams(self._derive_seed)
        self._part: Part = "all"
        self._share = 1.0
        self._sums: dict[str, list[Tensor]] = {}

    @abstractmethod
    def _refuse_bare_optimizer(self) -> None:
        """Raise when a method was to change the optimizer and has not been given it."""

    def _require_prepared(self) -> Session:
        if self._session is None:
            raise HostError("The stack has no model yet: call stack.prepare(model) before the first step.")
        return self._session

    def backward(
        self,
        model: nn.Module,
        batch: Mapping[str, Any],
        *,
        scale: float = 1.0,
        backward: Callable[[Tensor], Any] = Tensor.backward,
        update: Callable[[], None] | None = None,
    ) -> Tensor:
        """Run one micro-batch forward and backward: the step of a plain PyTorch loop, for methods of every role.

        Args:
            model: the model, wrapped or not.
            batch: keyword arguments of the model, ``labels`` among them.
            scale: factor of the loss, ``1 / n`` when ``n`` micro-batches make an update.
            backward: takes a loss and runs its backward pass, for example ``accelerator.backward``.
            update: for a method that updates within a step (FreeAT): clips, steps the optimizer and clears the
                gradients as the loop does; by default the watched optimizer steps, without clipping.

        Returns:
            The loss of the micro-batch, detached and without ``scale``.
        """

        step = self.step_method
        if step is not None and step.updates_within and update is None and backward is not Tensor.backward:
            raise HostError(
                f"{step.name} updates the weights within a batch, and only the loop knows how (scaler, clipping): "
                "pass update=..., a function that clips, steps the optimizer and clears the gradients."
            )

        def run() -> Tensor:
            loss = self._loss(model, batch)
            backward(loss * scale)
            return loss.detach()

        return self.run_step(batch, loss=lambda: self._loss(model, batch), run=run, update=update)

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Task loss plus all terms for one micro-batch, with its graph, for a loop that runs the backward itself.

        Both are averages over the micro-batch; with accumulation divide by the number of micro-batches, as ever. A
        language model takes ``num_items_in_batch`` in the batch instead, and both are divided by it.

        Args:
            model: the model, wrapped or not.
            batch: keyword arguments of the model, ``labels`` among them.

        Raises:
            HostError: a method of the stack runs the backward passes itself.
        """
        if self.step_method is not None:
            raise HostError(
                f"{self.step_method.name} runs the backward passes itself: write `stack.backward(model, batch)` in "
                "place of `stack.loss(model, batch).backward()`."
            )
        return self._loss(model, batch)

    def _loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        def task() -> tuple[Tensor, Any]:
            outputs = model(**batch)
            return loss_of(outputs), outputs

        if self.methods and not self._host_is_checked:
            refuse_engines(model)
        with self.clean_pass() as clean:
            loss, outputs = task()
        items = None if clean is None else self._items(model, batch)
        return self.add_terms(loss, outputs, clean, model=model, inputs=batch, run_task=task, denominator=items)

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
                    type(self._require_prepared().model).__name__,
                )
        return items if self._heeds_items is not False else None

    def run_step(
        self,
        inputs: Mapping[str, Any],
        *,
        loss: Callable[[], Tensor],
        run: Callable[[], Tensor],
        update: Callable[[], None] | None = None,
    ) -> Tensor:
        """Run one micro-batch through the host's own passes, in the way that the stack's step method wants.

        Args:
            inputs: the batch.
            loss: the host's forward pass and loss, through `clean_pass` and `add_terms`.
            run: the same with the host's backward pass; returns the loss, detached.
            update: the host's optimizer step and ``zero_grad``; by default those of the watched optimizer.
        """
        method, session = self.step_method, self._require_prepared()
        if method is None:
            return run()
        if method.whole_batch and self._micro_batches > 0 and _holds_gradients(session.model):
            raise HostError(
                f"{method.name} needs the whole batch of an update at once: set gradient accumulation to 1 and a "
                "larger batch, or leave it out."
            )
        device = next(session.model.parameters()).device
        randomness.require_replay(device)
        self._begin_pass()
        passes = Passes(
            plain_model=session.model,
            inputs=inputs,
            tap=session.taps[0],
            noise_generator=self._streams.noise(method.name, device),
            has_terms=bool(self.loss_methods),
            loss=loss,
            run=run,
            limited=self._limited,
            host_update=lambda: self._update_in_between(update),
            stream=lambda: self._streams.masks(method.name),
            random_state=randomness.RandomState.capture(device),
        )
        before = self._clean_passes
        result = method.run(passes)
        if self._clean_passes == before:
            raise HostError(
                f"{method.name} could not act: the loss of this loop never came past the stack. In a Trainer let "
                "compute_loss call super().compute_loss(), or put the mixin in front: class T(SteadyMixin, Yours)."
            )
        self._micro_batches += 1
        return result

    @contextmanager
    def _limited(self, part: Part, share: float) -> Iterator[None]:
        self._part, self._share = part, share
        try:
            yield
        finally:
            self._part, self._share = "all", 1.0

    def _update_in_between(self, update: Callable[[], None] | None) -> None:
        self._counts_updates = False
        try:
            if update is not None:
                update()
            elif self._optimizer is not None:
                self._optimizer.step()
                self._optimizer.zero_grad()
            else:
                raise HostError("The step method updates weights in the middle of a step: prepare(model, optimizer).")
        finally:
            self._counts_updates = True

    def _begin_pass(self) -> None:
        """Whatever must happen before the first pass of an update."""
        if self._update_has_begun:
            return
        if not self._is_open:
            raise HostError("The stack was finished or closed: call stack.prepare(model) before the next step.")
        self._refuse_bare_optimizer()
        if not self.loss_methods:
            self._check_host()
        self._update_has_begun = True
        self._require_prepared().before_update(self.updates, self.total_updates)

    @contextmanager
    def clean_pass(self) -> Iterator[CleanPass | None]:
        """Surround the host's own forward pass; yields what `add_terms` needs, ``None`` where there are no terms."""
        if not self.methods:
            yield None
            return
        session = self._require_prepared()
        self._begin_pass()
        self._clean_passes += 1
        if not self.loss_methods or self._part == "task":
            yield None
            return
        device = next(session.model.parameters()).device
        randomness.require_replay(device)
        state = randomness.RandomState.capture(device)
        with ExitStack() as watched:
            for tap in session.taps.values():
                watched.enter_context(tap.watching())
            yield CleanPass(state)

    def add_terms(
        self,
        task_loss: Tensor,
        outputs: Any,
        clean: CleanPass | None,
        *,
        model: nn.Module,
        inputs: Mapping[str, Any],
        denominator: Tensor | float | None = None,
        run_task: Callable[[], tuple[Tensor, Any]] | None = None,
    ) -> Tensor:
        """Add every term to the task loss.

        Args:
            task_loss: as the host computed it.
            outputs: output of the clean pass, with ``logits``.
            clean: what `clean_pass` yielded.
            model: the model as the host runs it.
            inputs: the batch of the clean pass.
            denominator: items that the host's loss was divided by, where that is not the micro-batch's own count.
            run_task: runs the host's forward pass and loss again, for terms that ask for a second task loss.
        """
        if clean is None:
            return task_loss * self._share if self._share != 1 else task_loss
        self._check_host()
        step = self._step(outputs, clean, model, inputs, run_task, task_loss=task_loss)
        total = task_loss if self._part == "all" else torch.zeros_like(task_loss)
        if denominator is None:
            self._record("task_loss", task_loss.detach())
        for method in self.loss_methods:
            step.owner = method.name
            values: PerItem = method.term(step)
            term = values.reduce(denominator)
            total = total + method.weight * term.to(total.device)
            self._record(method.name, values.reduce().detach())
            change = method.task_change(step)
            if change is not None:
                total = total + change
        for examples in step.non_finite:
            self._record("non_finite_perturbations", examples.float())
        self.last_passes = step.counts
        if self.step_method is None:
            self._micro_batches += 1
        return total * self._share if self._share != 1 else total

    def _check_host(self) -> None:
        """Let every method refuse or warn about the host, once, when the first pass has shown its precision."""
        if self._host_is_checked:
            return
        session = self._require_prepared()
        some = next(session.model.parameters())
        precision = session.taps[0].seen.precision if self.loss_methods else precision_now(some)
        for method in self.methods:
            method.check_host(total_updates=self.total_updates, precision=precision)
        self._host_is_checked = True

    def _step(
        self,
        outputs: Any,
        clean: CleanPass,
        model: nn.Module,
        inputs: Mapping[str, Any],
        run_task: Callable[[], tuple[Tensor, Any]] | None,
        *,
        task_loss: Tensor,
    ) -> Step:
        session = self._require_prepared()

        def refuse() -> tuple[Tensor, Any]:
            raise HostError("This training loop gives no second task loss: pass run_task to stack.add_terms().")

        labels, logits = inputs.get("labels"), logits_of(outputs, inputs)
        return Step(
            model=model,
            plain_model=session.model,
            inputs=question(session.model, inputs),
            labels=labels,
            clean_logits=logits,
            prediction=prediction_of(session.model, outputs, logits, labels),
            supervised=supervised_items(session.model, logits, inputs),
            task_loss=task_loss,
            clean=clean,
            taps=session.taps,
            shadows=session.shadows,
            anchor=session.anchor,
            run_task=run_task or refuse,
            streams=self._streams,
        )

    def _derive_seed(self, *parts: int | str) -> int:
        # The process is a part of it: its examples are others, so their noise should be.
        return randomness.derive_seed(self.seed, self.updates, process_rank(), *parts)

    def _record(self, name: str, value: Tensor) -> None:
        if name not in self._sums:
            self._sums[name] = [
                value.new_zeros((), dtype=torch.float64),
                value.new_zeros((), dtype=torch.float64),
            ]
        total, count = self._sums[name]
        total += value
        count += 1

    def take_logs(self) -> dict[str, float]:
        """Mean of the task loss and of each unweighted term per micro-batch since the last call.

        ``non_finite_perturbations`` is a sum, present only if there were any.
        """
        logs = {name: float(total / count) for name, (total, count) in self._sums.items()}
        if "non_finite_perturbations" in logs:
            logs["non_finite_perturbations"] = float(self._sums["non_finite_perturbations"][0])
            if logs["non_finite_perturbations"] == 0:
                del logs["non_finite_perturbations"]
        self._sums.clear()
        return logs


def _holds_gradients(model: nn.Module) -> bool:
    """Whether a batch has left gradients: a step that a scaler skipped has counted as no update, but cleared them."""
    return any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
