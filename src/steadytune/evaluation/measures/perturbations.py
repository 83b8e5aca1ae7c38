"""Seeded noise on texts that leaves their labels true: typos, case, neighboring keys, OCR errors, dropped words.

After Belinkov and Bisk, "Synthetic and natural noise both break neural machine translation", ICLR 2018. What is
changed depends on the seed, the kind and the text alone, never on the machine, the other rows or the rate: what
changes at one rate changes at every higher one.
"""

from __future__ import annotations

import math
import random
import re
import string
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from steadytune.core.arithmetic.randomness import derive_seed
from steadytune.heads.registry import head_of

if TYPE_CHECKING:
    from datasets import Dataset

    from steadytune.tasks.task import Head

NoiseKind = Literal["typos", "casing", "keyboard", "ocr", "word_drop"]
KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)

#: Characters that scanners take for one another, and the pairs of letters that they make of one.
OCR_CONFUSIONS: Mapping[str, tuple[str, ...]] = {
    **{"a": ("o", "e"), "b": ("6", "h"), "c": ("e", "o"), "d": ("cl",), "e": ("c",), "f": ("t",), "g": ("9", "q")},
    **{"h": ("b", "li"), "i": ("l", "1", "j"), "j": ("i",), "k": ("lc",), "l": ("1", "I", "i"), "m": ("rn", "nn")},
    **{"n": ("u", "ri"), "o": ("0", "c"), "p": ("q",), "q": ("g", "9"), "r": ("n",), "s": ("5",), "t": ("f", "l")},
    **{"u": ("v", "n"), "v": ("u", "y"), "w": ("vv",), "x": ("z",), "y": ("v",), "z": ("2",)},
    **{"A": ("4",), "B": ("8",), "C": ("G",), "D": ("0", "O"), "E": ("F",), "F": ("P",), "G": ("6", "C"), "H": ("N",)},
    **{"I": ("l", "1"), "O": ("0", "Q"), "P": ("F",), "Q": ("O",), "S": ("5",), "T": ("7",), "U": ("V",), "V": ("U",)},
    **{"Z": ("2",), "0": ("O", "o"), "1": ("l", "I"), "2": ("Z", "z"), "4": ("A",), "5": ("S", "s"), "6": ("b", "G")},
    **{"7": ("T",), "8": ("B",), "9": ("g", "q")},
}


def _keyboard() -> dict[str, str]:
    """The keys that touch each other on a QWERTY keyboard, whose rows are shifted by a part of a key."""
    rows = (("1234567890", 0.0), ("qwertyuiop", 0.5), ("asdfghjkl", 0.75), ("zxcvbnm", 1.25))
    place = {key: (i + shift, y) for y, (keys, shift) in enumerate(rows) for i, key in enumerate(keys)}
    return {
        key: "".join(k for k, (u, v) in place.items() if k != key and abs(u - x) <= 1 and abs(v - y) <= 1)
        for key, (x, y) in place.items()
    }


NEIGHBORS: Mapping[str, str] = _keyboard()


class Perturbed(NamedTuple):
    """A text with noise, how many of its units (characters, words) the noise hit, and how many units it has."""

    text: str
    changed: int
    units: int


def perturb(text: str, kind: NoiseKind, rate: float, seed: int, *, field: str = "text") -> Perturbed:
    """Add noise to a text; one that would be left empty stays as it is.

    Args:
        text: any text.
        kind: ``typos`` inserts, deletes, substitutes or transposes, with equal chance; ``casing`` flips the case;
            ``keyboard`` hits a neighboring key (QWERTY); ``ocr`` takes one character for another that looks like it;
            ``word_drop`` leaves words out, words being what white space separates.
        rate: the chance, 0 to 1, of every unit that the noise can change: letters and digits for ``typos``, letters
            that have a case for ``casing``, keys for ``keyboard``, characters of `OCR_CONFUSIONS`, words.
        seed: other seeds give other noise.
        field: so that two equal texts of one row get different noise.

    >>> perturb("a good film", "casing", 1.0, seed=0).text
    'A GOOD FILM'
    """
    chance = random.Random(derive_seed(seed, kind, field, text))  # only random(), which is the same everywhere
    if kind == "word_drop":
        return _without_words(text, rate, chance)
    cells = list(text)
    can_change, change = _CHARACTERS[kind]
    letters = _letters_of(text)
    # Every character takes the same draws whatever the rate, so that a higher rate changes the same and more.
    draws = [(chance.random(), chance.random(), chance.random()) for _ in cells]
    hit = [i for i, cell in enumerate(cells) if can_change(cell) and draws[i][0] < rate]
    for i in hit:
        change(cells, i, draws[i][1], draws[i][2], letters)
    found = "".join(cells)
    if not found.strip():
        return Perturbed(text, 0, len(text))
    return Perturbed(found, len(hit), len(text))


def perturb_rows(rows: Dataset, head: Head, kind: NoiseKind, rate: float, seed: int) -> tuple[Dataset, float]:
    """Add noise to the texts of a split, and say which share of all characters (words) it hit.

    Every other column stays as it is. The words of a tagged sentence keep their number and order.
    """
    columns = [c for c in head_of(head).noisy_columns if c in rows.column_names]
    changed = units = 0

    def noisy(row: dict[str, Any]) -> dict[str, Any]:
        nonlocal changed, units
        result = {}
        for column in columns:
            texts = row[column] if isinstance(row[column], list) else [row[column]]
            found = [perturb(t, kind, rate, seed, field=f"{column}{i}") for i, t in enumerate(texts)]
            changed += sum(f.changed for f in found)
            units += sum(f.units for f in found)
            result[column] = [f.text for f in found] if isinstance(row[column], list) else found[0].text
        return result

    noisy_rows = rows.map(noisy, load_from_cache_file=False, keep_in_memory=True)
    return noisy_rows, changed / max(units, 1)


def not_for(head: Head, kind: NoiseKind) -> str | None:
    """Why a kind of noise is not done for a head, or ``None``.

    >>> not_for("classification", "typos")
    """
    return head_of(head).unfit_noise.get(kind)


def _without_words(text: str, rate: float, chance: random.Random) -> Perturbed:
    words = re.findall(r"\s*\S+", text)
    draws = [chance.random() for _ in words]
    kept = [word for word, draw in zip(words, draws, strict=True) if draw >= rate]
    if words and not kept:
        kept = [words[max(range(len(words)), key=draws.__getitem__)]]
    if len(kept) == len(words):
        return Perturbed(text, 0, len(words))
    return Perturbed("".join(kept).strip(), len(words) - len(kept), len(words))


Change = Callable[[list[str], int, float, float, str], None]


def _typo(cells: list[str], i: int, which: float, draw: float, letters: str) -> None:
    after = cells[i + 1] if i + 1 < len(cells) else ""
    kinds = ["insert", "delete", "substitute"]
    if after.isalnum() and after != cells[i]:
        kinds.append("transpose")
    kind = kinds[int(which * len(kinds))]
    if kind == "delete":
        cells[i] = ""
    elif kind == "transpose":
        cells[i], cells[i + 1] = after, cells[i]
    elif kind == "insert":
        cells[i] += _cased(_one_of(letters, draw), cells[i])
    else:
        cells[i] = _cased(_one_of(letters.replace(cells[i].lower(), ""), draw), cells[i])


def _flipped_case(cells: list[str], i: int, _which: float, _draw: float, _letters: str) -> None:
    cells[i] = cells[i].swapcase()


def _neighboring_key(cells: list[str], i: int, _which: float, draw: float, _letters: str) -> None:
    cells[i] = _cased(_one_of(NEIGHBORS[cells[i].lower()], draw), cells[i])


def _misread(cells: list[str], i: int, _which: float, draw: float, _letters: str) -> None:
    cells[i] = _one_of(OCR_CONFUSIONS[cells[i]], draw)


def _has_case(character: str) -> bool:
    return len(character.swapcase()) == 1 and character.swapcase() != character


_CHARACTERS: Mapping[NoiseKind, tuple[Callable[[str], bool], Change]] = {
    "typos": (str.isalnum, _typo),
    "casing": (_has_case, _flipped_case),
    "keyboard": (lambda character: character.lower() in NEIGHBORS, _neighboring_key),
    "ocr": (OCR_CONFUSIONS.__contains__, _misread),
}


def _letters_of(text: str) -> str:
    """The letters that a typo may bring in: those of the Latin keyboard, or of the text where it has none of them."""
    own = sorted({c.lower() for c in text if c.isalpha() and len(c.lower()) == 1})
    latin = len(own) < 2 or any(c in string.ascii_lowercase for c in own)
    return string.ascii_lowercase if latin else "".join(own)


def _one_of(choices: Any, draw: float) -> str:
    return choices[math.floor(draw * len(choices))]


def _cased(letter: str, like: str) -> str:
    return letter.upper() if like.isupper() and len(letter.upper()) == 1 else letter
