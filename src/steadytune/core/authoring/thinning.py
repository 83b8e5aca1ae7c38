"""A part of a micro-batch: which inputs have rows, and a term on examples and updates that are drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steadytune.core.authoring.per_item import PerItem

if TYPE_CHECKING:
    from steadytune.core.authoring.step import Step


def thinned(step: Step, term: Callable[[Step], PerItem], *, one_in: int, every: int) -> PerItem:
    """A term on one example in ``one_in`` and in one update of ``every``, drawn at random; unbiased.

    Each example has the chance ``1 / (one_in * every)`` and, when drawn, the weight ``one_in * every``: so the
    expectation is the whole term. One of each ``one_in`` examples of an update, in their order, is drawn, and
    of each ``every`` updates one. The draw is the same in all processes, each of which has other examples.

    Args:
        step: the micro-batch.
        term: the whole term, asked with a part of the micro-batch.
        one_in: 1 for all examples.
        every: 1 for all updates.
    """
    if one_in == every == 1:
        return term(step)
    if not step.streams.draws_update(step.owner, every):
        return step.per_item(_nothing(step))
    if one_in == 1:
        return step.per_item(every * term(step).values)
    count = len(step.clean_logits)
    drawn = step.streams.draw_examples(step.owner, count, one_in)
    weight = one_in * every
    if not drawn:
        if not _is_one_of_several_processes():
            return step.per_item(_nothing(step))
        drawn, weight = [0], 0  # each process must run as many passes as the others, or they wait for ever
    rows = torch.tensor(drawn, device=step.clean_logits.device)
    values = weight * term(step.subset(rows)).values
    whole = values.new_zeros(count, *values.shape[1:])
    return step.per_item(whole.index_add(0, rows, values))


def _is_one_of_several_processes() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _nothing(step: Step) -> Tensor:
    like = step.clean_logits
    like = like.select(-1, 0) if step.prediction == "classification" else like
    return torch.zeros(like.shape, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
