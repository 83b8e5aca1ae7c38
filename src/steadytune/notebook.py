"""A comparison called from Python or a notebook: bars while it runs, and its report in hand."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from steadytune.comparison.compare import compare as run_comparison
from steadytune.comparison.plan import RunPlan
from steadytune.comparison.records import RunRecord
from steadytune.comparison.remote import open_remote
from steadytune.reporting.report import Report, report
from steadytune.settings.compare import CompareSettings
from steadytune.settings.resolve import resolve
from steadytune.support.text import duration, plain_text


def compare(*, quiet: bool = False, **settings: Any) -> Report:
    """Compare methods with tuned plain training, as ``steadytune compare`` does, and return the report.

    Runs that exist are only read, so the same call continues a comparison that was stopped. The report's files are
    written into the output folder as well.

    Args:
        quiet: show no bars.
        settings: those of `CompareSettings`, named as the options of the command line.

    Raises:
        SteadytuneError: settings, data or model cannot be used. What goes wrong in a run is in the report instead.

    For example, as examples/notebook.ipynb runs it::

        report = compare(task="movie-reviews", train_size=64, methods=["none", "smart"], seeds=2)
        report.show()
    """
    resolved = resolve(CompareSettings, settings)
    remote = open_remote(resolved.output_dir)
    folder = resolved.folder if remote is None else remote.local
    with _quiet():
        run_comparison(resolved, None if quiet else Bars(), remote=remote)
    made = report(folder, full_environment=resolved.full_environment)
    made.write(folder)
    if remote is not None:
        remote.send_all()
    return made


class Bars:
    """Two bars of tqdm, for the runs and for the updates of the one that runs: widgets in a notebook, else text."""

    def __init__(self) -> None:
        self._whole: Any = None
        self._updates: Any = None
        self._shown = ""  # the run whose updates are shown, of several at the same time

    def note(self, text: str) -> None:
        """Show one line."""
        _tqdm().write(plain_text(text))

    def begin(self, runs: int, missing: int, seconds: float | None) -> None:
        """Show the bar of the runs."""
        if missing:
            self._whole = _tqdm()(total=runs, initial=runs - missing, desc="runs", unit="run")
            self._tell("" if seconds is None else f"about {duration(seconds)}")

    def run_started(self, plan: RunPlan) -> None:
        """Show the bar of a run's updates."""
        if self._whole is not None and self._updates is None:
            self._shown = plan.key
            label = plain_text(f"{plan.candidate}, seed {plan.settings.seed}")
            self._updates = _tqdm()(desc=label, unit="update", leave=False)

    def run_step(self, plan: RunPlan, done: int, total: int, loss: float | None) -> None:
        """Move the bar of the updates."""
        if self._updates is not None and plan.key == self._shown:
            self._updates.total = total
            self._updates.update(done - self._updates.n)
            if loss is not None:
                self._updates.set_postfix_str(f"loss {loss:.4f}")

    def run_ended(self, record: RunRecord, done: int, runs: int, seconds: float | None, leader: str) -> None:
        """Move the bar of the runs; show a line only of a run that failed."""
        if record.key == self._shown:
            self._close_updates()
        if record.status != "finished":
            self.note(f"{record.candidate}, seed {record.seed} {record.status}: {record.error}")
        if self._whole is not None:
            self._whole.total = runs
            self._whole.update(done - self._whole.n)
            left = "" if seconds is None or done >= runs else f"about {duration(seconds)} left"
            self._tell(", ".join(plain_text(part) for part in (left, leader) if part))

    def stop(self) -> None:
        """Close the bars."""
        self._close_updates()
        if self._whole is not None:
            self._whole.close()
            self._whole = None

    def _close_updates(self) -> None:
        if self._updates is not None:
            self._updates.close()
            self._updates = None

    def _tell(self, text: str) -> None:
        self._whole.set_postfix_str(text)


def _tqdm() -> Any:
    with warnings.catch_warnings():  # without ipywidgets it says so, and shows text
        warnings.simplefilter("ignore")
        from tqdm.auto import tqdm

    return tqdm


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the bars of the libraries away from ours, and leave the user's session as it was."""
    import datasets
    import transformers

    logs = transformers.utils.logging
    level, shows = logs.get_verbosity(), logs.is_progress_bar_enabled()
    level_of_rows, shows_rows = datasets.utils.logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="torch|transformers|accelerate|datasets")
            yield
    finally:
        logs.set_verbosity(level)
        datasets.utils.logging.set_verbosity(level_of_rows)
        if shows:
            logs.enable_progress_bar()
        if shows_rows:
            datasets.enable_progress_bars()
