"""The command line: ``steadytune train``, ``methods``, ``explain``, ``tasks``, ``doctor``.

Nothing here imports torch before a verb needs it, so that help and mistakes answer at once.
"""

import sys
from collections.abc import Sequence

from steadytune.errors import what_to_install

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status; see `steadytune.cli.app.main`."""
    try:
        from steadytune.cli.app import main as run  # typer, which the library alone does not bring
    except ImportError as error:
        remedy = what_to_install(error)
        if not remedy:
            raise
        print(f"steadytune: {remedy}", file=sys.stderr)
        return 2
    return run(arguments)
