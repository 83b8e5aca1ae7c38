"""The verb `evaluate`: what to measure, from options, and the results on the screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from steadytune.comparison.kept_models import kept_models
from steadytune.errors import SettingsError
from steadytune.evaluation.evaluate import check_run, is_run
from steadytune.settings.evaluate import EvaluateOptions
from steadytune.support.text import printable


def run_evaluation(
    run: Path,
    given: dict[str, Any],
    output: Path | None,
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Evaluate a run, or for retrieval any model, as asked and print tables, or the whole file as JSON."""
    values = {name: value for name, value in given.items() if value is not None}
    if "only" in values:
        values["only"] = [name.strip().replace("-", "_") for name in values["only"].split(",") if name.strip()]
        if not values["only"]:
            raise SettingsError("--only: names no part; leave it out for all of them.")
    for name in ("rates", "radii"):
        if name in values:
            values[name] = _numbers(f"--{name}", values[name])
    options = EvaluateOptions(**values)
    if is_run(run) or not options.retrieval_alone:
        _refuse_comparison(run)
        check_run(run)

    from steadytune.cli.views.evaluate import tables
    from steadytune.evaluation.evaluate import FILE_NAME, evaluate
    from steadytune.support.quiet_libraries import quiet_libraries

    quiet_libraries()
    console = Console()

    def tell(line: str) -> None:
        if not quiet and not as_json:
            console.print(
                printable(line), highlight=False, markup=False, soft_wrap=not console.is_terminal, style="dim"
            )

    content = evaluate(run, options, output, tell)
    if as_json:
        print(json.dumps(content, indent=2))
        return
    if quiet:
        return
    file = output or run / FILE_NAME
    try:
        shown = list(tables(content, options.only))
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise SettingsError(f"{file}: is damaged ({error!r}); delete it to measure again.") from error
    for table in shown:
        console.print(table)
    if output or is_run(run):
        tell(f"Kept in {file}")


def _refuse_comparison(run: Path) -> None:
    """Name the runs of a comparison that can be evaluated, where its folder is given in place of one of them."""
    folder = run.expanduser()
    if folder.is_dir() and not is_run(run) and (hint := kept_models(folder)):
        raise SettingsError(f"{run}: holds no run but a comparison{hint}")


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise SettingsError(f"{option} {text}: write numbers separated by commas, such as 0.05,0.1.") from None
