"""Refuses a second stack on a model that one already trains."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from typing import Protocol
from weakref import ReferenceType, WeakKeyDictionary, ref

from torch import nn

from steadytune.core.authoring.method import LossMethod, Method, WeightMethod
from steadytune.errors import HostError


class Holder(Protocol):
    """What is at work on a model: the runner of a stack."""

    @property
    def methods(self) -> Sequence[Method]:
        """The methods of its stack."""
        ...

    def holds(self, model: nn.Module) -> bool:
        """Whether it was prepared with this model and is neither finished nor closed."""
        ...


_AT_WORK: WeakKeyDictionary[nn.Module, ReferenceType[Holder]] = WeakKeyDictionary()


def refuse_second(methods: Sequence[Method], model: nn.Module) -> None:
    """Refuse a model that another stack is at work on.

    Not counted are stacks that leave nothing to undo: no methods, those that change the initial weights alone, and
    terms of weight 0, which measure.

    Raises:
        HostError: there is one, which is neither finished nor closed.
    """
    if not _acts(methods) or _other(model) is None:
        return
    gc.collect()  # one that nobody can reach any more, such as that of a Trainer that was thrown away
    other = _other(model)
    if other is not None:
        names = " + ".join(m.name for m in other.methods)
        raise HostError(
            f"Another stack ({names}) is at work on this {type(model).__name__}, and both would act in every step: "
            "put all methods into one Stack, or call finish() or close() on the first one. If it is lost, load the "
            "model again."
        )


def claim(holder: Holder, model: nn.Module) -> None:
    """Note who is at work on the model, for as long as it `holds` it."""
    if _acts(holder.methods):
        _AT_WORK[model] = ref(holder)


def _other(model: nn.Module) -> Holder | None:
    known = _AT_WORK.get(model)
    found = None if known is None else known()
    return found if found is not None and found.holds(model) else None


def _acts(methods: Iterable[Method]) -> bool:
    return any(not isinstance(m, WeightMethod) and not (isinstance(m, LossMethod) and m.weight == 0) for m in methods)
