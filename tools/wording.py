"""Refuse turns of phrase that have to be read twice; `make lint` runs it beside the spell checker.

Each pattern has the plain words that replace it. It looks at everything that users and readers of the code see.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
BANNED: dict[str, str] = {
    r"so many(?! that)": "the number, or N",
    r"\b(is|are|was|were) told\b(?! apart)": "reported, raised, said",
    r"\b(goes|go|went) on\b": "continue, resume",
    r"\banew\b": "again, re-",
    r"\bstands? (in|beside)\b": "is in, is beside",
    r"\bit stands\b": "it is",
    r"\bas ever\b": "as usual",
    r"\bby now\b": "already",
    r"\bwhat is no\b": "what is not a",
    r"\bsurer\b": "more confident",
    r"at a part of (its|the) price": "at a fraction of the cost",
    r"\bto be had\b": "available",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"(^|[.:;] |\"\"\")Of (?!the \d)[a-z]": "subject first",
    r"\btraining loop that you have\b": "your training loop",
    r"\bper cent\b": "percent, %",
    r"\bwithout a word\b": "silently",
}
FOLDERS = ("src", "docs", "tools", "examples")
FILES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
KINDS = {".py", ".md", ".html", ".yaml"}


def files() -> Iterator[Path]:
    """Every text that somebody reads, without links to it."""
    for folder in FOLDERS:
        yield from (x for x in sorted((ROOT / folder).rglob("*")) if x.suffix in KINDS and not x.is_symlink())
    yield from (ROOT / name for name in FILES)


def faults(text: str) -> Iterator[tuple[int, str, str]]:
    """Line number, phrase and replacement of each banned phrase.

    >>> list(faults("Training goes on."))
    [(1, 'goes on', 'continue, resume')]
    """
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, better in BANNED.items():
            for match in re.finditer(pattern, line):
                yield number, match.group().strip(), better


def main() -> int:
    """Print each fault with its place."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {phrase!r}: write {better}"
        for path in files()
        if path != Path(__file__)
        for number, phrase, better in faults(path.read_text(encoding="utf-8"))
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
