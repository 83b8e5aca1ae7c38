"""Command lines out of the options that the verbs have."""

from __future__ import annotations

import functools
from random import Random
from typing import Any

import typer.main

from steadytune.cli.app import app
from steadytune.settings.compare import CompareSettings
from steadytune.settings.train import TrainSettings

#: Verbs that look outside the working folder.
LEFT_OUT = ("doctor",)
NUMBERS = (
    "0",
    "1",
    "2",
    "-1",
    "1e-4",
    "0.5",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "9" * 30,
    "9" * 5000,
    "1_0",
    "0x10",
    "٣",
    "1.",
    "",
)
WORDS = (
    *(
        "",
        " ",
        "none",
        "smart",
        "noisytune,smart",
        "smart+noisytune",
        "smart(weight=3)",
        "smart(",
        "smart(weight=[)",
        ",,,",
    ),
    *(
        "pgd,freelb",
        "no such",
        "\0",
        "\x1b[31m",
        "\x1b]52;c;eA==\a",
        "[red]x[/red]",
        "[link=http://x]",
        "é",
        "a\nb",
        "\u202e",
    ),
    *(
        "a/../b",
        "x" * 300,
        "~nobody/x",
        ".",
        "..x",
        "-",
        "--",
        "=",
        "a=b",
        "smart.weight=3",
        "smart.weight=",
        "smart.weight=nan",
    ),
    *(
        "smart.weight=" + "9" * 5000,
        "smart.weight=[1,2]",
        "smart.weight=!!int x",
        "smart.weight=2024-99-99",
        "smart.masks=same",
    ),
    *(
        "smart.weight=" + "[" * 3000,
        "trials=3",
        "smart.weight=0.5:8",
        "trials=x",
        "rte",
        "rte,mrpc",
        "movie-reviews",
        "50%",
        "0%",
    ),
    *(
        "t.csv",
        "label",
        "text",
        "classification",
        "linear",
        "2024-99-99",
        "a" * 100_000,
        "\udcff",
        "{}",
        "{{7*7}}",
        "1:2",
        "%s",
    ),
)
PLAIN_VALUES = (
    "1",
    "2",
    "0.5",
    "1e-3",
    "64",
    "yes",
    "off",
    "'7'",
    "a.b",
    "label",
    "linear",
    "none,smart",
    "3.0",
    "0.0",
    "~",
)
YAML_VALUES = (
    *NUMBERS[:-1],
    *(
        "yes",
        "no",
        "~",
        "null",
        "''",
        "[]",
        "{}",
        "[1, 2]",
        "[[1]]",
        "{a: 1}",
        "{1: {2: 3}}",
        "2024-01-01",
        "2024-99-99",
        "1:30",
    ),
    *(
        "!!python/object/apply:os.system [id]",
        "!!int x",
        "!!float x",
        "!!bool maybe",
        "!!binary aGk=",
        "!!binary x",
        "!!set {a}",
    ),
    *(
        "&a [*a]",
        "*nothing",
        "|\n  a\n  b",
        '"\\0"',
        '"\\ud800"',
        "'\x1b[31m'",
        "[yes]",
        "[nan]",
        "[.nan]",
        ".inf",
        "<<",
        "smart",
    ),
    *(
        "[" * 2000,
        "{a: " * 2000,
        "&a [x,x,x,x,x,x,x,x,x]",
        "!!str 3",
        "0o17",
        "017",
        "0b1",
        "+3",
        "-0",
        "1e-3",
        "'5'",
        "? a",
    ),
    *(
        "smart.weight=3",
        "[smart, [noisytune]]",
        "{smart.weight: .nan}",
        "{smart: {weight: [1]}}",
        "{smart: 3}",
        "\udcff",
        "movie-reviews",
    ),
)


@functools.cache
def _commands() -> dict[str, Any]:
    command: Any = typer.main.get_command(app)
    return {name: verb for name, verb in command.commands.items() if name not in LEFT_OUT}


def verbs() -> list[str]:
    """All that can be fuzzed."""
    return sorted(_commands())


@functools.cache
def setting_names(verb: str) -> list[str]:
    """The settings of a verb's configuration."""
    return sorted({"train": TrainSettings, "compare": CompareSettings}[verb].model_fields)


def arguments(verb: str, chance: Random, model: str) -> tuple[str, ...]:
    """Some of a verb's options, with the rows and the model that make most of them reach further."""
    given: list[str] = []
    if verb in ("train", "compare") and chance.random() < 0.8:
        given += ["--train-file", "t.csv", "--model", model]
    for _ in range(chance.choice((0, 1, 1, 2, 3))):
        given += _one(verb, chance)
    return tuple(given)


def changed(verb: str, given: tuple[str, ...], chance: Random) -> tuple[str, ...]:
    """The same with an option more, less, or another value."""
    kept = list(given)
    match chance.randrange(4):
        case 0 if kept:
            kept[chance.randrange(len(kept))] = chance.choice((*NUMBERS, *WORDS))
        case 1 if kept:
            del kept[chance.randrange(len(kept))]
        case _:
            kept += _one(verb, chance)
    return tuple(kept)


def _one(verb: str, chance: Random) -> list[str]:
    parameter = chance.choice(_commands()[verb].params)
    value = _value(parameter, chance)
    if parameter.param_type_name == "argument":
        return [value]
    option = chance.choice(parameter.opts)
    if getattr(parameter, "is_flag", False):
        return [chance.choice((*parameter.opts, *parameter.secondary_opts))]
    return [option, value] if chance.random() < 0.95 else [f"{option}={value}"]


def _value(parameter: Any, chance: Random) -> str:
    numeric = str(parameter.metavar or "") in ("N", "X")
    return chance.choice(NUMBERS if numeric and chance.random() < 0.8 else WORDS)
