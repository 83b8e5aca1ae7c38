"""The search for each candidate's settings within a comparison, in place of the learning-rate grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from steadytune.comparison.candidates import Candidate
from steadytune.comparison.cells import PreparedCell, Run
from steadytune.comparison.engines.engine import Engine
from steadytune.comparison.forecast import Forecast
from steadytune.comparison.kept_record import kept_record
from steadytune.comparison.plan import RunPlan
from steadytune.comparison.records import RunRecord
from steadytune.comparison.search.search import Outcome, Proposal, Search, run_search
from steadytune.comparison.search.space import SearchSettings, Space, parse_search, search_space
from steadytune.errors import SettingsError, did_you_mean
from steadytune.settings.compare import CompareSettings


class Searched(Protocol):
    """What a search needs of the comparison that it is part of.

    Attributes:
        settings: of the comparison.
        compared: whose settings are searched.
        cells: in each of which they are.
        engine: makes the runs.
        forecast: learns how long runs take.
        tuned: the records of all trials, for each cell.
        chosen: what the search has found, for each cell and candidate.
        trials: trials of all searches together.
        tried: those that ended before this start.
    """

    settings: CompareSettings
    compared: Sequence[Candidate]
    cells: Sequence[PreparedCell]
    engine: Engine
    forecast: Forecast
    tuned: dict[PreparedCell, list[RunRecord]]
    chosen: dict[tuple[PreparedCell, str], tuple[Candidate, float]]
    trials: int
    tried: int

    def make(self, runs: Sequence[Run], *, earlier: int = 0, later: int = 0) -> Iterator[RunRecord]:
        """Make runs."""
        ...

    def prune(self, record: RunRecord, among: Sequence[RunPlan]) -> None:
        """Delete the models that are not the best of those they compete with."""
        ...


def search_candidates(work: Searched) -> None:
    """Search the settings of every candidate in every cell, by the validation split alone.

    Raises:
        SettingsError: what is to be searched cannot be, or Optuna is not installed.
    """
    for trials in _all_trials(work):
        chosen = trials.best() if trials.space else None
        work.chosen[trials.cell, trials.candidate.label] = chosen or _as_asked(trials)


def look_at_trials(work: Searched) -> None:
    """Count the trials, learn how long those took that ended before, and choose where a search has ended.

    Raises:
        SettingsError: what is to be searched cannot be, or Optuna is not installed.
    """
    for trials in _all_trials(work):
        if not trials.space:
            work.chosen[trials.cell, trials.candidate.label] = _as_asked(trials)
            continue
        ended, chosen = trials.known()
        work.trials += trials.asked
        work.tried += ended
        if chosen is not None and ended == trials.asked:
            work.chosen[trials.cell, trials.candidate.label] = chosen


def _as_asked(trials: _Trials) -> tuple[Candidate, float]:
    return trials.candidate, trials.work.settings.learning_rates[0]


def _all_trials(work: Searched) -> list[_Trials]:
    asked = parse_search(work.settings.search)
    _refuse_unused(asked, work.compared)
    spaces = {candidate.label: _space(work, candidate, asked) for candidate in work.compared}
    return [_Trials(work, cell, c, spaces[c.label], asked.trials) for cell in work.cells for c in work.compared]


def _refuse_unused(asked: SearchSettings, compared: Sequence[Candidate]) -> None:
    names = {name for candidate in compared for name in candidate.names}
    for key in asked.ranges:
        method = key.rpartition(".")[0]
        if method not in names:
            in_use = ", ".join(sorted(names)) or "none"
            raise SettingsError(f"--search {key}: no candidate has it ({in_use}).{did_you_mean(method, names)}")


def _space(work: Searched, candidate: Candidate, asked: SearchSettings) -> Space:
    fixed = work.cells[0].plan(candidate, work.settings.learning_rates[0], 0, evaluate_test=False).settings
    return search_space(candidate.names, fixed.method_settings(), work.settings.learning_rates, asked.ranges)


class _Trials:
    """The search for one candidate in one cell, all with the first seed."""

    def __init__(self, work: Searched, cell: PreparedCell, candidate: Candidate, space: Space, asked: int) -> None:
        self.work, self.cell, self.candidate, self.space, self.asked = work, cell, candidate, space, asked
        self.tried: dict[str, Run] = {}
        self.records: dict[str, RunRecord] = {}

    def best(self) -> tuple[Candidate, float] | None:
        """The settings and the learning rate that are best on validation data; ``None`` if all trials failed."""
        settings = self.work.settings
        with self._search() as search:
            if settings.retry_failed:
                search.retry_failed()
            run_search(search, self.run, getattr(self.work.engine, "workers", settings.workers))
            order = [self._run_of(proposal)[2].key for proposal in search.ended()]
        records = [self.records[key] for key in dict.fromkeys(order) if key in self.records]
        self.work.tuned[self.cell] += records
        return self._best_of(records)

    def known(self) -> tuple[int, tuple[Candidate, float] | None]:
        """How many trials ended before and need no run, and which of them is the best."""
        with self._search() as search:
            runs = [self._run_of(proposal) for proposal in search.ended()[: self.asked]]
        records = [(run, record) for run in runs if (record := kept_record(run[2])) is not None]
        for run, record in records:
            self.tried[record.key] = run
            self.work.forecast.learn(record)
        return len(records), self._best_of([record for _, record in records])

    def _best_of(self, records: Sequence[RunRecord]) -> tuple[Candidate, float] | None:
        best = self.cell.best(records)  # among equal scores the smallest loss, so not always Optuna's
        return (self.tried[best.key][1], best.learning_rate) if best is not None else None

    def _search(self) -> Search:
        settings = self.work.settings
        own = self.cell.plan(self.candidate, settings.learning_rates[0], settings.first_seed, evaluate_test=False)
        return Search(
            settings.folder / "search",
            f"{self.candidate.label}-{own.key}",
            self.space,
            trials=self.asked,
            seed=settings.first_seed,
            greater_is_better=self.cell.greater_is_better,
            learning_rates=settings.learning_rates,
            methods=list(self.candidate.names),
            fixed=own.settings.method_settings(),
        )

    def run(self, proposals: Sequence[Proposal]) -> Iterator[Outcome]:
        """Make the runs of some trials; two trials may have the same settings, and so the same run."""
        of: dict[str, list[Proposal]] = {}
        for proposal in proposals:
            run = self._run_of(proposal)
            self.tried[run[2].key] = run
            of.setdefault(run[2].key, []).append(proposal)
        for record in self.work.make([self.tried[key] for key in of]):
            self.records[record.key] = record
            self.work.prune(record, [plan for _, _, plan in self.tried.values()])
            found = self.cell.validation(record)
            sign = 1 if self.cell.greater_is_better else -1
            for proposal in of[record.key]:
                value = sign * found[0] if found is not None else None
                yield Outcome(proposal, value, diverged=record.status == "diverged")

    def _run_of(self, proposal: Proposal) -> Run:
        settings = self.work.settings
        tried = self.candidate.with_settings(proposal.settings, self.work.settings.memory)
        rate = proposal.learning_rate or settings.learning_rates[0]
        return self.cell, tried, self.cell.plan(tried, rate, settings.first_seed, evaluate_test=False)
