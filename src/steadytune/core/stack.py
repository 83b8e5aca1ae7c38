"""The stack: checks a set of methods, prepares a model for them, and adds their terms to the loss of each step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from steadytune.core import randomness
from steadytune.core.errors import CheckpointError, HostError, MethodError
from steadytune.core.explain import Explanation, explain
from steadytune.core.method import LossMethod, Method, WeightMethod
from steadytune.core.scaling import PerItem
from steadytune.core.shadow import Shadow, Teacher
from steadytune.core.state import StackState, read_state, write_state
from steadytune.core.step import CleanPass, PassCounts, Step, logits_of
from steadytune.core.tap import Tap, word_embedding

MethodOrMethods = Method | Iterable[Method]


class Stack:
    """Methods that train together, in any loop.

    In a plain loop: `prepare` once, `loss` per micro-batch, `close` at the end (or use it as a context manager).

    Args:
        methods: methods, or groups of them such as ``smart()``; nothing at all is plain training.
        seed: seed of the weight noise and of all random perturbations.

    Raises:
        MethodError: two methods conflict.

    Example:
        >>> from steadytune import Stack, noisytune, smart
        >>> print(Stack([noisytune(), smart()]))
        noisytune + smoothness + bregman
    """

    def __init__(self, methods: Iterable[MethodOrMethods] = (), seed: int = 0) -> None:
        self.methods: tuple[Method, ...] = tuple(_flatten(methods))
        _refuse_conflicts(self.methods)
        self.weight_methods = tuple(m for m in self.methods if isinstance(m, WeightMethod))
        self.loss_methods = tuple(m for m in self.methods if isinstance(m, LossMethod))
        self.seed = seed
        self.total_updates: int | None = None
        self.updates = 0
        self.last_passes = PassCounts()
        self.reports: dict[str, Any] = {}
        self._shadows: dict[Teacher, Shadow] = {}
        self._plain_model: nn.Module | None = None
        self._tap: Tap | None = None
        self._optimizer_hook: Any = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._host_is_checked = False
        self._micro_batch = 0
        self._streams = 0
        self._noise_generator: torch.Generator | None = None
        self._sums: dict[str, list[Tensor]] = {}

    def __str__(self) -> str:
        return " + ".join(m.name for m in self.methods) or "plain"

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---------------------------------------------------------------- before training

    def prepare(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        total_updates: int | None = None,
        perturb: bool = True,
        resume_from: str | Path | None = None,
    ) -> None:
        """Change the initial weights and copy the teachers, once, before training.

        Args:
            model: the model to train, not yet wrapped for distribution or compilation.
            optimizer: the optimizer whose steps count as updates; without one, the first optimizer that steps a
                parameter of this model is taken.
            total_updates: optimizer updates of the whole training; a scheduled teacher needs it.
            perturb: false leaves the initial weights alone, for a model that has been perturbed already.
            resume_from: a checkpoint folder written by `save`; the weights must already be loaded from it. Nothing
                is perturbed or copied again then.

        Raises:
            HostError: the model or the loop lacks what a method needs.
            CheckpointError: the checkpoint belongs to other methods, or holds no state for them.
        """
        self.close()
        self._plain_model = model
        self.total_updates = total_updates
        self.updates = 0
        self._host_is_checked = False
        if self.loss_methods:
            self._tap = Tap(word_embedding(model))
        if perturb and resume_from is None:
            for method in self.weight_methods:
                self.reports[method.name] = method.transform(model, self.seed)
        keys = dict.fromkeys(t for m in self.loss_methods for t in m.teachers())
        self._shadows = {key: Shadow(model) for key in keys}
        if resume_from is not None:
            self.load(resume_from)
            moved = "moved the weights when the run began, and does not move them again in a resumed run."
            self.reports = {m.name: f"{m.name} {moved}" for m in self.weight_methods}
        self.watch(optimizer)
        self._begin_update()

    def watch(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Count the steps of this optimizer as updates; ``None`` takes the first that steps the model's parameters."""
        if self._optimizer_hook is not None:
            self._optimizer_hook.remove()
        self._optimizer = None
        if optimizer is not None:
            inner = getattr(optimizer, "optimizer", None)  # Accelerate's wrapper takes no hooks
            optimizer = inner if isinstance(inner, torch.optim.Optimizer) else optimizer
            self._optimizer = optimizer
            self._optimizer_hook = optimizer.register_step_post_hook(lambda *_: self.after_update())
        else:
            self._optimizer_hook = register_optimizer_step_post_hook(self._after_any_step)

    def _after_any_step(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self._optimizer is None:
            own = {id(p) for p in self._require_prepared().parameters()}
            if any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
                self._optimizer = optimizer
        if optimizer is self._optimizer:
            self.after_update()

    # ---------------------------------------------------------------- one step

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """Task loss plus all terms for one micro-batch: the loss of a plain PyTorch loop.

        Both are averages over the micro-batch; with accumulation divide by the number of micro-batches, as ever.

        Args:
            model: the model, wrapped or not.
            batch: keyword arguments of the model, ``labels`` among them.
        """
        with self.clean_pass() as clean:
            outputs = model(**batch)
        return self.add_terms(outputs["loss"], outputs, clean, model=model, inputs=batch)

    @contextmanager
    def clean_pass(self) -> Iterator[CleanPass | None]:
        """Surround the host's own forward pass; yields what `add_terms` needs, ``None`` where there are no terms."""
        if not self.loss_methods:
            yield None
            return
        model = self._require_prepared()
        assert self._tap is not None  # set by prepare() whenever there are loss methods
        device = next(model.parameters()).device
        randomness.require_replay(device)
        state = randomness.RandomState.capture(device)
        with self._tap.watching():
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
    ) -> Tensor:
        """Add every term to the task loss.

        Args:
            task_loss: as the host computed it.
            outputs: output of the clean pass, with ``logits``.
            clean: what `clean_pass` yielded.
            model: the model as the host runs it.
            inputs: the batch of the clean pass.
            denominator: items that the host's loss was divided by, where that is not the micro-batch's own count.
        """
        if clean is None:
            return task_loss
        self._check_host()
        step = self._step(outputs, clean, model, inputs)
        total = task_loss
        if denominator is None:
            self._record("task_loss", task_loss.detach())
        for method in self.loss_methods:
            values: PerItem = method.term(step)
            term = values.reduce(denominator)
            total = total + method.weight * term.to(total.device)
            self._record(method.name, values.reduce().detach())
        for examples in step.non_finite:
            self._record("non_finite_perturbations", examples.float())
        self.last_passes = step.counts
        self._micro_batch += 1
        return total

    def _check_host(self) -> None:
        if not self._host_is_checked:
            assert self._tap is not None  # as in clean_pass()
            for method in self.loss_methods:
                method.check_host(total_updates=self.total_updates, precision=self._tap.seen.precision)
            self._host_is_checked = True

    def _step(self, outputs: Any, clean: CleanPass, model: nn.Module, inputs: Mapping[str, Any]) -> Step:
        assert self._tap is not None  # as in clean_pass()
        if self._noise_generator is None or self._noise_generator.device != self._tap.seen.device:
            self._noise_generator = torch.Generator(self._tap.seen.device)
        if self._micro_batch == 0:
            self._noise_generator.manual_seed(self._derive_seed("noise"))
        return Step(
            model=model,
            plain_model=self._require_prepared(),
            inputs={k: v for k, v in inputs.items() if k not in ("labels", "num_items_in_batch")},
            labels=inputs.get("labels"),
            clean_logits=logits_of(outputs),
            clean=clean,
            tap=self._tap,
            shadows=self._shadows,
            stream=self._next_stream,
            noise_generator=self._noise_generator,
        )

    def _next_stream(self) -> int:
        self._streams += 1
        return self._derive_seed("masks", self._streams)

    def _derive_seed(self, *parts: int | str) -> int:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank = torch.distributed.get_rank() if distributed else 0
        return randomness.derive_seed(self.seed, self.updates, rank, *parts)

    # ---------------------------------------------------------------- after each update

    def after_update(self) -> None:
        """Count one optimizer update and move the teachers; the watched optimizer calls it by itself."""
        self.updates += 1
        for teacher, shadow in self._shadows.items():
            if teacher.is_due(self.updates):
                shadow.step(self._require_prepared(), teacher.decay_after(self.updates, self.total_updates))
        self._begin_update()

    def _begin_update(self) -> None:
        self._micro_batch = 0
        self._streams = 0

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

    # ---------------------------------------------------------------- checkpoints and the end

    def save(self, folder: str | Path) -> Path:
        """Write updates and teachers to ``steadytune.safetensors`` in a checkpoint folder, atomically."""
        teachers = {key: shadow.tensors for key, shadow in self._shadows.items()}
        return write_state(Path(folder), StackState(self.updates, self._description(), teachers))

    def load(self, folder: str | Path) -> None:
        """Take updates and teachers from a checkpoint folder.

        Raises:
            CheckpointError: it holds no state, or the state of other methods.
        """
        state = read_state(Path(folder), tuple(self._shadows))
        if state.description != self._description():
            raise CheckpointError(
                f"{folder} was written with other methods ({_summary(state.description)}; "
                f"now {_summary(self._description())}): continue with those, or start a new run."
            )
        for key, shadow in self._shadows.items():
            try:
                shadow.load(state.teachers[key])
            except (KeyError, ValueError) as error:
                raise CheckpointError(f"{folder} holds a teacher of another model: {error}.") from error
        self.updates = state.updates
        self._begin_update()

    def _description(self) -> dict[str, Any]:
        return {"seed": self.seed, "methods": [{"name": m.name, **m.settings()} for m in self.methods]}

    def teacher_weights(self) -> dict[Teacher, dict[str, Tensor]]:
        """The teachers' weights by key, for inspection."""
        return {key: dict(shadow.tensors) for key, shadow in self._shadows.items()}

    def close(self) -> None:
        """Stop watching the optimizer; the model has no hook between two passes anyway. Safe to call twice."""
        if self._optimizer_hook is not None:
            self._optimizer_hook.remove()
        self._optimizer_hook = None
        self._optimizer = None
        self._sums.clear()

    def explain(self, model: nn.Module | None = None) -> Explanation:
        """Say what each method does to a step and, given a model, how far each weight would move."""
        target = model if model is not None else self._plain_model
        return explain(self.methods, target, self.seed, self.reports)

    def _require_prepared(self) -> nn.Module:
        if self._plain_model is None:
            raise HostError("The stack has no model yet: call stack.prepare(model) before the first step.")
        return self._plain_model


def _flatten(methods: Iterable[MethodOrMethods]) -> Iterator[Method]:
    for entry in methods:
        if isinstance(entry, Method):
            yield entry
        elif isinstance(entry, Iterable) and not isinstance(entry, str):
            yield from _flatten(entry)
        else:
            raise MethodError(
                f"{entry!r} is not a method: pass methods such as noisytune() or smart(), called with their settings."
            )


def _refuse_conflicts(methods: tuple[Method, ...]) -> None:
    names: set[str] = set()
    owners: dict[str, str] = {}
    for method in methods:
        if method.name in names:
            raise MethodError(f"{method.name} is in the stack twice: keep one of them.")
        names.add(method.name)
        for claim in method.claims:
            if claim in owners:
                raise MethodError(
                    f"{owners[claim]} and {method.name} cannot train together: both own the {claim}. Keep one of them."
                )
            owners[claim] = method.name


def _summary(description: Mapping[str, Any]) -> str:
    return json.dumps(description, sort_keys=True, separators=(",", ":"))
