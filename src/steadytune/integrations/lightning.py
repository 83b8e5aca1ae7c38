"""Lightning as a host: a mixin for a LightningModule. Lightning itself is not imported here."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from steadytune.core.stack.composition import MethodOrMethods
from steadytune.core.stack.low_memory import Memory
from steadytune.core.stack.stack import Stack
from steadytune.errors import CheckpointError, HostError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule

    _Base = LightningModule
else:
    _Base = object

STATE = "steadytune"


class SteadyModuleMixin(_Base):
    """Gives a LightningModule the argument ``methods``: ``class Mine(SteadyModuleMixin, MyModule)``.

    The module's own `training_step` is the clean pass. It calls ``self.model`` with keyword arguments and returns the
    loss or a dictionary with it. Accumulation, clipping, precision and logging stay Lightning's; the state of the
    methods is in its checkpoints.

    Args:
        methods: methods, or groups of them such as ``smart()``.
        method_seed: seed of the weight noise and of all random perturbations.
        memory: ``"low"`` for the same gradient with one graph at a time, as in `Stack`.
        args: everything else goes to the module.

    Raises:
        MethodError: two methods conflict.
        HostError: the module lacks what a method needs.
    """

    model: Any

    def __init__(
        self,
        *args: Any,
        methods: Iterable[MethodOrMethods] = (),
        method_seed: int = 0,
        memory: Memory = "full",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.stack = Stack(methods, seed=method_seed, memory=memory)
        self._saved_state: Mapping[str, Any] | None = None
        self._waiting: tuple[Any, ...] | None = None

    def configure_optimizers(self) -> Any:
        """Prepare the model, which is on its device here, and let the methods have the module's optimizer."""
        if not isinstance(getattr(self, "model", None), nn.Module):
            raise HostError(f"{type(self).__name__} needs the network that it trains as self.model.")
        self._refuse_trainer()
        self.stack.prepare(
            self.model, total_updates=self._total_updates(), resume_from=self._saved_state, batches=self._batches
        )
        self._saved_state = None
        given = super().configure_optimizers()
        if not self.stack.optimizer_methods:
            return given
        if not isinstance(given, torch.optim.Optimizer):
            raise HostError(
                f"{self.stack.optimizer_methods[0].label} changes the optimizer: let configure_optimizers of "
                f"{type(self).__name__} return one optimizer and nothing else."
            )
        optimizer = self.stack.optimizer(given)
        scheduler = self.stack.scheduler(optimizer)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_callbacks(self) -> Any:
        """One callback more: after a failure nothing stays on the model."""
        # Of the package that the Trainer is from: lightning.pytorch or pytorch_lightning.
        package = type(self.trainer).__module__.rpartition(".trainer.")[0]
        callback: Any = importlib.import_module(package).Callback
        stack = self.stack

        class Abandon(callback):
            def on_exception(self, *_: object) -> None:
                stack.close()

        own: Any = super().configure_callbacks()
        return [*(own if isinstance(own, Sequence) else [own]), Abandon()]

    def _total_updates(self) -> int | None:
        total = float(self.trainer.estimated_stepping_batches)
        return int(total) if 0 < total < math.inf else None

    def _batches(self) -> Iterator[Mapping[str, Any]]:
        """Batches for methods that look at the data first."""
        loader: Any = self.trainer.train_dataloader
        return (self.trainer.strategy.batch_to_device(batch) for batch in loader)

    def _refuse_trainer(self) -> None:
        step = self.stack.step_method
        if not self.automatic_optimization:
            raise HostError("Under manual optimization call stack.backward yourself, as in a plain PyTorch loop.")
        if self.stack.runs_passes and self.trainer.world_size > 1:
            name = "memory='low'" if step is None else step.name
            raise HostError(
                f"{name} runs the passes itself, which Lightning's processes would not exchange gradients in: train "
                "on one device, or with Accelerate or the Trainer of Transformers."
            )
        if step is None:
            return
        if step.updates_within and str(self.trainer.precision).startswith("16"):
            raise HostError(f"{step.name} updates within a batch, past Lightning's loss scaler: use bf16 or 32 bits.")
        if step.whole_batch and self.trainer.accumulate_grad_batches > 1:
            raise HostError(f"{step.name} needs the whole batch of an update at once: set accumulate_grad_batches=1.")

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own step plus the terms of all methods.

        Where a method runs the passes itself it does so in `backward`, and Lightning sees a loss of 1 in its place.
        """
        if not self.stack.runs_passes:
            return self._own_step(*args, **kwargs)
        if not args or not isinstance(args[0], Mapping):
            raise HostError(f"{self.stack} needs batches that are the keyword arguments of the model.")
        self._waiting = (args, kwargs)
        return torch.ones((), device=self.device, requires_grad=True)

    def _own_step(self, *args: Any, **kwargs: Any) -> Any:
        def run() -> tuple[Any, dict[str, Any], Any]:
            with self._called() as calls:
                found = super(SteadyModuleMixin, self).training_step(*args, **kwargs)
            if not calls:
                raise HostError(f"training_step of {type(self).__name__} never called self.model with a batch.")
            return found, *calls[0]

        with self.stack.clean_pass() as clean:
            if clean is not None and clean.known is not None:
                inputs = {}
                found, outputs = clean.known
            else:
                found, inputs, outputs = run()
        if args and isinstance(args[0], Mapping) and "labels" in args[0]:  # the module may keep them for its own loss
            inputs.setdefault("labels", args[0]["labels"])
        loss = found["loss"] if isinstance(found, Mapping) else found

        def task() -> tuple[Tensor, Any]:
            again, _, outputs = run()
            return (again["loss"] if isinstance(again, Mapping) else again), outputs

        total = self.stack.add_terms(loss, outputs, clean, model=self.model, inputs=inputs, run_task=task)
        return {**found, "loss": total} if isinstance(found, Mapping) else total

    @contextmanager
    def _called(self) -> Iterator[list[tuple[dict[str, Any], Any]]]:
        """Note what the model is called with and what it returns."""
        calls: list[tuple[dict[str, Any], Any]] = []

        def note(_model: nn.Module, positional: tuple[Any, ...], given: dict[str, Any], outputs: Any) -> None:
            if positional and self.stack.loss_methods:
                raise HostError(
                    f"training_step of {type(self).__name__} gives self.model its inputs by position: "
                    f"{self.stack.loss_methods[0].name} runs the model again and needs them by their names, as in "
                    "self.model(**batch)."
                )
            calls.append((dict(given), outputs))

        handle = self.model.register_forward_hook(note, with_kwargs=True)
        try:
            yield calls
        finally:
            handle.remove()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Lightning's backward pass, or all passes of a step method, scaled as Lightning has scaled the loss."""
        if self._waiting is None:
            super().backward(loss, *args, **kwargs)
            return
        (given, others), self._waiting = self._waiting, None
        factor = loss.detach()

        def forward() -> Tensor:
            with self.trainer.precision_plugin.train_step_context():
                found = self._own_step(*given, **others)
            return found["loss"] if isinstance(found, Mapping) else found

        def run() -> Tensor:
            own = forward()
            super(SteadyModuleMixin, self).backward(own * factor, *args, **kwargs)
            return own.detach()

        self.stack.run_step(given[0], loss=forward, run=run, update=self._update_in_between)

    def _update_in_between(self) -> None:
        optimizer: Any = self.optimizers(use_pl_optimizer=False)
        self.configure_gradient_clipping(optimizer, self.trainer.gradient_clip_val)
        optimizer.step()
        optimizer.zero_grad()

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Lightning's step, with the passes before anything that is hooked to the optimizer, which needs gradients."""
        inner = getattr(optimizer, "optimizer", optimizer)

        def passes_first(stepping: Any, args: Any, kwargs: dict[str, Any]) -> Any:
            closure = kwargs.get("closure")
            if stepping is not inner or closure is None or isinstance(inner, torch.optim.LBFGS):
                return None
            closure()
            self.stack.before_step()
            return args, {name: value for name, value in kwargs.items() if name != "closure"}

        handle = register_optimizer_step_pre_hook(passes_first)
        try:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        finally:
            handle.remove()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Log the mean of each unweighted term."""
        super().on_train_batch_end(*args, **kwargs)
        self.log_dict(self.stack.take_logs())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the state of the methods into Lightning's checkpoint."""
        super().on_save_checkpoint(checkpoint)
        if self.stack.methods:
            checkpoint[STATE] = self.stack.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the state for `configure_optimizers`, which comes next."""
        super().on_load_checkpoint(checkpoint)
        fits = self._trainer is not None and self.trainer.state.fn == "fit"
        if not self.stack.methods or not fits:
            return
        if STATE not in checkpoint:
            raise CheckpointError(
                "The checkpoint holds no state of the methods, because it was written without steadytune: resume from "
                "another, or start a new run."
            )
        if self.trainer.strategy.restore_checkpoint_after_setup:
            self.stack.load(checkpoint[STATE])
        else:
            self._saved_state = checkpoint[STATE]

    def on_train_end(self) -> None:
        """Put the final weights into the model and take everything off it."""
        self.stack.finish()
        super().on_train_end()
