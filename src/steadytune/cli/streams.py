"""Output that breaks no command: streams that cannot show a character, that are closed, or whose reader has gone."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys

#: How characters that a stream cannot show are written instead.
SPELLED = {
    **{"→": "->", "…": "...", "×": "x", "\u2212": "-", "–": "-", "—": "-", "±": "+/-", "·": ".", "•": "*"},
    **{"\u2018": "'", "\u2019": "'", "“": '"', "”": '"', "≤": "<=", "≥": ">=", "λ": "lambda", "━": "-", "─": "-"},
}
_HANDLER = "steadytune.spelled"
#: The exit status of a command whose reader has gone, as if the signal SIGPIPE had ended it.
READER_GONE = 141


def spell(error: UnicodeError) -> tuple[str, int]:
    r"""Spell what an encoding lacks, as a handler of encoding errors; other characters are escaped.

    >>> codecs.register_error("doctest.spelled", spell)
    >>> "0.5 → 0.7 é\u4f60".encode("latin-1", "doctest.spelled")
    b'0.5 -> 0.7 \xe9\\u4f60'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wanted = error.object[error.start : error.end]
    return "".join(SPELLED.get(c) or c.encode("ascii", "backslashreplace").decode() for c in wanted), error.end


def never_fail_to_print() -> None:
    """Let standard output and error take any text, whatever their encoding, and also when they are closed."""
    codecs.register_error(_HANDLER, spell)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell: `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the rest of the process
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HANDLER)


def flush() -> bool:
    """Write out what is still held back.

    Returns:
        Whether there is a reader; where there is none, what is printed from now on goes nowhere.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        let_go()
        return False
    except (OSError, ValueError):  # a full disk behind `>`, a closed stream: told where it is written
        return True
    return True


def let_go() -> None:
    """Send what is printed from now on nowhere, so that Python does not complain as it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
