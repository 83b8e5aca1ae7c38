"""What `--help` shows, laid out so that nothing is cut: a name that is too long for its column has a line alone."""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

#: Characters of the column of names, and the most of a line.
NAMES, WIDEST = 26, 100
#: The groups that come last, in this order.
OTHERS = "Other options"
LAST = ("Output", OTHERS)

Entry = tuple[str, str]


class VerbHelp(TyperCommand):
    """A verb whose help is laid out here."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page of a verb."""
        formatter.write(page(_usage(ctx, self.params), self.help, _groups(self.params), self.epilog))


class ProgramHelp(TyperGroup):
    """The program, whose list of verbs is laid out here."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the list of the verbs."""
        groups: dict[str, list[Entry]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            groups.setdefault(str(command.rich_help_panel), []).append((name, command.help or ""))
        options = _groups(self.params)
        formatter.write(page(f"{ctx.command_path} VERB [OPTIONS]", self.help, groups | options, self.epilog))


def page(usage: str, text: str | None, groups: dict[str, list[Entry]], last: str | None) -> str:
    """A help page.

    >>> print(page("x [OPTIONS]", "Do it.", {}, None).strip())
    Usage: x [OPTIONS]
    <BLANKLINE>
    Do it.
    """
    width = _width()
    lines = [*_wrapped(f"Usage: {usage}", width), "", *_wrapped(text or "", width), ""]
    for title, entries in groups.items():
        lines += [_bold(f"{title}:"), *(line for entry in entries for line in _entry(*entry, width)), ""]
    lines += _wrapped(last or "", width)
    return "\n".join(lines) + ("\n" if last else "")


def _entry(names: str, text: str, width: int) -> Iterator[str]:
    indent = " " * (NAMES + 2)
    told = _wrapped(text, max(width - len(indent), 20))
    if len(names) > NAMES - 2 or not told:
        yield f"  {names}"
    else:
        yield f"  {names:<{NAMES}}{told.pop(0)}"
    yield from (indent + line for line in told)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)


def _width() -> int:
    given = os.environ.get("TERMINAL_WIDTH", "")
    return min(int(given) if given.isdigit() else shutil.get_terminal_size().columns, WIDEST)


def _bold(text: str) -> str:
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return text if plain else typer.style(text, bold=True)


def _usage(context: Any, parameters: Iterable[Any]) -> str:
    places = [_place(p) for p in parameters if p.param_type_name == "argument"]
    return " ".join([context.command_path, *places, "[OPTIONS]"])


def _place(argument: Any) -> str:
    """An argument in the line of usage.

    >>> from types import SimpleNamespace
    >>> _place(SimpleNamespace(metavar="NAME", name="names", required=False, nargs=-1))
    '[NAME]...'
    """
    name = str(argument.metavar or argument.name.upper())
    return (name if argument.required else f"[{name}]") + ("..." if argument.nargs == -1 else "")


def _groups(parameters: Iterable[Any]) -> dict[str, list[Entry]]:
    """Names and texts of the parameters by group; what can be given by its place or by an option is one entry."""
    shown = [p for p in parameters if not getattr(p, "hidden", False)]
    places = {p.name: p for p in shown if p.param_type_name == "argument"}
    found: dict[str, list[Entry]] = {}
    for parameter in shown:
        if parameter.param_type_name == "argument":
            if parameter.help:
                found.setdefault(parameter.rich_help_panel or OTHERS, []).append((_place(parameter), parameter.help))
            continue
        names = ", ".join(sorted(parameter.opts, key=len)) + f" {_value(parameter)}".rstrip()
        same = places.get(f"{parameter.name}_here")
        names = names if same is None else f"{same.metavar}, {names}"
        group = parameter.rich_help_panel or OTHERS
        found.setdefault(group, []).append((names, parameter.help or ""))
    return {name: found[name] for name in sorted(found, key=lambda name: LAST.index(name) if name in LAST else -1)}


def _value(option: Any) -> str:
    return "" if option.is_flag or option.count else str(option.metavar or "")
