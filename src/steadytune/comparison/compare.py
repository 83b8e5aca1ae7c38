"""The comparison: learning rates chosen on validation data, then every candidate with every seed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from steadytune.comparison.candidates import Candidate, candidates
from steadytune.comparison.cells import PreparedCell, Run, earlier_runs, plan_cells, with_rates
from steadytune.comparison.engines.engine import Engine
from steadytune.comparison.engines.local import LocalEngine
from steadytune.comparison.environments import differences
from steadytune.comparison.folder import CONFIG, as_begun, claim, commit, refuse_foreign
from steadytune.comparison.forecast import PROBED_UPDATES, Forecast
from steadytune.comparison.kept_record import is_locked, kept_record
from steadytune.comparison.leader import leader
from steadytune.comparison.plan import RunPlan
from steadytune.comparison.records import FILE_NAME, Cell, Comparison, RunRecord
from steadytune.comparison.remote import RemoteFolder, open_remote
from steadytune.comparison.reporter import CompareReporter, SilentComparison, SilentListener
from steadytune.comparison.statistics.verdict import too_few_seeds
from steadytune.errors import SettingsError
from steadytune.settings.compare import CompareSettings
from steadytune.support.atomic_files import this_process, write_json
from steadytune.support.secrets import redact
from steadytune.support.writing import remove_folder, writes_below
from steadytune.training.folder import RunFolder, describe_environment

#: Seconds between two writings of the unfinished comparison.
WRITE_EVERY = 5.0


def compare(
    settings: CompareSettings,
    reporter: CompareReporter | None = None,
    *,
    engine: Engine | None = None,
    command: str | None = None,
    remote: RemoteFolder | None = None,
) -> Comparison:
    """Compare methods with plain training; runs that exist are only read, so the same call continues.

    For every candidate, plain training included, the learning rate that is best on validation data with the first seed
    is taken; then every candidate runs with every seed. The test splits are evaluated after that choice.

    Args:
        settings: see `CompareSettings`.
        reporter: shows progress; nothing is shown without one.
        engine: makes the runs; by the settings if not given.
        command: how to repeat it, for the report.
        remote: where results are kept; by the settings if not given.

    Raises:
        SteadytuneError: settings, data or model cannot be used. What goes wrong in a run is in its record instead.
    """
    shown: CompareReporter = reporter or SilentComparison()
    remote = remote or open_remote(settings.output_dir)
    if remote is not None:
        remote.fetch()
        settings = settings.model_copy(update={"output_dir": str(remote.local)})
    settings = with_rates(as_begun(settings))
    compared = candidates(settings)
    if settings.search:
        from steadytune.comparison.search.space import parse_search

        parse_search(settings.search)  # a mistake leaves no folder behind
    refuse_foreign(settings.folder)
    cells = plan_cells(settings)
    settings = cells[0].settings if len(cells) == 1 else settings  # with what the recipe chose
    claim(settings)
    repeat = redact(command or f"steadytune compare --config {settings.folder / CONFIG}")
    made = engine or make_engine(settings)
    work = ComparisonSession(settings, compared, cells, engine=made, reporter=shown, command=repeat, remote=remote)
    try:
        with writes_below(settings.folder):
            return work.all()
    finally:
        shown.stop()
        made.close()


def make_engine(settings: CompareSettings) -> Engine:
    """The engine that the settings ask for."""
    if settings.engine == "ray":
        from steadytune.comparison.engines.ray import RayEngine

        return RayEngine(settings.folder, address=settings.ray_address, workers=settings.workers)
    return LocalEngine(settings.folder, settings.workers)


class ComparisonSession:
    """One comparison in progress."""

    def __init__(
        self,
        settings: CompareSettings,
        compared: Sequence[Candidate],
        cells: Sequence[PreparedCell],
        *,
        engine: Engine,
        reporter: CompareReporter,
        command: str,
        remote: RemoteFolder | None = None,
    ) -> None:
        self.settings, self.compared, self.cells = settings, compared, cells
        self.engine, self.reporter, self.command, self.remote = engine, reporter, command, remote
        self.forecast = Forecast(getattr(engine, "workers", settings.workers))
        self.known: dict[str, RunRecord] = {}
        self.tuned: dict[PreparedCell, list[RunRecord]] = {cell: [] for cell in cells}
        self.chosen: dict[tuple[PreparedCell, str], tuple[Candidate, float]] = {}
        #: Trials of all searches together: in all, ended before this start, and passed through `make` so far.
        self.trials, self.tried, self.searched = 0, 0, 0
        self._notes: set[str] = set()
        self._warnings: set[tuple[str, str]] = set()
        self._written = 0.0

    def all(self) -> Comparison:
        """Tune, compare, keep."""
        for note in dict.fromkeys(note for cell in self.cells for note in cell.notes):
            self.note(None, note)
        if few := too_few_seeds(len(self.settings.all_seeds), sum(bool(c.names) for c in self.compared)):
            self.note(None, few)
        for cell in self.cells:
            if weak := cell.too_few_rows(sum(bool(c.names) for c in self.compared)):
                self.note(None, weak)
        tuning = self.tuning_runs()
        self.choose_known(tuning)
        expected = self.final_runs()
        wanted = {plan.key for _, _, plan in [*tuning, *expected]} | {
            self._plan(cell, candidate, rate, seed).key
            for cell in self.cells
            for candidate in self.compared
            for rate in self.settings.learning_rates
            for seed in self.settings.all_seeds
        }
        if not self.settings.search:
            for note in earlier_runs(self.settings.folder, wanted, self.cells[0].fingerprint["code"]):
                self.note(None, note)
        self._begin([*tuning, *expected])
        self._tune(tuning, len(expected))
        final = self.final_runs()
        for record in self.make(final, earlier=len(tuning) + self.trials):
            self.prune(record, [plan for _, _, plan in final])
            self._write(final)
        found = self._write(final, at_once=True)
        for note in differences(run for cell in found.cells for run in (*cell.tuning, *cell.runs)):
            self.note(None, note)
        if self.remote is not None:
            self.remote.send_all()
        return found

    # ------------------------------------------------------------ plans

    def _plan(self, cell: PreparedCell, candidate: Candidate, rate: float, seed: int, *, test: bool = True) -> RunPlan:
        return cell.plan(candidate, rate, seed, evaluate_test=test)

    def tuning_runs(self) -> list[Run]:
        """Every rate with the first seed; none where there is one rate, or a search chooses."""
        rates = self.settings.learning_rates
        if len(rates) == 1 or self.settings.search:
            return []
        return [
            (cell, candidate, self._plan(cell, candidate, rate, self.settings.first_seed, test=False))
            for cell in self.cells
            for candidate in self.compared
            for rate in rates
        ]

    def final_runs(self) -> list[Run]:
        """Seed by seed, so that a comparison that is stopped has whole pairs."""
        runs = []
        for seed in self.settings.all_seeds:
            for cell in self.cells:
                for asked in self.compared:
                    candidate, rate = self.chosen.get((cell, asked.label), (asked, self.settings.learning_rates[0]))
                    runs.append((cell, candidate, self._plan(cell, candidate, rate, seed)))
        return runs

    # ------------------------------------------------------------ choices, on validation data alone

    def _tune(self, tuning: Sequence[Run], later: int) -> None:
        if self.settings.search:
            from steadytune.comparison.search.tuning import search_candidates

            search_candidates(self)
            return
        of: dict[str, Run] = {plan.key: (cell, candidate, plan) for cell, candidate, plan in tuning}
        for record in self.make(tuning, later=later):
            cell, candidate, _ = of[record.key]
            self.tuned[cell].append(record)
            same = [plan for c, k, plan in tuning if c is cell and k is candidate]
            self.prune(record, same)
        for cell in self.cells:
            order = {plan.key: n for n, (_, _, plan) in enumerate(tuning)}
            self.tuned[cell].sort(key=lambda record: order[record.key])
            for candidate in self.compared:
                self._choose_rate(cell, candidate, [r for r in self.tuned[cell] if r.candidate == candidate.label])

    def _choose_rate(self, cell: PreparedCell, candidate: Candidate, tried: Sequence[RunRecord]) -> None:
        best = cell.best(tried)
        rate = best.learning_rate if best is not None else self.settings.learning_rates[0]
        self.chosen[cell, candidate.label] = (candidate, rate)

    def choose_known(self, tuning: Sequence[Run]) -> None:
        """Choose where all that a choice goes by was run before, so that what is missing is known at the start."""
        if self.settings.search:
            from steadytune.comparison.search.tuning import look_at_trials

            look_at_trials(self)
            return
        for cell in self.cells if tuning else ():
            for candidate in self.compared:
                plans = [plan for c, k, plan in tuning if c is cell and k is candidate]
                records = [record for plan in plans if (record := kept_record(plan)) is not None]
                if len(records) == len(plans):
                    self._choose_rate(cell, candidate, records)

    # ------------------------------------------------------------ runs

    def _begin(self, planned: Sequence[Run]) -> None:
        for _, _, plan in planned:
            record = kept_record(plan)
            if record is not None:
                self.forecast.learn(record)
        missing = [run for run in planned if kept_record(run[2]) is None]
        untried = self.trials - self.tried
        if len(missing) + untried > 2 and self.forecast.update is None:
            self.probe(self.cells[0])
        parts = self.seconds_left(planned)
        self.reporter.begin(len(planned) + self.trials, len(missing) + untried, None if parts is None else sum(parts))

    def seconds_left(self, planned: Sequence[Run]) -> tuple[float, float] | None:
        """Expected seconds of what is missing, in training and in scoring; ``None`` while nothing is known."""
        firsts = {plan.key for _, _, plan in planned if not plan.evaluate_test}
        missing = [run for run in planned if kept_record(run[2]) is None]
        whole = scoring = 0.0
        for cell, candidate, plan in missing:
            # The first seed is trained while rates are chosen; later only its test splits are scored.
            is_trained = plan.evaluate_test and plan.key in firsts
            seconds = self.forecast.of(cell, candidate, plan, is_trained=is_trained)
            if seconds is None:
                return None
            whole += seconds
            scoring += min(seconds, self.forecast.scoring(cell, candidate, plan, is_trained=is_trained))
        trials = self._seconds_of_trials(self.trials - self.tried)
        if trials is None:
            return None
        return (whole - scoring) / self.forecast.workers + trials, scoring / self.forecast.workers

    def _seconds_of_trials(self, count: int) -> float | None:
        """Expected seconds of some trials; a trial is a run of any candidate without the test splits."""
        rate, seed = self.settings.learning_rates[0], self.settings.first_seed
        one = [(cell, c, self._plan(cell, c, rate, seed, test=False)) for cell in self.cells for c in self.compared]
        total = self.forecast.total(one) if count else 0.0
        return None if total is None else total * count / len(one)

    def probe(self, cell: PreparedCell) -> None:
        """Time a few plain updates in a folder of their own, for the estimate."""
        folder = self.settings.folder / f"estimate-{this_process()}"
        plain = self._plan(
            cell, self.compared[0], self.settings.learning_rates[0], self.settings.first_seed, test=False
        )
        short = {"max_steps": PROBED_UPDATES, "max_eval_samples": 16, "output_dir": str(folder / "runs" / "probe")}
        probe = replace(plain, key="probe", settings=plain.settings.model_copy(update=short))
        try:
            for record in self.engine.run([probe], SilentListener()):
                self.forecast.learn_probe(record)
        finally:
            remove_folder(folder)

    def make(self, runs: Sequence[Run], *, earlier: int = 0, later: int = 0) -> Iterator[RunRecord]:
        """Make runs, and tell the reporter of each as it ends.

        Args:
            runs: to be made now.
            earlier: runs that were made before these.
            later: runs that come after these.
        """
        of: dict[str, Run] = {plan.key: (cell, candidate, plan) for cell, candidate, plan in runs}
        left = dict(of)
        if self.settings.search and any(not plan.evaluate_test for _, _, plan in runs):
            earlier, self.searched = self.searched, self.searched + len(of)
            later = max(0, self.trials - self.searched) + len(self.final_runs())
        total = earlier + len(of) + later
        for record in self.engine.run([plan for _, _, plan in runs], self):
            self.known[record.key] = record
            self._remove_checkpoints(of[record.key][2], record)
            self._send(of[record.key][2])
            self.forecast.learn(record)
            left.pop(record.key, None)
            rest = [*left.values(), *(self.final_runs() if later else ())]
            seconds = self.forecast.total(rest, self._trained())
            cell = of[record.key][0]
            self.reporter.run_ended(record, total - later - len(left), total, seconds, self._leader(cell))
            yield record

    def _send(self, plan: RunPlan) -> None:
        """Send a run to where results are kept; if that fails it is tried again at the end."""
        if self.remote is None or not (plan.folder / "record.json").is_file():
            return
        try:
            self.remote.send_run(plan.folder)
        except SettingsError as error:
            self.note(plan, str(error))

    @staticmethod
    def _remove_checkpoints(plan: RunPlan, record: RunRecord) -> None:
        """Remove what is left where the process of a run was killed after it had kept the record."""
        folder = plan.folder / "checkpoints"
        if record.status == "finished" and folder.is_dir() and not is_locked(plan):
            remove_folder(folder)

    def _trained(self) -> set[str]:
        """Keys of the runs of which only the test splits are missing."""
        return {key for key, record in self.known.items() if record.metrics.get("skipped")}

    def _leader(self, cell: PreparedCell) -> str:
        chosen = {label: rate for (of, label), (_, rate) in self.chosen.items() if of is cell}
        return leader(cell, self.known.values(), chosen)

    def prune(self, record: RunRecord, among: Sequence[RunPlan]) -> None:
        """Delete models that are not the best on validation data of those they compete with."""
        keep = self.settings.keep_models
        if keep == "all":
            return
        cell = next(c for c in self.cells if (c.task, c.place.train_size) == (record.task, record.train_size))
        final = among[0].evaluate_test
        rivals = [
            (plan, found)
            for plan in among
            if (found := self.known.get(plan.key)) is not None
            and (found.task, found.train_size) == (record.task, record.train_size)
            and not (final and found.metrics.get("skipped"))
        ]
        best = cell.best(found for _, found in rivals)
        for plan, found in rivals:
            unwanted = found is not best or (final and keep == "none")
            if unwanted and not is_locked(plan):
                RunFolder(plan.folder).remove_model()

    # ------------------------------------------------------------ what a run tells

    def started(self, plan: RunPlan) -> None:
        """A run begins."""
        self.reporter.run_started(plan)

    def step(self, plan: RunPlan, done: int, total: int, loss: float | None) -> None:
        """A run moves on."""
        self.reporter.run_step(plan, done, total, loss)

    def note(self, plan: RunPlan | None, text: str) -> None:
        """A run says something; what many runs say is shown once."""
        del plan
        if text not in self._notes:
            self._notes.add(text)
            self.reporter.note(text)

    def warning(self, plan: RunPlan, kind: str, text: str) -> None:
        """A method warns of something; once for each candidate."""
        if (plan.candidate, kind) not in self._warnings:
            self._warnings.add((plan.candidate, kind))
            self.reporter.note(f"{plan.candidate}: {text}")

    # ------------------------------------------------------------ the result

    def _write(self, final: Sequence[Run], *, at_once: bool = False) -> Comparison:
        found = self._comparison(final)
        if at_once or time.monotonic() - self._written > WRITE_EVERY:
            write_json(self.settings.folder / FILE_NAME, found.as_json())
            self._written = time.monotonic()
        return found

    def _comparison(self, final: Sequence[Run]) -> Comparison:
        found = []
        for cell in self.cells:
            order = {asked.label: n for n, asked in enumerate(self.compared)}
            known = [self.known[plan.key] for c, _, plan in final if c is cell and plan.key in self.known]
            records = [record for record in known if not record.metrics.get("skipped")]
            rates: Mapping[str, float] = {
                label: rate for (c, label), (_, rate) in self.chosen.items() if c is cell
            } or {asked.label: self.settings.learning_rates[0] for asked in self.compared}
            found.append(
                Cell(
                    task=cell.task,
                    train_size=cell.place.train_size,
                    metric=cell.metric,
                    greater_is_better=cell.greater_is_better,
                    test_splits=cell.test_splits,
                    chosen_learning_rate=rates,
                    tuning=tuple(self.tuned[cell]),
                    runs=tuple(sorted(records, key=lambda r: (order[r.candidate], r.seed))),
                )
            )
        environment = {
            **describe_environment(self.settings.first_seed),
            **self.cells[0].fingerprint,
            **commit(),
        }
        tasks = ", ".join(dict.fromkeys(cell.task for cell in self.cells))
        return Comparison(
            self.settings.resolved(), tasks, self.cells[0].metric, tuple(found), environment, self.command
        )
