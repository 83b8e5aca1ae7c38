"""The errors a user can cause, each one clear line: what was wrong, where, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SteadytuneError(Exception):
    """Base of every error that a user can fix; the command line prints it as one line and exits with status 2."""


class MethodError(SteadytuneError, ValueError):
    """A method's setting is out of range, two methods conflict, or a method would have no effect."""


class HostError(SteadytuneError, RuntimeError):
    """The model or the training loop lacks something that a method needs."""


class CheckpointError(SteadytuneError, RuntimeError):
    """A checkpoint does not belong to this stack, or holds no state for it."""


class DamagedCheckpointError(CheckpointError):
    """A file of a checkpoint is missing, cut off or not what was written."""


class DataError(SteadytuneError, ValueError):
    """A data file or a row of it cannot be used; the message names file, row and column."""


class SettingsError(SteadytuneError, ValueError):
    """A setting of the command line or of a configuration file is unknown or out of range."""


class DivergedError(SteadytuneError, ArithmeticError):
    """A loss or a weight is no longer a finite number."""


class ModelNotFoundError(SteadytuneError, RuntimeError):
    """A model was found neither in a folder nor in the cache nor on the Hub."""


#: What the commands import beyond what torch, Transformers, Accelerate and safetensors bring.
_OF_COMMANDS = (
    *("charset_normalizer", "datasets", "filelock", "fsspec", "jinja2", "matplotlib", "psutil", "pyarrow", "pydantic"),
    *("rich", "scipy", "sklearn", "tqdm", "typer", "yaml"),
)


def what_to_install(error: ImportError) -> str:
    """Say what to install where a package that the commands need is missing; empty for other errors.

    >>> what_to_install(ModuleNotFoundError("No module named 'typer'", name="typer"))
    "typer is not installed, which the commands need: pip install 'steadytune[cli]'."
    >>> what_to_install(ModuleNotFoundError("No module named 'mine'", name="mine"))
    ''
    """
    package = (error.name or "").partition(".")[0]
    if package not in _OF_COMMANDS:
        return ""
    return f"{package} is not installed, which the commands need: pip install 'steadytune[cli]'."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known name, or an empty string.

    >>> did_you_mean("smrat", ["smart", "noisytune"])
    " Did you mean 'smart'?"
    """
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
