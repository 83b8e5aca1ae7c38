"""What a candidate is: plain training, plain training for longer, or methods."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from steadytune.errors import SettingsError
from steadytune.settings.expressions import BASELINE, read_candidate

CandidateKind = Literal["plain", "longer plain", "method"]

_LONGER = re.compile(rf"{BASELINE}@(\d+(?:\.\d+)?)x")


@dataclass(frozen=True)
class CandidateFacts:
    """What a candidate is.

    Attributes:
        kind: plain training, plain training for longer, or a method (or several joined).
        more_updates: factor of the number of updates; above 1 for plain training for longer.
        varied: settings that the comparison varies, with this candidate's values.
        varied_from: label of the candidate whose settings these are variations of; ``None`` if it varies nothing.
    """

    kind: CandidateKind
    more_updates: float = 1.0
    varied: Mapping[str, Any] = field(default_factory=dict)
    varied_from: str | None = None


def facts_of_label(label: str) -> CandidateFacts:
    """Read the facts from a label, for records written before they had them.

    Example:
        >>> facts_of_label("none@3.00x").more_updates, facts_of_label("smart(weight=3)").varied
        (3.0, {'smart.weight': 3})
    """
    if label == BASELINE:
        return CandidateFacts("plain")
    longer = _LONGER.fullmatch(label)
    if longer is not None and float(longer[1]) > 0:
        return CandidateFacts("longer plain", float(longer[1]))
    try:
        names, settings = read_candidate(label)
    except SettingsError:
        names, settings = (), {}
    return CandidateFacts("method", varied=settings, varied_from="+".join(names) if settings else None)
