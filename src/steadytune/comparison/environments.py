"""On what the runs of a comparison were made, and whether it was the same for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from steadytune.comparison.records import RunRecord

PACKAGES = ("python", "torch", "transformers", "accelerate", "numpy")


def differences(runs: Iterable[RunRecord]) -> list[str]:
    """Say what differs between the machines and versions that runs were made with, one sentence each; often nothing.

    Scores on another device differ by rounding, and times say nothing then. Runs of other versions of steadytune,
    torch or transformers have other keys, so they are not here at all.
    """
    runs = list(runs)
    notes = []
    device = _counted(runs, lambda run: _part(run, "machine").get("device"))
    if len(device) > 1:
        notes.append(f"The runs were made on different devices, so their times cannot be compared: {_told(device)}.")
    threads = _counted(runs, lambda run: _part(run, "machine").get("threads"))
    if len(threads) > 1:
        notes.append(
            f"The runs had different numbers of threads, so their times cannot be compared: {_told(threads)}."
        )
    for package in PACKAGES:
        version = _counted(runs, lambda run, p=package: _part(run, "versions").get(p))
        if len(version) > 1:
            notes.append(f"The runs were made with different versions of {package}: {_told(version)}.")
    return notes


def _part(run: RunRecord, name: str) -> Mapping[str, Any]:
    found = run.environment.get(name)
    return found if isinstance(found, Mapping) else {}


def _counted(runs: Iterable[RunRecord], of: Callable[[RunRecord], Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for run in runs:
        value = of(run)
        if value is not None:
            counts[str(value)] = counts.get(str(value), 0) + 1
    return counts


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{value} ({count} run{'s' * (count != 1)})" for value, count in counts.items())
