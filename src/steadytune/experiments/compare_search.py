"""The search for each candidate's settings within a comparison, in place of the learning-rate grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from steadytune.core.errors import SettingsError, did_you_mean
from steadytune.experiments.cells import CellPlan
from steadytune.experiments.grid import Candidate
from steadytune.experiments.records import RunRecord
from steadytune.experiments.search import Outcome, Proposal, Search, SearchSettings, parse_search, run_search
from steadytune.experiments.search_space import Space, search_space

if TYPE_CHECKING:
    from steadytune.experiments.compare import Run, Work


def search_candidates(work: Work) -> None:
    """Search the settings of every candidate in every cell, by the validation split alone.

    Raises:
        SettingsError: what is to be searched cannot be, or Optuna is not installed.
    """
    asked = parse_search(work.settings.search)
    _refuse_unused(asked, work.compared)
    spaces = {candidate.label: _space(work, candidate, asked) for candidate in work.compared}
    for cell in work.cells:
        for candidate in work.compared:
            space = spaces[candidate.label]
            chosen = _Trials(work, cell, candidate).best(space, asked.trials) if space else None
            work.chosen[cell, candidate.label] = chosen or (candidate, work.settings.learning_rates[0])


def _refuse_unused(asked: SearchSettings, compared: Sequence[Candidate]) -> None:
    names = {name for candidate in compared for name in candidate.names}
    for key in asked.ranges:
        method = key.rpartition(".")[0]
        if method not in names:
            in_use = ", ".join(sorted(names)) or "none"
            raise SettingsError(f"--search {key}: no candidate has it ({in_use}).{did_you_mean(method, names)}")


def _space(work: Work, candidate: Candidate, asked: SearchSettings) -> Space:
    fixed = work.cells[0].plan(candidate, work.settings.learning_rates[0], 0, evaluate_test=False).settings
    return search_space(candidate.names, fixed.method_settings(), work.settings.learning_rates, asked.ranges)


class _Trials:
    """The search for one candidate in one cell, all with the first seed."""

    def __init__(self, work: Work, cell: CellPlan, candidate: Candidate) -> None:
        self.work, self.cell, self.candidate = work, cell, candidate
        self.tried: dict[str, Run] = {}
        self.records: dict[str, RunRecord] = {}

    def best(self, space: Space, trials: int) -> tuple[Candidate, float] | None:
        """The settings and the learning rate that are best on validation data; ``None`` if all trials failed."""
        settings = self.work.settings
        own = self.cell.plan(self.candidate, settings.learning_rates[0], settings.first_seed, evaluate_test=False)
        search = Search(
            settings.folder / "search",
            f"{self.candidate.label}-{own.key}",
            space,
            trials=trials,
            seed=settings.first_seed,
            greater_is_better=self.cell.greater_is_better,
            learning_rates=settings.learning_rates,
            methods=list(self.candidate.names),
            fixed=own.settings.method_settings(),
        )
        with search:
            if settings.retry_failed:
                search.retry_failed()
            run_search(search, self.run, getattr(self.work.engine, "workers", settings.workers))
            order = [self._run_of(proposal)[2].key for proposal in search.ended()]
        records = [self.records[key] for key in dict.fromkeys(order) if key in self.records]
        self.work.tuned[self.cell] += records
        best = self.cell.best(records)  # among equal scores the smallest loss, so not always Optuna's
        return (self.tried[best.key][1], best.learning_rate) if best is not None else None

    def run(self, proposals: Sequence[Proposal]) -> Iterator[Outcome]:
        """Make the runs of some trials; two trials may have the same settings, and so the same run."""
        of: dict[str, list[Proposal]] = {}
        for proposal in proposals:
            run = self._run_of(proposal)
            self.tried[run[2].key] = run
            of.setdefault(run[2].key, []).append(proposal)
        for record in self.work.make([self.tried[key] for key in of]):
            self.records[record.key] = record
            self.work._prune(record, [plan for _, _, plan in self.tried.values()])
            found = self.cell.validation(record)
            sign = 1 if self.cell.greater_is_better else -1
            for proposal in of[record.key]:
                value = sign * found[0] if found is not None else None
                yield Outcome(proposal, value, diverged=record.status == "diverged")

    def _run_of(self, proposal: Proposal) -> Run:
        settings = self.work.settings
        tried = self.candidate.with_settings(proposal.settings)
        rate = proposal.learning_rate or settings.learning_rates[0]
        return self.cell, tried, self.cell.plan(tried, rate, settings.first_seed, evaluate_test=False)
