"""Making one run of a comparison, once: under a lock, with whatever happens kept as a record."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import Timeout

from steadytune.comparison.engines.engine import BusyError
from steadytune.comparison.kept_record import kept_record
from steadytune.comparison.plan import RunPlan
from steadytune.comparison.records import RunRecord, Status, read_record
from steadytune.errors import DivergedError, SettingsError
from steadytune.support.atomic_files import remove_abandoned, write_json
from steadytune.support.reading import read_json
from steadytune.support.text import one_line
from steadytune.support.writing import file_lock, make_folder, remove_folder, writes_below
from steadytune.training.folder import RunFolder

logger = logging.getLogger("steadytune")

MOST_POINTS = 200
#: A run that lasts seconds needs no checkpoint: it is made again as fast as one is written.
CHECKPOINT_SECONDS = 30.0


def execute(plan: RunPlan, reporter: Any = None, *, wait: bool = True) -> RunRecord:
    """Make one run in its folder, unless it is made already, and say how it ended.

    Nothing that goes wrong in the run is raised: it is in the record; other runs continue. A failed run is made again
    only if the plan says so. Two processes never make the same run: one of them waits for the other's record.

    Args:
        plan: the run.
        reporter: a `progress.Reporter`.
        wait: wait for another process that is making it.

    Raises:
        BusyError: another process is making it, and ``wait`` is off.
        Interrupted: the user stopped it; the next call continues.
    """
    with writes_below(plan.home):
        make_folder(plan.lock_file.parent)
        try:
            with file_lock(plan.lock_file, -1 if wait else 0):
                found = kept_record(plan)
                return found if found is not None else _make(plan, reporter)
        except Timeout:
            raise BusyError(plan.key) from None


def keep_failure(plan: RunPlan, error: str) -> RunRecord:
    """Record that the process of a run ended before it could report; another that took the run over continues."""
    record = _record(plan, "failed", error, {}, 0.0)
    with writes_below(plan.home), suppress(Timeout):
        make_folder(plan.lock_file.parent)
        with file_lock(plan.lock_file, 0):
            _keep(plan, record)
    return record


def _make(plan: RunPlan, reporter: Any) -> RunRecord:
    from steadytune.evaluation.evaluate import evaluate
    from steadytune.settings.evaluate import EvaluateOptions
    from steadytune.training.run import Extent, train
    from steadytune.training.skeleton import Interrupted

    began = time.monotonic()
    metrics: Mapping[str, Any] = {}
    status: Status = "finished"
    error: str | None = None
    try:
        extent = Extent(
            before=False,
            test=plan.evaluate_test,
            each_epoch=plan.each_epoch,
            checkpoint_seconds=CHECKPOINT_SECONDS,
            keep_predictions=True,
        )
        metrics = train(plan.settings, reporter, extent).metrics
        if plan.evaluate:
            # Before the record: a run that is killed here is taken up here.
            evaluate(plan.folder, EvaluateOptions(only=plan.evaluate))
    except Interrupted:
        raise
    except DivergedError as problem:
        status, error = "diverged", one_line(problem)
    except Exception as problem:  # whatever a library raises in one run must not end the comparison
        logger.debug("%s failed", plan.key, exc_info=True)
        status, error = "failed", one_line(problem)
    record = _record(plan, status, error, metrics, time.monotonic() - began)
    _keep(plan, record)
    remove_folder(plan.folder / "checkpoints")
    return record


def _keep(plan: RunPlan, record: RunRecord) -> None:
    try:
        make_folder(plan.folder)
        remove_abandoned(plan.folder, "record.json.*.unfinished")
        write_json(plan.folder / "record.json", asdict(record))
    except (OSError, SettingsError) as error:
        # A full disk, or a link: the record is still told, and made again from the run's folder next time.
        logger.warning("The record of %s cannot be kept: %s", plan.folder, one_line(error))


def _record(plan: RunPlan, status: Status, error: str | None, metrics: Mapping[str, Any], seconds: float) -> RunRecord:
    from steadytune.comparison.calibration import calibration_of

    settings = plan.settings
    earlier = read_record(plan.folder)
    before = earlier.training.get("wall_seconds", 0.0) if earlier is not None and earlier.status == status else 0.0
    made_by = earlier.environment.get("made_by", []) if earlier is not None else []
    training = {
        **metrics.get("training", {}),
        "relative_cost": plan.relative_cost,
        "wall_seconds": round(before + seconds, 3),
        **_curves(plan),
    }
    scores = {name: metrics[name] for name in ("before", "after", "skipped") if name in metrics}
    if status == "finished" and (measured := calibration_of(plan.folder, metrics.get("after", ()))):
        scores["calibration"] = measured
    return RunRecord(
        key=plan.key,
        candidate=plan.candidate,
        methods=tuple(name for name in settings.methods if name != "none"),
        method_settings=settings.method_settings(),
        task=settings.task or Path(settings.train_file or "data").stem,
        train_size=settings.train_size,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        status=status,
        error=error,
        metrics=scores,
        training=training,
        facts=plan.facts,
        environment={**_environment(plan.folder), **plan.fingerprint, "made_by": [*made_by, _here()]},
    )


def _here() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _environment(folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / "environment.json")
    except (OSError, ValueError):
        return {}


def _curves(plan: RunPlan) -> dict[str, Any]:
    """The training loss by update and the main metric by epoch, out of the run's log."""
    try:
        log = RunFolder(plan.folder).read_log()
    except (OSError, UnicodeDecodeError):
        log = []
    metric = f"eval_{plan.metric}"
    return {
        "curve": _points([(line["step"], line["loss"]) for line in log if "loss" in line]),
        "validation_curve": _points([(line.get("epoch"), line[metric]) for line in log if metric in line]),
    }


def _points(pairs: Sequence[tuple[Any, Any]]) -> list[list[float]]:
    points = [[x, y] for x, y in pairs if all(isinstance(v, int | float) and math.isfinite(v) for v in (x, y))]
    stride = max(1, math.ceil(len(points) / MOST_POINTS))
    return points[::stride] if not points or (len(points) - 1) % stride == 0 else [*points[::stride], points[-1]]
