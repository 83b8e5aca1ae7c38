"""A comparison as strangers may read it: no host, no process, and no path that tells whose machine it was."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from steadytune.comparison.records import Comparison

#: What of a machine explains scores and times; the rest is in its digest.
_KEPT = ("device", "threads")
_PATH = re.compile(r"(?<![\w.~/:-])/(?:[^\s'\"`,;:()\[\]{}<>|/]+/)+[^\s'\"`,;:()\[\]{}<>|/]*")


def for_sharing(comparison: Comparison, folder: Path) -> Comparison:
    """The comparison with paths from its folder on, and machines as digests.

    Args:
        comparison: what is known of its runs.
        folder: that it lies in.
    """
    return _shared(comparison, folder.absolute(), _hosts(comparison))


def text_for_sharing(text: str, comparison: Comparison, folder: Path) -> str:
    """The same of a text about the comparison."""
    return _text(text, folder.absolute(), _hosts(comparison))


def _hosts(comparison: Comparison) -> dict[str, str]:
    """A digest of each machine that the records name."""
    runs = [run for cell in comparison.cells for run in (*cell.tuning, *cell.runs)]
    hosts = {str(maker).rpartition(":")[0] for run in runs for maker in _listed(run.environment.get("made_by"))}
    hosts = {host for host in (*hosts, socket.gethostname()) if len(host) > 2}
    return {host: f"machine-{_digest(host)}" for host in sorted(hosts, key=len, reverse=True)}


def _shared(value: Any, folder: Path, words: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _text(value, folder, words)
    if isinstance(value, Mapping):
        found = {key: _shared(entry, folder, words) for key, entry in value.items()}
        if isinstance(machine := value.get("machine"), Mapping):
            found["machine"] = {"digest": _digest(machine)} | {k: machine[k] for k in _KEPT if k in machine}
        if "made_by" in value:
            makers = (str(maker).rpartition(":")[0] for maker in _listed(value["made_by"]))
            found["made_by"] = list(dict.fromkeys(words.get(host, "machine") for host in makers))
        return found
    if isinstance(value, list | tuple):
        return type(value)(_shared(entry, folder, words) for entry in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _shared(getattr(value, f.name), folder, words) for f in fields(value)})
    return value


def _text(text: str, folder: Path, words: Mapping[str, str]) -> str:
    """A text without absolute paths and hosts; one that is a path as a whole may hold spaces."""
    if text.startswith("/") and text.count("/") > 1 and not any(sign in text for sign in ("\n", ": ", " /")):
        text = _path(text, folder)
    else:
        text = _PATH.sub(lambda match: _path(match.group(), folder), text)
    for host, word in words.items():
        text = re.sub(rf"(?<![\w-]){re.escape(host)}(?![\w-])", word, text)
    return text


def _path(path: str, folder: Path) -> str:
    """A path from the folder on; its name alone where the way there would tell who somebody is."""
    common = Path(os.path.commonpath([path, folder]))
    told = common == Path(common.anchor) or common in Path.home().parents
    return os.path.basename(path.rstrip("/")) if told else os.path.relpath(path, folder)


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
