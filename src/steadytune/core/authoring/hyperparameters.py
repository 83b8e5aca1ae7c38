"""Hyper-parameters as fields: a default, what it means, and the values it may take, in one declaration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field
from typing import Any


def hyperparameter(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
    choices: Sequence[Any] | None = None,
    integer: bool = False,
) -> Any:
    """Declare a field of a method: its default, what it means, and the values it may take.

    Args:
        default: the default value, the paper's wherever the paper gives one.
        doc: one line for tables and help.
        low: smallest value allowed; with ``low_open`` the value must be above it.
        high: largest value allowed.
        low_open: exclude ``low`` itself.
        choices: the only values allowed.
        integer: require a whole number.
    """
    limits = {"low": low, "high": high, "low_open": low_open, "choices": choices, "integer": integer}
    return field(default=default, metadata={"doc": doc, **limits})


def allowed_values(metadata: Any) -> str:
    """Describe the values that a hyper-parameter may take, for messages and tables.

    >>> allowed_values(NO_LIMITS | {"low": 0, "high": 1})
    'between 0 and 1'
    """
    if metadata["choices"] is not None:
        return "one of " + ", ".join(map(str, metadata["choices"]))
    low, high = metadata["low"], metadata["high"]
    kind = "a whole number " if metadata["integer"] else ""
    if low is None and high is None:
        return kind.strip() or "any value"
    if high is None:
        return f"{kind}{'above' if metadata['low_open'] else 'at least'} {low:g}"
    if metadata["low_open"]:
        return f"{kind}above {low:g} and at most {high:g}"
    return f"{kind}between {low:g} and {high:g}"


NO_LIMITS: dict[str, Any] = {"low": None, "high": None, "low_open": False, "choices": None, "integer": False}


def is_allowed(value: Any, metadata: Any) -> bool:
    """Whether a hyper-parameter may take this value.

    >>> is_allowed(1.5, NO_LIMITS | {"low": 0, "high": 1})
    False
    """
    if metadata["choices"] is not None:
        # `True == 1`, so identity of type is part of the comparison.
        return any(value == choice and type(value) is type(choice) for choice in metadata["choices"])
    low, high = metadata["low"], metadata["high"]
    if low is None and high is None and not metadata["integer"]:
        return True
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    if metadata["integer"] and not isinstance(value, int):
        return False
    if low is not None and (value <= low if metadata["low_open"] else value < low):
        return False
    return high is None or value <= high
