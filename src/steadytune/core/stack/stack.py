"""The stack: checks a set of methods, prepares a model for them, and runs them in each step of any training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steadytune.core.authoring.method import LossMethod, OptimizerMethod, StepMethod, WeightMethod
from steadytune.core.authoring.step import CleanPass
from steadytune.core.authoring.training import Batches
from steadytune.core.model.sharding import is_sharded_model, process_rank
from steadytune.core.model.wrappers import unwrapped
from steadytune.core.stack.arguments import require_model, require_optimizer, require_total_updates, whole_seed
from steadytune.core.stack.composition import MethodOrMethods, conflicts, flatten
from steadytune.core.stack.description import description, differences, with_new_settings
from steadytune.core.stack.explain import Explanation, explain
from steadytune.core.stack.finite_watch import FiniteWatch, require_finite_start, require_finite_weights
from steadytune.core.stack.loop import PlainLoop
from steadytune.core.stack.low_memory import Memory, checked, parts_of
from steadytune.core.stack.one_stack_per_model import claim, refuse_second
from steadytune.core.stack.optimizer_setup import OptimizerSetup
from steadytune.core.stack.runner import StepRunner
from steadytune.core.stack.session import Session
from steadytune.core.stack.update_clock import UpdateClock
from steadytune.core.state.file import StackState, read_state, write_state
from steadytune.core.state.mapping import as_mapping, from_mapping
from steadytune.core.state.teacher import Teacher
from steadytune.errors import CheckpointError, HostError, MethodError


@dataclass(frozen=True)
class _AtWork:
    """What a stack holds from `prepare` on: everything about one model in training."""

    runner: StepRunner
    clock: UpdateClock
    setup: OptimizerSetup
    loop: PlainLoop


class Stack:
    """Methods that train together, in any loop.

    In a plain loop: `prepare` once, `optimizer` once, `backward` per micro-batch, `finish` at the end (or use it as a
    context manager).

    Args:
        methods: methods, or groups of them such as ``smart()``; nothing at all is plain training.
        seed: seed of the weight noise and of all random perturbations.
        memory: ``"low"`` computes the same gradient with one graph at a time, so that terms need no more activations
            than plain training, for one forward pass more. The passes are then run by `backward`.

    Raises:
        MethodError: two methods conflict, the seed is no whole number, or ``memory`` is none of the two.

    Example:
        >>> from steadytune import Stack, noisytune, smart
        >>> print(Stack([noisytune(), smart()]))
        noisytune + smoothness + bregman
    """

    def __init__(self, methods: Iterable[MethodOrMethods] = (), seed: int = 0, *, memory: Memory = "full") -> None:
        flat = tuple(flatten(methods))
        for reason in conflicts(flat):
            raise MethodError(reason)
        self.methods = flat
        self.seed = whole_seed(seed)
        self.memory: Memory = checked(memory)
        self.weight_methods = tuple(m for m in flat if isinstance(m, WeightMethod))
        self.loss_methods = tuple(m for m in flat if isinstance(m, LossMethod))
        self.step_method = next((m for m in flat if isinstance(m, StepMethod)), None)
        self.optimizer_methods = tuple(m for m in flat if isinstance(m, OptimizerMethod))
        #: Whether ``memory="low"`` makes a difference to these methods.
        self.runs_in_parts = self.memory == "low" and bool(parts_of(self.loss_methods))
        #: Whether a micro-batch has more than one backward pass, so that a host must call `run_step`.
        self.runs_passes = self.step_method is not None or self.runs_in_parts
        self._at_work: _AtWork | None = None

    def __str__(self) -> str:
        return " + ".join(m.name for m in self.methods) or "plain"

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is None and self._at_work is not None:
            self.finish()
        else:
            self.close()

    def prepare(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        total_updates: int | None = None,
        perturb: bool = True,
        resume_from: str | Path | Mapping[str, Any] | None = None,
        batches: Batches | Callable[[], Batches] | None = None,
    ) -> None:
        """Change the initial weights, attach to the model and copy the teachers, once, before training.

        Args:
            model: the model to train, best not yet wrapped: DDP and ``torch.compile`` are looked through, and FSDP2
                must come after methods that change the initial weights. Every process must call it.
            optimizer: the optimizer whose steps count as updates; without one, the first optimizer that steps a
                parameter of this model is taken. With a method that changes the optimizer, call `optimizer` instead.
            total_updates: optimizer updates of the whole training; schedules need it.
            perturb: false leaves the initial weights alone, for a model that has been perturbed already.
            resume_from: a checkpoint folder written by `save`, or what `state_dict` returned; the weights must
                already be loaded. Nothing is perturbed or copied again then.
            batches: training batches, as keyword arguments of the model, for methods that look at the data first
                (``child_tuning(variant="D")``).

        Raises:
            HostError: the model or the loop lacks what a method needs, or another stack is at work on the model.
            CheckpointError: the checkpoint belongs to other methods, or holds no state for them.
        """
        require_model(model)
        require_total_updates(total_updates)
        self.close()
        model = unwrapped(model)
        refuse_second(self.methods, model)
        if optimizer is not None:
            require_optimizer(optimizer, model)
            OptimizerSetup(self.optimizer_methods).refuse_bare()
        saved = None if resume_from is None else self._read(resume_from)
        known = None if self._at_work is None else self._at_work.runner.session
        self._at_work = None  # whatever fails from here on, the one before must not be taken for this one
        require_finite_start(model)
        finite = FiniteWatch(model)
        session = Session(
            self.methods,
            model,
            self.seed,
            perturb=perturb,
            saved=saved,
            anchor=None if perturb or known is None or known.model is not model else known.anchor,
            batches=batches if callable(batches) or batches is None else lambda: batches,
        )
        updates = 0 if saved is None else saved.updates
        clock = UpdateClock(session, finite, seed=self.seed, updates=updates, total=total_updates)
        setup = OptimizerSetup(self.optimizer_methods)
        runner = StepRunner(self.methods, self.memory, session, clock, setup.refuse_bare)
        self._at_work = _AtWork(runner, clock, setup, PlainLoop(runner))
        claim(runner, model)
        clock.watch(optimizer)

    @property
    def _prepared(self) -> _AtWork:
        if self._at_work is None:
            raise HostError("The stack has no model yet: call stack.prepare(model) before the first step.")
        return self._at_work

    @property
    def updates(self) -> int:
        """Optimizer updates done."""
        return 0 if self._at_work is None else self._at_work.clock.updates

    @property
    def total_updates(self) -> int | None:
        """Optimizer updates of the whole training, where known; a host may set it before the first step."""
        return None if self._at_work is None else self._at_work.clock.total

    @total_updates.setter
    def total_updates(self, total: int | None) -> None:
        self._prepared.clock.total = total

    @property
    def runner(self) -> StepRunner:
        """What runs the micro-batches of the training under way, for hosts.

        Raises:
            HostError: the stack has no model yet.
        """
        return self._prepared.runner

    def optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Let the methods that change the optimizer have it, and count its steps as updates; after `prepare`.

        Args:
            optimizer: the host's, before its first step.

        Returns:
            The optimizer to train with: the same one unless a method builds another.

        Raises:
            HostError: it has none of the model's parameters, or methods have changed one already.
        """
        at_work = self._prepared
        built = at_work.setup.build(optimizer, at_work.runner.session)
        at_work.clock.watch(built)
        return built

    def scheduler(
        self, optimizer: torch.optim.Optimizer, total_updates: int | None = None
    ) -> torch.optim.lr_scheduler.LambdaLR | None:
        """A scheduler for the schedule of a method such as ``slanted_triangular()``; ``None`` without one.

        Args:
            optimizer: the one that `optimizer` returned.
            total_updates: length of the training, by default the argument of `prepare`.

        Raises:
            HostError: the length of the training is unknown.
        """
        if self._at_work is None:
            return OptimizerSetup(self.optimizer_methods).schedule(optimizer, total_updates)
        total = self.total_updates if total_updates is None else total_updates
        return self._at_work.setup.schedule(optimizer, total)

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

        Raises:
            HostError: the model is in evaluation mode, or the batch is not its keyword arguments.
        """
        return self._prepared.loop.backward(model, batch, scale=scale, backward=backward, update=update)

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Task loss plus all terms for one micro-batch, with its graph, for a loop that runs the backward itself.

        Both are averages over the micro-batch; with accumulation divide by the number of micro-batches, as usual. A
        language model takes ``num_items_in_batch`` in the batch instead, and both are divided by it.

        Args:
            model: the model, wrapped or not.
            batch: keyword arguments of the model, ``labels`` among them.

        Raises:
            HostError: a method of the stack runs the backward passes itself, the model is in evaluation mode, or the
                batch is not its keyword arguments.
        """
        return self._prepared.loop.loss(model, batch)

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
        return self.runner.run_step(inputs, loss=loss, run=run, update=update, model=model)

    @contextmanager
    def clean_pass(self) -> Iterator[CleanPass | None]:
        """Surround the host's own forward pass; yields what `add_terms` needs, ``None`` where there are no terms."""
        if not self.methods:
            yield None
            return
        with self.runner.clean_pass() as clean:
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
        if clean is None and self._at_work is None:
            return task_loss
        return self.runner.add_terms(
            task_loss,
            outputs,
            clean,
            model=model,
            inputs=inputs,
            denominator=denominator,
            run_task=run_task,
        )

    def take_logs(self) -> dict[str, float]:
        """Mean of the task loss and of each unweighted term since the last call: the loss is their weighted sum.

        The mean is over micro-batches; where the loss is divided by the items of an update, over updates.
        What was not finite is counted, if anything was: ``non_finite_task_loss``, ``non_finite_perturbations``.
        """
        return {} if self._at_work is None else self._at_work.runner.logs.take()

    def before_step(self, *, scaled: bool = False) -> None:
        """Look at the gradients before they become an update; the watched optimizer calls it by itself.

        Args:
            scaled: the optimizer itself leaves out what a gradient scaler has found not finite.

        Raises:
            DivergedError: a gradient is not finite. On a CPU before the weights move; on a GPU it is raised one
                update later.
        """
        if self._at_work is not None:
            self._at_work.clock.before_step(scaled=scaled)

    def first_not_finite(self) -> str | None:
        """Return the first loss or term of this update that is not finite, and its first example."""
        clock = None if self._at_work is None else self._at_work.clock
        return None if clock is None else clock.finite.first_not_finite(clock.updates + 1)

    def require_finite(self) -> None:
        """Look at all weights, before they are saved or scored.

        Raises:
            DivergedError: one is not finite.
        """
        if self._at_work is not None:
            clock = self._at_work.clock
            clock.finite.wait()
            require_finite_weights(clock.session.model, clock.updates)

    def after_update(self) -> None:
        """Count one optimizer update and move the teachers; the watched optimizer calls it by itself."""
        self._prepared.clock.after_update()

    def save(self, folder: str | Path, *, write: bool | None = None, seal: bool = False) -> Path:
        """Write updates, teachers and the state of every method to a checkpoint folder, in one file, atomically.

        The file holds full weights, however many processes wrote or read it.

        Args:
            folder: the checkpoint; it is made if need be.
            write: whether this process writes; by default every one that calls it, under FSDP2 the first alone. There
                all of them must call it, because each holds a part.
            seal: all else of the checkpoint is in the folder already: note its checksums, which a resume checks.

        Raises:
            DivergedError: a weight is not finite: what would be saved is no model.
        """
        session = self._session
        if write is None:
            write = process_rank() == 0 or not is_sharded_model(session.model)
        return write_state(Path(folder), self._state(), write=write, seal=seal)

    def load(self, source: str | Path | Mapping[str, Any]) -> None:
        """Take updates, teachers and the state of every method from a checkpoint folder, or from a `state_dict`.

        Raises:
            CheckpointError: it holds no state, or the state of other methods.
        """
        saved = self._read(source)
        clock = self._prepared.clock
        clock.session.load(saved)
        clock.updates = saved.updates
        clock.begin_update()

    def state_dict(self) -> dict[str, Any]:
        """What `save` writes, as a dictionary: ``accelerator.register_for_checkpointing(stack)``.

        Under FSDP2 every process must call it.
        """
        return as_mapping(self._state())

    load_state_dict = load  # as Accelerate calls it

    def _state(self) -> StackState:
        session = self._session
        self.require_finite()
        teachers = {key: shadow.tensors for key, shadow in session.shadows.items()}
        return StackState(self.updates, self._description(), teachers, session.anchor, session.tensors)

    def _read(self, source: str | Path | Mapping[str, Any]) -> StackState:
        saved = from_mapping(source) if isinstance(source, Mapping) else read_state(Path(source))
        written, now = with_new_settings(saved.description, self.methods), self._description()
        if written != now:
            raise CheckpointError(
                f"{saved.source} was written with other methods ({differences(written, now)}): "
                "continue with those, or start a new run."
            )
        return saved

    def _description(self) -> dict[str, Any]:
        return description(self.methods, self.seed)

    @property
    def _session(self) -> Session:
        return self.runner.session

    def teacher_weights(self) -> dict[Teacher, dict[str, Tensor]]:
        """The teachers' weights by key, for inspection."""
        return {key: dict(shadow.tensors) for key, shadow in self._session.shadows.items()}

    def copies(self) -> dict[str, Tensor]:
        """Every copy of weights that the stack holds, teachers' and pretrained ones, by a telling name."""
        session = self._session
        found = {f"the pretrained {name}": tensor for name, tensor in session.anchor.items()}
        for i, shadow in enumerate(session.shadows.values()):
            found |= {f"teacher {i}'s {name}": tensor for name, tensor in shadow.tensors.items()}
        return found

    def finish(self) -> None:
        """End the training: put the final weights into the model (averages, interpolations), then `close`.

        Raises:
            DivergedError: a weight is not finite.
        """
        try:
            self.require_finite()
            self._session.finish()
        finally:
            self.close()

    def close(self) -> None:
        """Leave the model as it came and stop watching the optimizer, without any final change of the weights.

        Safe to call twice.
        """
        at_work = self._at_work
        if at_work is not None:
            at_work.clock.unhook()
            at_work.runner.logs.clear()
            at_work.runner.is_open = False
            at_work.runner.session.detach()

    def explain(self, model: nn.Module | None = None) -> Explanation:
        """Say what each method does to a step and, given a model, how far each weight would move."""
        session = None if self._at_work is None else self._at_work.runner.session
        target = model if model is not None or session is None else session.model
        reports = {} if session is None else session.reports
        return explain(self.methods, target, self.seed, reports, low_memory=self.memory == "low")
