"""The verb `train`: settings from options and file, one run, and its results on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from steadytune.cli.quick import refuse_unknown_methods
from steadytune.cli.stopped import told_how_to_go_on
from steadytune.cli.views.console import Screen
from steadytune.models.load import find_model
from steadytune.settings.asked import FromFile
from steadytune.settings.train import TrainSettings
from steadytune.support.quiet_libraries import quiet_libraries
from steadytune.support.text import counted
from steadytune.training.folder import RunFolder
from steadytune.training.rows import check_source

if TYPE_CHECKING:
    from steadytune.heads.scores.by_class import ByClass

SUMMARY = "Fine-tune a model of any head (classes, numbers, tags, answers, text) on a named task or on your own rows."
PANEL = "Train"
PLACE = 1
EXAMPLE = "steadytune train reviews.csv --methods smart"

SETTINGS, Options = TrainSettings, FromFile

#: Bytes of checkpoints from which on they are worth a line.
LARGE = 50_000_000


def run(settings: TrainSettings, options: FromFile) -> None:
    """Train as asked and print the scores before and after."""
    # From the quickest check to the slowest, so that mistakes are reported before torch is imported.
    check_source(settings)
    refuse_unknown_methods(settings.methods)
    RunFolder(settings.folder).check(settings)
    find_model(settings.model)
    from steadytune.methods.registry import build_methods

    build_methods(settings.methods, settings.method_settings())
    quiet_libraries()
    from steadytune.cli.views.console import ConsoleReporter, before_and_after, transfer_table
    from steadytune.training.run import train
    from steadytune.training.transfer import mean_gap

    console = Screen()
    reporter = ConsoleReporter(console, options.quiet)
    data = settings.task or settings.train_file
    reporter.note(f"{settings.model} on {data}, methods: {' + '.join(settings.methods)}")
    with told_how_to_go_on():
        result = train(settings, reporter)
    if options.quiet:
        return
    if result.was_finished:
        reporter.note("This run was finished before; these are its results.")
    console.print(before_and_after(result.metrics))
    if "by_class" in result.metrics:
        _show_classes(console, result.metrics["by_class"])
    if "transfer" in result.metrics:
        found = result.metrics["transfer"]
        console.print(transfer_table(found, result.metrics["metric"]))
        reporter.note(f"Mean gap to English over {len(found) - ('en' in found)} languages: {mean_gap(found):.4f}")
    training = result.metrics["training"]
    updates = counted(training["updates"], "update")
    done = "Probe fitted" if settings.probe else updates
    reporter.note(f"{done} in {training['seconds_in_last_session']:.0f} s. Kept in {result.folder}")
    spare = "" if settings.keep_checkpoints else told_of_checkpoints(RunFolder(result.folder))
    if spare:
        reporter.note(spare)
    if "collapse" in result.metrics:  # the last line: the table above looks like success
        reporter.note(result.metrics["collapse"])


def _show_classes(console: Screen, by_class: Mapping[str, ByClass]) -> None:
    """Show the classes of the test rows, else of the validation rows, if they are few."""
    from steadytune.cli.views.console import MOST_CLASSES, class_table

    split = "test" if "test" in by_class else list(by_class)[-1]
    if len(by_class[split]["classes"]) <= MOST_CLASSES:
        console.print(f"{split}, by class:", markup=False, highlight=False)
        console.print(class_table(by_class[split]))


def told_of_checkpoints(folder: RunFolder) -> str:
    """A sentence on the checkpoints of a finished run, where they are large."""
    size = folder.checkpoint_bytes()
    if size < LARGE:
        return ""
    return f"{folder.checkpoints} takes {size / 1e6:,.0f} MB and may be deleted: the run is finished."
