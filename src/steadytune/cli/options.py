"""Options of `train` and `compare`, made of the fields of their settings, so that no name is written twice."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer

from steadytune.cli import suggestions
from steadytune.errors import did_you_mean

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from steadytune.settings.train import TrainSettings

#: The group of what is said about the run itself.
RUN_PANEL = "Output"

#: Options that may be given again, and what they look like.
REPEATED = {"set": "METHOD.SETTING=VALUE", "vary": "METHOD.SETTING=VALUE,VALUE", "search": "trials=N"}


#: What stands for the value of an option where its type says too little.
METAVARS = {
    **dict.fromkeys(("train_file", "validation_file", "test_file"), "FILE"),
    **dict.fromkeys(("text_column", "text_pair_column", "label_column"), "COLUMN"),
    **dict.fromkeys(("data_dir", "output_dir"), "DIR"),
    "delimiter": "CHAR",
    "encoding": "NAME",
    "methods": "NAME,NAME",
    "train_size": "N|%",
    "learning_rates": "X,X",
}


@dataclass(frozen=True)
class TrainOptions:
    """What was given on the command line of `train` or `compare`; ``None`` for what was not.

    ``flags`` are the names out of `FLAGS` that were.
    """

    settings: dict[str, Any]
    config: Path | None
    quiet: bool
    scale: str | None = None
    flags: frozenset[str] = frozenset()


Verb = Callable[[TrainOptions], None]


#: What a verb can be asked for that is no setting, with its help.
FLAGS = {"compare": {"plan": "Say which runs there are, how many are made and what they cost; train nothing."}}


def with_settings(verb: Verb, name: str) -> Callable[..., None]:
    """Give a verb one option per setting, plus ``--config`` and ``--quiet``.

    Args:
        verb: gets what was given.
        name: of the verb, as the settings know it.
    """
    from steadytune.settings.of_verbs import kind_of

    return _with_options(verb, kind_of(name), FLAGS.get(name, {}))


def _with_options(verb: Verb, kind: type[TrainSettings], flags: Mapping[str, str]) -> Callable[..., None]:
    def command(**given: Any) -> None:
        config, quiet, scale = given.pop("config"), given.pop("quiet"), given.pop("scale")
        asked = frozenset(name for name in flags if given.pop(name))
        verb(TrainOptions(given, config, quiet, scale, asked))

    left_out = getattr(kind, "left_out", ())
    parameters = [_parameter(name, kind) for name in kind.model_fields if name not in left_out]
    parameters += [
        _of_every_verb(
            "config",
            None,
            Path | None,
            "--config",
            metavar="FILE",
            help="YAML file of settings; options given here win.",
        ),
        _of_every_verb(
            "scale", None, str | None, "--scale", metavar="NAME", help="Which of the file's scales to run, e.g. small."
        ),
        *(_of_every_verb(name, False, bool, f"--{name}", metavar="", help=text) for name, text in flags.items()),
        _of_every_verb("quiet", False, bool, "--quiet", "-q", metavar="", help="Show nothing but errors."),
    ]
    command.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    command.__doc__ = verb.__doc__
    command.__name__ = verb.__name__
    return command


def _of_every_verb(name: str, default: Any, kind: Any, *options: str, **info: Any) -> inspect.Parameter:
    """A parameter that is no setting."""
    option = typer.Option(*options, rich_help_panel=RUN_PANEL, **info)
    annotation = Annotated[kind, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _parameter(name: str, kind_of_settings: type[TrainSettings]) -> inspect.Parameter:
    field = kind_of_settings.model_fields[name]
    extra = field.json_schema_extra
    panel = str(extra["panel"]) if isinstance(extra, dict) else RUN_PANEL
    help_text = _description(field)
    stands_for = getattr(kind_of_settings, "stands_for", {}).get(name)
    if field.default not in (None, False, [], {}) and not isinstance(field.default, list):
        help_text += (
            f" Default {field.default:g}." if isinstance(field.default, float) else f" Default {field.default}."
        )
    if stands_for is not None:
        other = "--" + stands_for.replace("_", "-")  # which has the default
        one = " with one value" if other.endswith("s") else ""
        help_text = f"{_description(field)} The same as {other}{one}."
    kind = _plain_type(field.annotation)
    option = "--" + name.replace("_", "-")
    if isinstance(field.default, list) and field.default:
        help_text += f" Default {','.join(f'{v:g}' if isinstance(v, float) else v for v in field.default)}."
    metavar = METAVARS.get(name) or {int: "N", float: "X", str: "TEXT", bool: ""}[kind]
    if name in REPEATED:
        kind, metavar = list[str], REPEATED[name]
    if kind is bool and field.default is True:  # a flag could not switch it off
        kind, metavar = str, "true|false"
    info = typer.Option(
        option,
        help=help_text,
        rich_help_panel=panel,
        show_default=False,
        metavar=metavar,
        autocompletion=_completion(name, field.annotation),
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
    )


def _description(field: FieldInfo) -> str:
    """The help of a setting; of one with a few values it names them all."""
    said, choices = field.description or "", _choices(field.annotation)
    if any(choice not in said for choice in choices):
        said += f" One of {', '.join(choices)}."
    return said


def _completion(name: str, annotation: Any) -> Callable[[str], list[str]] | None:
    """What completes the values of a setting; nothing for files, which shells complete themselves."""
    named = {
        "methods": suggestions.methods,
        "task": suggestions.tasks,
        "tasks": suggestions.tasks,
        "set": suggestions.assignments,
        "vary": suggestions.assignments,
    }
    choices = _choices(annotation)
    return named.get(name) or (suggestions.one_of(choices) if choices else None)


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
    if get_origin(annotation) is Literal:
        return str
    return annotation if annotation in (int, float, bool) else str


def is_usage_error(error: BaseException) -> bool:
    """Whether the parser of the command line raised it (typer carries a click of its own in some versions)."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _of_another_verb(option: str, context: Any) -> str:
    """A sentence on an option that another verb of training has, where this is such a verb."""
    from steadytune.settings.of_verbs import KINDS, verbs_with

    if context.info_name not in KINDS:
        return ""
    verbs = verbs_with([option.lstrip("-").replace("-", "_")])
    return f" It is one of `steadytune {verbs[0]}`." if verbs else ""


def usage_message(error: Any) -> str:
    """One line for a mistake on the command line, with a suggestion where one is near."""
    message = str(error.format_message()) or "Name a verb."
    context = getattr(error, "ctx", None)
    if "did you mean" in message.lower() or context is None:
        return message
    wrong = getattr(error, "option_name", None)
    if wrong is not None:
        known = [name for parameter in context.command.params for name in parameter.opts]
        message = f"No such option: {wrong}.{_of_another_verb(wrong, context) or did_you_mean(wrong, known)}"
    elif "No such command" in message:
        wrong = message.split("'")[1]
        message = f"{message}{did_you_mean(wrong, context.command.commands)}"
    where = getattr(context, "command_path", "steadytune")
    return f"{message} (`{where} --help` shows what there is)"
