"""The verb `hybrid`: settings from options and file, one run of the hybrid network on WNLI, and its results."""

from __future__ import annotations

from steadytune.cli.stopped import told_how_to_go_on
from steadytune.cli.views.console import Screen
from steadytune.models.load import find_model
from steadytune.settings.asked import FromFile
from steadytune.settings.hybrid import TASK, HybridSettings
from steadytune.support.quiet_libraries import quiet_libraries
from steadytune.support.text import counted
from steadytune.training.folder import RunFolder

SUMMARY = "Train the hybrid network on WNLI: which noun does the pronoun refer to? (masked language models only)."
PANEL = "Train"
PLACE = 4
EXAMPLE = "steadytune hybrid --model bert-base-uncased --methods smart"

SETTINGS, Options = HybridSettings, FromFile


def run(settings: HybridSettings, options: FromFile) -> None:
    """Train as asked and print the scores before and after."""
    # From the quickest check to the slowest, so that mistakes are reported before torch is imported.
    RunFolder(settings.folder).check(settings)
    find_model(settings.model)
    quiet_libraries()
    from steadytune.cli.views.console import ConsoleReporter, before_and_after
    from steadytune.training.hybrid.run import train_hybrid

    console = Screen()
    reporter = ConsoleReporter(console, options.quiet)
    reporter.note(f"Hybrid network of {settings.model} on {TASK}, methods: {' + '.join(settings.methods)}")
    with told_how_to_go_on():
        result = train_hybrid(settings, reporter)
    if options.quiet:
        return
    if result.was_finished:
        reporter.note("This run was finished before; these are its results.")
    console.print(before_and_after(result.metrics))
    reporter.note(f"{counted(result.metrics['training']['updates'], 'update')}. Kept in {result.folder}")
