"""What a Trainer's checkpoint needs so that one that looks whole is whole, and the older goes only after it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from steadytune.core.stack.stack import Stack
from steadytune.core.state.file import FILE_NAME, checkpoint_number
from steadytune.support.atomic_files import sync_all
from steadytune.support.writing import refuse_links, remove_file, remove_folder, sync

PREFIX = "checkpoint-"
#: Where the state of a Trainer keeps what it has added up since its last log.
SINCE_LOG = "steadytune_since_log"


def begin_checkpoint(folder: Path) -> None:
    """Take the mark of a whole checkpoint from a folder that is about to be written again."""
    refuse_links(folder)
    mark = folder / FILE_NAME
    if mark.is_file():
        remove_file(mark)
        sync(folder)


def remove_older(newest: Path, limit: int | None, best: str | None = None) -> None:
    """Remove checkpoints until no more than the limit are left, as the Trainer does, but by their numbers.

    The Trainer goes by the times of the folders, and removes the newest when the clock was set back. Those with a
    higher number are of an earlier training.

    Args:
        newest: checkpoint that was just written; it is kept.
        limit: how many are kept; ``None`` for all.
        best: checkpoint that is kept, too.
    """
    if not limit or limit < 0:
        return
    numbers = {path: checkpoint_number(path.name) for path in newest.parent.glob(f"{PREFIX}*") if path.is_dir()}
    numbered = {path: number for path, number in numbers.items() if number is not None}
    last = numbered[newest]
    kept = {newest} | ({Path(best)} if best is not None else set())
    surplus = len(numbered) - max(limit, len(kept))
    for path in sorted(numbered, key=lambda p: (numbered[p] <= last, numbered[p])):
        if surplus > 0 and path not in kept:
            remove_file(path / FILE_NAME)  # first, so that no half of it is taken for a checkpoint
            remove_folder(path)
            surplus -= 1


class StackCallback(TrainerCallback):
    """Tells the stack the length of the training, lets it look at the weights, and saves its state in checkpoints."""

    def __init__(self, stack: Stack, trainer: Trainer) -> None:
        self.stack = stack
        self._trainer = weakref.ref(trainer)  # which holds this, and would live until a garbage collection

    def on_train_begin(self, args, state, control, **kwargs) -> None:  # noqa: ARG002 - Transformers' signature
        """The length of the training is known."""
        self.stack.total_updates = state.max_steps
        _take_up_since_log(self._trainer(), self.stack)

    def on_step_end(self, args, state, control, **kwargs) -> None:  # noqa: ARG002 - Transformers' signature
        """An update, or an epoch, has ended."""
        # Before anything is written or scored: the Trainer would keep NaN, and leave it out of the loss it logs.
        if control.should_save or control.should_evaluate:
            self.stack.require_finite()

    on_epoch_end = on_step_end

    def on_save(self, args, state, control, **kwargs) -> None:  # noqa: ARG002 - Transformers' signature
        """The Trainer has written a checkpoint; its mark comes last."""
        folder = Path(args.output_dir or ".") / f"{PREFIX}{state.global_step}"
        writes = args.should_save and folder.is_dir()
        if writes:
            sync_all(folder)  # only then may its mark be written
        # On every process: under FSDP2 each holds a part.
        self.stack.save(folder, write=writes, seal=args.world_size == 1)
        if writes:
            remove_older(folder, args.save_total_limit, state.best_model_checkpoint)


@contextmanager
def written_whole(trainer: Trainer, stack: Stack) -> Iterator[None]:
    """While the Trainer writes a checkpoint: it has no mark until it is whole, and the older ones stay until then."""
    args = trainer.args
    if args.should_save:
        begin_checkpoint(Path(args.output_dir or ".") / f"{PREFIX}{trainer.state.global_step}")
    _keep_since_log(trainer, stack)
    limit, args.save_total_limit = args.save_total_limit, None
    try:
        yield
    finally:
        args.save_total_limit = limit


def _keep_since_log(trainer: Any, stack: Stack) -> None:
    """Put into the Trainer's state what it has added up since its last log, which it forgets when it resumes."""
    if hasattr(trainer, "_tr_loss") and trainer.args.world_size == 1:
        trainer.state.stateful_callbacks[SINCE_LOG] = {
            "loss": trainer._tr_loss.item(),
            "last_logged": trainer._globalstep_last_logged,
            "tally": stack.runner.logs.state(),
        }


def _take_up_since_log(trainer: Any, stack: Stack) -> None:
    """Continue the sum from the checkpoint that the training resumed from."""
    kept = trainer.state.stateful_callbacks.pop(SINCE_LOG, None)
    if isinstance(kept, Mapping) and hasattr(trainer, "_tr_loss"):
        trainer._tr_loss += torch.tensor(kept["loss"], device=trainer._tr_loss.device)
        trainer._globalstep_last_logged = kept["last_logged"]
        stack.runner.logs.load(kept["tally"], trainer._tr_loss.device)
