"""A part of a micro-batch: which inputs have rows, and a term on examples and updates that are drawn at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steadytune.core.scaling import PerItem
from steadytune.errors import HostError

if TYPE_CHECKING:
    from steadytune.core.step import Step


def thinned(step: Step, term: Callable[[Step], PerItem], *, one_in: int, every: int) -> PerItem:
    """A term on one example in ``one_in`` and in one update of ``every``, drawn at random; unbiased.

    Each example has the chance ``1 / (one_in * every)`` and, when drawn, the weight ``one_in * every``: so the
    expectation is the whole term. Of each ``one_in`` examples of an update, in the order they come, one is drawn, and
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
    values = weight * term(step.part(rows)).values
    whole = values.new_zeros(count, *values.shape[1:])
    return step.per_item(whole.index_add(0, rows, values))


def part_of_inputs(inputs: Mapping[str, Any], rows: Tensor, count: int) -> dict[str, Any]:
    """The inputs of some examples.

    Args:
        inputs: of the whole micro-batch.
        rows: ``(examples,)``, their numbers, in rising order.
        count: examples of the whole micro-batch.

    Raises:
        HostError: an input is neither one row per example nor the same for all.

    >>> part_of_inputs({"ids": torch.tensor([[1], [2], [3]]), "use_cache": False}, torch.tensor([0, 2]), 3)
    {'ids': tensor([[1],
            [3]]), 'use_cache': False}
    """
    if len(rows) == count:
        return dict(inputs)
    return {name: _part(name, value, rows, count) for name, value in inputs.items()}


def rows_of(shape: torch.Size, count: int) -> int:
    """How many rows of a tensor belong to one example: the choices of multiple choice, else 1.

    Raises:
        HostError: they are not the same number for each.

    >>> rows_of(torch.Size((8, 5)), 4)
    2
    """
    if shape[0] % count:
        raise HostError(
            f"The embeddings have {shape[0]} rows for {count} examples, so no part of the batch can be taken: "
            "set one_in=1, and every=... for a cheaper term."
        )
    return shape[0] // count


def _part(name: str, value: Any, rows: Tensor, count: int) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor) and not _is_other_than_rows(name, value):
        if value.dim() == 0 or value.shape[0] == 1:
            return value
        if value.shape[0] == count:
            return value.index_select(0, rows.to(value.device))
    what = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise HostError(
        f"The input {name!r} ({what}) has no row for each of the {count} examples, so no part of the batch can "
        "be taken: set one_in=1, and every=... for a cheaper term."
    )


def _is_other_than_rows(name: str, value: Tensor) -> bool:
    # Positions of text, height and width, (3, batch, length); one mask per layer. Both may be as long as the batch.
    return (name == "position_ids" and value.dim() == 3) or name.endswith("head_mask")


def _is_one_of_several_processes() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _nothing(step: Step) -> Tensor:
    like = step.clean_logits
    like = like.select(-1, 0) if step.prediction == "classification" else like
    return torch.zeros(like.shape, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)
