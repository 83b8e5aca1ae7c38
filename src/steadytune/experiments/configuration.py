"""A configuration for rows that were looked at: few settings, each with what it does and why it has this value."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from steadytune.experiments.first_look import Look
from steadytune.experiments.report_text import plain_text

#: Updates that fine-tuning on few rows should have at least; below them runs differ by chance (Mosbach et al. 2021).
WANTED_UPDATES = 300
FEWEST_EPOCHS, MOST_EPOCHS = 3, 20
#: From so many rows on the methods for little data have little to give.
MANY = 20_000
_MOST_NAMED = 6
#: Layouts whose columns have names.
WITH_COLUMNS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def recommended(look: Look) -> dict[str, tuple[Any, str]]:
    """The settings for these rows, each with the reason.

    Example:
        >>> from steadytune.experiments.first_look import first_look
        >>> from steadytune.experiments.settings import TrainSettings
        >>> found = recommended(first_look(TrainSettings(task="movie-reviews", train_size=64)))
        >>> found["per_device_train_batch_size"][0], found["num_train_epochs"][0]
        (8, 20)
    """
    rows, lengths = look.rows, look.lengths
    length = min(max(16, 8 * math.ceil(lengths.most / 8)), lengths.limit)
    how = "" if lengths.exact else "about, told from the words: "
    about = f"{how}half of the rows have up to {lengths.median} tokens, 99 % up to {lengths.most}"
    if lengths.most > lengths.limit:
        about += f"; the model reads {lengths.limit}"
    batch = 8 if rows < 200 else 16 if rows < 10_000 else 32
    per_epoch = math.ceil(rows / batch)
    epochs = min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(WANTED_UPDATES / per_epoch)))
    return {
        "max_length": (length, f"{about}, the longest {lengths.longest}"),
        "per_device_train_batch_size": (batch, f"{per_epoch:,} updates an epoch"),
        "num_train_epochs": (epochs, f"{epochs * per_epoch:,} updates; with few of them runs differ by chance"),
    }


def configuration(look: Look, given: Mapping[str, Any], verb: str, name: str) -> str:
    """The text of a configuration file.

    Args:
        look: at the rows.
        given: settings that were asked for: where the rows are, and the model.
        verb: ``"compare"`` or ``"train"``.
        name: of the file, for the command on its first line.
    """
    lines = [f"# steadytune {verb} --config {plain_text(name)}", "#", *(f"# {line}" for line in seen(look)), ""]
    lines += _section("Rows and model", _rows(look, given))
    lines += _section("Methods", _methods(look, verb))
    lines += _section("Training (names of TrainingArguments)", _training(look, verb))
    output = f"runs/{_safe(look.data.task.name)}" + ("" if verb == "compare" else "-first")
    lines += _section("Output", {"output_dir": (output, "stopped, the same command goes on with what is missing")})
    return "\n".join(lines) + "\n"


def seen(look: Look) -> Iterator[str]:
    """What was seen, a sentence each."""
    task = look.data.task
    splits = ", ".join(f"{len(rows):,} {plain_text(split)}" for split, rows in look.data.splits.items())
    yield f"{plain_text(task.name)}: {task.head.replace('_', ' ')}, judged by {task.metric}; rows: {splits}."
    if look.classes:
        largest = sorted(look.classes.items(), key=lambda item: -item[1])
        named = ", ".join(f"{plain_text(label)} {count:,}" for label, count in largest[:_MOST_NAMED])
        rest = len(largest) - _MOST_NAMED
        yield f"Training rows by class: {named}{f' and {rest} more classes' if rest > 0 else ''}."
        if look.majority > 1.3 / len(largest):
            yield f"Always the largest class would score {look.majority:.3f} in accuracy: judge by more than that."
    if look.twice:
        with_others = f", {look.contradictory:,} of them with another label" if look.contradictory else ""
        yield f"{look.twice:,} training rows have a text that occurs more than once{with_others}."
    for note in look.data.notes:
        yield plain_text(note)


def _rows(look: Look, given: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    task = look.data.task
    said = {
        "model": "'minilm' (embedded), a local folder, or a Hub id",
        "task": "see `steadytune tasks`",
        "data_dir": "where the data sets of named tasks are",
        "train_file": "your rows",
        "validation_file": "rows to choose by",
        "test_file": "rows to judge by",
    }
    found = {"model": (given.get("model", "minilm"), said["model"])}
    found |= {name: (given[name], said[name]) for name in list(said)[1:] if name in given}
    if "train_file" in given:
        found["head"] = (task.head, "given" if "head" in given else "told from the file")
        columns = {"text_column": task.text_column, "text_pair_column": task.text_pair_column}
        for name, column in {**columns, "label_column": task.label_column}.items():
            if column and (name in given or Path(str(given["train_file"])).suffix.lower() in WITH_COLUMNS):
                found[name] = (column, "given" if name in given else "found by its usual name")
        if "validation_file" not in given:
            found["# validation_file"] = ("validation.csv", "without one a tenth of the training rows is held out")
    if given.get("hold_out"):
        found["hold_out"] = (True, "no test rows: the verdict is on the validation rows, choices on another tenth")
    return found


def _methods(look: Look, verb: str) -> dict[str, tuple[Any, str]]:
    costs = "noisytune costs nothing, smart three times the time of a step"
    if verb == "train":
        return {
            "methods": (["noisytune", "smart"], f"{costs}; [] is plain training"),
            "# set": ({"smart.weight": 1.0}, "settings of methods: `steadytune methods smart`"),
        }
    many = f"; on {look.rows:,} rows expect little of either" if look.rows >= MANY else ""
    return {
        "methods": (["none", "noisytune", "smart"], f"none is plain training; {costs}{many}"),
        "seeds": (7, "runs of each; the fewest with which two methods can show p < 0.05"),
        "learning_rates": ([5e-5, 1e-4, 2e-4], "each method takes the one that is best on validation rows"),
        "# vary": ({"smart.weight": [1, 3, 5]}, "further candidates with other settings"),
    }


def _training(look: Look, verb: str) -> dict[str, tuple[Any, str]]:
    found = recommended(look)
    if verb == "train":
        found |= {"learning_rate": (5e-5, "the peak; try 1e-4 and 2e-4"), "seed": (42, "of all that is random")}
    if look.rows >= MANY:
        found["bf16"] = (False, "true on a GPU: half the time, half the memory")
    return found


def _section(title: str, settings: Mapping[str, tuple[Any, str]]) -> Iterator[str]:
    yield f"# {title}"
    for name, (value, why) in settings.items():
        written = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
        written = written.removesuffix("\n...\n")
        if "\n" in written.strip():  # a name may hold the end of a line: quoted so, it stays on this one
            written = yaml.safe_dump(value, default_style='"', default_flow_style=True, width=10**6)
        written = written.strip()
        yield f"{name}: {written}  # {plain_text(why)}"
    yield ""


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "+._-" else "_" for c in Path(name).name) or "data"
