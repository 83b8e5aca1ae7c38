"""What a shell may complete: names of methods, tasks and heads, without importing torch at each press of a key."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from steadytune import names

#: Parts of `steadytune evaluate`.
PARTS = (
    *("sets", "annotators", "calibration", "movement", "perturbations", "embedding_attack", "smoothness"),
    "retrieval",
)


def method_names() -> list[str]:
    """Return all methods by name, as `methods.registry.all_methods` has them, without importing torch."""
    ours = names.methods()
    return [*ours, *(point.name for point in names.plugins() if point.name not in ours)]


def single_methods(incomplete: str) -> list[str]:
    """Complete one name of a method."""
    return _beginning_with(incomplete, method_names())


def methods(incomplete: str) -> list[str]:
    """Complete the last of several names, separated by commas or, where they are joined, by +."""
    return _last(incomplete, lambda: ["none", *method_names()], ",+")


def assignments(incomplete: str) -> list[str]:
    """Complete METHOD.SETTING=VALUE up to the method."""
    return _beginning_with(incomplete, [f"{name}." for name in method_names()])


def tasks(incomplete: str) -> list[str]:
    """Complete the last of several tasks."""
    from steadytune.tasks.named.registry import task_names

    return _last(incomplete, task_names, ",")


def heads(incomplete: str) -> list[str]:
    """Complete a head."""
    from steadytune.heads.registry import FILE_HEADS

    return _beginning_with(incomplete, FILE_HEADS)


def parts(incomplete: str) -> list[str]:
    """Complete the last of several parts of an evaluation."""
    return _last(incomplete, lambda: PARTS, ",")


def one_of(choices: Iterable[str]) -> Callable[[str], list[str]]:
    """Complete one of a few values.

    >>> one_of(["linear", "cosine"])("l")
    ['linear']
    """
    known = tuple(choices)

    def complete(incomplete: str) -> list[str]:
        return _beginning_with(incomplete, known)

    return complete


def _beginning_with(incomplete: str, known: Iterable[str]) -> list[str]:
    return [name for name in known if name.startswith(incomplete)]


def _last(incomplete: str, known: Callable[[], Iterable[str]], separators: str) -> list[str]:
    cut = max(incomplete.rfind(separator) for separator in separators) + 1
    return [incomplete[:cut] + name for name in _beginning_with(incomplete[cut:], known())]
