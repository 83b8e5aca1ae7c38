"""The verb `init`: look at the user's rows and write a commented configuration for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from steadytune.cli.views.console import Screen, show_lines
from steadytune.errors import SettingsError
from steadytune.proposal.configuration import configuration, cost, recommended, seen
from steadytune.proposal.first_look import Look, first_look
from steadytune.settings.asked import Asked
from steadytune.settings.fields import MODEL, OUTPUT, setting
from steadytune.settings.groups import DataFolderSettings, FileSettings, TaskSettings
from steadytune.settings.resolve import PATHS, resolve_settings
from steadytune.support.atomic_files import write_atomically
from steadytune.support.writing import make_folder

SUMMARY = "Look at your rows and write a commented configuration for `train` and `compare`."
PANEL = "Before training"
PLACE = 1
EXAMPLE = "steadytune init reviews.csv"


class Options(Asked, FileSettings, TaskSettings, DataFolderSettings):
    """What `init` can be asked for."""

    model: str = setting(
        "minilm", "Model whose tokenizer measures the lengths.", MODEL, first=3, metavar="NAME", min_length=1
    )
    verb: Literal["compare", "train"] = setting(
        "compare", "Command the config is for: 'compare' or 'train'.", OUTPUT, first=4
    )
    output: Path = setting(Path("steadytune.yaml"), "File to write.", OUTPUT, first=10, metavar="FILE", short="-o")
    overwrite: bool = setting(False, "Replace the file if it exists.", OUTPUT)


#: What a configuration takes over from the options.
ROWS_AND_MODEL = (*TaskSettings.model_fields, *FileSettings.model_fields, *DataFolderSettings.model_fields, "model")


def run(options: Options) -> None:
    """Write the file, and print what was seen and the next command."""
    given = {name: value for name in ROWS_AND_MODEL if (value := getattr(options, name)) is not None}
    verb, output = options.verb, options.output
    if "task" not in given and "train_file" not in given:
        raise SettingsError(
            "Nothing to look at: give your rows, as in `steadytune init train.csv`, or --task movie-reviews."
        )
    if output.exists() and not options.overwrite:
        raise SettingsError(f"{output}: exists; give another --output, or --overwrite.")
    if "test_file" not in given and "task" not in given:
        given = given | {"hold_out": True}
    look = first_look(resolve_settings(given))
    text = configuration(look, _as_seen_from(output.parent, given), verb, str(output))
    make_folder(output.parent)
    write_atomically(output, text)
    if not options.quiet:
        _show(look, output, verb)


def _as_seen_from(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Rewrite relative paths, because those of a configuration count from its folder."""
    paths = {name: str(given[name]) for name in PATHS if name in given}
    found = {name: path for name, path in paths.items() if name != "model" or Path(path).is_dir()}
    relative = {name: path for name, path in found.items() if not os.path.isabs(path) and not path.startswith("~")}
    if folder.resolve() == Path.cwd():
        return given
    return given | {name: os.path.relpath(path, folder) for name, path in relative.items()}


def _show(look: Look, output: Path, verb: str) -> None:
    console = Screen()
    for sentence in seen(look):
        show_lines(console, sentence)
    for name, (value, why) in recommended(look).items():
        show_lines(console, f"{name}: {value} ({why})")
    if verb == "compare":
        show_lines(console, f"cost: {cost(look)}")
    show_lines(console, f"Written: {output}. Next: steadytune {verb} --config {output}")
