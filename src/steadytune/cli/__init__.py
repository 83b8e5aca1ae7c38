"""The command line: ``steadytune train``, ``methods``, ``explain``, ``tasks``, ``doctor``.

Nothing here imports torch before a verb needs it, so that help and mistakes answer at once.
"""

from steadytune.cli.app import main

__all__ = ["main"]
