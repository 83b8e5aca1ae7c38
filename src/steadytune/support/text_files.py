"""Read text files as lines: find the encoding, unpack gzip, and notice bytes that are no text."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import psutil
from charset_normalizer import from_bytes

from steadytune.errors import DataError, SettingsError, did_you_mean
from steadytune.support.reading import open_regular
from steadytune.support.text import excerpt

GZIP = b"\x1f\x8b"
MARK = "\ufeff"
#: How the encodings that say their name at the start of a file begin; UTF-32 before UTF-16, whose mark it begins with.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
#: What is suggested for a misspelled name.
KNOWN = ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1", "cp1250", "cp1251", "shift_jis", "gb18030")
#: Encodings that a file without a mark may have; the others look like one of these.
_LEGACY = ("cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "shift_jis", "gb18030", "euc_kr")
#: Those of Latin letters agree on most of them; a few words do not tell them apart.
_LATIN = {"cp1252", "cp1250", "cp1254"}
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)
_CHUNK = 1 << 16
_HEAD = 4096
#: Bytes of lines with foreign letters from which the encoding is detected.
_SAMPLE = 1 << 16


@dataclass(frozen=True)
class Text:
    """How the bytes of a file become text.

    `is_faulty` says that some of them do not, or hold a NUL: readers then look at every cell for the first.
    """

    encoding: str = "utf-8"
    compressed: bool = False
    is_faulty: bool = False
    note: str = ""


def open_bytes(path: Path, compressed: bool) -> IO[bytes]:
    """Open a file for reading, unpacked."""
    file = open_regular(path)
    if not compressed:
        return file
    unpacked = gzip.GzipFile(fileobj=file)
    unpacked.myfileobj = file  # pyright: ignore[reportAttributeAccessIssue] - closed with it
    return unpacked  # pyright: ignore[reportReturnType] - a file in all but name


def head_of(path: Path, compressed: bool) -> bytes:
    """Return the first bytes of a file, unpacked."""
    try:
        with open_bytes(path, compressed) as file:
            return file.read(_HEAD)
    except _DAMAGED as error:
        refuse_damaged(path, error)


def refuse_damaged(path: Path, error: Exception) -> NoReturn:
    """Raise DataError about a gzip file that cannot be unpacked."""
    problem = "is cut off" if isinstance(error, EOFError) else f"is damaged ({excerpt(error)})"
    raise DataError(f"{str(path)!r}: the gzip file {problem}; copy it again.") from None


def text_of(path: Path, compressed: bool, asked: str | None) -> Text:
    """Return how a file is encoded: as asked for, as its mark says, as UTF-8 where it is, else as it looks.

    The whole file is decoded once, because one letter in the last row is enough to tell. Raises DataError where the
    encoding cannot be told or contradicts the mark, SettingsError for an unknown name.
    """
    wanted = None if asked is None else _codec(asked)
    head = head_of(path, compressed)
    marked = next((name for mark, name in MARKS if head.startswith(mark)), None)
    if marked is not None:
        if wanted is not None and not _same(wanted, marked):
            raise DataError(
                f"{str(path)!r}: the file begins with the mark of {marked}, not {asked}; leave out --encoding."
            )
        faulty = _scan(path, compressed, marked)[0]
        return Text(marked, compressed, faulty, "" if marked == "utf-8" else f"{str(path)!r} is read as {marked}.")
    if wanted is not None:
        wanted = _without_mark(wanted)
        return Text(wanted, compressed, _scan(path, compressed, wanted)[0])
    wide = _wide(head)
    if wide is not None:
        note = f"{str(path)!r} has no byte order mark and is read as {wide} (--encoding says otherwise)."
        return Text(wide, compressed, _scan(path, compressed, wide)[0], note)
    faulty, sample = _scan(path, compressed, "utf-8")
    if not sample:
        return Text("utf-8", compressed, faulty)
    legacy = _legacy(path, sample)
    if legacy is None:
        return Text("utf-8", compressed, is_faulty=True)
    faulty = _scan(path, compressed, legacy)[0]
    seen = excerpt(_word(sample, legacy))
    note = f"{str(path)!r} is not UTF-8 and is read as {legacy}, for example {seen} (--encoding says otherwise)."
    return Text(legacy, compressed, faulty, note)


def lines_of(path: Path, text: Text, newline: str = "") -> Iterator[str]:
    r"""Yield the lines of a file with their ends, without the byte order mark.

    With the default, `\n`, `\r\n` and a lone `\r` each end a line. Raises DataError for a damaged gzip file and for
    bytes that no error handler can keep; others arrive as lone surrogates, and `undecoded` finds them.
    """
    number = 0
    try:
        with (
            open_bytes(path, text.compressed) as raw,
            io.TextIOWrapper(raw, text.encoding, "surrogateescape", newline) as file,
        ):
            for line in file:
                yield line.removeprefix(MARK) if number == 0 else line
                number += 1
    except _DAMAGED as error:
        refuse_damaged(path, error)
    except UnicodeError as error:
        raise DataError(
            f"{str(path)!r}, after line {number}: not {text.encoding} ({excerpt(error)}); save the file as UTF-8."
        ) from None
    except OSError as error:
        raise DataError(f"{str(path)!r}: the file cannot be read ({error}).") from None


def undecoded(value: str, encoding: str) -> str | None:
    """Say what is wrong with a text of a faulty file, or return None.

    >>> undecoded("a\\udce9", "utf-8")
    'byte 0xe9 is not utf-8; save the file as UTF-8 or give its --encoding'
    """
    if "\0" in value:
        return "a NUL byte; the file is binary or damaged, save it as UTF-8 text"
    byte = next((ord(c) - 0xDC00 for c in value if 0xDC80 <= ord(c) <= 0xDCFF), None)
    if byte is None:
        return None
    return f"byte 0x{byte:02x} is not {encoding}; save the file as UTF-8 or give its --encoding"


def _codec(asked: str) -> str:
    """Return Python's name of an encoding."""
    try:
        found: Any = codecs.lookup(asked.strip())
        "".encode(asked.strip())  # raises for codecs that are not text encodings, such as zip
    except (LookupError, ValueError, TypeError):
        raise SettingsError(
            f"--encoding {excerpt(asked)}: unknown; give one such as utf-8, utf-16 or cp1252."
            f"{did_you_mean(asked, KNOWN)}"
        ) from None
    return found.name


def _same(wanted: str, marked: str) -> bool:
    """Whether an encoding that was asked for is the one that a mark says."""
    return _without_mark(wanted) == marked or wanted == marked.rpartition("-")[0]


def _without_mark(name: str) -> str:
    return {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}.get(name, name)


def _wide(head: bytes) -> str | None:
    """Return the encoding of UTF-16 without a mark, in which every second byte of Latin text is a NUL."""
    pairs = len(head) // 2
    if pairs == 0:
        return None
    left, right = head[: 2 * pairs : 2].count(0), head[1 : 2 * pairs : 2].count(0)
    if right > 0.7 * pairs and left == 0:
        return "utf-16-le"
    return "utf-16-be" if left > 0.7 * pairs and right == 0 else None


def _scan(path: Path, compressed: bool, encoding: str) -> tuple[bool, bytes]:
    """Return whether a file holds bytes that are no text, and lines with those that cannot be decoded.

    Raises DataError where a compressed file would not fit into the free memory.
    """
    decoder, size, sample, faulty, rest = codecs.getincrementaldecoder(encoding)(), 0, b"", False, b""
    free = psutil.virtual_memory().available if compressed else 0
    try:
        with open_bytes(path, compressed) as file:
            while chunk := file.read(_CHUNK):
                size += len(chunk)
                if compressed and size > free:
                    raise DataError(f"{str(path)!r}: it unpacks to more than the free memory; give fewer rows.")
                try:
                    faulty = faulty or "\0" in decoder.decode(chunk)
                    rest = decoder.getstate()[0] if isinstance(decoder.getstate()[0], bytes) else b""
                except UnicodeError:
                    faulty = True
                    decoder.reset()
                    sample += b"\n".join(line for line in (rest + chunk).split(b"\n") if not line.isascii())
                    if len(sample) > _SAMPLE:
                        return True, sample[:_SAMPLE]
        try:
            decoder.decode(b"", final=True)
        except UnicodeError:
            return True, sample or rest
    except _DAMAGED as error:
        refuse_damaged(path, error)
    except OSError as error:
        raise DataError(f"{str(path)!r}: the file cannot be read ({error}).") from None
    return faulty, sample


def _legacy(path: Path, sample: bytes) -> str | None:
    """Return the encoding that the lines look like; None for UTF-8 that is damaged."""
    letters = sample.decode("utf-8", "surrogateescape")
    bad = sum(0xDC80 <= ord(c) <= 0xDCFF for c in letters)
    good = sum(ord(c) > 127 for c in letters) - bad
    if good >= bad or b"\0" in sample:
        return None
    best = from_bytes(sample, cp_isolation=list(_LEGACY)).best()
    found = best.encoding if best is not None else None
    runs = re.search(rb"[\xc0-\xff]{3}", sample)
    if found is not None and found not in _LATIN:
        return found
    if runs is None and _decodes(sample, "cp1252"):  # a letter here and there: a language of Western Europe
        return "cp1252"
    if found is None or runs is not None:
        raise DataError(
            f"{str(path)!r}: the file is not UTF-8, and its encoding cannot be told; give --encoding, such as "
            "cp1252, cp1251 or shift_jis, or save it as UTF-8."
        )
    return found


def _decodes(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _word(sample: bytes, encoding: str) -> str:
    """Return the first word with a letter beyond ASCII."""
    text = sample.decode(encoding, "replace")
    return next((word for word in re.findall(r"\w+", text) if not word.isascii()), text[:20])
