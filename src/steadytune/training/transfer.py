"""Cross-lingual transfer: what a model that was trained on English scores in each language, and the gap to English."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from steadytune.tasks.task import Task

ENGLISH = "en"


def transfer(task: Task, scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return for each language the split it was scored on, its score and the gap to English.

    The score is the task's metric. The gap is the English score minus the language's: what is lost in transfer. Both
    are on test rows, else both on validation rows, else (TyDi QA) the language's test and the English validation rows.
    Empty for a task in one language, and while the other languages are not evaluated.

    Args:
        task: names the splits' languages.
        scores: by split, those after training.

    >>> from steadytune.tasks.named.registry import task_record
    >>> found = transfer(task_record("xnli"), {"validation": {"accuracy": 0.8}, "validation_de": {"accuracy": 0.5}})
    >>> found["de"]["score"], round(found["de"]["gap"], 2)
    (0.5, 0.3)
    """
    found: dict[str, dict[str, Any]] = {}
    for language in task.languages:
        for kind, of_english in (("test", "test"), ("validation", "validation"), ("test", "validation")):
            split = kind if language == ENGLISH else f"{kind}_{language}"
            english, score = (scores.get(name, {}).get(task.metric) for name in (of_english, split))
            if english is not None and score is not None:
                found[language] = {"split": split, "score": score, "gap": english - score}
                break
    return found if set(found) - {ENGLISH} else {}


def mean_gap(found: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the mean gap of the languages other than English.

    >>> mean_gap({"en": {"gap": 0.0}, "de": {"gap": 0.2}, "sw": {"gap": 0.4}})
    0.30000000000000004
    """
    return statistics.fmean(float(entry["gap"]) for language, entry in found.items() if language != ENGLISH)
