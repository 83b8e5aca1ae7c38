"""How numbers and names read in a report."""

from __future__ import annotations

import re

from steadytune.settings.expressions import BASELINE
from steadytune.support.text import plain_text


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


def size(train_size: str | None) -> str:
    """A training size in words."""
    if train_size is None:
        return "all rows"
    text = plain_text(train_size)
    return (
        f"{int(text):,} rows"
        if text.isascii() and text.isdigit()
        else f"{text} of the rows"
        if text.endswith("%")
        else text
    )


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
