"""What a comparison would run, before it does: cells, candidates, runs, how many are made, and their arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steadytune.comparison.candidates import Candidate, candidates
from steadytune.comparison.cells import PreparedCell, plan_cells, with_rates
from steadytune.comparison.compare import ComparisonSession
from steadytune.comparison.engines.engine import Engine
from steadytune.comparison.engines.local import LocalEngine
from steadytune.comparison.folder import as_begun, refuse_foreign
from steadytune.comparison.kept_record import kept_record
from steadytune.comparison.plan import RunPlan
from steadytune.comparison.reporter import SilentComparison
from steadytune.comparison.statistics.verdict import too_few_seeds
from steadytune.settings.compare import CompareSettings
from steadytune.support.text import counted
from steadytune.training.folder import describe_environment


@dataclass(frozen=True)
class PlannedCandidate:
    """The runs of one candidate in one cell.

    Attributes:
        label: its name.
        cost: arithmetic of a training, in plain ones.
        choosing: runs that choose its learning rate, or trials of a search, all with the first seed.
        compared: runs over the seeds; of a candidate that is tuned, the first only adds test scores to a run above.
        made: of both, those that need no more work.
        trainings: of both, those that train.
        left: trainings that are not made yet.
        learning_rate: chosen; ``None`` while it is not.
    """

    label: str
    cost: float
    choosing: int
    compared: int
    made: int
    trainings: int
    left: int
    learning_rate: float | None


@dataclass(frozen=True)
class PlannedCell:
    """One task at one training size.

    Attributes:
        task: its name.
        train_size: as asked, ``None`` for all rows.
        train_rows: rows that a run trains on.
        updates: of a plain run.
        candidates: plain training first.
    """

    task: str
    train_size: str | None
    train_rows: int
    updates: int
    candidates: tuple[PlannedCandidate, ...]


@dataclass(frozen=True)
class ComparisonPlan:
    """All that a comparison would run; ``notes`` is what the user must know before it."""

    cells: tuple[PlannedCell, ...]
    notes: tuple[str, ...]

    def _all(self) -> Iterator[PlannedCandidate]:
        for cell in self.cells:
            yield from cell.candidates

    @property
    def runs(self) -> int:
        """Runs of all candidates, as `compare` counts them."""
        return sum(c.choosing + c.compared for c in self._all())

    @property
    def choosing(self) -> int:
        """Those of them that choose learning rates or other settings."""
        return sum(c.choosing for c in self._all())

    @property
    def made(self) -> int:
        """Those of them that need no more work."""
        return sum(c.made for c in self._all())

    @property
    def arithmetic(self) -> float:
        """Cost of all runs, in plain runs of their cell."""
        return sum(c.cost * c.trainings for c in self._all())

    @property
    def arithmetic_left(self) -> float:
        """Cost of the runs still to be made, in plain runs."""
        return sum(c.cost * c.left for c in self._all())


def plan_comparison(settings: CompareSettings) -> ComparisonPlan:
    """Work out what `compare` would run with these settings; nothing is trained, and nothing is written.

    Raises:
        SteadytuneError: settings, data or model cannot be used.
    """
    settings = with_rates(as_begun(settings))
    compared = candidates(settings)
    trials = _trials(settings)
    refuse_foreign(settings.folder)
    nobody: Any = None  # makes no runs
    work = ComparisonSession(
        settings, compared, plan_cells(settings), engine=nobody, reporter=SilentComparison(), command=""
    )
    if not trials:  # to look at the trials of a search would begin its journal
        work.choose_known(work.tuning_runs())
    cells = tuple(
        PlannedCell(
            task=cell.task,
            train_size=cell.place.train_size,
            train_rows=cell.train_rows,
            updates=cell.updates(compared[0]),
            candidates=tuple(_candidate(work, cell, candidate, trials) for candidate in compared),
        )
        for cell in work.cells
    )
    few = too_few_seeds(len(settings.all_seeds), sum(bool(c.names) for c in compared))
    searched = "Trials of a search that were made before are not counted." if trials else ""
    notes = dict.fromkeys(note for cell in work.cells for note in cell.notes)
    rows = (cell.too_few_rows(sum(bool(c.names) for c in compared)) for cell in work.cells)
    return ComparisonPlan(cells, tuple(note for note in (*notes, few, *rows, searched) if note))


@dataclass(frozen=True)
class Timing:
    """How long what is missing of a comparison will take on this machine.

    Attributes:
        seconds: of all of it.
        scoring: share of that time in which rows are scored, from 0 to 1.
        machine: what the updates were timed on.
    """

    seconds: float
    scoring: float
    machine: str


def time_comparison(settings: CompareSettings, engine: Engine | None = None) -> Timing | None:
    """Time a few plain updates, in a folder that is removed, and work out what a comparison takes by them.

    Args:
        settings: of the comparison.
        engine: makes the run that is timed; a worker process by default.

    Returns:
        ``None`` where nothing is missing, or the updates cannot be timed.
    """
    settings = with_rates(as_begun(settings))
    compared, cells = candidates(settings), plan_cells(settings)
    with TemporaryDirectory(prefix="steadytune-") as place:
        made = engine or LocalEngine(Path(place))
        aside = cells[0].settings.model_copy(update={"output_dir": place})
        first = [replace(cells[0], settings=aside)]
        timed = ComparisonSession(aside, compared, first, engine=made, reporter=SilentComparison(), command="")
        try:
            timed.probe(timed.cells[0])
        finally:
            made.close()
    work = ComparisonSession(settings, compared, cells, engine=made, reporter=SilentComparison(), command="")
    work.forecast = timed.forecast
    work.forecast.workers, work.trials = settings.workers, _trials(settings) * len(cells) * len(compared)
    if not work.trials:
        work.choose_known(work.tuning_runs())
    parts = work.seconds_left([*work.tuning_runs(), *work.final_runs()])
    if parts is None or not sum(parts):
        return None
    return Timing(sum(parts), parts[1] / sum(parts), _machine())


def _machine() -> str:
    found = describe_environment(0)["machine"]
    device = found.get("device", "cpu")
    return f"{counted(found['processors'] or 1, 'processor')}" + ("" if device == "cpu" else f" and {device}")


def _trials(settings: CompareSettings) -> int:
    if not settings.search:
        return 0
    from steadytune.comparison.search.space import parse_search

    return parse_search(settings.search).trials


def _candidate(work: ComparisonSession, cell: PreparedCell, candidate: Candidate, trials: int) -> PlannedCandidate:
    choosing = [plan for of, c, plan in work.tuning_runs() if of is cell and c is candidate]
    final = [plan for of, _, plan in work.final_runs() if of is cell and plan.candidate == candidate.label]
    chosen = work.chosen.get((cell, candidate.label))
    tried = {plan.key for plan in choosing}
    # Until the rate is chosen, which runs these are is not known, but for the first: it is one of those that choose.
    is_known = chosen is not None or not (choosing or trials)
    made = [*_made(choosing), *(_made(final) if is_known else ())]
    later = [plan for plan in final if plan.settings.seed != work.settings.first_seed or not (choosing or trials)]
    trained_later = [plan for plan in made if plan.key not in tried]
    trainings = (trials or len(choosing)) + len(later)
    return PlannedCandidate(
        label=candidate.label,
        cost=candidate.relative_cost * candidate.more_updates,
        choosing=trials or len(choosing),
        compared=len(final),
        made=len(made),
        trainings=trainings,
        left=trainings - len(_made(choosing)) - len(trained_later),
        learning_rate=final[0].settings.learning_rate if is_known else None,
    )


def _made(plans: Sequence[RunPlan]) -> list[RunPlan]:
    return [plan for plan in plans if kept_record(plan) is not None]
