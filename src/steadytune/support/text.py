"""Text for people: numbers with their nouns, durations, excerpts, one line."""

from __future__ import annotations

import math
import re

from steadytune.errors import SteadytuneError
from steadytune.support.secrets import redact


def counted(number: int, noun: str) -> str:
    """A number and what it counts, in the singular for one.

    >>> counted(1, "run"), counted(8262, "update"), counted(0, "seed")
    ('1 run', '8,262 updates', '0 seeds')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


MINUS = "\u2212"


def plain_text(text: object) -> str:
    """Text from anywhere as one line of visible characters: no control characters, no change of direction.

    Example:
        >>> plain_text("a\\x00b\\nc")
        'a\\\\x00b c'
    """
    return printable(" ".join(str(text).split()))


def shortened(text: str, letters: int) -> str:
    """Text without its middle, where it is too long.

    Example:
        >>> shortened("noisytune+smart(weight=3)", 18)
        'noisytun…(weight=3)'
    """
    if len(text) <= letters + 1:
        return text
    head = letters // 2 - 1
    return f"{text[:head]}…{text[len(text) - (letters - head) :]}"


def number(value: float | None, digits: int = 3) -> str:
    """A score; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 1e5 or 0 < abs(value) < 10**-digits / 2:
        return f"{value:.2g}".replace("-", MINUS)
    return f"{value:.{digits}f}".replace("-", MINUS)


def percent(value: tuple[float, float | None] | None) -> str:
    """A mean in percent and its standard deviation, if there is one.

    Example:
        >>> percent((71.25, 1.04)), percent((88.0, None)), percent(None)
        ('71.2 ± 1.0', '88.0', '–')
    """
    if value is None:
        return "–"
    mean, deviation = value
    return number(mean, 1) if deviation is None else f"{number(mean, 1)} ± {number(deviation, 1)}"


def signed(value: float | None, digits: int = 3) -> str:
    """A gain, with its sign.

    Example:
        >>> signed(0.0117), signed(-0.00021), signed(0.0)
        ('+0.012', '−0.0002', '0.000')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value and abs(value) < 0.5 * 10**-digits:
        digits += 1
    rounded = round(value, digits)
    return f"{'+' if rounded > 0 else MINUS if rounded < 0 else ''}{abs(rounded):.{digits}f}"


def interval(ends: tuple[float, float] | None) -> str:
    """An interval of gains; empty for none."""
    return f"[{signed(ends[0])}, {signed(ends[1])}]" if ends else ""


def interval_or_dash(ends: tuple[float, float] | None) -> str:
    """An interval of gains; a dash for none.

    Example:
        >>> interval_or_dash((0.01, 0.02)), interval_or_dash(None)
        ('[+0.010, +0.020]', '–')
    """
    return interval(ends) or number(None)


def ratio(value: float | None) -> str:
    """A cost as a multiple of plain training's.

    Example:
        >>> ratio(3.104), ratio(None)
        ('3.10×', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{value:.2f}×"


def chance(p: float | None) -> str:
    """A p-value.

    Example:
        >>> chance(0.03125), chance(0.0004), chance(None)
        ('0.031', '< 0.001', '–')
    """
    if p is None or not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def rate(value: float | None) -> str:
    """A learning rate.

    Example:
        >>> rate(1e-4), rate(5e-5)
        ('1e-4', '5e-5')
    """
    if value is None:
        return "–"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def duration(seconds: float | None) -> str:
    """A length of time.

    Example:
        >>> duration(42), duration(754), duration(9000)
        ('42 s', '13 min', '2.5 h')
    """
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


LONGEST_EXCERPT = 60


MOST_LISTED = 20


def excerpt(value: object) -> str:
    r"""Return a value from a data file fit for a terminal: escaped by `repr`, cut to 60 characters.

    >>> excerpt("red \x1b[31m")
    "'red \\x1b[31m'"
    """
    text = redact(str(value))
    escaped = repr(text[: LONGEST_EXCERPT + 1])
    if len(text) <= LONGEST_EXCERPT and len(escaped) <= LONGEST_EXCERPT + 2:
        return escaped
    return repr(text[:LONGEST_EXCERPT])[1:-1][:LONGEST_EXCERPT].join("''") + "..."


def listing(names: list[str]) -> str:
    """Return names as a comma-separated list of excerpts, at most 20 of them.

    >>> listing(["text", "label"])
    "'text', 'label'"
    """
    rest = len(names) - MOST_LISTED
    return ", ".join(excerpt(name) for name in names[:MOST_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def printable(text: str) -> str:
    """Show control characters and marks of direction as escapes, and hide secrets: what every line of ours passes.

    >>> printable("a\\x1b[31mb")
    'a\\\\x1b[31mb'
    """
    shown = redact(text)
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in shown)


def brief(error: object, letters: int = 300) -> str:
    """Return an error's message without secrets, on one line of at most ``most`` letters.

    >>> brief(ValueError("no\\n  good"))
    'no good'
    """
    return " ".join(redact(str(error)).split())[:letters]


def safe_name(name: str) -> str:
    """A name as one part of a path: letters, digits and ``+._-`` stay, all else becomes ``_``.

    >>> safe_name("../runs/my run+smart(weight=3)")
    '.._runs_my_run+smart_weight_3_'
    """
    return "".join(c if c.isalnum() or c in "+._-" else "_" for c in name)


def one_line(error: BaseException) -> str:
    """What an error says, on one line, with its type unless it is one of ours.

    >>> one_line(ValueError("no\\n  good"))
    'ValueError: no good'
    """
    text = brief(error, 500)
    return text if isinstance(error, SteadytuneError) else f"{type(error).__name__}: {text}"


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::|://)")


def is_url(output_dir: str | None) -> bool:
    """Whether results are to be kept elsewhere.

    >>> is_url("s3://bucket/first"), is_url("runs/first"), is_url(None)
    (True, False, False)
    """
    return output_dir is not None and _URL.match(output_dir) is not None
