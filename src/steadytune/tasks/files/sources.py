"""Open the user's data files: find the format by extension, and refuse content that is not what the name says."""

from __future__ import annotations

import mmap
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from steadytune.errors import DataError, did_you_mean
from steadytune.support.text import excerpt
from steadytune.tasks.files.places import file_place

if TYPE_CHECKING:
    from pyarrow import Buffer

Format = Literal["csv", "tsv", "json lines", "parquet", "conll", "squad"]

FORMATS: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "json lines",
    ".ndjson": "json lines",
    ".json": "json lines",
    ".parquet": "parquet",
    ".conll": "conll",
    ".txt": "conll",
}
#: How a file in SQuAD's own nested layout begins.
_SQUAD = re.compile(rb'^\s*\{.{0,200}?"data"\s*:\s*\[\s*\{\s*"(title|paragraphs)"', re.DOTALL)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HEAD_BYTES = 4096
_FOREIGN_CONTENT = (
    (b"\x1f\x8b", "is compressed with gzip; unpack it first"),
    (b"PK\x03\x04", "is a zip archive or a spreadsheet; unpack it, or export it as .csv"),
    (b"\xff\xfe", "is encoded as UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "is encoded as UTF-16; save it as UTF-8"),
)


@dataclass(frozen=True)
class Source:
    """A data file that exists, can be read and looks like the format its extension names."""

    path: Path
    format: Format

    @property
    def delimiter(self) -> str:
        """The field delimiter of a csv or tsv file."""
        return "\t" if self.format == "tsv" else ","


def open_source(path: str | Path) -> Source:
    """Return the source for a data file after checking that it is readable and of the format its extension names.

    Raises DataError when the file is missing, a folder, not readable, empty, or of unknown or foreign content.

    >>> open_source("no-such-file.csv")
    Traceback (most recent call last):
    steadytune.errors.DataError: 'no-such-file.csv': there is no such file; check the path.
    """
    path = Path(path).expanduser()
    head = _head_of(path)
    known_format = FORMATS.get(path.suffix.lower())
    if head.startswith(_FOREIGN_CONTENT[0][0]) or known_format is None:
        _refuse_extension(path, head)
    assert known_format is not None
    if known_format == "json lines" and _SQUAD.match(head.removeprefix(BYTE_ORDER_MARK)):
        known_format = "squad"
    if not head.removeprefix(BYTE_ORDER_MARK).strip():
        raise DataError(f"{file_place(path)}: the file is empty; give a file with a header and rows.")
    _refuse_foreign_content(path, known_format, head)
    return Source(path, known_format)


def _head_of(path: Path) -> bytes:
    """Return the first bytes of a regular file, or raise DataError saying why it cannot be read."""
    place = file_place(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                return file.read(_HEAD_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{place}: there is no such file; check the path.") from None
    except PermissionError:
        raise DataError(f"{place}: no permission to read the file; change its permissions.") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{place}: the file cannot be read ({reason}); check the path.") from None
    if stat.S_ISDIR(mode):
        raise DataError(f"{place}: this is a folder; give the data file inside it.")
    raise DataError(f"{place}: this is a pipe or a device, not a regular file; write the data to a file first.")


def _refuse_extension(path: Path, head: bytes) -> None:
    """Raise DataError for an unknown extension, with the better reason where the content is compressed."""
    for magic, problem in _FOREIGN_CONTENT[:2]:
        if head.startswith(magic):
            raise DataError(f"{file_place(path)}: the file {problem}.")
    suffix = path.suffix.lower()
    raise DataError(
        f"{file_place(path)}: unknown extension {excerpt(suffix)}; known are {', '.join(FORMATS)}."
        f"{did_you_mean(suffix, FORMATS)}"
    )


def _refuse_foreign_content(path: Path, known_format: Format, head: bytes) -> None:
    """Raise DataError when the first bytes belong to another format than the extension names."""
    place = f"{file_place(path)}: the content is not {known_format}"
    is_parquet = head.startswith(b"PAR1")
    if is_parquet and known_format != "parquet":
        raise DataError(f"{place} but parquet; rename the file to end in .parquet.")
    for magic, problem in _FOREIGN_CONTENT:
        if head.startswith(magic):
            raise DataError(f"{place}: the file {problem}.")
    if known_format == "parquet":
        if not is_parquet:
            likely = "binary" if b"\0" in head else "text; if it is csv or json lines, rename it to .csv or .jsonl"
            raise DataError(f"{place} but {likely}.")
        return
    first = head.removeprefix(BYTE_ORDER_MARK).lstrip()
    if known_format == "json lines" and first.startswith(b"["):
        raise DataError(f"{place} but a JSON array; write one object per line, without the brackets.")
    if known_format not in ("json lines", "squad") and first.startswith((b'{"', b'[{"')):
        raise DataError(f"{place} but JSON; write one object per line and rename the file to end in .jsonl.")


def text_buffer(source: Source, place_after: Callable[[str], str]) -> Buffer:
    """Return the bytes of a text file, mapped rather than read, without its byte order mark.

    `place_after(prefix)` names the row that follows the given text; it is called only to report a NUL byte or a byte
    that is not UTF-8, both of which raise DataError.
    """
    import numpy as np
    import pyarrow as pa

    try:
        with source.path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise DataError(f"{file_place(source.path)}: the file cannot be read ({error}).") from None
    start = len(BYTE_ORDER_MARK) if mapped[: len(BYTE_ORDER_MARK)] == BYTE_ORDER_MARK else 0
    buffer = pa.py_buffer(mapped).slice(start)
    zero = mapped.find(b"\0")
    if zero >= 0:
        prefix = mapped[start:zero].decode("utf-8", "replace")
        raise DataError(f"{place_after(prefix)}: a NUL byte; the file is binary or damaged, save it as UTF-8 text.")
    offsets = pa.py_buffer(np.array([0, buffer.size], dtype=np.int64))
    try:
        pa.LargeStringArray.from_buffers(1, offsets, buffer).validate(full=True)
    except pa.ArrowInvalid:
        raise _not_utf8(buffer, place_after) from None
    return buffer


def _not_utf8(buffer: Buffer, place_after: Callable[[str], str]) -> DataError:
    """Return the error that names the first byte which is not UTF-8."""
    content = buffer.to_pybytes()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        prefix = content[: error.start].decode("utf-8")
        byte = content[error.start]
        return DataError(f"{place_after(prefix)}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8.")
    return DataError(f"{place_after('')}: the file is not UTF-8; save it as UTF-8.")
