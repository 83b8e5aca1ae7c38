"""The verb `report`: a comparison's folder as a page, tables and a model card."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from steadytune.errors import SettingsError, SteadytuneError
from steadytune.support.text import printable


def write_report(folder: Path, output: Path | None, *, quiet: bool) -> None:
    """Write every form of the report, and print the verdict and where the files lie."""
    if not folder.is_dir():
        raise SettingsError(f"{folder} is no folder: give the output folder of `steadytune compare`.")
    from steadytune.reporting.report import report

    try:
        made = report(folder)
        files = made.write(output or folder)
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        if isinstance(error, SteadytuneError):
            raise
        raise SettingsError(f"{folder}: its files hold what no comparison has ({error!r}).") from error
    if quiet:
        return
    console = Console()
    if made.missing:
        console.print(printable(made.missing), highlight=False, markup=False, soft_wrap=not console.is_terminal)
    console.print(made.sentence, style="bold", highlight=False, markup=False, soft_wrap=not console.is_terminal)
    for file in files:
        console.print(str(file), highlight=False, markup=False, soft_wrap=True)
