"""The Trainer of Transformers as a host: a mixin for any Trainer, and `SteadyTrainer`."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint, has_length

from steadytune.core.authoring.per_item import scales_by_items
from steadytune.core.stack.composition import MethodOrMethods
from steadytune.core.stack.explain import Explanation
from steadytune.core.stack.low_memory import Memory
from steadytune.core.stack.stack import Stack
from steadytune.core.state.file import FILE_NAME, require_checkpoint, require_sealed
from steadytune.errors import CheckpointError, HostError
from steadytune.integrations.transformers.checkpoints import StackCallback, written_whole
from steadytune.integrations.transformers.fused_head import WithLogits, has_fused_head, uncounted
from steadytune.integrations.transformers.loss_in_parts import loss_in_parts
from steadytune.integrations.transformers.loss_scaling import share_of_items
from steadytune.integrations.transformers.refusals import refuse_trainer
from steadytune.support.text import brief

logger = logging.getLogger("steadytune")

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class SteadyMixin(_Base):
    """Gives any Trainer the argument ``methods``: ``class MyTrainer(SteadyMixin, SFTTrainer)``.

    The Trainer's own loss *is* the clean pass, so label smoothing and custom losses keep working. Terms are divided
    by exactly what the Trainer divides the task loss by. The weight noise comes before the optimizer; teachers are
    saved in every checkpoint and a resumed run continues bit for bit on the CPU.

    Args:
        methods: methods, or groups of them such as ``smart()``.
        memory: ``"low"`` for the same gradient with one graph at a time, as in `Stack`.
        args: everything else goes to the Trainer.

    Raises:
        MethodError: two methods conflict.
        HostError: the model lacks what a method needs, or runs under ``nn.DataParallel``.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        before = cls.__mro__[1 : cls.__mro__.index(SteadyMixin)]
        behind = [c for c in before if issubclass(c, Trainer) and not issubclass(c, SteadyMixin)]
        if behind:  # its __init__ would come first, and know no methods
            name = behind[0].__name__
            raise HostError(f"Put the mixin in front: class {cls.__name__}(SteadyMixin, {name}).")

    def __init__(
        self, *args: Any, methods: Iterable[MethodOrMethods] = (), memory: Memory = "full", **kwargs: Any
    ) -> None:
        stack = Stack(methods, memory=memory)
        super().__init__(*args, **kwargs)
        stack.seed = self.args.seed
        self.stack = stack
        self._resume_folder: str | None = None
        self._noised_model: nn.Module | None = None
        self._has_fused_head = has_fused_head(self.accelerator.unwrap_model(self.model))
        # A fused head sums and divides by the items itself; a probe would spoil the figures that TRL collects.
        self._scaling_is_probed = self._has_fused_head
        self._averages_itself = False
        self._was_given_optimizer = self.optimizer is not None
        self._made_optimizer: torch.optim.Optimizer | None = None
        self.add_callback(StackCallback(stack, self))

    def explain(self) -> Explanation:
        """Passes per step, memory, what each method touches, and how far the weights move; before or after `train`."""
        return self.stack.explain(None if self.model is None else self.accelerator.unwrap_model(self.model))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train as the Trainer does; see there for the arguments.

        Raises:
            CheckpointError: the checkpoint to resume from has no state of these methods.
            DivergedError: a gradient or a weight is not finite.
        """
        refuse_trainer(self, self.stack)
        self._resume_folder = self._folder_to_resume(resume_from_checkpoint)
        try:
            result = super().train(resume_from_checkpoint, *args, **kwargs)
            if self.stack.methods:
                self.stack.finish()
            else:
                self.stack.require_finite()
            return result
        except UnpicklingError as error:  # torch reads nothing but plain data: the file is not a Trainer's
            raise CheckpointError(
                f"{self._resume_folder}: a file there is not plain data and was not read "
                f"({brief(error, 100)}): resume only from checkpoints that you trust."
            ) from error
        finally:
            self.stack.close()

    def _folder_to_resume(self, resume: str | bool | None) -> str | None:
        if not resume:
            return None
        output = Path(self.args.output_dir or ".")
        if isinstance(resume, bool) and not output.is_dir():
            raise CheckpointError(f"There is no folder {output} to resume from: start a new run, without resuming.")
        folder = get_last_checkpoint(str(output)) if isinstance(resume, bool) else str(resume)
        if folder is not None and self.stack.methods:
            require_checkpoint(Path(folder))
        if self._has_state(folder):
            require_sealed(Path(str(folder)))
        return folder

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Change the weights and attach the methods, then create the optimizer as the Trainer and the methods say."""
        model = self.accelerator.unwrap_model(self.model)
        resume_from = self._resume_folder if self._has_state(self._resume_folder) else None
        self.stack.prepare(
            model, perturb=self._noised_model is not model, resume_from=resume_from, batches=self._batches
        )
        self._noised_model = model
        self._drop_changed_optimizer()
        self.optimizer = self._made_optimizer = self.stack.optimizer(super().create_optimizer(*args, **kwargs))
        return self.optimizer

    def _drop_changed_optimizer(self) -> None:
        """Let the Trainer make a new optimizer when an earlier training has left one that methods have changed."""
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        if not self.stack.optimizer_methods or self._made_optimizer is None or inner is not self._made_optimizer:
            return
        if self._was_given_optimizer:
            raise HostError(
                f"{self.stack.optimizer_methods[0].name} has changed the optimizer that was passed to the Trainer, "
                "and cannot change it again: make a new Trainer for another training."
            )
        self.optimizer = None

    def _batches(self) -> Iterator[dict[str, Any]]:
        loader: Iterable[Any] = self.get_train_dataloader()
        # A stream may have no end; what the training itself will see is enough.
        endless = not has_length(self.train_dataset) and self.args.max_steps > 0
        seen = self.args.max_steps * self.args.gradient_accumulation_steps if endless else None
        return (self._prepare_inputs(batch) for batch in itertools.islice(loader, seen))

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The schedule of a method where one has it, else the Trainer's."""
        target = optimizer if optimizer is not None else self.optimizer
        assert target is not None  # the Trainer creates it first
        scheduler = None if self.lr_scheduler is not None else self.stack.scheduler(target, num_training_steps)
        if scheduler is None:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = scheduler
        self._created_lr_scheduler = True
        return scheduler

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None, *args: Any
    ) -> Tensor:
        """The Trainer's step; with a method that runs the backward passes itself as many of them as it needs."""
        if not self.stack.runs_passes:
            plain: Tensor = super().training_step(model, inputs, num_items_in_batch, *args)
            self._refuse_unseen_loss()
            return plain
        parent: Any = super()
        model.train()
        inputs = self._prepare_inputs(inputs)
        passes = itertools.count()

        def once() -> AbstractContextManager[None]:
            return uncounted(self) if next(passes) else nullcontext()

        def loss() -> Tensor:
            with once(), self.compute_loss_context_manager():
                return self.compute_loss(model, dict(inputs), num_items_in_batch=num_items_in_batch)

        def run() -> Tensor:
            with once(), loss_in_parts(self, self.stack):
                return parent.training_step(model, dict(inputs), num_items_in_batch, *args)

        return self.stack.run_step(inputs, loss=loss, run=run, update=self._update_in_between, model=model)

    def _refuse_unseen_loss(self) -> None:
        """Refuse, before the first update, a loss that never comes past the stack.

        Raises:
            HostError: a subclass replaces `compute_loss` as a whole.
        """
        runner = self.stack.runner
        if runner.session.follows_steps and not runner.clock.now.has_begun:
            raise HostError(
                f"compute_loss of {type(self).__name__} never called super().compute_loss(), so {self.stack} had no "
                "effect. Pass your loss to the Trainer as compute_loss_func=..., let compute_loss call "
                "super().compute_loss(), or put the mixin in front: class T(SteadyMixin, Yours)."
            )

    def _update_in_between(self) -> None:
        """An update in the middle of a step, clipped as the Trainer clips."""
        assert self.optimizer is not None and self.model is not None  # noqa: PT018 - training has begun
        if self.args.max_grad_norm is not None and self.args.max_grad_norm > 0:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the Trainer's, so that a checkpoint that looks whole is whole; see `StackCallback.on_save`."""
        # A search over hyper-parameters lies in folders of its own, from whose checkpoints nothing is resumed.
        with nullcontext() if trial is not None else written_whole(self, self.stack):
            super()._save_checkpoint(model, trial)

    @staticmethod
    def _has_state(folder: str | None) -> bool:
        return folder is not None and (Path(folder) / FILE_NAME).is_file()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Any:
        """The Trainer's loss plus the terms of all methods; in evaluation the Trainer's loss alone."""
        if not model.training:
            given_items = None if self._averages_itself else num_items_in_batch
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=given_items, **kwargs
            )
        # The Trainer's own loss is the clean pass; the stack adds the terms to it. Four things complicate that:
        # - a loss may take entries out of the inputs, so a copy is kept for the passes of the terms;
        # - with memory="low" the stack may know the clean pass already (`clean.known`), which then does not run again;
        # - a fused head returns no logits, so terms let the model's own head answer (`_task`);
        # - the Trainer divides by the items of the accumulated batch. A loss that ignores them is an average over the
        #   micro-batch; it gets its share of the items at the end.
        self._probe_scaling(model, inputs, num_items_in_batch)
        items = None if self._ignores_items() else num_items_in_batch
        given = dict(inputs)
        with self.stack.clean_pass() as clean:
            # A fused head warns when it is asked for outputs, and runs the model once more for them.
            needs_outputs = return_outputs or (clean is not None and not self._has_fused_head)
            if clean is not None and clean.known is not None:
                loss, outputs = clean.known
            else:
                loss, outputs = self._task(model, inputs, items, kwargs, needs_outputs, needs_logits=clean is not None)
        # What the loss has put in, such as use_cache=False, is for the model, too; labels it may have taken out.
        asked = dict(inputs) | {name: value for name, value in given.items() if name == "labels"}
        loss = self.stack.add_terms(
            loss,
            outputs,
            clean,
            model=model,
            inputs=asked,
            denominator=self._denominator(items),
            run_task=lambda: self._second_task(model, given, items, kwargs),
        )
        loss = self._share_of_batch(loss, given, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _share_of_batch(self, loss: Tensor, given: dict[str, Any], items: Tensor | int | None) -> Tensor:
        """Weigh a loss that is an average over the micro-batch by the items that it holds."""
        if not self._averages_itself or items is None:
            return loss
        shifted = bool(getattr(self, "_loss_shifts_labels", False))  # newer Transformers count a decoder's items so
        share = share_of_items(given, items, shifted=shifted, copies=self._copies(), dtype=loss.dtype)
        return loss * share.to(loss.device)

    def _task(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        items: Tensor | int | None,
        others: dict[str, Any],
        needs_outputs: bool,
        *,
        needs_logits: bool,
    ) -> tuple[Tensor, Any]:
        """The Trainer's own loss, and the model's outputs where they are needed."""
        shown: Any = WithLogits(model) if self._has_fused_head and needs_logits else model
        found: Any = super().compute_loss(
            shown, inputs, return_outputs=needs_outputs, num_items_in_batch=items, **others
        )
        loss, outputs = found if needs_outputs else (found, None)
        return loss, shown.outputs if isinstance(shown, WithLogits) else outputs

    def _second_task(
        self, model: nn.Module, given: dict[str, Any], items: Tensor | int | None, others: dict[str, Any]
    ) -> tuple[Tensor, Any]:
        with uncounted(self):
            return self._task(model, dict(given), items, others, not self._has_fused_head, needs_logits=True)

    def _copies(self) -> int:
        return self.accelerator.num_processes if self.args.average_tokens_across_devices else 1

    def _denominator(self, items: Tensor | int | None) -> Tensor | float | None:
        """Items that the Trainer divides by, where it normalizes over the accumulated batch itself."""
        scaled = self.model_accepts_loss_kwargs or self.compute_loss_func is not None
        if items is None or not scaled:
            return None
        return torch.as_tensor(items, device=self.args.device) / self._copies()

    def _ignores_items(self) -> bool:
        """Whether the loss is an average over the micro-batch, by what the probe found or the Trainer declares."""
        return self._averages_itself or getattr(self, "loss_is_scaled_for_ga", None) is False

    def _probe_scaling(self, model: nn.Module, inputs: dict[str, Any], items: Tensor | int | None) -> None:
        """Find out once whether the loss heeds the number of items (transformers#47688)."""
        if self._scaling_is_probed or items is None or getattr(self, "loss_is_scaled_for_ga", None) is not None:
            return
        parent: Any = super()
        heeds = scales_by_items(
            lambda batch, n: parent.compute_loss(model, batch, num_items_in_batch=n), model, inputs
        )
        self._scaling_is_probed = heeds is not None
        self._averages_itself = heeds is False
        if heeds is False and (self.args.gradient_accumulation_steps > 1 or self.accelerator.num_processes > 1):
            logger.warning(
                "The loss of %s is an average over each micro-batch, but the Trainer takes it for a sum over the "
                "accumulated batch and would multiply gradients by %d (transformers#47688). Repaired here.",
                type(self.accelerator.unwrap_model(model)).__name__,
                self.args.gradient_accumulation_steps * self.accelerator.num_processes,
            )

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as the Trainer does, with the mean of each unweighted term since the last training log."""
        if "loss" in logs:
            logs |= self.stack.take_logs()
        super().log(logs, *args, **kwargs)


class SteadyTrainer(SteadyMixin, Trainer):
    """The Trainer with methods.

    Example::

        trainer = SteadyTrainer(model=model, args=args, train_dataset=train, methods=[noisytune(), smart()])
        print(trainer.explain())
        trainer.train()
    """
