"""Shows the doctests of docstrings as examples in the API reference (an extension of griffe, named in mkdocs.yml)."""

from __future__ import annotations

import textwrap
from typing import Any

import griffe


def with_examples(text: str) -> str:
    """The docstring with its doctests in a section that griffe knows.

    >>> print(with_examples("Adds.\\n\\n>>> 1 + 1\\n2\\n"))
    Adds.
    <BLANKLINE>
    Examples:
        >>> 1 + 1
        2
    <BLANKLINE>
    """
    paragraphs = text.replace("\nExample:\n", "\nExamples:\n").split("\n\n")
    bare = [f"Examples:\n{textwrap.indent(p, '    ')}" if p.startswith(">>> ") else p for p in paragraphs]
    return "\n\n".join(bare)


class DoctestExamples(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = with_examples(obj.docstring.value)
