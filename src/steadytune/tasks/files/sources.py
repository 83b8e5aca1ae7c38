"""Open the user's data files: find the format by extension, and refuse content that is not what the name says."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import NoReturn

from steadytune.errors import DataError, SettingsError, did_you_mean
from steadytune.support.memory import within_free_memory
from steadytune.support.reading import open_regular
from steadytune.support.text import excerpt
from steadytune.support.text_files import GZIP, head_of
from steadytune.tasks.files.formats import extensions, format_for
from steadytune.tasks.files.formats.format import DELIMITERS, Given, Source
from steadytune.tasks.files.places import file_place

_DELIMITER_NAMES = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|"}
_ZIP = b"PK\x03\x04"


def open_source(path: str | Path, delimiter: str | None = None, encoding: str | None = None) -> Source:
    """Return the source for a data file after checking that it is readable and of the format its extension names.

    Args:
        path: of the file; `.gz` may follow its extension.
        delimiter: of the columns of a csv or tsv file; found out by default.
        encoding: of the text; found out by default.

    Raises:
        DataError: the file is missing, a folder, not readable, empty, or of unknown or foreign content.
        SettingsError: the delimiter or the encoding is none.

    >>> open_source("no-such-file.csv")
    Traceback (most recent call last):
    steadytune.errors.DataError: 'no-such-file.csv': there is no such file; check the path.
    """
    path = Path(path).expanduser()
    mark = _first_bytes(path)
    compressed = path.suffix.lower() == ".gz"
    suffix = Path(path.stem if compressed else path.name).suffix.lower()
    if compressed and mark and not mark.startswith(GZIP):
        raise DataError(f"{file_place(path)}: the content is not gzip; rename the file to end in {suffix or '.csv'}.")
    if not compressed and mark.startswith(GZIP):
        raise DataError(f"{file_place(path)}: the file is compressed with gzip; rename it to end in {suffix}.gz.")
    head = head_of(path, compressed) if mark else b""
    found = format_for(suffix, head)
    if found is None:
        _refuse_extension(path, suffix, head)
    if not head.removeprefix(b"\xef\xbb\xbf").strip():
        raise DataError(f"{file_place(path)}: the file is empty; give a file with a header and rows.")
    with within_free_memory(file_place(path)):
        return found.open(Given(path, head, compressed, delimiter_of(delimiter), encoding))


def delimiter_of(asked: str | None) -> str | None:
    """Return a delimiter that was asked for by its sign or its name; raises SettingsError for another one."""
    if asked is None:
        return None
    found = _DELIMITER_NAMES.get(asked.lower(), asked)
    if found not in DELIMITERS:
        raise SettingsError(f"--delimiter {excerpt(asked)}: give a comma, a semicolon, tab or '|'.")
    return found


def _first_bytes(path: Path) -> bytes:
    """Return the first bytes of a regular file, or raise DataError saying why it cannot be read."""
    place = file_place(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            with open_regular(path) as file:
                return file.read(len(_ZIP))
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


def _refuse_extension(path: Path, suffix: str, head: bytes) -> NoReturn:
    """Raise DataError for an unknown extension, with the better reason where the content is an archive."""
    if head.startswith(_ZIP):
        raise DataError(f"{file_place(path)}: the file is a zip archive; unpack it first.")
    known = extensions()
    raise DataError(
        f"{file_place(path)}: unknown extension {excerpt(suffix)}; known are {', '.join(known)}, each also with .gz."
        f"{did_you_mean(suffix, known)}"
    )
