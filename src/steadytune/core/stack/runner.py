"""How a stack runs one micro-batch: the clean pass, the terms, and the passes of a step method."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steadytune.core.arithmetic import randomness
from steadytune.core.authoring.method import LossMethod, Method, StepMethod
from steadytune.core.authoring.passes import LossPart, Passes
from steadytune.core.authoring.per_item import PerItem
from steadytune.core.authoring.step import CleanPass, PassCounts, Step
from steadytune.core.model.outputs import logits_of, prediction_of, question, supervised_items
from steadytune.core.model.precision import precision_now
from steadytune.core.model.sharding import process_rank
from steadytune.core.stack.arguments import require_training_mode
from steadytune.core.stack.finite_watch import FiniteWatch
from steadytune.core.stack.logs import Tally
from steadytune.core.stack.low_memory import LowMemory, Memory, checked
from steadytune.core.stack.session import Session
from steadytune.errors import HostError

logger = logging.getLogger("steadytune")


class StepRunner(ABC):
    """The half of a stack that runs micro-batches; `Stack` adds what comes before and after training."""

    def __init__(self, methods: tuple[Method, ...], seed: int, memory: Memory = "full") -> None:
        self.methods = methods
        self.memory = checked(memory)
        self.loss_methods = tuple(m for m in methods if isinstance(m, LossMethod))
        self.step_method = next((m for m in methods if isinstance(m, StepMethod)), None)
        self.seed = seed
        self.total_updates: int | None = None
        self.updates = 0
        self.last_passes = PassCounts()
        self._session: Session | None = None
        self._finite: FiniteWatch | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._is_open = False
        self._host_is_checked = False
        self._heeds_items: bool | None = None
        self._told: set[str] = set()
        self._update_has_begun = False
        self._micro_batches = 0
        self._clean_passes = 0
        self._counts_updates = True
        self._streams = self._new_streams()
        self._part: LossPart = "all"
        self._share = 1.0
        self._low = LowMemory(self.loss_methods if self.memory == "low" else ())
        self._tally = Tally()

    @abstractmethod
    def _refuse_bare_optimizer(self) -> None:
        """Raise when a method was to change the optimizer and has not been given it."""

    def _require_prepared(self) -> Session:
        if self._session is None:
            raise HostError("The stack has no model yet: call stack.prepare(model) before the first step.")
        return self._session

    def run_step(
        self,
        inputs: Mapping[str, Any],
        *,
        loss: Callable[[], Tensor],
        run: Callable[[], Tensor],
        update: Callable[[], None] | None = None,
        model: nn.Module | None = None,
    ) -> Tensor:
        """Run one micro-batch through the host's own passes, in the way that the stack's step method wants.

        Args:
            inputs: the batch.
            loss: the host's forward pass and loss, through `clean_pass` and `add_terms`.
            run: the same with the host's backward pass; returns the loss, detached.
            update: the host's optimizer step and ``zero_grad``; by default those of the watched optimizer.
            model: the model as the host runs it.
        """
        method, session = self.step_method, self._require_prepared()
        run = self._in_parts(run, model) if self._low.groups else run
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

    @property
    def runs_passes(self) -> bool:
        """Whether a micro-batch has more than one backward pass, so that a host must call `run_step`."""
        return self.step_method is not None or self.runs_in_parts

    @property
    def runs_in_parts(self) -> bool:
        """Whether ``memory="low"`` makes a difference to these methods."""
        return bool(self._low.groups)

    def _in_parts(self, run: Callable[[], Tensor], model: nn.Module | None) -> Callable[[], Tensor]:
        def run_in_parts() -> Tensor:
            if self._part == "task":
                return run()
            self._begin_pass()
            return self._low.run(run, model=model, device=next(self._require_prepared().model.parameters()).device)

        return run_in_parts

    def own_share(self, loss: Tensor) -> Tensor:
        """What a host that adds to the loss after `add_terms` runs backward: with ``memory="low"`` not all at once."""
        return loss if self._low.step is None else self._low.step.own_share(loss)

    @contextmanager
    def _limited(self, part: LossPart, share: float) -> Iterator[None]:
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
        if self.methods:
            require_training_mode(self._require_prepared().model)
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
        self._low.refuse_own_backward()
        parts = self._low.step
        device = next(session.model.parameters()).device
        randomness.require_replay(device)
        clean = CleanPass(randomness.RandomState.capture(device), None if parts is None else parts.task)
        with ExitStack() as around:
            if clean.known is None:
                for tap in session.taps.values():
                    around.enter_context(tap.watching())
            if parts is not None and not parts.is_clean:
                # In older versions of torch autocast keeps the weights cast in it, and the next pass has no gradient.
                around.callback(torch.clear_autocast_cache)
                around.enter_context(torch.no_grad())
            yield clean

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
            self._see("loss", task_loss)
            return task_loss * self._share if self._share != 1 else task_loss
        self._check_host()
        parts = self._low.step
        if parts is not None and parts.is_clean:
            assert parts.step is not None
            self._end_terms(parts.step)
            whole = self._part == "all"
            return self._low.join(logits_of(outputs, inputs), task_loss, with_task=whole, share=self._share)
        step = None if parts is None else parts.step
        if step is None:
            step = self._step(outputs, clean, model, inputs, run_task, task_loss=task_loss)
            self._see_task(step, task_loss)
            self._tally.record("task_loss", task_loss.detach(), _share_of_update(step, denominator))
            if parts is not None:
                parts.begin(step, outputs)
        total = task_loss if self._part == "all" and parts is None else torch.zeros_like(task_loss)
        for method in self.loss_methods if parts is None else parts.groups[parts.now]:
            step.owner = method.name
            values: PerItem = method.term(step)
            self._see(method.name, values.supervised())
            term = values.reduce(denominator)
            total = total + method.weight * term.to(total.device)
            self._tally.record(method.name, term.detach(), _share_of_update(step, denominator))
            change = method.task_change(step)
            if change is not None:
                total = total + change
                self._tally.record("task_loss", change.detach(), 0.0)
        if parts is not None:
            return parts.collect(total, self._share)
        self._end_terms(step)
        return total * self._share if self._share != 1 else total

    def _end_terms(self, step: Step) -> None:
        for examples in step.non_finite:
            self._tally.count("non_finite_perturbations", examples)
        self.last_passes = step.counts
        if self.step_method is None:
            self._micro_batches += 1

    def _check_host(self) -> None:
        """Let every method refuse or warn about the host, once, when the first pass has shown its precision."""
        if self._host_is_checked:
            return
        session = self._require_prepared()
        some = next(session.model.parameters())
        precision = session.taps[0].seen.precision if self.loss_methods else precision_now(some)
        for method in self.methods:
            method.check_host(total_updates=self.total_updates, precision=precision)
        self._host_is_checked, self._told = True, set()

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
            seen={site: tap.seen for site, tap in session.taps.items()},
            shadows=session.shadows,
            anchor=session.anchor,
            run_task=run_task or refuse,
            streams=self._streams,
            told=self._told,
            clean_embeddings={site: tap.take_clean() for site, tap in session.taps.items()},
        )

    def _new_streams(self) -> randomness.Streams:
        return randomness.Streams(self._derive_seed, self.seed, self.updates)

    def _derive_seed(self, *parts: int | str) -> int:
        # The process is a part of it: its examples are others, so their noise should be.
        return randomness.derive_seed(self.seed, self.updates, process_rank(), *parts)

    def _see_task(self, step: Step, task_loss: Tensor) -> None:
        """Note whether the output, the labels and the task loss are finite numbers."""
        # The largest entry: a class that is ruled out by minus infinity does no harm.
        outputs = step.clean_logits.detach().amax(-1)
        mask = step.supervised
        if mask is not None and mask.shape == outputs.shape:
            outputs = torch.where(mask, outputs, outputs.new_zeros(()))
        self._see("output", outputs)
        if step.labels is not None and step.labels.is_floating_point():
            self._see("label", step.labels)
        self._see("task_loss", task_loss)

    def _see(self, name: str, values: Tensor) -> None:
        if self._finite is not None:
            count = self._finite.see(name, values, update=self.updates + 1, micro_batch=self._micro_batches + 1)
            self._tally.count(f"non_finite_{name}", count)

    def take_logs(self) -> dict[str, float]:
        """Mean of the task loss and of each unweighted term since the last call: the loss is their weighted sum.

        The mean is over micro-batches; where the loss is divided by the items of an update, over updates.
        What was not finite is counted, if anything was: ``non_finite_task_loss``, ``non_finite_perturbations``.
        """
        return self._tally.take()


def _share_of_update(step: Step, denominator: Tensor | float | None) -> Tensor | float:
    """What part of an update's items the micro-batch holds, where its loss is divided by all of them; else 1."""
    if denominator is None:
        return 1.0
    logits, mask = step.clean_logits, step.supervised
    outputs = logits.shape[:-1] if step.prediction == "classification" else logits.shape
    return (outputs.numel() if mask is None else mask.sum()) / torch.as_tensor(denominator, device=logits.device)


def _holds_gradients(model: nn.Module) -> bool:
    """Whether a batch has left gradients: a step that a scaler skipped has counted as no update, but cleared them."""
    return any(p.grad is not None and bool(p.grad.any()) for p in model.parameters())
