"""Mistakes in names of methods, found without importing torch."""

from __future__ import annotations

from collections.abc import Iterable

from steadytune.cli.suggestions import method_names
from steadytune.errors import MethodError, did_you_mean
from steadytune.settings.expressions import BASELINE, read_candidate


def refuse_unknown_methods(written: Iterable[str]) -> None:
    """Refuse names that no method has.

    Args:
        written: methods as they are given: ``smart``, ``noisytune+smart(weight=3)``.

    Raises:
        MethodError: there is no such method.

    >>> refuse_unknown_methods(["none", "noisytune+smart(weight=3)"])
    """
    known = method_names()
    for entry in written:
        for name in read_candidate(entry)[0]:
            if name not in known and name != BASELINE:
                near = did_you_mean(name, known)
                rest = " `steadytune methods` lists all." if near else f" Known: {', '.join(known)}."
                raise MethodError(f"There is no method {name!r}.{near}{rest}")
