"""The verb `evaluate`: what to measure, from options, and the results on the screen."""

from __future__ import annotations

import json
from pathlib import Path

from steadytune.cli.views.console import Screen
from steadytune.comparison.kept_models import kept_models
from steadytune.errors import SettingsError
from steadytune.evaluation.evaluate import check_run, is_run
from steadytune.settings.asked import Asked
from steadytune.settings.evaluate import EvaluateOptions
from steadytune.settings.fields import OUTPUT, setting
from steadytune.support.text import printable

SUMMARY = "Measure a trained model: robustness, calibration, smoothness, agreement with people, distance moved."
PANEL = "Look at results"
PLACE = 2
EXAMPLE = "steadytune evaluate runs/first --only perturbations,calibration"

SETTINGS = EvaluateOptions


class Options(Asked):
    """What `evaluate` can be asked for besides its settings."""

    run: Path = setting(
        ...,
        "Folder of a finished run; with --only retrieval also a model.",
        OUTPUT,
        metavar="RUN",
        positional=True,
        first=1,
        required=True,
    )
    output: Path | None = setting(None, "File of the results (default: RUN/evaluation.json).", OUTPUT, metavar="FILE")
    as_json: bool = setting(False, "Print the file instead of tables.", OUTPUT, option="--json")


def run(settings: EvaluateOptions, options: Options) -> None:
    """Evaluate a run, or for retrieval any model, as asked and print tables, or the whole file as JSON."""
    run, output, quiet = options.run, options.output, options.quiet or options.as_json
    if is_run(run) or not settings.retrieval_alone:
        _refuse_comparison(run)
        check_run(run)

    from steadytune.cli.views.evaluate import tables
    from steadytune.evaluation.evaluate import FILE_NAME, evaluate
    from steadytune.support.quiet_libraries import quiet_libraries

    quiet_libraries()
    console = Screen()

    def tell(line: str) -> None:
        if not quiet:
            console.print(
                printable(line), highlight=False, markup=False, soft_wrap=not console.is_terminal, style="dim"
            )

    content = evaluate(run, settings, output, tell)
    if options.as_json:
        print(json.dumps(content, indent=2))
        return
    if quiet:
        return
    file = output or run / FILE_NAME
    try:
        shown = list(tables(content, settings.only))
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
