"""Whether a run predicts the same for every row, told by the scores that its record holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from steadytune.comparison.records import RunRecord
from steadytune.errors import SettingsError
from steadytune.training.collapse import NOTHING_RIGHT, ONE_CLASS, ONE_VALUE, one_prediction


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
