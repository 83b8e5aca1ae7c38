"""What a checkpoint says about its pooling, in the files of sentence-transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steadytune.support.reading import read_json

Mode = Literal["mean", "max", "first", "last"]
#: Switches of ``1_Pooling/config.json``, and our names.
_MODES: dict[str, Mode] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "first",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}

#: Values of ``pooling_mode`` in newer files.
_NAMES: dict[str, Mode] = {"mean": "mean", "cls": "first", "max": "max", "lasttoken": "last"}


@dataclass(frozen=True)
class Declared:
    """How the token states of a sentence encoder become one vector.

    Attributes:
        pooling: a name of `pooling.POOLINGS`.
        normalize: vectors are normalized.
    """

    pooling: Mode
    normalize: bool


def declared_pooling(folder: Path) -> Declared | None:
    """Read the pooling that a folder declares; ``None`` if it declares none, or one that is none of ours.

    A folder that cannot be read declares nothing: the model's own class is then used, as without the files.
    """
    try:
        modules = read_json(folder / "modules.json")
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        place = next(str(module["path"]) for module in modules if str(module["type"]).endswith(".Pooling"))
        if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or "/" in place:
            return None
        switches = read_json(folder / place / "config.json")
    except (OSError, ValueError, TypeError, KeyError, StopIteration, AttributeError):
        return None
    found: list[Mode] = [name for switch, name in _MODES.items() if switches.get(switch) is True]
    others = [key for key, on in switches.items() if key.startswith("pooling_mode_") and on is True]
    if not found and isinstance(switches.get("pooling_mode"), str):
        named = _NAMES.get(switches["pooling_mode"])
        found = [named] if named else []
        others = [str(name) for name in found]
    return Declared(found[0], "Normalize" in kinds) if len(found) == len(others) == 1 else None
