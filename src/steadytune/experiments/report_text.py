"""How numbers and names read in a report."""

from __future__ import annotations

import math
import re

from steadytune.experiments.records import BASELINE

MINUS = "\u2212"


def plain_text(text: object) -> str:
    """Text from anywhere as one line of visible characters: no control characters, no change of direction.

    Example:
        >>> plain_text("a\\x00b\\nc")
        'a\\\\x00b c'
    """
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def label(candidate: str) -> str:
    """The name of a candidate for readers.

    Example:
        >>> label("none"), label("none@3.00x"), label("smart(weight=3)")
        ('plain', 'plain, 3.00× updates', 'smart(weight=3)')
    """
    if candidate == BASELINE:
        return "plain"
    if candidate.startswith(f"{BASELINE}@"):
        return f"plain, {plain_text(candidate.partition('@')[2]).removesuffix('x')}× updates"
    return plain_text(candidate)


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
    """A mean in per cent and its standard deviation, if there is one.

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


def size(train_size: str | None) -> str:
    """A training size in words."""
    if train_size is None:
        return "all rows"
    text = plain_text(train_size)
    return f"{int(text):,} rows" if text.isdigit() else f"{text} of the rows" if text.endswith("%") else text


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


#: What Markdown or HTML would take for markup: a tag, a character by name, and signs that are more than themselves.
TAG, ENTITY = re.compile(r"<(?=[A-Za-z/!?])"), re.compile(r"&(?=#?\w+;)")
MARKS = re.compile(r"[\\`*\[\]|~$#]|(?<!\w)_+|_+(?!\w)|^>")


def table_cell(text: object) -> str:
    """Text that means nothing to Markdown or HTML, as plain as it can be: in ``p < 0.05`` and ``r_drop`` nothing is.

    Example:
        >>> table_cell("a|b <i>*c*</i>")
        'a\\\\|b &lt;i>\\\\*c\\\\*&lt;/i>'
        >>> table_cell("r_drop: p < 0.05 & _more_"), table_cell("> &lt;b>")
        ('r_drop: p < 0.05 & \\\\_more\\\\_', '\\\\> &amp;lt;b>')
    """
    marked = MARKS.sub(lambda match: "".join(f"\\{sign}" for sign in match[0]), plain_text(text))
    return TAG.sub("&lt;", ENTITY.sub("&amp;", marked))
