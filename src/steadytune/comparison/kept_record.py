"""A finished run's record on disk, if it can be used again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from filelock import Timeout

from steadytune.comparison.plan import RunPlan
from steadytune.comparison.records import RunRecord, read_record
from steadytune.support.writing import file_lock, writes_below


def kept_record(plan: RunPlan) -> RunRecord | None:
    """The record of a run that needs no more work, or ``None``."""
    found = read_record(plan.folder)
    if found is None or (found.status == "failed" and plan.retry_failed):
        return None
    if found.status == "finished" and plan.evaluate_test and found.metrics.get("skipped"):
        return None
    metrics = found.metrics if plan.evaluate_test else _without_tests(found.metrics)
    return as_planned(replace(found, metrics=metrics), plan)


def as_planned(record: RunRecord, plan: RunPlan) -> RunRecord:
    """A record under the name of the candidate it is planned for: two comparisons may call the same run otherwise."""
    return replace(record, candidate=plan.candidate, facts=plan.facts)


def _without_tests(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that only chooses may know, though its test splits were evaluated after that choice."""
    after = metrics.get("after", {})
    tests = [name for name in after if name != "validation"]
    left = {**metrics, "after": {name: scores for name, scores in after.items() if name not in tests}}
    if "calibration" in metrics:
        left["calibration"] = {k: v for k, v in metrics["calibration"].items() if k not in tests}
    return {**left, "skipped": tests} if tests else dict(metrics)


def is_locked(plan: RunPlan) -> bool:
    """Whether a process is making the run at this moment."""
    if not plan.lock_file.exists():
        return False
    with writes_below(plan.home):
        lock = file_lock(plan.lock_file, 0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False
