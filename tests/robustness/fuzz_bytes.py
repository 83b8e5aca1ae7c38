"""Spoil bytes: what files go through on their way to us, and what an attacker would write into them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from random import Random

#: Pieces that have meaning to some reader, terminal, browser or spreadsheet.
TOKENS = (
    *(
        b"\0",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xc3\x28",
        b"\xed\xa0\x80",
        b"\x80",
        b"\r",
        b"\n",
        b"\r\n",
        b"\x0b",
        b"\x1c",
    ),
    *(
        b"\xc2\x85",
        b"\xe2\x80\xa8",
        b"\xe2\x80\xae",
        b"\xc2\x9b31m",
        b"\x1b[31m",
        b"\x1b]8;;http://x\x1b\\",
        b"\x1b]52;c;eA==",
    ),
    *(
        b'"',
        b'""',
        b"'",
        b",",
        b";",
        b"|",
        b"\t",
        b"\\",
        b"\\u0000",
        b"\\ud800",
        b"#",
        b"&a ",
        b"*a",
        b"!!int ",
        b"<<: ",
    ),
    *(
        b"NaN",
        b"-inf",
        b"1e999",
        b"-1",
        b"0x10",
        b"1_0",
        b"9" * 400,
        b"null",
        b"true",
        b"[]",
        b"{}",
        b"[",
        b"{",
        b"}",
        b"]",
    ),
    *(
        b"=cmd|'/C calc'!A0",
        b"<script>alert(1)</script>",
        b"../../../etc/passwd",
        b"[link=http://x]",
        b"{{7*7}}",
        b"label",
    ),
    *(
        "\u0661".encode(),
        "é".encode(),
        "e\u0301".encode(),
        "\u00a0".encode(),
        "\u200b".encode(),
        "\ufeff".encode(),
        b"text",
    ),
)
LONG = 1 << 20

Change = Callable[[bytes, bytes, Random], bytes]


def _place(content: bytes, chance: Random) -> int:
    return chance.randint(0, len(content))


def _flip(content: bytes, _other: bytes, chance: Random) -> bytes:
    spoiled = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if spoiled:
            spoiled[chance.randrange(len(spoiled))] ^= 1 << chance.randrange(8)
    return bytes(spoiled)


def _insert(content: bytes, _other: bytes, chance: Random) -> bytes:
    at = _place(content, chance)
    return content[:at] + chance.choice(TOKENS) + content[at:]


def _overwrite(content: bytes, _other: bytes, chance: Random) -> bytes:
    at, piece = _place(content, chance), chance.choice(TOKENS)
    return content[:at] + piece + content[at + len(piece) :]


def _delete(content: bytes, _other: bytes, chance: Random) -> bytes:
    at = _place(content, chance)
    return content[:at] + content[at + chance.choice((1, 1, 2, 5, 40)) :]


def _truncate(content: bytes, _other: bytes, chance: Random) -> bytes:
    return content[: _place(content, chance)]


def _zero_tail(content: bytes, _other: bytes, chance: Random) -> bytes:
    at = _place(content, chance)
    return content[:at] + bytes(len(content) - at)


def _lines(content: bytes, other: bytes, chance: Random) -> bytes:
    lines = content.split(b"\n")
    at = chance.randrange(len(lines))
    match chance.randrange(5):
        case 0:
            lines.insert(at, lines[at])
        case 1:
            del lines[at]
        case 2:
            chance.shuffle(lines)
        case 3:
            lines[at] = chance.choice(other.split(b"\n"))
        case _:
            lines[at:at] = lines[at:] * 3
    return b"\n".join(lines)


def _fields(content: bytes, _other: bytes, chance: Random) -> bytes:
    """Swap, repeat or replace what lies between two delimiters."""
    mark = chance.choice((b",", b"\t", b":", b" ", b'"'))
    parts = content.split(mark)
    first, second = (chance.randrange(len(parts)) for _ in range(2))
    match chance.randrange(3):
        case 0:
            parts[first], parts[second] = parts[second], parts[first]
        case 1:
            parts.insert(first, parts[second])
        case _:
            parts[first] = chance.choice(TOKENS)
    return mark.join(parts)


def _encode(content: bytes, _other: bytes, chance: Random) -> bytes:
    text = content.decode("utf-8", "replace")
    name = chance.choice(("utf-16", "utf-16-le", "utf-8-sig", "cp1252", "latin-1", "utf-32"))
    return text.encode(name, "replace")


def _compress(content: bytes, _other: bytes, chance: Random) -> bytes:
    return gzip.compress(bytes(LONG) if chance.random() < 0.5 else content)  # a megabyte in a kilobyte


def _lengthen(content: bytes, _other: bytes, chance: Random) -> bytes:
    at = _place(content, chance)
    return content[:at] + chance.choice((b"a", b" ", b'"', b"a,", b"[", b"\n", b"\xc3\xa9")) * LONG + content[at:]


def _nest(content: bytes, _other: bytes, chance: Random) -> bytes:
    at, depth = _place(content, chance), chance.choice((30, 1100, 100_000))
    left, right = chance.choice(((b"[", b"]"), (b'{"a":', b"}"), (b"- ", b"")))
    return content[:at] + left * depth + right * depth + content[at:]


def _splice(content: bytes, other: bytes, chance: Random) -> bytes:
    return content[: _place(content, chance)] + other[_place(other, chance) :]


CHANGES: tuple[tuple[Change, int], ...] = (
    *(
        (_flip, 4),
        (_insert, 8),
        (_overwrite, 4),
        (_delete, 4),
        (_truncate, 3),
        (_zero_tail, 1),
        (_lines, 8),
        (_fields, 8),
    ),
    *((_encode, 2), (_compress, 1), (_lengthen, 1), (_nest, 1), (_splice, 3)),
)


def spoiled(content: bytes, other: bytes, chance: Random) -> bytes:
    """Return the content after one to four changes; `other` is a file of the same kind to take pieces from."""
    changes, weights = zip(*CHANGES, strict=True)
    for change in chance.choices(changes, weights, k=chance.choice((1, 1, 1, 2, 2, 3, 4))):
        content = change(content, other, chance)[: 4 * LONG]
    return content
