"""Whether a run predicts the same for every row, told by the scores that its record holds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from steadytune.comparison.records import RunRecord
from steadytune.errors import SettingsError

#: What a run can be found to predict for every row, besides ``"class 0"`` and ``"class 1"`` of two.
ONE_CLASS, ONE_VALUE, NOTHING_RIGHT = "one class", "one value", "nothing right"


def same_for_every_row(run: RunRecord, split: str, metric: str) -> str | None:
    """What a run predicts for every row of a split; ``None`` where its predictions differ, or where that is unknown.

    A set whose rows all have one label looks the same, so the validation split has to say so, too, where there is one.

    Args:
        run: its record; one without a score predicts nothing.
        split: where it was scored.
        metric: the main metric of the task.
    """
    if run.score(split, metric) is None:
        return None
    after = run.metrics.get("after", {})
    found = [one_prediction(after[name], metric) for name in dict.fromkeys((split, "validation")) if name in after]
    return None if None in found else found[0]


def one_prediction(scores: Mapping[str, Any], metric: str) -> str | None:
    """What gives these scores by being predicted for every row; ``None`` where several predictions are.

    A classifier that predicts one class alone has no correlation with the labels, and of its accuracy a the mean F1
    over k classes is 2a / (1 + a) / k. A constant number has no correlation either.

    Example:
        >>> one_prediction({"accuracy": 0.5, "f1_macro": 1 / 3, "matthews": 0.0, "f1": 2 / 3}, "accuracy")
        'class 1'
        >>> one_prediction({"accuracy": 0.5, "f1_macro": 0.5, "matthews": 0.0, "f1": 0.5}, "accuracy") is None
        True
    """
    numbers = {k: float(v) for k, v in scores.items() if isinstance(v, int | float) and math.isfinite(v)}
    if numbers.get("matthews") == 0.0 and {"accuracy", "f1_macro"} <= numbers.keys():
        return _one_class(numbers["accuracy"], numbers["f1_macro"], numbers.get("f1"))
    if numbers.get("pearson") == 0.0 and numbers.get("spearman") == 0.0:
        return ONE_VALUE
    if numbers.get(metric) == 0.0 and (metric.startswith("f1") or metric == "exact_match"):
        return NOTHING_RIGHT
    return None


def _one_class(accuracy: float, f1_macro: float, f1: float | None) -> str | None:
    best = 2 * accuracy / (1 + accuracy)
    if f1 is not None:  # of class 1 of two: one of the two is never right
        is_one = math.isclose(f1_macro, best / 2, abs_tol=1e-9) and (f1 == 0 or math.isclose(f1, best, abs_tol=1e-9))
        return ("class 1" if f1 else "class 0") if is_one else None
    if f1_macro <= 0:
        return ONE_CLASS if accuracy == 0 else None
    classes = best / f1_macro
    return ONE_CLASS if classes > 1.5 and math.isclose(classes, round(classes), rel_tol=1e-9) else None


def in_words(found: Iterable[str], task: str) -> str:
    """What runs do that predict the same for every row, as the end of a sentence.

    Example:
        >>> in_words(["class 1", "class 1"], "movie-reviews"), in_words(["class 0", "class 1"], "movie-reviews")
        ('predict one class (positive)', 'predict one class each')
    """
    kinds = Counter(found)
    if set(kinds) == {ONE_VALUE}:
        return "predict one value for every row"
    if set(kinds) == {NOTHING_RIGHT}:
        return "get nothing right"
    if len(kinds) == 1:
        name = _name_of_class(next(iter(kinds)), task)
        return f"predict one class{f' ({name})' if name else ''}"
    return "predict one class each"


def _name_of_class(found: str, task: str) -> str:
    from steadytune.tasks.named.registry import task_record

    if found == ONE_CLASS:
        return ""
    try:
        names = task_record(task).label_names or ()
    except SettingsError:  # the user's own files
        return ""
    index = int(found.removeprefix("class "))
    return names[index] if index < len(names) else ""
