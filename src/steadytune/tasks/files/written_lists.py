"""Read lists that were written as text into one cell, as pandas and spreadsheets leave them."""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING

import pyarrow as pa

from steadytune.errors import DataError
from steadytune.support.text import excerpt
from steadytune.tasks.files.places import row_place

if TYPE_CHECKING:
    from steadytune.tasks.files.formats.format import Source

_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,'"\[\]()]+)"""
_LIST = re.compile(rf"\[\s*(?:{_ITEM}\s*(?:,\s*{_ITEM}\s*)*,?)?\s*\]", re.DOTALL)
_VECTOR = re.compile(r"\[\s*[01]\.?(?:\s+[01]\.?)*\s*\]")


def is_list(text: str) -> bool:
    """Whether a text looks like a list.

    >>> is_list(" ['x']"), is_list("x, y")
    (True, False)
    """
    text = text.strip()
    return text.startswith("[") and text.endswith("]")


def parse_list(text: str) -> list[str] | None:
    r"""Return the entries of a list in the notation of JSON or Python, or a NumPy vector of 0 and 1; else None.

    Python joins two strings without a comma between them, which NumPy writes; such a list is not read.

    >>> parse_list("['x', \"it's\"]"), parse_list("[]"), parse_list("[0 1]"), parse_list("['x' 'y']")
    (['x', "it's"], [], ['0', '1'], None)
    """
    text = text.strip()
    try:
        found = json.loads(text)
        if isinstance(found, list) and all(isinstance(entry, str | int | float) for entry in found):
            return [entry if isinstance(entry, str) else json.dumps(entry) for entry in found]
    except (ValueError, RecursionError):
        pass
    if _VECTOR.fullmatch(text):
        return [entry.rstrip(".") for entry in text[1:-1].split()]
    if _LIST.fullmatch(text) is None:
        return None
    try:
        return [_entry(item) for item in re.findall(_ITEM, text[1:-1], re.DOTALL)]
    except (ValueError, SyntaxError):
        return None


def _entry(item: str) -> str:
    return str(ast.literal_eval(item)) if item[0] in "'\"" else item


def list_column(source: Source, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of lists of strings from one of text; raises DataError for a cell that is no list."""
    chunks, row = [], 0
    for chunk in column.chunks:
        lists = []
        for text in chunk.to_pylist():
            row += 1
            found = parse_list(text) if text is not None else None
            if found is None:
                raise DataError(
                    f"{row_place(source.path, row, name)}: {excerpt(text)} is no list; write it as "
                    '["Ada", "wrote"] or give a .jsonl file.'
                )
            lists.append(found)
        chunks.append(pa.array(lists, pa.list_(pa.string())))
    return pa.chunked_array(chunks, pa.list_(pa.string()))
