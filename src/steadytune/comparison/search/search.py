"""The search for a candidate's hyper-parameters, with Optuna: asked and told, shared by processes, never lost.

What was tried lies in one journal for each candidate. A process takes a lock to propose a trial, so that several never
propose more than were asked for; the values are in the journal before the run begins, so that a trial whose process
was killed is taken up by another, or by the next start of the same command.
"""

from __future__ import annotations

import glob
import hashlib
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from steadytune.comparison.search.journal import open_study, quiet
from steadytune.comparison.search.space import LEARNING_RATE, Dimension, Space
from steadytune.errors import MethodError, SettingsError
from steadytune.methods.registry import build_methods
from steadytune.support.writing import file_lock, make_folder, remove_file

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

#: Draws in a row that the methods may refuse before the space itself counts as wrong.
MOST_REFUSALS = 100

OWNER, LEFT_OUT, RETRY_OF = "owner", "left_out", "retry_of"


@dataclass(frozen=True)
class Proposal:
    """One trial: what to train with.

    Attributes:
        number: of the trial, from 0.
        learning_rate: ``None`` where it is not searched.
        settings: what differs from the candidate's own settings, by ``method.setting``.
    """

    number: int
    learning_rate: float | None
    settings: Mapping[str, Any]


class Search:
    """The trials of one candidate.

    The first ones are the learning rates of the grid with the candidate's own settings, so that a search never ends
    with less than the grid found; then Optuna's TPE proposes. A trial's draw depends on the seed and on the trials
    before it alone: with one process, a search that was killed and continued tries what an undisturbed one does.

    Args:
        folder: where the journal lies.
        key: stands for all that determines the trials besides what is searched; other keys share nothing.
        space: see `search_space`.
        trials: how many.
        seed: of the sampler.
        greater_is_better: whether more of the objective is better.
        learning_rates: the grid.
        methods: the candidate's methods by name.
        fixed: the candidate's own settings, by method.

    Example:
        >>> import tempfile
        >>> from steadytune.comparison.search.space import search_space
        >>> space = search_space(["noisytune"], {}, [1e-4])
        >>> with Search(Path(tempfile.mkdtemp()), "demo", space, trials=3, methods=["noisytune"]) as search:
        ...     while (proposal := search.propose()) is not None:
        ...         search.tell(proposal, -abs(proposal.settings.get("noisytune.intensity", 0.15) - 0.15))
        ...     search.best().settings
        {}
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        space: Space,
        *,
        trials: int,
        seed: int = 0,
        greater_is_better: bool = True,
        learning_rates: Sequence[float] = (),
        methods: Sequence[str] = (),
        fixed: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.space, self.trials, self.seed = space, trials, seed
        self._methods, self._fixed = list(methods), fixed or {}
        searched = {d.name for d in space}
        rates = dict.fromkeys(learning_rates) if LEARNING_RATE in searched else {}
        self._first: list[dict[str, Any]] = [{LEARNING_RATE: rate} for rate in rates] or [{}]
        name = _study_name(key, space, seed, self._first, greater_is_better)
        self._journal = folder / f"{name}.journal"
        self._owner = uuid.uuid4().hex
        try:
            make_folder(folder)
            self._alive = file_lock(Path(self._owner_file(self._owner)))
            self._lock = file_lock(Path(f"{self._journal}.lock"))
            with self._lock:  # nobody else looks whether the owner of a file lives before that has its lock
                self._remove_left()
                self._alive.acquire()
            self._study = open_study(self._journal, self._lock, name, greater_is_better)
        except OSError as error:
            raise SettingsError(f"The search cannot be kept in {folder}: {error}.") from error

    def __enter__(self) -> Search:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the trials that were proposed and not told; another process may take them up."""
        self._alive.release()
        remove_file(Path(self._alive.lock_file))

    @property
    def told(self) -> int:
        """How many trials have ended."""
        return sum(trial.state.is_finished() for trial in self._counted())

    def propose(self) -> Proposal | None:
        """The next trial; ``None`` when all are handed out.

        A trial whose process no longer lives comes first.

        Raises:
            SettingsError: the methods refuse whatever is drawn, or the journal cannot be written.
        """
        last = ""
        with self._writing(), self._lock, quiet():
            self._end_half_proposed()
            orphan = self._adopted()
            if orphan is not None:
                return self._proposal(orphan)
            for _ in range(MOST_REFUSALS):
                if len(self._counted()) >= self.trials:
                    return None
                number, drawn, refusal = self._draw()
                if refusal is None:
                    return Proposal(number, drawn.pop(LEARNING_RATE, None), drawn)
                last = refusal
        raise SettingsError(f"--search: the methods refuse what is drawn, {MOST_REFUSALS} times in a row: {last}")

    def elsewhere(self) -> list[Proposal]:
        """Trials that another living process is at; running them here waits for it and gives the same record."""
        with quiet():
            return [self._proposal(trial) for trial in self._counted() if not trial.state.is_finished()]

    def ended(self) -> list[Proposal]:
        """Trials that have ended, in their order."""
        with quiet():
            return [self._proposal(trial) for trial in self._counted() if trial.state.is_finished()]

    def tell(self, proposal: Proposal, value: float | None, *, diverged: bool = False) -> None:
        """Write down how a trial ended; the first to tell wins.

        Args:
            proposal: what was run.
            value: the objective; ``None`` if the run failed.
            diverged: the run went wrong because of its settings, which counts as worse than any value.
        """
        from optuna.trial import TrialState

        usable = value is not None and math.isfinite(value) and not diverged
        # Optuna's samplers take a pruned trial without values for worse than all others, and skip failed ones.
        wrong = TrialState.PRUNED if diverged or value is not None else TrialState.FAIL
        # Optuna looks whether the trial has ended and writes in two steps: under the lock nobody tells in between.
        with self._writing(), self._lock, quiet():
            self._study.tell(
                proposal.number,
                value if usable else None,
                state=TrialState.COMPLETE if usable else wrong,
                skip_if_finished=True,
            )

    def retry_failed(self) -> int:
        """Hand the trials that failed out again, and say how many."""
        from optuna.trial import TrialState, create_trial

        with self._writing(), self._lock, quiet():
            failed = [trial for trial in self._counted() if trial.state == TrialState.FAIL]
            for trial in failed:
                again = create_trial(
                    state=TrialState.RUNNING,
                    params=trial.params,
                    distributions=trial.distributions,
                    user_attrs={RETRY_OF: trial.number, OWNER: ""},
                )
                self._study.add_trial(again)
        return len(failed)

    def best(self) -> Proposal | None:
        """The trial with the best objective, the first of several; ``None`` if none has one."""
        from optuna.study import StudyDirection
        from optuna.trial import TrialState

        sign = 1 if self._study.direction == StudyDirection.MAXIMIZE else -1
        complete = [t for t in self._counted() if t.state == TrialState.COMPLETE and t.value is not None]
        best = max(complete, key=lambda t: (sign * (t.value or 0.0), -t.number), default=None)
        return self._proposal(best) if best is not None else None

    def _counted(self) -> list[FrozenTrial]:
        """The trials that count toward how many were asked for, in their order."""
        from optuna.trial import TrialState

        trials = self._study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        return [
            trial
            for trial in trials
            if trial.number not in retried
            and LEFT_OUT not in trial.user_attrs
            and trial.state != TrialState.WAITING
            and self._whole(trial)
        ]

    def _whole(self, trial: FrozenTrial) -> bool:
        """Whether all values are in the journal; they are not where a process was killed while it proposed."""
        return all(d.label in trial.params for d in self.space)

    def _draw(self) -> tuple[int, dict[str, Any], str | None]:
        """A new trial, what is set in it, and why the methods refuse it, if they do."""
        from optuna.trial import TrialState

        index = len(self._counted())
        if index < len(self._first) and not self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            own = {d.name: d.default for d in self.space if d.default is not None} | self._first[index]
            self._study.enqueue_trial({d.label: d.drawn(own[d.name]) for d in self.space if d.name in own})
        refused = sum(LEFT_OUT in trial.user_attrs for trial in self._study.get_trials(deepcopy=False))
        self._study.sampler = _sampler(self.seed, index + refused, self.trials)
        trial = self._study.ask()
        trial.set_user_attr(OWNER, self._owner)
        params = {d.label: _suggest(trial, d) for d in self.space}
        settings = self._settings(params)
        refusal = self._refusal(settings)
        if refusal is not None:
            self._leave_out(trial, refusal)
        return trial.number, settings, refusal

    def _end_half_proposed(self) -> None:
        """End the trials whose process was killed as it proposed them: the sampler looks at all that are running."""
        from optuna.trial import TrialState

        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if not self._whole(trial):
                self._study.tell(trial.number, state=TrialState.FAIL)  # which the sampler does not look at
            elif (refusal := self._refusal(self._settings(trial.params))) is not None:
                self._leave_out(trial, refusal)

    def _leave_out(self, trial: optuna.Trial | FrozenTrial, refusal: str) -> None:
        from optuna.trial import TrialState

        self._note(trial, LEFT_OUT, refusal)
        self._study.tell(trial.number, state=TrialState.PRUNED)  # so that the sampler turns away from it

    def _settings(self, params: Mapping[str, Any]) -> dict[str, Any]:
        chosen = {d.name: d.value(params[d.label]) for d in self.space}
        defaults = {d.name: d.default for d in self.space}
        return {name: value for name, value in chosen.items() if name == LEARNING_RATE or value != defaults[name]}

    def _refusal(self, settings: Mapping[str, Any]) -> str | None:
        nested = {name: dict(values) for name, values in self._fixed.items()}
        for key, value in settings.items():
            method, dot, name = key.rpartition(".")
            if dot:
                nested.setdefault(method, {})[name] = value
        try:
            build_methods(self._methods, nested)
        except MethodError as error:
            return str(error)
        return None

    def _proposal(self, trial: FrozenTrial) -> Proposal:
        settings = self._settings(trial.params)
        return Proposal(trial.number, settings.pop(LEARNING_RATE, None), settings)

    def _adopted(self) -> FrozenTrial | None:
        """The first trial whose process ended without telling, made this one's."""
        for trial in self._counted():
            owner = trial.user_attrs.get(OWNER, "")
            if not trial.state.is_finished() and owner != self._owner and not self._lives(owner):
                self._note(trial, OWNER, self._owner)
                return trial
        return None

    def _note(self, trial: optuna.Trial | FrozenTrial, key: str, value: str) -> None:
        """Note something on a trial that another process began, for which Optuna has private names alone."""
        self._study._storage.set_trial_user_attr(trial._trial_id, key, value)

    def _lives(self, owner: str) -> bool:
        path = Path(self._owner_file(owner))
        if not owner or not path.exists():
            return False
        lock = file_lock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        remove_file(path)
        return False

    def _remove_left(self) -> None:
        """Remove the files of processes that were killed."""
        for path in self._journal.parent.glob(f"{glob.escape(self._journal.name)}.*.alive"):
            self._lives(path.name.split(".")[-2])

    def _owner_file(self, owner: str) -> str:
        return f"{self._journal}.{owner}.alive"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise SettingsError(f"The search cannot be kept in {self._journal}: {error}.") from error


def run_search(
    search: Search, run: Callable[[Sequence[Proposal]], Iterator[Outcome]], workers: int = 1
) -> Proposal | None:
    """Propose, run and tell until all trials have ended; return the best.

    Every trial goes through ``run`` once, those that ended in an earlier session or in another process last: their
    records are only read.

    Args:
        search: where trials come from.
        run: runs some trials, at the same time if it can, and yields each as it ends.
        workers: trials at the same time.
    """
    here: set[int] = set()

    def run_and_tell(batch: Sequence[Proposal]) -> None:
        here.update(proposal.number for proposal in batch)
        for outcome in run(batch):
            search.tell(outcome.proposal, outcome.value, diverged=outcome.diverged)

    while batch := [p for _ in range(workers) if (p := search.propose()) is not None]:
        run_and_tell(batch)
    while rest := search.elsewhere():
        run_and_tell(rest)
    if earlier := [proposal for proposal in search.ended() if proposal.number not in here]:
        run_and_tell(earlier)
    return search.best()


@dataclass(frozen=True)
class Outcome:
    """How a trial ended: its objective on validation data, or ``None``."""

    proposal: Proposal
    value: float | None
    diverged: bool = False


def _suggest(trial: optuna.Trial, dimension: Dimension) -> Any:
    if dimension.choices:
        return trial.suggest_categorical(dimension.label, dimension.choices)
    if dimension.integer:
        return trial.suggest_int(dimension.label, int(dimension.low), int(dimension.high))
    low, high = dimension.bounds
    return trial.suggest_float(dimension.label, low, high, log=dimension.scale != "linear")


def _sampler(seed: int, number: int, trials: int) -> optuna.samplers.BaseSampler:
    import optuna

    own = int.from_bytes(hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4], "little")
    startup = max(3, min(10, trials // 3))
    return optuna.samplers.TPESampler(seed=own, n_startup_trials=startup, constant_liar=True)


def _study_name(key: str, space: Space, seed: int, first: Sequence[Mapping[str, Any]], greater: bool) -> str:
    """A file name; other values, another name."""
    readable = "".join(c if c.isalnum() or c in "+-_" else "_" for c in key)[:60]
    digest = hashlib.sha256(repr((key, space, seed, first, greater)).encode()).hexdigest()[:12]
    return f"{readable}-{digest}"
