"""Options of a verb, made of the fields of its settings, so that no name, default or help text is written twice."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from steadytune.cli import suggestions
from steadytune.errors import SettingsError
from steadytune.settings.asked import FromFile
from steadytune.settings.fields import Facts, all_facts, facts_of
from steadytune.settings.resolve import parse_assignments, resolve
from steadytune.support.text import excerpt

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from steadytune.cli.verb import Verb
    from steadytune.settings.fields import Settings

#: The group of what matters most.
FIRST = "Options used most"

#: Characters of values that are listed behind their option.
LONGEST_CHOICES = 24
#: Ends the name of what is given by its place and could be given by an option.
HERE = "_here"
#: What stands for a value of a type.
_METAVARS = {int: "N", float: "X", str: "TEXT", bool: ""}


def command_of(verb: Verb) -> Callable[..., None]:
    """The function whose parameters are the options of a verb, and which does what the verb does."""
    kinds = [kind for kind in (verb.settings(), verb.options()) if kind is not None]

    def command(**given: Any) -> None:
        call(verb, {name: value for name, value in given.items() if value is not None})

    parameters = {p.name: p for kind in kinds for p in _parameters(kind)}
    first = {name: known.first or len(parameters) for kind in kinds for name, known in all_facts(kind).items()}
    in_order = sorted(parameters.values(), key=lambda p: first.get(p.name, len(parameters)))
    command.__signature__ = inspect.Signature(in_order)  # pyright: ignore[reportFunctionMemberAccess]
    command.__doc__ = verb.summary
    command.__name__ = verb.name
    return command


def call(verb: Verb, given: Mapping[str, Any]) -> None:
    """Do what a verb does.

    Args:
        verb: the verb.
        given: what was given on the command line, by name.
    """
    options_of, settings_of = verb.options(), verb.settings()
    values = dict(_read(given, [kind for kind in (settings_of, options_of) if kind is not None]))
    options = options_of(**{name: values.pop(name) for name in options_of.model_fields if name in values})
    if settings_of is None:
        verb.run()(options)
        return
    config, scale = (options.config, options.scale) if isinstance(options, FromFile) else (None, None)
    verb.run()(resolve(settings_of, values, config, scale), options)


def _read(given: Mapping[str, Any], kinds: list[type[Settings]]) -> Iterator[tuple[str, Any]]:
    """Options that may be given again come as lists: assignments of those that are tables, words of the others."""
    fields = {name: field for kind in kinds for name, field in kind.model_fields.items()}
    for place, value in given.items():
        name = place.removesuffix(HERE)
        if name != place and name in given:
            raise SettingsError(f"{excerpt(value)} and {_option(name)} {excerpt(given[name])}: give one of them.")
        field = fields.get(name)
        repeated = field is not None and facts_of(field).repeated
        if repeated and not value:
            continue
        table = field is not None and get_origin(field.annotation) is dict
        yield name, parse_assignments(value, _option(name)) if repeated and table else value


def _parameters(kind: type[Settings]) -> Iterator[inspect.Parameter]:
    for name, field in kind.model_fields.items():
        facts = facts_of(field)
        if facts.in_file_only:
            continue
        yield _parameter(name, field, facts)
        if _is_also_positional(facts):
            argument = typer.Argument(metavar=facts.metavar, show_default=False)
            yield _keyword(name + HERE, str | None, argument, None)
        if facts.one:
            yield _for_one(name, field, facts)


def _parameter(name: str, field: FieldInfo, facts: Facts) -> inspect.Parameter:
    kind: Any = list[str] if facts.repeated else _plain_type(field.annotation)
    option, metavar = facts.option or _option(name), facts.metavar or _written(field) or _METAVARS.get(kind, "TEXT")
    if kind is bool and field.default is True:  # a flag could not switch it off
        kind, metavar = str, "true|false"
    shown = _shown_as(facts, _help(field), metavar, field)
    if facts.positional and not _is_also_positional(facts):
        default = inspect.Parameter.empty if facts.required else None
        return _keyword(name, kind if facts.required else kind | None, typer.Argument(**shown), default)
    names = [option, facts.short] if facts.short else [option]
    return _keyword(name, kind | None, typer.Option(*names, **shown), None)


def _for_one(name: str, field: FieldInfo, facts: Facts) -> inspect.Parameter:
    """The option for a single value of what is a list."""
    kind = int if _plain_type(field.annotation) is int else str
    several = _option(name)
    said = f"The same as {several}{' with one value' if several.endswith('s') else ''}."
    shown = _shown_as(facts, said, facts.metavar.partition(",")[0] or _METAVARS[kind], field)
    shown["rich_help_panel"] = facts.panel
    return _keyword(facts.one, kind | None, typer.Option(_option(facts.one), **shown), None)


def _shown_as(facts: Facts, said: str, metavar: str, field: FieldInfo) -> dict[str, Any]:
    """How a parameter looks in the help and in completion."""
    return {
        "help": said,
        "show_default": False,
        "metavar": metavar,
        "rich_help_panel": FIRST if facts.first else facts.panel,
        "autocompletion": _completion(facts, field.annotation),
    }


def _is_also_positional(facts: Facts) -> bool:
    """Whether a setting can be given by its place or by its option."""
    return facts.positional and not facts.required and not facts.repeated


def _keyword(name: str, kind: Any, info: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _help(field: FieldInfo) -> str:
    """The help of a setting, with its values where there are a few, and its default."""
    said, choices, default = field.description or "", _choices(field.annotation), field.default
    if not _written(field) and any(str(choice) not in said for choice in choices):
        said += f" One of {', '.join(choices)}."
    if facts_of(field).by_recipe:
        return f"{said} Default: the recipe's ({_shown(default)} in that of Transformers)."
    if isinstance(default, list | tuple):
        shown = ",".join(_shown(value) for value in default)
    else:
        shown = "" if default is None or default is False or isinstance(default, dict) else _shown(default)
    return said + (f" Default {shown}." if shown and shown != "PydanticUndefined" else "")


def _written(field: FieldInfo) -> str:
    """The values of a setting that has a few, as they stand for the value in the help."""
    joined = "|".join(_choices(field.annotation))
    return joined if len(joined) <= LONGEST_CHOICES else ""


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if value is True else str(value)


def _completion(facts: Facts, annotation: Any) -> Callable[[str], list[str]] | None:
    """What completes the values of a setting; nothing for files, which shells complete themselves."""
    if facts.completes:
        return getattr(suggestions, facts.completes)
    choices = _choices(annotation)
    return suggestions.one_of(choices) if choices else None


def _choices(annotation: Any) -> tuple[str, ...]:
    """The values of a ``Literal``, also of one that may be ``None``."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((found for part in get_args(annotation) if (found := _choices(part))), ())


def _plain_type(annotation: Any) -> Any:
    """The type that the command line should parse: the settings themselves check ranges and choices."""
    arguments = [a for a in get_args(annotation) if a is not types.NoneType]
    if get_origin(annotation) in (Union, types.UnionType):
        return _plain_type(arguments[0])
    return annotation if annotation in (int, float, bool) else str
