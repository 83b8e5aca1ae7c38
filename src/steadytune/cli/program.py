"""The program: its verbs, listed without importing any, and the one that is called with its options."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from steadytune.cli.help import ProgramHelp, VerbHelp
from steadytune.cli.verb import Verb, verbs
from steadytune.version import __version__

#: Stands for all verbs, where any of them may be asked for.
ALL = "*"


def named_in(arguments: Iterable[str]) -> str:
    """The verb among the arguments, so that only its options are made; empty without one."""
    known = {verb.name for verb in verbs()}
    return next((word for word in arguments if word in known), "")


@functools.cache
def program(asked: str = ALL) -> typer.Typer:
    """The command line.

    Args:
        asked: the verb that is called; the others are listed without options, because making them takes longer than
            showing the help.
    """
    app = typer.Typer(
        name="steadytune",
        cls=ProgramHelp,
        help="Fine-tuning of pretrained transformers that holds steady on little data: "
        "NoisyTune and SMART, as published.",
        epilog="First: steadytune compare --task movie-reviews --train-size 64. Your own rows: steadytune init FILE",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={
            "help_option_names": ["-h", "--help"],
            "token_normalize_func": lambda name: name.replace("_", "-"),  # as the names of TrainingArguments are typed
        },
    )
    app.callback()(_program)
    for verb in verbs():
        run = _with_options(verb) if asked in (ALL, verb.name) else _listed(verb)
        app.command(verb.name, cls=VerbHelp, epilog=f"Example: {verb.example}", rich_help_panel=verb.panel)(run)
    return app


def _with_options(verb: Verb) -> Callable[..., None]:
    from steadytune.cli.options import command_of  # pydantic, which listing the verbs does not need

    return command_of(verb)


def _listed(verb: Verb) -> Callable[..., None]:
    def stub() -> None:
        raise AssertionError(f"{verb.name} was not asked for")

    stub.__doc__ = verb.summary
    return stub


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"steadytune {__version__}")
        raise typer.Exit


def _program(
    _version_asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    _debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; also after a verb.")
    ] = False,
) -> None:
    pass
