"""Which methods may train together: flattening of groups, refusals, and the cost of a step with all of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from steadytune.core.authoring.cost import PLAIN_STEP, Cost
from steadytune.core.authoring.method import LossMethod, Method, StepMethod
from steadytune.core.stack.by_name import method_by_name
from steadytune.errors import MethodError

#: A method, its name, or a group of methods such as ``smart()``.
MethodOrMethods = Method | str | Iterable[Method]

#: The name of plain training, with no method.
PLAIN = "none"


def flatten(methods: MethodOrMethods | Iterable[MethodOrMethods]) -> Iterator[Method]:
    """Yield the single methods of one method, of a name, or of a list that may hold names and groups.

    ``"none"`` alone is plain training, as on the command line.

    Raises:
        MethodError: an entry is none of these, or a name is unknown.

    >>> [m.name for m in flatten(["noisytune", "smart"])]
    ['noisytune', 'smoothness', 'bregman']
    """
    if isinstance(methods, Method):
        yield methods
    elif isinstance(methods, str):
        yield from () if methods == PLAIN else flatten(method_by_name(methods))
    elif isinstance(methods, Iterable):
        entries = list(methods)
        if len(entries) > 1 and any(isinstance(entry, str) and entry == PLAIN for entry in entries):
            raise MethodError(f"{PLAIN!r} stands for no method at all: leave it out, or give it alone.")
        for entry in entries:
            yield from flatten(entry)
    else:
        raise MethodError(_no_method(methods))


def _no_method(entry: Any) -> str:
    """Say what was given in place of a method, and what to write."""
    if inspect.isclass(entry) and issubclass(entry, Method):
        ours = entry.__module__.startswith("steadytune.methods.")
        return f"{entry.__name__} is a class, not a method: write {entry.name if ours else entry.__name__}()."
    if type(entry).__name__ == "Stack":
        return "Methods are wanted, and a Stack was given: pass the list that it was made from."
    home = entry.__self__ if inspect.ismethod(entry) else entry
    is_function = inspect.isfunction(entry) and entry.__name__.isidentifier()
    if is_function or (callable(entry) and type(home).__module__.startswith("steadytune.")):
        name = f"{home!r}.{entry.__name__}" if inspect.ismethod(entry) else getattr(entry, "__name__", repr(entry))
        return f"{name} was not called: write {name}(), with settings if need be."
    shown = repr(entry) if len(repr(entry)) <= 60 else f"A {type(entry).__name__}"
    return f"{shown} is not a method: pass methods such as noisytune() or smart(), called with their settings."


def conflict(first: Method, second: Method) -> str | None:
    """Why two methods cannot train together and what to do about it, or ``None`` when they can.

    >>> from steadytune import bregman, smoothness
    >>> conflict(bregman(), smoothness()) is None
    True
    """
    if first.name == second.name:
        return f"{first.name} is in the stack twice: keep one of them."
    shared = sorted(first.claims & second.claims)
    if not shared:
        return None
    owned = " and the ".join(shared)
    return f"{first.name} and {second.name} cannot train together: both own the {owned}. Keep one of them."


def conflicts(methods: Sequence[Method]) -> list[str]:
    """All refusals among a set of methods, one line each."""
    pairs = ((a, b) for i, a in enumerate(methods) for b in methods[i + 1 :])
    return [reason for a, b in pairs if (reason := conflict(a, b)) is not None]


def total_cost(methods: Sequence[Method], *, low_memory: bool = False) -> Cost:
    """Cost of one micro-batch with all methods, the plain step included.

    Copies that methods share, of a teacher or of the pretrained weights, are counted once.

    Args:
        methods: of one stack.
        low_memory: the graphs of the passes are made one at a time.
    """
    step = next((m for m in methods if isinstance(m, StepMethod)), None)
    terms = sum((m.cost() for m in methods if isinstance(m, LossMethod)), start=Cost())
    if low_memory:
        terms = terms.one_graph_at_a_time()
    others = sum((m.cost() for m in methods if not isinstance(m, LossMethod | StepMethod)), start=Cost())
    total = (PLAIN_STEP + terms if step is None else step.total(terms)) + others
    teachers = [t for m in methods if isinstance(m, LossMethod) for t in m.teachers()]
    anchors = sum(m.keeps_pretrained for m in methods)
    shared = len(teachers) - len(set(teachers)) + max(anchors - 1, 0)
    return replace(total, weight_copies=total.weight_copies - shared)


def ways_out(methods: Sequence[Method]) -> list[list[Method]]:
    """The largest sets that can train together when all of ``methods`` cannot, those that keep the first ones first.

    >>> from steadytune import freelb, noisytune, smoothness
    >>> [[m.name for m in way] for way in ways_out([noisytune(), smoothness(), freelb()])]
    [['noisytune', 'smoothness'], ['noisytune', 'freelb']]
    """
    found: list[list[Method]] = []
    for start in methods:
        kept: list[Method] = [start]
        for method in methods:
            if method is not start and not conflicts([*kept, method]):
                kept.append(method)
        ordered = [m for m in methods if m in kept]
        if ordered not in found:
            found.append(ordered)
    largest = max(map(len, found), default=0)
    return sorted((way for way in found if len(way) >= largest - 1), key=len, reverse=True)
