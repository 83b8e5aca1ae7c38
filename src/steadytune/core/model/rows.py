"""Which inputs of a micro-batch have a row for each example, and the inputs of some of the examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from steadytune.errors import HostError


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
