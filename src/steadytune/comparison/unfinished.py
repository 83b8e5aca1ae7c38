"""Whether a folder's comparison is whole: what was asked for last, against the runs that its report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steadytune.comparison.folder import CONFIG
from steadytune.comparison.records import Comparison
from steadytune.errors import SteadytuneError
from steadytune.settings.compare import CompareSettings
from steadytune.settings.fields import all_facts, determining, with_fact
from steadytune.settings.resolve import read_config, resolve

#: Most seeds, and most runs; a file that asks for more is not a comparison.
MOST_SEEDS, MOST_RUNS = 10_000, 1_000_000

Runs = set[tuple[Any, ...]]


def unfinished(folder: Path, comparison: Comparison) -> str:
    """Say how many runs are missing of the comparison that was asked for last in a folder; empty if none are.

    Args:
        folder: of the comparison.
        comparison: what its ``comparison.json`` holds.
    """
    if not (folder / CONFIG).is_file():
        return ""
    try:
        asked = read_config(folder / CONFIG)
        changed = _changed(asked, comparison.settings)
        expected = _asked_for(folder / CONFIG) if changed else _of_settings(comparison)
    # A foreign or damaged file; the report needs none of it.
    except (SteadytuneError, TypeError, ValueError, KeyError, AttributeError, ArithmeticError):
        return ""
    present = set() if changed - with_fact(CompareSettings, "extent") else _present(comparison)
    missing = len(expected - present)
    if not missing:
        return ""
    earlier = "; this is the report of the earlier comparison" if changed else ""
    count = f"{missing} of {len(expected)} runs {'is' if missing == 1 else 'are'} missing"
    return f"{count}{earlier}. `steadytune compare --config {folder / CONFIG}` resumes it."


def _changed(asked: Mapping[str, Any], settings: Mapping[str, Any]) -> set[str]:
    """Settings of the two that differ; what one of them lacks, another version wrote, or the recipe chooses."""
    names = determining(CompareSettings, asked).keys() & settings.keys()
    changed = {name for name in names if asked[name] != settings[name]}
    if "recipe" in names:
        by_recipe = {name for name, facts in all_facts(CompareSettings).items() if facts.by_recipe}
        changed |= by_recipe & (asked.keys() ^ settings.keys())
    if "learning_rates" in changed and 1 in (len(asked["learning_rates"]), len(settings["learning_rates"])):
        changed.add("hold_out")  # where nothing is chosen, no rows are held out to choose by
    return changed


def _asked_for(file: Path) -> Runs:
    """The runs that a configuration asks for, by what tells them apart in a table."""
    from steadytune.comparison.candidates import candidates
    from steadytune.comparison.plan import places

    settings = resolve(CompareSettings, {"trust_remote_code": False}, file)
    found: Runs = set()
    for place in places(settings):
        task = place.task or Path(settings.train_file or "data").stem
        for candidate in candidates(settings):
            _add(found, task, place.train_size, candidate.label, settings.resolved())
    return found


def _of_settings(comparison: Comparison) -> Runs:
    """The same without building a method: every cell names all its candidates."""
    found: Runs = set()
    for cell in comparison.cells:
        for label in cell.chosen_learning_rate:
            _add(found, cell.task, cell.train_size, label, comparison.settings)
    return found


def _add(found: Runs, task: str, size: str | None, label: str, settings: Mapping[str, Any]) -> None:
    """Add the runs of one candidate: those that choose its learning rate, and one for each seed."""
    first, seeds, rates = int(settings["first_seed"]), int(settings["seeds"]), list(settings["learning_rates"])
    if seeds > MOST_SEEDS or len(found) > MOST_RUNS:
        raise ValueError("too many")
    if len(rates) > 1 and not settings.get("search"):
        found |= {(task, size, label, "rate", float(rate)) for rate in rates}
    found |= {(task, size, label, "seed", seed) for seed in range(first, first + seeds)}


def _present(comparison: Comparison) -> Runs:
    found: Runs = set()
    for cell in comparison.cells:
        found |= {(cell.task, cell.train_size, run.candidate, "rate", run.learning_rate) for run in cell.tuning}
        found |= {(cell.task, cell.train_size, run.candidate, "seed", run.seed) for run in cell.runs}
    return found
