"""Which method trains which head of which family: tried, not declared."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch

from steadytune.core.authoring.method import LossMethod, Method
from steadytune.core.stack.stack import Stack
from steadytune.errors import HostError, MethodError
from steadytune.methods.registry import REGISTRY, method_classes
from steadytune.testing.families import FAMILIES, HEADS, batch_for, build, model_class, pairs

#: The reason of each refusal by family, head and method.
Refusals = Mapping[tuple[str, str], Mapping[str, str]]


def refusals(family: str, head: str) -> dict[str, str]:
    """Train a tiny model with every method in turn, and return the reasons of those that refuse.

    One update; two with a teacher, which is the student itself in the first.

    Raises:
        AssertionError: a loss is not finite, or no weight moved.
    """
    first, batch = build(family, head, dropout=0.1), batch_for(family, head)
    found = {}
    with _silence():
        for method in method_classes():
            if method.name in REGISTRY:
                reason = _reason(method(), copy.deepcopy(first), batch)
                found |= {method.name: reason} if reason else {}
    return found


def table(found: Refusals) -> list[str]:
    """Markdown lines: a row per family, a column per head, and the reasons below."""
    lines = ["| family | " + " | ".join(HEADS) + " |", "|---" * (len(HEADS) + 1) + "|"]
    for family in FAMILIES:
        cells = [_cell(found[family, head]) if model_class(family, head) else "–" for head in HEADS]
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    reasons: dict[str, str] = {}
    for refused in found.values():
        for name, reason in refused.items():
            reasons.setdefault(f"{name}: {reason.split(':')[0].split(';')[0]}"[:40], f"- `{name}`: {reason}")
    return [*lines, "", "The reasons, each as the first model gives it:", "", *sorted(set(reasons.values()))]


def everything() -> dict[tuple[str, str], dict[str, str]]:
    """`refusals` of every family with every head; about a minute and a half."""
    return {pair: refusals(*pair) for pair in pairs()}


def _reason(method: Method, model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> str:
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    try:
        with Stack([method]) as stack:
            stack.prepare(model, total_updates=10, batches=[batch])
            optimizer = stack.optimizer(torch.optim.AdamW(model.parameters(), lr=1e-2))
            stack.scheduler(optimizer)
            for _ in range(2 if isinstance(method, LossMethod) and method.teachers() else 1):
                loss = stack.backward(model, batch)
                optimizer.step()
                optimizer.zero_grad()
                assert bool(torch.isfinite(loss)), f"{method.name}: the loss is {loss}"
    except (HostError, MethodError) as error:
        return str(error)
    moved = any(not torch.equal(before[name], p) for name, p in model.named_parameters() if name in before)
    assert moved, f"{method.name}: no weight moved"
    return ""


def _cell(refused: Iterable[str]) -> str:
    names = ", ".join(f"`{name}`" for name in refused)
    return f"not {names}" if names else "all"


@contextmanager
def _silence() -> Iterator[None]:
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
