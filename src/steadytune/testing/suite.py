"""The list of properties, and how one method is checked for one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from steadytune.core.authoring.method import Method
from steadytune.errors import MethodError, did_you_mean
from steadytune.testing import accounting, numerics, surroundings
from steadytune.testing.subject import Subject


@dataclass(frozen=True)
class Property:
    """One thing that every method must hold.

    Attributes:
        name: as in a method's ``not_applicable``.
        statement: what holds, in words.
        check: raises `AssertionError` where it does not.
    """

    name: str
    statement: str
    check: Callable[[Subject], None]


PROPERTIES: dict[str, Property] = {
    p.name: p
    for p in (
        Property("round_trip", "the settings as json build an equal method again", surroundings.round_trip),
        Property("is_felt", "with its strong settings the weights after three updates differ", numerics.is_felt),
        Property("zero_is_plain", "at zero strength training is plain, bit for bit", numerics.zero_is_plain),
        Property("host_randomness", "the host draws the same random numbers as without it", numerics.host_randomness),
        Property("accumulation", "8 examples at once, 2 x 4 and 4 x 2 give one gradient", numerics.accumulation),
        Property("padding", "more padding changes nothing", numerics.padding),
        Property("batch_order", "the order of the examples changes nothing", numerics.batch_order),
        Property("gradients_stay", "no gradient reaches a copy; an ascent leaves p.grad", accounting.gradients_stay),
        Property("cost_is_counted", "counted forward and backward passes are as declared", accounting.cost_is_counted),
        Property("memory_is_counted", "weight copies, activation sets are as declared", accounting.memory_is_counted),
        Property("hosts_agree", "a plain loop and the Trainer take the same path", surroundings.hosts_agree),
        Property("resume", "a run resumed from a checkpoint ends bit for bit as one in one go", surroundings.resume),
        Property(
            "gradient_checkpointing", "gradient checkpointing changes no gradient", numerics.gradient_checkpointing
        ),
        Property("bf16", "a bfloat16 model trains, with finite weights", numerics.bf16),
        Property("lora", "under LoRA only trainable weights move", surroundings.lora),
        Property("leaves_no_trace", "the model leaves as it came, also after a failure", surroundings.leaves_no_trace),
    )
}


def reason_not_applicable(method: type[Method], name: str) -> str | None:
    """Why a property cannot apply to a method, or ``None`` when it applies.

    Raises:
        MethodError: the method excuses itself from a property that does not exist.
    """
    for declared in method.not_applicable:
        if declared not in PROPERTIES:
            raise MethodError(
                f"{method.name}.not_applicable names {declared!r}, which is no property of the contract."
                f"{did_you_mean(declared, PROPERTIES)}"
            )
    return method.not_applicable.get(name)


def variants(method: type[Method]) -> Iterator[Mapping[str, Any]]:
    """The settings that a method is checked with: its strong ones, and each variant that it names."""
    yield dict(method.strong_settings)
    for changes in method.variants:
        yield {**method.strong_settings, **changes}


def check(method: type[Method], name: str, settings: Mapping[str, Any] | None = None) -> None:
    """Check one property of a method.

    Args:
        method: the method's class.
        name: one of `PROPERTIES`.
        settings: what to check it with; its strong settings by default.

    Raises:
        AssertionError: the property does not hold.
        MethodError: the property was declared not to apply.
    """
    reason = reason_not_applicable(method, name)
    if reason is not None:
        raise MethodError(f"{name} does not apply to {method.name}: {reason}.")
    PROPERTIES[name].check(Subject(method, method.strong_settings if settings is None else settings))
