"""Secrets in URLs and in the environment: refused where they would be kept, hidden where they would be shown.

What lies before the last ``@`` of a URL and what follows its ``?`` or ``#`` counts as a secret: a password may hold
any character, and a token needs no colon.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from typing import Any
from urllib.parse import unquote

from steadytune.errors import SettingsError

HIDDEN = "[hidden]"
#: Shorter values of the environment are words that occur anyway.
_SHORTEST = 8
_NAMES = re.compile(r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|_PAT$|_AUTH", re.I)
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+:(?:/+|:))(?P<rest>[^\s\"'<>\\|]+)")


def redact(text: str) -> str:
    r"""Hide what may be secret in a text: in its URLs, and the values of secret variables of the environment.

    >>> redact("cannot reach https://me:pa/ss@hub.example/api?token=abc, sorry")
    'cannot reach https://[hidden]@hub.example/api?[hidden] sorry'
    >>> redact("s3://bucket/first")
    's3://bucket/first'
    """
    for secret in _of_environment():
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return _URL.sub(_without_secrets, text) if ":" in text else text


def is_secret_url(url: str) -> bool:
    """Whether a URL holds a user, a password, a token, a query or a fragment.

    >>> is_secret_url("s3://token@bucket"), is_secret_url("s3://key:secret/bucket"), is_secret_url("s3://bucket/first")
    (True, True, False)
    """
    match = _URL.match(url)
    if match is None:
        return False
    rest = url[match.end("scheme") :]
    authority = re.sub(r"^\[[0-9A-Fa-f:.]*\]", "", rest.partition("/")[0])
    port = authority.partition(":")[2]
    return any(sign in rest for sign in "@?#") or (":" in authority and not (port.isascii() and port.isdigit()))


def refuse_secret_url(option: str, value: str) -> None:
    """Refuse a setting that would take a secret into the results.

    Raises:
        SettingsError: it holds one; the message does not repeat it.
    """
    if is_secret_url(value):
        raise SettingsError(
            f"{option}: the URL holds a password, a token, a user's name or a query, which would be written into the "
            "results; put them where the store's own tools look for them (environment, configuration file)."
        )


def redact_logs() -> None:
    """Hide secrets in whatever a library logs, and in tracebacks that end a process."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def redacting(*given: Any, **named: Any) -> logging.LogRecord:
        record = make(*given, **named)
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = redact("".join(traceback.format_exception(*record.exc_info))).rstrip("\n")
        try:
            message = record.getMessage()
        except Exception:  # the logger tells of such a mistake itself
            return record
        if redact(message) != message:
            record.msg, record.args = redact(message), ()
        return record

    redacting.redacts = True  # pyright: ignore[reportFunctionMemberAccess]
    logging.setLogRecordFactory(redacting)

    def hook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
        sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = hook


def _without_secrets(match: re.Match[str]) -> str:
    rest = match["rest"]
    _, at, after = rest.rpartition("@")
    shown = f"{HIDDEN}@{after}" if at else rest
    if found := re.search(r"[?#]", shown):
        shown = f"{shown[: found.start()]}{found.group()}{HIDDEN}"
    authority, slash, path = shown.partition("/")
    host, colon, port = authority.partition(":")
    if not at and colon and not authority.startswith("[") and not re.match(r"\d+\W*$", port):
        shown = f"{host}:{HIDDEN}{slash}{path}"
    return match["scheme"] + shown


def _of_environment() -> list[str]:
    """Values that are secret by their variables' names, and what URLs among the values hold before their ``@``."""
    found = set()
    for name, value in os.environ.items():
        if _NAMES.search(name) and len(value) >= _SHORTEST:
            found.add(value)
        if "://" in value and is_secret_url(value):
            rest = value.partition("://")[2]
            hidden = [rest.rpartition("@")[0], *re.split("[?#]", rest)[1:]]
            parts = {*hidden, *(part for text in hidden for part in re.split("[:/@?#&=]", text))}
            found |= {text for part in parts for text in (part, unquote(part)) if len(text) >= _SHORTEST}
    return sorted(found, key=len, reverse=True)
