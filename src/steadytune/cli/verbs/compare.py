"""The verb `compare`: settings from options and file, the comparison with live bars, and its table."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from steadytune.cli.quick import refuse_unknown_methods
from steadytune.cli.stopped import Stopped
from steadytune.cli.views.console import Screen
from steadytune.comparison.candidates import candidates
from steadytune.comparison.plan import places
from steadytune.models.load import find_model
from steadytune.settings.asked import FromFile
from steadytune.settings.compare import CompareSettings
from steadytune.settings.fields import OUTPUT, setting
from steadytune.support.signals import ENDING, handled
from steadytune.support.text import counted
from steadytune.training.rows import check_source

SUMMARY = "Compare methods with tuned plain training over seeds, and report which differences hold up and their cost."
PANEL = "Train"
PLACE = 2
EXAMPLE = "steadytune compare reviews.csv --methods none,smart --seeds 6"

SETTINGS = CompareSettings


class Options(FromFile):
    """What `compare` can be asked for besides its settings."""

    plan: bool = setting(False, "Show the planned runs and their cost without training.", OUTPUT, first=12)


def run(settings: CompareSettings, options: Options) -> None:
    """Compare as asked and print the table of every task and size."""
    # From the quickest check to the slowest, so that mistakes are reported before torch is imported.
    for place in places(settings):
        check_source(settings.run_settings(task=place.task, train_size=place.train_size))
    refuse_unknown_methods(settings.methods)
    find_model(settings.model)
    compared = candidates(settings)
    if options.plan:
        _show_plan(settings, quiet=options.quiet)
        return
    from steadytune.cli.views.comparison import ComparisonReporter, show_comparison
    from steadytune.comparison.compare import compare
    from steadytune.comparison.remote import open_remote
    from steadytune.support.quiet_libraries import quiet_libraries

    quiet_libraries()
    console = Screen()
    reporter = ComparisonReporter(console, options.quiet)
    data = ", ".join(settings.tasks) or settings.train_file
    reporter.note(
        f"{settings.model} on {data}: {', '.join(c.label for c in compared)}; {counted(settings.seeds, 'seed')}"
    )
    remote = open_remote(settings.output_dir)
    folder = settings.folder if remote is None else remote.local
    try:
        with handled(_stop, ENDING[1:]):  # as Ctrl-C does
            found = compare(settings, reporter, remote=remote, command=shlex.join(["steadytune", *sys.argv[1:]]))
    except KeyboardInterrupt:
        raise Stopped(f"stopped; what is done is kept in {folder}, the same command continues.") from None
    lies = _report(folder, full_environment=settings.full_environment)
    if remote is not None:
        remote.send_all()
        lies += f" (all of it in {remote.url})"
    if not options.quiet:
        reporter.note(lies)
        show_comparison(console, found)


def _show_plan(settings: CompareSettings, *, quiet: bool) -> None:
    """Say what there is to run; of results at a URL, what lies on this machine counts as made."""
    from steadytune.cli.views.plan import show_plan
    from steadytune.comparison.dry_run import plan_comparison, time_comparison
    from steadytune.comparison.remote import open_remote
    from steadytune.support.quiet_libraries import quiet_libraries

    quiet_libraries()
    remote = open_remote(settings.output_dir)
    if remote is not None:
        settings = settings.model_copy(update={"output_dir": str(remote.local)})
    plan = plan_comparison(settings)
    if not quiet:
        left = plan.made < plan.runs
        show_plan(Screen(), plan, time_comparison(settings) if left else None)


def _stop(_number: int) -> None:
    raise KeyboardInterrupt


def _report(folder: Path, *, full_environment: bool) -> str:
    """Write the report, and say where it lies; without the packages it needs, say that."""
    try:
        from steadytune.reporting.report import report
    except ImportError as error:
        return f"No report was written ({error}). All figures lie in {folder / 'comparison.json'}."
    page = report(folder, full_environment=full_environment).write(folder)[0]
    return f"Report: {page}"
