"""A configuration for rows that were looked at: few settings, each with what it does and why it has this value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from steadytune.proposal.first_look import Look, Repeats
from steadytune.support.text import counted, plain_text
from steadytune.training.recipe import Recipe, RowFacts, learning_rates, recipe

#: Rows from which methods for little data rarely help.
MANY = 20_000
#: What is compared, with how many seeds.
COMPARED, SEEDS = ("none", "noisytune", "smart"), 7
_MOST_NAMED = 6
#: Layouts whose columns have names.
WITH_COLUMNS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


def recommended(look: Look) -> dict[str, tuple[Any, str]]:
    """The settings for these rows, each with the reason.

    Example:
        >>> from steadytune.proposal.first_look import first_look
        >>> from steadytune.settings.train import TrainSettings
        >>> found = recommended(first_look(TrainSettings(task="movie-reviews", train_size=64)))
        >>> found["per_device_train_batch_size"][0], found["num_train_epochs"][0]
        (8, 25)
    """
    lengths, found = look.lengths, _recipe(look)
    how = "" if lengths.exact else "about, told from the words: "
    about = f"{how}half of the rows have up to {lengths.median} tokens, 99 % up to {lengths.most}"
    if lengths.most > lengths.limit:
        about += f"; the model reads {lengths.limit}"
    per_epoch = round(found.updates / found.num_train_epochs)
    return {
        "max_length": (found.max_length, f"{about}, the longest {lengths.longest}"),
        "per_device_train_batch_size": (
            found.per_device_train_batch_size,
            f"{counted(per_epoch, 'update')} an epoch",
        ),
        "num_train_epochs": (
            int(found.num_train_epochs),
            f"{counted(found.updates, 'update')}; with few of them runs differ by chance",
        ),
    }


def _recipe(look: Look) -> Recipe:
    lengths = look.lengths
    outputs = look.data.task.number_of_outputs or 1
    return recipe(RowFacts(look.rows, outputs, lengths.most, lengths.limit), look.model)


def cost(look: Look) -> str:
    """What the comparison will take, in updates: seconds depend on the machine, which `compare` asks."""
    trainings = len(COMPARED) * (len(_recipe(look).learning_rates) + SEEDS - 1)  # the first seed chooses the rate
    updates = trainings * _recipe(look).updates
    return f"{trainings} trainings, {updates:,} updates in all; compare says how long as it starts"


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
    lines += _section("Output", {"output_dir": (output, "if interrupted, run the same command again to resume")})
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
    yield from _repeated(look.repeats)
    for note in look.data.notes:
        yield plain_text(note)


def _repeated(repeats: Repeats) -> Iterator[str]:
    """Sentences on rows that occur more than once, those to fix first."""
    of = "rows of the training file" if repeats.in_file else "training rows"
    if repeats.contradictory:
        count = sum(map(len, repeats.contradictory))
        yield f"{count:,} {of} have a text that has another label, too{_where(repeats, repeats.contradictory)}."
    if repeats.agreeing:
        count = sum(map(len, repeats.agreeing))
        yield f"{count:,} {of} have a text that occurs more than once{_where(repeats, repeats.agreeing)}."


def _where(repeats: Repeats, groups: Sequence[tuple[int, ...]]) -> str:
    """The data rows of the first texts, each text's together."""
    if not repeats.in_file:
        return ""
    named = [" = ".join(str(row + 1) for row in group[:_MOST_NAMED]) for group in groups[:_MOST_NAMED]]
    rest = len(groups) - _MOST_NAMED
    more = f" and {rest:,} more text{'s' * (rest > 1)}" if rest > 0 else ""
    return f": data rows {', '.join(named)}{more}"


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
            "methods": ([], f"plain training; of the methods {costs}: `compare` says whether they help here"),
            "# set": ({"smart.weight": 1.0}, "settings of methods: `steadytune methods smart`"),
        }
    many = f"; on {look.rows:,} rows expect little of either" if look.rows >= MANY else ""
    rates, why = learning_rates(look.model)
    return {
        "methods": (list(COMPARED), f"none is plain training; {costs}{many}"),
        "seeds": (SEEDS, f"runs of each; the fewest with which two methods can show p < 0.05; {cost(look)}"),
        "learning_rates": (list(rates), f"each method takes the one that is best on validation rows; for {why}"),
        "# vary": ({"smart.weight": [1, 3, 5]}, "further candidates with other settings"),
    }


def _training(look: Look, verb: str) -> dict[str, tuple[Any, str]]:
    found = recommended(look)
    if verb == "train":
        (low, middle, high), why = learning_rates(look.model)
        found |= {
            "learning_rate": (middle, f"the peak; try {low:g} and {high:g} as well, for {why}"),
            "seed": (42, "of all that is random"),
        }
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
