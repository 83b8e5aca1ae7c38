"""How a stack runs one micro-batch: the clean pass, the terms, and the passes of a step method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from steadytune.core.stack.arguments import require_training_mode
from steadytune.core.stack.logs import Tally
from steadytune.core.stack.low_memory import LowMemory, Memory
from steadytune.core.stack.session import Session
from steadytune.core.stack.update_clock import UpdateClock
from steadytune.errors import HostError


class StepRunner:
    """Runs the micro-batches of one training; `Stack.prepare` makes it, so that it always has a model.

    Args:
        methods: the methods of the stack.
        memory: ``"low"`` makes the graphs one at a time.
        session: the model in training.
        clock: counts its updates.
        refuse_optimizer: raises where a method was to change the optimizer and has not been given it.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        memory: Memory,
        session: Session,
        clock: UpdateClock,
        refuse_optimizer: Callable[[], None],
    ) -> None:
        self.methods, self.session, self.clock = methods, session, clock
        self.loss_methods = tuple(m for m in methods if isinstance(m, LossMethod))
        self.step_method = next((m for m in methods if isinstance(m, StepMethod)), None)
        self.low = LowMemory(self.loss_methods if memory == "low" else ())
        self.logs = Tally()
        self.last_passes = PassCounts()
        self.is_open = True
        self.host_is_checked = False
        self._refuse_optimizer = refuse_optimizer
        self._warned: set[str] = set()
        self._clean_passes = 0
        self._part: LossPart = "all"
        self._share = 1.0

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return next(self.session.model.parameters()).device

    def holds(self, model: nn.Module) -> bool:
        """Whether the stack was prepared with this model and is neither finished nor closed."""
        return self.is_open and self.session.model is model

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
        method, now = self.step_method, self.clock.now
        run = self._in_parts(run, model) if self.low.groups else run
        if method is None:
            return run()
        if method.whole_batch and now.micro_batches > 0 and _holds_gradients(self.session.model):
            raise HostError(
                f"{method.name} needs the whole batch of an update at once: set gradient accumulation to 1 and a "
                "larger batch, or leave it out."
            )
        randomness.require_replay(self.device)
        self._begin_pass()
        before = self._clean_passes
        result = method.run(self._passes(method, inputs, loss, run, update))
        if self._clean_passes == before:
            raise HostError(
                f"{method.name} could not act: the loss of this loop never came past the stack. In a Trainer let "
                "compute_loss call super().compute_loss(), or put the mixin in front: class T(SteadyMixin, Yours)."
            )
        now.micro_batches += 1
        return result

    def _passes(
        self,
        method: StepMethod,
        inputs: Mapping[str, Any],
        loss: Callable[[], Tensor],
        run: Callable[[], Tensor],
        update: Callable[[], None] | None,
    ) -> Passes:
        streams = self.clock.now.streams
        return Passes(
            plain_model=self.session.model,
            inputs=inputs,
            tap=self.session.taps[0],
            noise_generator=streams.noise(method.name, self.device),
            has_terms=bool(self.loss_methods),
            loss=loss,
            run=run,
            limited=self._limited,
            buffers=self.session.buffers,
            host_update=lambda: self.clock.step_in_between(update),
            stream=lambda: streams.masks(method.name),
            random_state=randomness.RandomState.capture(self.device),
        )

    def _in_parts(self, run: Callable[[], Tensor], model: nn.Module | None) -> Callable[[], Tensor]:
        def run_in_parts() -> Tensor:
            if self._part == "task":
                return run()
            self._begin_pass()
            return self.low.run(run, model=model, device=self.device)

        return run_in_parts

    def own_share(self, loss: Tensor) -> Tensor:
        """What a host that adds to the loss after `add_terms` runs backward: with ``memory="low"`` not all at once."""
        return loss if self.low.step is None else self.low.step.own_share(loss)

    @contextmanager
    def _limited(self, part: LossPart, share: float) -> Iterator[None]:
        self._part, self._share = part, share
        try:
            yield
        finally:
            self._part, self._share = "all", 1.0

    def _begin_pass(self) -> None:
        """Whatever must happen before the first pass of an update."""
        if self.methods:
            require_training_mode(self.session.model)
        if self.clock.now.has_begun:
            return
        if not self.is_open:
            raise HostError("The stack was finished or closed: call stack.prepare(model) before the next step.")
        self._refuse_optimizer()
        if not self.loss_methods:
            self._check_host()
        self.clock.now.has_begun = True
        self.session.before_update(self.clock.updates, self.clock.total)

    @contextmanager
    def clean_pass(self) -> Iterator[CleanPass | None]:
        """See `Stack.clean_pass`."""
        if not self.methods:
            yield None
            return
        self._begin_pass()
        self._clean_passes += 1
        if not self.loss_methods or self._part == "task":
            yield None
            return
        self.low.refuse_own_backward()
        parts = self.low.step
        randomness.require_replay(self.device)
        clean = CleanPass(randomness.RandomState.capture(self.device), None if parts is None else parts.task)
        with ExitStack() as around:
            if clean.known is None:
                for tap in self.session.taps.values():
                    around.enter_context(tap.watching())
            if parts is not None and not parts.is_clean:
                # In older versions of torch autocast keeps the weights cast in it, and the next pass has no gradient.
                around.callback(torch.clear_autocast_cache)
                around.enter_context(torch.no_grad())
            if self.step_method is None:  # which has its own first pass, and others after it
                is_extra = parts is not None and not parts.is_clean  # the clean pass runs once more, with its graph
                around.enter_context(self.session.buffers.kept() if is_extra else self.session.buffers.observed())
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
        """See `Stack.add_terms`."""
        # A loss takes one of three ways through here:
        # - without terms, or where a step method wants the task alone: the task loss;
        # - memory="full": the task loss plus every term, in one graph, for one backward pass of the host;
        # - memory="low": the host calls once for each group of terms and gets their part of the loss; the last call is
        #   the clean pass, whose backward pass takes along what the terms have collected.
        # The task loss stays as the host has scaled it. A term is divided by what the host divided the task loss by.
        if clean is None:
            self._see("loss", task_loss)
            return _times(task_loss, self._share)
        self._check_host()
        parts, whole = self.low.step, self._part == "all"
        if parts is not None and parts.is_clean:
            assert parts.step is not None
            self._end_terms(parts.step)
            return self.low.join(logits_of(outputs, inputs), task_loss, with_task=whole, share=self._share)
        step = None if parts is None else parts.step
        if step is None:
            step = self._step(outputs, clean, model, inputs, run_task, task_loss=task_loss)
            self._see_task(step, denominator)
            if parts is not None:
                parts.begin(step, outputs)
        total = task_loss if whole and parts is None else torch.zeros_like(task_loss)
        for method in self.loss_methods if parts is None else parts.groups[parts.now]:
            total = self._plus_term(total, method, step, denominator)
        if parts is not None:
            return parts.collect(total, self._share)
        self._end_terms(step)
        return _times(total, self._share)

    def _plus_term(self, total: Tensor, method: LossMethod, step: Step, denominator: Tensor | float | None) -> Tensor:
        """Add a method's weighted term, and what it changes of the task loss itself."""
        step.owner = method.name
        values: PerItem = method.term(step)
        self._see(method.name, values.supervised())
        term = values.reduce(denominator)
        total = total + method.weight * term.to(total.device)
        self.logs.record(method.name, term.detach(), _share_of_update(step, denominator))
        change = method.task_change(step)
        if change is None:
            return total
        self.logs.record("task_loss", change.detach(), 0.0)
        return total + change

    def _end_terms(self, step: Step) -> None:
        for examples in step.non_finite:
            self.logs.count("non_finite_perturbations", examples)
        self.last_passes = step.counts
        if self.step_method is None:
            self.clock.now.micro_batches += 1

    def _check_host(self) -> None:
        """Let every method refuse or warn about the host, once, when the first pass has shown its precision."""
        if self.host_is_checked:
            return
        some = next(self.session.model.parameters())
        precision = self.session.taps[0].seen.precision if self.loss_methods else precision_now(some)
        for method in self.methods:
            method.check_host(total_updates=self.clock.total, precision=precision)
        self.host_is_checked, self._warned = True, set()

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
        session = self.session

        def refuse() -> tuple[Tensor, Any]:
            raise HostError("This training loop gives no second task loss: pass run_task to stack.add_terms().")

        labels, logits = inputs.get("labels"), logits_of(outputs, inputs)
        if len(logits) == 0:
            raise HostError("The batch has no rows: leave empty batches out.")
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
            buffers=self.session.buffers,
            streams=self.clock.now.streams,
            told=self._warned,
            clean_embeddings={site: tap.take_clean() for site, tap in session.taps.items()},
        )

    def _see_task(self, step: Step, denominator: Tensor | float | None) -> None:
        """Log the task loss, and note whether the output, the labels and the task loss are finite numbers."""
        # The largest entry: a class that is ruled out by minus infinity does no harm.
        outputs = step.clean_logits.detach().amax(-1)
        mask = step.supervised
        if mask is not None and mask.shape == outputs.shape:
            outputs = torch.where(mask, outputs, outputs.new_zeros(()))
        self._see("output", outputs)
        if step.labels is not None and step.labels.is_floating_point():
            self._see("label", step.labels)
        self._see("task_loss", step.task_loss)
        self.logs.record("task_loss", step.task_loss.detach(), _share_of_update(step, denominator))

    def _see(self, name: str, values: Tensor) -> None:
        clock = self.clock
        count = clock.finite.see(name, values, update=clock.updates + 1, micro_batch=clock.now.micro_batches + 1)
        self.logs.count(f"non_finite_{name}", count)


def _times(loss: Tensor, share: float) -> Tensor:
    return loss * share if share != 1 else loss


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
