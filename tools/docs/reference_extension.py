"""How the API reference reads our code: doctests as examples, settings by their default (an extension of griffe)."""

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
    text = text.replace("Example::\n", "Example\n").replace("\nExample:\n", "\nExamples:\n")
    paragraphs = text.split("\n\n")
    bare = [f"Examples:\n{textwrap.indent(p, '    ')}" if p.startswith(">>> ") else p for p in paragraphs]
    return "\n\n".join(bare)


class ReferenceExtension(griffe.Extension):
    """Rewrites what is read before the pages are made of it."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = with_examples(obj.docstring.value)

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """``weight: float = hyperparameter(1.0, ...)`` is shown as ``weight: float = 1.0``."""
        value = attr.value
        if isinstance(value, griffe.ExprCall) and value.canonical_path.endswith("hyperparameter"):
            attr.value = value.arguments[0]  # before the dataclass gets its signature
