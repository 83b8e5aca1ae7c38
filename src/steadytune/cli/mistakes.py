"""Mistakes on the command line, answered in one line, with the name that was meant where one is near."""

from __future__ import annotations

from typing import Any

from steadytune.cli.verb import Verb, verbs
from steadytune.errors import did_you_mean


def is_usage_error(error: BaseException) -> bool:
    """Whether the parser of the command line raised it (typer carries a click of its own in some versions)."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def usage_message(error: Any) -> str:
    """One line for a mistake on the command line, with a suggestion where one is near."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the whole help
        return "No command given. (`steadytune --help` lists them)"
    message = str(error.format_message())
    if "did you mean" in message.lower() or context is None:
        return message
    wrong = getattr(error, "option_name", None)
    if wrong is not None:
        message = f"No such option: {wrong}.{_meant(wrong, context)}"
    elif "No such command" in message:
        wrong = message.split("'")[1]
        message = f"{message}{did_you_mean(wrong, context.command.commands)}"
    where = getattr(context, "command_path", "steadytune")
    return f"{message} (`{where} --help` shows what there is)"


def _meant(option: str, context: Any) -> str:
    """A sentence on an option: what it is called here, whose it is, or the nearest one."""
    known = [name for parameter in context.command.params for name in parameter.opts]
    verb = next((verb for verb in verbs() if verb.name == context.info_name), None)
    return (verb and _known_otherwise(option, verb)) or did_you_mean(option, known)


def _known_otherwise(option: str, verb: Verb) -> str:
    """What this verb calls an option of another tool, or which verb of ours has it."""
    from steadytune.settings.fields import answered_with
    from steadytune.settings.of_verbs import verbs_with

    name = option.lstrip("-").replace("-", "_")
    for kind in (verb.settings(), verb.options()):
        ours = answered_with(kind, name) if kind is not None else ""
        if ours:
            return f" Did you mean '--{ours.replace('_', '-')}'?"
    others = verbs_with([name]) if verb.settings() is not None else []
    return f" It is one of `steadytune {others[0]}`." if others else ""
