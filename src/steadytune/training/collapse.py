"""Whether a run has learned nothing, told by its scores: the one place that decides."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

#: What a run can be found to predict for every row, besides ``"class 0"`` and ``"class 1"`` of two.
ONE_CLASS, ONE_VALUE, NOTHING_RIGHT = "one class", "one value", "nothing right"
#: A loss has exploded if it is this many times the first one.
EXPLODED = 1.5


def collapse(before: Mapping[str, Any], after: Mapping[str, Any], metric: str, largest: float | None) -> str:
    """Say that a run has learned nothing and what to try; empty where it has learned something.

    Args:
        before: scores of a split before the training; empty if they are not known.
        after: those after it.
        metric: the main metric of the task.
        largest: share of the largest class in the split; ``None`` where rows have not one class each.

    Example:
        >>> one = {"accuracy": 0.6, "f1_macro": 0.375, "matthews": 0.0, "f1": 0.75, "loss": 0.67}
        >>> collapse({"loss": 0.7}, one, "accuracy", 0.6)[:47]
        'Nothing was learned: every row is predicted the'
        >>> "smaller" in collapse({"loss": 0.7}, one | {"loss": 2.5}, "accuracy", 0.6)
        True
        >>> collapse({}, {"accuracy": 0.8, "matthews": 0.5}, "accuracy", 0.6)
        ''
    """
    same, accuracy = one_prediction(after, metric), after.get("accuracy")
    if same is not None:
        found = "nothing is right" if same == NOTHING_RIGHT else "every row is predicted the same"
    elif largest is not None and accuracy is not None and accuracy <= largest:
        found = f"accuracy {accuracy:.3f} is not above the share of the largest class, {largest:.3f}"
    else:
        return ""
    first, last = before.get("loss"), after.get("loss")
    if last is not None and not math.isfinite(last):
        exploded = True
    else:
        exploded = first is not None and last is not None and last > EXPLODED * first
    if exploded:
        return f"Nothing was learned: {found}, and the loss has risen. Try a smaller --learning-rate."
    return f"Nothing was learned: {found}. Try more --num-train-epochs, then a larger --learning-rate, or more rows."


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
