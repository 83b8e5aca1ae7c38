"""The stack: checks a set of methods, prepares a model for them, and runs them in each step of any training loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from steadytune.core.authoring.method import OPTIMIZER, OptimizerMethod, WeightMethod
from steadytune.core.authoring.training import Batches
from steadytune.core.model.sharding import is_sharded_model, process_rank
from steadytune.core.model.wrappers import unwrapped
from steadytune.core.stack.arguments import require_model, require_optimizer, require_total_updates, whole_seed
from steadytune.core.stack.composition import MethodOrMethods, conflicts, flatten
from steadytune.core.stack.description import description, differences, with_new_settings
from steadytune.core.stack.explain import Explanation, explain
from steadytune.core.stack.finite_watch import FiniteWatch, require_finite_start, require_finite_weights
from steadytune.core.stack.loop import PlainLoop
from steadytune.core.stack.low_memory import Memory
from steadytune.core.stack.one_stack_per_model import claim, refuse_second
from steadytune.core.stack.session import Session
from steadytune.core.state.file import StackState, read_state, write_state
from steadytune.core.state.mapping import as_mapping, from_mapping
from steadytune.core.state.teacher import Teacher
from steadytune.errors import CheckpointError, HostError, MethodError

logger = logging.getLogger("steadytune")


class Stack(PlainLoop):
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
        super().__init__(flat, whole_seed(seed), memory)
        self.weight_methods = tuple(m for m in flat if isinstance(m, WeightMethod))
        self.optimizer_methods = tuple(m for m in flat if isinstance(m, OptimizerMethod))
        self._optimizer_hooks: list[Any] = []
        self._optimizer_is_built = self._scheduler_is_built = False

    def __str__(self) -> str:
        return " + ".join(m.name for m in self.methods) or "plain"

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is None and self._session is not None:
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
        refuse_second(self, model)
        if optimizer is not None:
            require_optimizer(optimizer, model)
            self._refuse_bare_optimizer()
        saved = None if resume_from is None else self._read(resume_from)
        known = self._session if self._session is not None and self._session.model is model else None
        self._session = None  # whatever fails from here on, an old one is not taken for the new
        require_finite_start(model)
        self._finite = FiniteWatch(model)
        self.total_updates, self.updates = total_updates, 0 if saved is None else saved.updates
        self._heeds_items = None
        self._host_is_checked = self._optimizer_is_built = self._scheduler_is_built = False
        self._session = Session(
            self.methods,
            model,
            self.seed,
            perturb=perturb,
            saved=saved,
            anchor=None if perturb or known is None else known.anchor,
            batches=batches if callable(batches) or batches is None else lambda: batches,
        )
        self._is_open = True
        claim(self, model)
        self.watch(optimizer)
        self._begin_update()

    def optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """Let the methods that change the optimizer have it, and count its steps as updates; after `prepare`.

        Args:
            optimizer: the host's, before its first step.

        Returns:
            The optimizer to train with: the same one unless a method builds another.

        Raises:
            HostError: it has none of the model's parameters, or methods have changed one already.
        """
        session = self._require_prepared()
        require_optimizer(optimizer, session.model)
        if self._optimizer_is_built and self.optimizer_methods:
            raise HostError(
                f"stack.optimizer() was called before, and {self.optimizer_methods[0].name} would change the "
                "optimizer twice: call it once after each stack.prepare()."
            )
        for method in sorted(self.optimizer_methods, key=lambda m: OPTIMIZER not in m.claims):
            optimizer = method.build(optimizer, session.training(method))
        self._optimizer_is_built = True
        self.watch(optimizer)
        return optimizer

    def scheduler(
        self, optimizer: torch.optim.Optimizer, total_updates: int | None = None
    ) -> torch.optim.lr_scheduler.LambdaLR | None:
        """A scheduler for the schedule of a method such as ``slanted_triangular()``; ``None`` without one.

        Args:
            optimizer: the one that `optimizer` returned.
            total_updates: length of the training, by default what `prepare` was told.

        Raises:
            HostError: the length of the training is unknown.
        """
        if not self._schedulers:
            return None
        total = self.total_updates if total_updates is None else total_updates
        if total is None:
            raise HostError("A learning-rate schedule needs the length of the training: prepare(total_updates=...).")
        require_total_updates(total)
        schedule = self._schedulers[0].schedule(total)
        assert schedule is not None  # it has one for every length
        self._scheduler_is_built = True
        return torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)

    @property
    def _schedulers(self) -> list[OptimizerMethod]:
        return [m for m in self.optimizer_methods if m.schedule(1) is not None]

    def _refuse_bare_optimizer(self) -> None:
        if self.optimizer_methods and not self._optimizer_is_built:
            raise HostError(
                f"{self.optimizer_methods[0].name} changes the optimizer, and has not been given it: after "
                "stack.prepare(model) write `optimizer = stack.optimizer(optimizer)`."
            )
        if self._schedulers and self._optimizer_is_built and not self._scheduler_is_built:
            raise HostError(
                f"{self._schedulers[0].name} sets the learning rate, and has no scheduler: write `scheduler = "
                "stack.scheduler(optimizer)` and step it after each update."
            )

    def watch(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Count the steps of this optimizer as updates; ``None`` takes the first that steps the model's parameters."""
        self._unhook_optimizer()
        if optimizer is not None:
            inner = getattr(optimizer, "optimizer", None)  # Accelerate's wrapper takes no hooks
            optimizer = inner if isinstance(inner, torch.optim.Optimizer) else optimizer
            self._optimizer = optimizer
            before, after = optimizer.register_step_pre_hook, optimizer.register_step_post_hook
        else:
            before, after = register_optimizer_step_pre_hook, register_optimizer_step_post_hook
        self._optimizer_hooks = [before(self._before_any_step), after(self._after_any_step)]

    def _unhook_optimizer(self) -> None:
        while self._optimizer_hooks:
            self._optimizer_hooks.pop().remove()
        self._optimizer = None

    def _is_watched(self, optimizer: torch.optim.Optimizer) -> bool:
        if self._optimizer is None:
            own = {id(p) for p in self._require_prepared().model.parameters()}
            if any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
                self._optimizer = optimizer
        return optimizer is self._optimizer

    def _before_any_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")  # it makes the gradients only later
        if closure is None and self._is_watched(optimizer):
            self.before_step(scaled=getattr(optimizer, "found_inf", None) is not None)

    def before_step(self, *, scaled: bool = False) -> None:
        """Look at the gradients before they become an update; the watched optimizer calls it by itself.

        Args:
            scaled: the optimizer itself leaves out what a gradient scaler has found not finite.

        Raises:
            DivergedError: a gradient is not finite. On a CPU the weights have not moved then; on a GPU it is told one
                update later.
        """
        if self._counts_updates and self._finite is not None:
            self._finite.before_step(self.updates + 1, scaled=scaled)

    def first_not_finite(self) -> str | None:
        """Of the update that is under way, the first loss or term that is not finite, and its first example."""
        return None if self._finite is None else self._finite.first_not_finite(self.updates + 1)

    def require_finite(self) -> None:
        """Look at all weights, before they are saved or scored.

        Raises:
            DivergedError: one is not finite.
        """
        if self._finite is not None:
            self._finite.wait()
            require_finite_weights(self._require_prepared().model, self.updates)

    def _after_any_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self._is_watched(optimizer):
            self._after_watched_step()

    def _after_watched_step(self) -> None:
        if self._counts_updates and not self._update_has_begun and self._require_prepared().follows_steps:
            raise HostError(
                "The optimizer stepped, but the stack never saw the forward pass, so its methods had no effect: write "
                "stack.backward(model, batch) in a loop of your own; in a Trainer let compute_loss call "
                "super().compute_loss(), or put the mixin in front: class T(SteadyMixin, Yours)."
            )
        self.after_update()

    def after_update(self) -> None:
        """Count one optimizer update and move the teachers; the watched optimizer calls it by itself."""
        if not self._counts_updates:
            return
        self.updates += 1
        if self.methods and self.total_updates is not None and self.updates == self.total_updates + 1:
            logger.warning(
                "The training goes on past the %d updates that it was to have (total_updates): whatever goes by its "
                "length was laid out for those.",
                self.total_updates,
            )
        self._require_prepared().after_update(self.updates, self.total_updates)
        self._begin_update()

    def _begin_update(self) -> None:
        self._update_has_begun = False
        self._micro_batches = 0
        self._streams = self._new_streams()

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
        session = self._require_prepared()
        if write is None:
            write = process_rank() == 0 or not is_sharded_model(session.model)
        return write_state(Path(folder), self._state(), write=write, seal=seal)

    def load(self, source: str | Path | Mapping[str, Any]) -> None:
        """Take updates, teachers and the state of every method from a checkpoint folder, or from a `state_dict`.

        Raises:
            CheckpointError: it holds no state, or the state of other methods.
        """
        saved = self._read(source)
        self._require_prepared().load(saved)
        self.updates = saved.updates
        self._begin_update()

    def state_dict(self) -> dict[str, Any]:
        """What `save` writes, as a dictionary: ``accelerator.register_for_checkpointing(stack)``.

        Under FSDP2 every process must call it.
        """
        return as_mapping(self._state())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `load`, from what `state_dict` returned."""
        self.load(state)

    def _state(self) -> StackState:
        session = self._require_prepared()
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

    def holds(self, model: nn.Module) -> bool:
        """Whether the stack was prepared with this model and is neither finished nor closed."""
        return self._is_open and self._session is not None and self._session.model is model

    def teacher_weights(self) -> dict[Teacher, dict[str, Tensor]]:
        """The teachers' weights by key, for inspection."""
        return {key: dict(shadow.tensors) for key, shadow in self._require_prepared().shadows.items()}

    def copies(self) -> dict[str, Tensor]:
        """Every copy of weights that the stack holds, teachers' and pretrained ones, by a telling name."""
        session = self._require_prepared()
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
            self._require_prepared().finish()
        finally:
            self.close()

    def close(self) -> None:
        """Leave the model as it came and stop watching the optimizer, without any final change of the weights.

        Safe to call twice.
        """
        self._unhook_optimizer()
        self._tally.clear()
        self._is_open = False
        if self._session is not None:
            self._session.detach()

    def explain(self, model: nn.Module | None = None) -> Explanation:
        """Say what each method does to a step and, given a model, how far each weight would move."""
        session = self._session
        target = model if model is not None or session is None else session.model
        reports = {} if session is None else session.reports
        return explain(self.methods, target, self.seed, reports, low_memory=self.memory == "low")
