"""The scores of token tags: entities as conlleval counts them, words for tags that mark no entities.

Own code, because seqeval had no release since 2020 and nervaluate counts by the rules of MUC. The tests hold the
cases worked out by hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from steadytune.errors import DataError

OUTSIDE = "O"
_PREFIXES = ("B", "I", "E", "S", "L", "U", "M")
_BEGINS = ("B", "S", "U")
_ENDS = ("E", "S", "L", "U")


class Entity(NamedTuple):
    """An entity: what it is, and its words from `start` to before `end`."""

    kind: str
    start: int
    end: int


def entities(tags: Sequence[str], *, strict: bool = False) -> list[Entity]:
    """Return the entities of a sentence.

    Without `strict` as conlleval (Tjong Kim Sang, 2000) and seqeval's default, which XTREME uses: an `I-` begins an
    entity where none of its kind is open. With `strict` as IOB2 is defined: an entity begins with `B-`, and an `I-`
    that continues none of its kind belongs to no entity.

    >>> entities(["B-PER", "I-PER", "I-LOC"])
    [Entity(kind='PER', start=0, end=2), Entity(kind='LOC', start=2, end=3)]
    >>> entities(["B-PER", "I-PER", "I-LOC"], strict=True)
    [Entity(kind='PER', start=0, end=2)]
    """
    found: list[Entity] = []
    open_kind: str | None = None
    start = 0
    marked = [tag if _marks(tag) else OUTSIDE for tag in tags]
    for position, tag in enumerate([*marked, OUTSIDE]):
        prefix, _, kind = tag.partition("-")
        begins = tag != OUTSIDE and (prefix in _BEGINS or (kind != open_kind and not strict))
        continues = tag != OUTSIDE and not begins and kind == open_kind
        if open_kind is not None and not continues:
            found.append(Entity(open_kind, start, position))
            open_kind = None
        if begins:
            open_kind, start = kind, position
        if open_kind is not None and prefix in _ENDS:
            found.append(Entity(open_kind, start, position + 1))
            open_kind = None
    return found


def tag_scores(
    predicted: Sequence[Sequence[str]],
    tags: Sequence[Sequence[str]],
    tokens: Sequence[Sequence[str]] | None = None,
    *,
    strict: bool = False,
    scheme: Iterable[str] | None = None,
) -> dict[str, float]:
    """Return the scores of predicted tags against the tags of the same sentences, all in [0, 1].

    Tags that mark entities (`O`, `B-PER`): `precision`, `recall` and `f1` of whole entities, micro-averaged, and
    `accuracy` of words. With `tokens` also `surface_f1`, that of the different entities as they are written, each
    counted once (WNUT-17, Derczynski et al., 2017). Other tags, such as parts of speech: `accuracy` of words, and
    `f1_macro`, the mean over the tags that occur. `scheme` holds the tags of the training rows, which decide what all
    splits are scored by; without it the tags that are given do. A tag that marks no entity among those that do counts
    as outside.

    Raises DataError when there are no words, or a sentence has not as many predictions as tags.

    >>> tag_scores([["B-PER", "O", "O"]], [["B-PER", "O", "B-LOC"]])["f1"]
    0.6666666666666666
    """
    lengths = [(len(a), len(b)) for a, b in zip(predicted, tags, strict=False)]
    if len(predicted) != len(tags) or any(a != b for a, b in lengths):
        raise DataError("the predicted tags do not fit the sentences: not as many rows, or not as many tags in one.")
    words = sum(count for count, _ in lengths)
    if words == 0:
        raise DataError("there are no words to score.")
    right = sum(a == b for row, gold in zip(predicted, tags, strict=True) for a, b in zip(row, gold, strict=True))
    accuracy = right / words
    if not mark_entities(scheme if scheme is not None else {tag for row in tags for tag in row}):
        return {"accuracy": accuracy, "f1_macro": _macro(predicted, tags)}
    found = {(i, entity) for i, row in enumerate(predicted) for entity in entities(row, strict=strict)}
    wanted = {(i, entity) for i, row in enumerate(tags) for entity in entities(row, strict=strict)}
    scores = {**_precision_recall(len(found & wanted), len(found), len(wanted)), "accuracy": accuracy}
    if tokens is not None:
        surfaces = [{(e.kind, " ".join(tokens[i][e.start : e.end])) for i, e in group} for group in (found, wanted)]
        shared = len(surfaces[0] & surfaces[1])
        scores["surface_f1"] = _precision_recall(shared, len(surfaces[0]), len(surfaces[1]))["f1"]
    return scores


def mark_entities(tags: Iterable[str]) -> bool:
    """Whether tags mark entities: most of those that are not `O`, so that one that is odd decides nothing.

    >>> mark_entities(["O", "B-PER", "I-PER", "0"]), mark_entities(["NOUN", "VERB", "O"])
    (True, False)
    """
    given = set(tags) - {OUTSIDE}
    return 2 * sum(map(_marks, given)) >= len(given)


def _marks(tag: str) -> bool:
    return tag[1:2] == "-" and tag[0] in _PREFIXES and len(tag) > 2


def _precision_recall(right: int, found: int, wanted: int) -> dict[str, float]:
    """Return precision, recall and F1, each 0.0 where it is undefined."""
    return {
        "precision": right / found if found else 0.0,
        "recall": right / wanted if wanted else 0.0,
        "f1": 2 * right / (found + wanted) if found + wanted else 0.0,
    }


def _macro(predicted: Sequence[Sequence[str]], tags: Sequence[Sequence[str]]) -> float:
    from sklearn.metrics import f1_score

    flat = [[tag for row in rows for tag in row] for rows in (tags, predicted)]
    return float(f1_score(*flat, labels=sorted(set(flat[0])), average="macro", zero_division=0.0))  # pyright: ignore
