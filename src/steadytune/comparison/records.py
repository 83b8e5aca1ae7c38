"""What is known of runs and comparisons, as plain values that are written to disk and read again."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from steadytune.comparison.kinds import CandidateFacts, facts_of_label
from steadytune.errors import SettingsError
from steadytune.settings.expressions import BASELINE
from steadytune.support.reading import COMPARISON, read_json

Status = Literal["finished", "failed", "diverged"]

FORMAT_VERSION = 1
FILE_NAME = "comparison.json"


@dataclass(frozen=True)
class RunRecord:
    """What is known of one run; ``record.json`` in the run's folder.

    Attributes:
        key: hash of all that determines the run; the name of its folder.
        candidate: ``"none"``, ``"smart"``, ``"noisytune+smart"``, ``"smart(weight=3)"``; ``"none@3.00x"`` for plain
            training with the updates that a method of three times the cost would pay for.
        methods: names of the methods, none for plain training.
        method_settings: settings by method, where they are not the defaults.
        task: name of the task, or of the train file.
        train_size: as asked, ``None`` for all rows.
        learning_rate: peak learning rate.
        seed: seed of the run.
        status: a run that diverged ended early because its loss or a weight was no longer finite.
        error: one line, for failed and diverged runs.
        metrics: ``{"before": {split: {metric: value, "rows": n}}, "after": {...}}``.
        training: ``updates``, ``seconds``, ``seconds_per_update`` (median), ``peak_memory_bytes``,
            ``curve`` ``[[update, loss], ...]``, ``validation_curve`` ``[[epoch, main metric], ...]``.
        environment: versions and machine, and the commit if it is known.
        facts: what the candidate is; records of earlier versions lack it, and it is read from their label.
    """

    key: str
    candidate: str
    methods: tuple[str, ...]
    method_settings: Mapping[str, Mapping[str, Any]]
    task: str
    train_size: str | None
    learning_rate: float
    seed: int
    status: Status
    error: str | None
    metrics: Mapping[str, Any]
    training: Mapping[str, Any]
    environment: Mapping[str, Any]
    facts: CandidateFacts | None = None

    @property
    def what(self) -> CandidateFacts:
        """What the candidate is."""
        return self.facts or facts_of_label(self.candidate)

    def as_json(self) -> dict[str, Any]:
        """Plain values, sharing those of the record."""
        return {**vars(self), "facts": dict(vars(self.what))}

    def score(self, split: str, metric: str) -> float | None:
        """The value of a metric after training.

        ``None`` if the run did not finish, the value is no number, or the model's output for a row was not finite.
        """
        scores = self.metrics.get("after", {}).get(split, {})
        if self.status != "finished" or scores.get("non_finite"):
            return None
        value = scores.get(metric)
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@dataclass(frozen=True)
class Cell:
    """One task at one training size.

    Attributes:
        task: name of the task, or of the train file.
        train_size: as asked, ``None`` for all rows.
        metric: the task's main metric.
        greater_is_better: whether more of it is better.
        test_splits: evaluated after training, e.g. ``("test", "imdb")``; validation is only used to tune.
        chosen_learning_rate: by candidate, chosen on validation data.
        tuning: runs over the learning rates, with the first seed.
        runs: the compared runs, candidates x seeds, failed and diverged ones included.
    """

    task: str
    train_size: str | None
    metric: str
    greater_is_better: bool
    test_splits: tuple[str, ...]
    chosen_learning_rate: Mapping[str, float]
    tuning: tuple[RunRecord, ...]
    runs: tuple[RunRecord, ...]

    @property
    def candidates(self) -> tuple[str, ...]:
        """The compared candidates, in the order they were asked for, plain training first."""
        names = dict.fromkeys(run.candidate for run in self.runs)
        return tuple(sorted(names, key=lambda name: name != BASELINE))

    def what(self, candidate: str) -> CandidateFacts:
        """What a candidate of the compared runs is."""
        return self.of(candidate)[0].what

    def of(self, candidate: str) -> tuple[RunRecord, ...]:
        """The compared runs of one candidate."""
        return tuple(run for run in self.runs if run.candidate == candidate)

    def as_json(self) -> dict[str, Any]:
        """Plain values, sharing those of the runs."""
        return {
            **vars(self),
            **{name: [run.as_json() for run in getattr(self, name)] for name in ("tuning", "runs")},
        }

    def scores(self, candidate: str, split: str) -> dict[int, float | None]:
        """Scores by seed; ``None`` where a run failed or diverged."""
        return {run.seed: run.score(split, self.metric) for run in self.of(candidate)}


@dataclass(frozen=True)
class Comparison:
    """Everything a report needs; ``comparison.json`` in the output folder.

    Attributes:
        settings: the resolved settings of the comparison.
        task: names of the tasks, joined by a comma.
        metric: main metric of the first task.
        cells: one for each task and training size.
        environment: versions and machine.
        command: how to repeat it.
    """

    settings: Mapping[str, Any]
    task: str
    metric: str
    cells: tuple[Cell, ...]
    environment: Mapping[str, Any]
    command: str

    def as_json(self) -> dict[str, Any]:
        """Plain values, with the version of the format."""
        # Not `asdict`, which copies every point of every curve: 10,000 runs took it ten seconds.
        return {"format_version": FORMAT_VERSION, **vars(self), "cells": [cell.as_json() for cell in self.cells]}


class _Metrics(BaseModel):
    """As far as the report looks into them, metrics are by split."""

    model_config = ConfigDict(extra="allow")
    before: dict[str, dict[str, Any]] = {}
    after: dict[str, dict[str, Any]] = {}
    calibration: dict[str, dict[str, Any]] = {}


@functools.cache
def _shape(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _checked(kind: type[Any], content: Any) -> Any:
    """Make a record of plain values from anywhere; names that a newer version added are ignored.

    Raises:
        ValueError: something is missing or of another type.
    """
    try:
        return _shape(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def record_from_json(content: Mapping[str, Any]) -> RunRecord:
    """Read what `dataclasses.asdict` made of a run's record; names that a newer version added are ignored.

    Raises:
        ValueError: something is missing or of another type.
    """
    record = _checked(RunRecord, content)
    _checked(_Metrics, record.metrics)
    return record


def comparison_from_json(content: Mapping[str, Any]) -> Comparison:
    """Read what `Comparison.as_json` wrote.

    Raises:
        ValueError: something is missing or of another type.

    Example:
        >>> empty = Comparison({}, "movie-reviews", "accuracy", (), {}, "steadytune compare")
        >>> comparison_from_json(empty.as_json()) == empty
        True
    """
    found: Comparison = _checked(Comparison, content)
    for run in (run for cell in found.cells for run in (*cell.tuning, *cell.runs)):
        _checked(_Metrics, run.metrics)
    return found


def read_comparison(folder: str | Path) -> Comparison:
    """Read the ``comparison.json`` of a folder.

    Raises:
        SettingsError: there is none, or it is damaged or of a newer format.
    """
    path = Path(folder) / FILE_NAME
    try:
        content = read_json(path, COMPARISON)
        version = content["format_version"]
        if version > FORMAT_VERSION:
            raise SettingsError(f"{path} was written by a newer version of steadytune (format {version}).")
        return comparison_from_json(content)
    except FileNotFoundError:
        raise SettingsError(f"{folder} holds no comparison ({FILE_NAME} is missing).") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"{path} is damaged ({error}): the same `steadytune compare` writes it again.") from error


def read_record(folder: Path) -> RunRecord | None:
    """The record in a run's folder; ``None`` if there is none, or it is damaged."""
    try:
        return record_from_json(read_json(folder / "record.json"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
