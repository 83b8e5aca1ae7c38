"""What a verb raises when the user stopped it, and how it says that the run can go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(Exception):  # noqa: N818 - not an error: the user asked for it
    """Stopped by the user; the message says how to go on."""


@contextmanager
def told_how_to_go_on() -> Iterator[None]:
    """While a run trains, turn its being stopped into `Stopped`."""
    from steadytune.experiments.run import Interrupted

    try:
        yield
    except Interrupted as stopped:
        raise Stopped(f"{stopped}; the same command continues from there.") from None
