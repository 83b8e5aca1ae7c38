"""``memory="low"`` under a Trainer whose subclasses may add to the loss of the methods."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from steadytune.core.stack.stack import Stack


@contextmanager
def loss_in_parts(trainer: Any, stack: Stack) -> Iterator[None]:
    """Let the trainer run backward no more of what its `compute_loss` returns than the part that is asked for now."""
    if not stack.runs_in_parts:
        yield
        return
    whole = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: stack.runner.own_share(whole(*args, **kwargs))
    try:
        yield
    finally:
        del trainer.compute_loss
