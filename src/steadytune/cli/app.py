"""How a command line is run, and how every mistake becomes one line and an exit status."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steadytune.cli import mistakes
from steadytune.cli.program import named_in, program
from steadytune.cli.stopped import Stopped, no_interrupt_lost
from steadytune.cli.streams import READER_GONE, flush, let_go, never_fail_to_print
from steadytune.errors import SettingsError, SteadytuneError, what_to_install

BAD_INPUT, INTERNAL_ERROR, INTERRUPTED = 2, 1, 130
#: Longest error message, in characters; a path or a value in it can be a megabyte.
LONGEST_LINE = 1500
GONE = "the current folder was removed: change to one that is there."
#: By these a shell asks what may follow.
COMPLETION, WORDS = "_STEADYTUNE_COMPLETE", ("_TYPER_COMPLETE_ARGS", "COMP_WORDS")


def __getattr__(name: str) -> Any:
    if name == "app":  # with the options of all verbs, for those who look at it
        return program()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    0 done, 1 a fault of ours, 2 bad input (one line on standard error says what to do), 130 stopped by the user,
    141 what reads the output has gone.

    Args:
        arguments: without the program's name; those of the process by default.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments or bool(os.environ.get("STEADYTUNE_DEBUG"))
    arguments = [a for a in arguments if a != "--debug"]
    # Nothing here may talk to the network or to telemetry behind the user's back while it works offline.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    never_fail_to_print()
    try:
        os.getcwd()
    except OSError:  # torch would end the process
        return _fail(GONE, BAD_INPUT)
    try:
        refuse_several_processes()
        status = _run(arguments)
    except BrokenPipeError:
        let_go()
        return READER_GONE
    except (Exception, KeyboardInterrupt) as error:  # the last line of defense: no traceback unless asked for
        if debug:
            from steadytune.support.text import printable

            print(printable(traceback.format_exc()), file=sys.stderr)
        message, status = _describe(error)
        return _fail(message, status)
    if status == INTERRUPTED:  # typer's answer to Ctrl-C
        return _fail("stopped.", status)
    return status if flush() else READER_GONE


def _run(arguments: list[str]) -> int:
    words = arguments
    if COMPLETION in os.environ:
        words = [word for name in WORDS for word in os.environ.get(name, "").split()]
    try:
        with no_interrupt_lost():
            return program(named_in(words))(arguments, prog_name="steadytune", standalone_mode=False) or 0
    except SystemExit as ended:  # so typer and rich end where the reader of the output has gone
        if COMPLETION in os.environ or ended.code != 1:
            raise
        raise BrokenPipeError from None


def refuse_several_processes() -> None:
    """Refuse to be one of several processes, as torchrun starts them: each would make the same run.

    Raises:
        SettingsError: it is so.
    """
    number = os.environ.get("WORLD_SIZE", "1")
    if number.isdigit() and int(number) > 1:
        raise SettingsError(
            f"WORLD_SIZE is {number}: a command of steadytune is one process, so start it without torchrun or "
            "accelerate launch. `steadytune compare --workers N` makes several runs at the same time; in your own "
            "script, SteadyTrainer trains in several processes."
        )


def _describe(error: BaseException) -> tuple[str, int]:
    if isinstance(error, SteadytuneError):
        return str(error), BAD_INPUT
    if isinstance(error, Stopped | KeyboardInterrupt):
        return str(error) or "stopped.", INTERRUPTED
    if mistakes.is_usage_error(error):
        return mistakes.usage_message(error), BAD_INPUT
    if isinstance(error, OSError):
        return _of_the_system(error), BAD_INPUT
    said = _said_by_a_library(error)
    if said is not None:
        return said, BAD_INPUT
    return f"internal error, {type(error).__name__}: {error} (--debug shows where).", INTERNAL_ERROR


def _of_the_system(error: OSError) -> str:
    said = f"{error.strerror or error}: {error.filename or 'input or output'}."
    return said + _of_a_cache(str(error.filename or ""))


def _of_a_cache(path: str) -> str:
    """A sentence on a path in a cache of the Hub's libraries, which may lie where nothing can be written.

    >>> _of_a_cache("/elsewhere")
    ''
    """
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    caches = {
        "HF_DATASETS_CACHE": os.environ.get("HF_DATASETS_CACHE") or os.path.join(home, "datasets"),
        "HF_HUB_CACHE": os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"),
        "HF_HOME": home,
    }
    for variable, folder in caches.items():
        if path and Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder)):
            return f" It belongs to a cache: set {variable} to a folder that can be written."
    return ""


def _said_by_a_library(error: BaseException) -> str | None:
    """Errors a user can fix although they are no OSError: weights that could not be saved, an unknown home."""
    if isinstance(error, ImportError):
        return what_to_install(error) or None
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        return "a path begins with ~ and the name of nobody here; write it out."
    torch_signs = ("PytorchStreamWriter", "iostream error", "Parent directory")
    signs = {"SafetensorError": ("I/O error",), "RuntimeError": torch_signs}
    if any(sign in str(error) for sign in signs.get(type(error).__name__, ())):
        return f"a file could not be written ({error}): is the disk full? The same command continues."
    return None


def _fail(message: str, status: int) -> int:
    from steadytune.support.text import printable  # not for --help, which imports next to nothing

    line = " ".join(message.split())
    line = printable(line)
    if len(line) > LONGEST_LINE:
        line = f"{line[: LONGEST_LINE // 2]} [...] {line[-LONGEST_LINE // 2 :]}"
    print(f"steadytune: {line}", file=sys.stderr)
    return status
