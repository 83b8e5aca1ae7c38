"""What a verb of the command line is, and options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from steadytune.cli import suggestions

TRAINING, RESULTS, BEFORE, LOOKING = "Train", "Look at results", "Before training", "What there is"


NOISE, OUTPUT = "Noise", "Output"


SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="METHOD.SETTING=VALUE",
        help="A method's setting; repeatable.",
        autocompletion=suggestions.assignments,
    ),
]


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.", rich_help_panel=OUTPUT)]


DataDir = Annotated[str | None, typer.Option(metavar="DIR", help="Folder with the data sets of named tasks.")]


@dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
        run: does it; its signature is its arguments, unless they are made of settings.
        panel: the group it is listed in.
        example: shown below its help.
        settings: name of the settings that its options are made of; empty where it has a signature.
    """

    run: Callable[..., None]
    panel: str
    example: str
    settings: str = ""

    @property
    def name(self) -> str:
        """As it is written."""
        return self.run.__name__


VERBS: list[Verb] = []


def _verb(panel: str, example: str, settings: str = "") -> Callable[[Callable[..., None]], Callable[..., None]]:
    def keep(run: Callable[..., None]) -> Callable[..., None]:
        VERBS.append(Verb(run, panel, example, settings))
        return run

    return keep
