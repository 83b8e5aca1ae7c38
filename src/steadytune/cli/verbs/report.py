"""The verb `report`: a comparison's folder as a page, tables and a model card."""

from __future__ import annotations

from pathlib import Path

from steadytune.cli.views.console import Screen
from steadytune.errors import SettingsError, SteadytuneError
from steadytune.settings.asked import Asked
from steadytune.settings.fields import OUTPUT, setting
from steadytune.support.text import printable

SUMMARY = "Write a comparison's report: one HTML page, Markdown, CSV, JSON and a model card."
PANEL = "Look at results"
PLACE = 1
EXAMPLE = "steadytune report runs/first"


class Options(Asked):
    """What `report` can be asked for."""

    runs: Path = setting(
        ..., "Output folder of a comparison.", OUTPUT, metavar="RUNS", positional=True, required=True, first=1
    )
    output_dir: Path | None = setting(None, "Where to write (default: into RUNS).", OUTPUT, metavar="DIR")
    full_environment: bool = setting(False, "Name hosts and whole paths.", OUTPUT)


def run(options: Options) -> None:
    """Write every form of the report, and print the verdict and where the files lie."""
    folder, output = options.runs, options.output_dir
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder: give the output folder of `steadytune compare`.")
    from steadytune.reporting.report import report

    try:
        made = report(folder, full_environment=options.full_environment)
        files = made.write(output or folder)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        if isinstance(error, SteadytuneError):
            raise
        raise SettingsError(f"{folder}: its files hold what no comparison has ({error!r}).") from error
    if options.quiet:
        return
    console = Screen()
    if made.missing_here:
        console.print(printable(made.missing_here), highlight=False, markup=False, soft_wrap=not console.is_terminal)
    console.print(made.sentence, style="bold", highlight=False, markup=False, soft_wrap=not console.is_terminal)
    for file in files:
        console.print(str(file), highlight=False, markup=False, soft_wrap=True)
