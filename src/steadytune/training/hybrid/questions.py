"""Which noun does a pronoun stand for? The question behind WNLI, recovered from its pairs of sentences.

A WNLI hypothesis is a clause of the premise in which a candidate takes the place of a pronoun. Both are found again by
alignment: the words of the hypothesis before and after the candidate are those around the pronoun in the premise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

_PERSONAL = ("he", "she", "it", "they", "him", "her", "them", "himself", "herself", "itself", "themselves")
_POSSESSIVE = ("his", "hers", "her", "its", "their", "theirs")
_DEMONSTRATIVE = ("this", "that", "these", "those")
PRONOUNS = frozenset(_PERSONAL + _POSSESSIVE + _DEMONSTRATIVE)
#: Words before a noun that tell nothing of what it names.
_DETERMINERS = frozenset(("the", "a", "an", "my", "our", *_POSSESSIVE, *_DEMONSTRATIVE))
_APOSTROPHES = "'\N{RIGHT SINGLE QUOTATION MARK}"
# Clitics are words of their own, so that the pronoun of "it's" is found.
_WORD = re.compile(rf"[{_APOSTROPHES}]?\w+")
#: The longest candidate, in words.
LONGEST = 8


@dataclass(frozen=True)
class Alignment:
    """Where the pronoun is and what the hypothesis puts in its place.

    Attributes:
        start: first character of the pronoun in the premise.
        end: the character after it.
        candidate: as the premise spells it, where it does.
        matched: words of the hypothesis that are around the pronoun in the premise.
    """

    start: int
    end: int
    candidate: str
    matched: int


@dataclass(frozen=True)
class PronounQuestion:
    """One pronoun of one premise, and what it may stand for.

    Attributes:
        premise: the text.
        start: first character of the pronoun.
        end: the character after it.
        candidates: different ones, at least one.
        labels: by candidate, 1 for what the pronoun stands for, 0 for another, -1 where no row tells.
        rows: by candidate, the indices of the rows that ask for it; none for a rival that other rows have named.
    """

    premise: str
    start: int
    end: int
    candidates: tuple[str, ...]
    labels: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]


def align(premise: str, hypothesis: str) -> Alignment | None:
    """Find the pronoun and its candidate; ``None`` if the hypothesis is no such substitution.

    Words are compared without regard to case, punctuation not at all. The pronoun with the most words
    in common around it counts, and of those the first.

    >>> align("The pot was too tall, so I threw it away.", "I threw the pot away.")
    Alignment(start=33, end=35, candidate='The pot', matched=3)
    >>> align("The pot was too tall.", "I like it.") is None
    True
    """
    given, asked = list(_WORD.finditer(premise)), list(_WORD.finditer(hypothesis))
    words, wanted = [_folded(w) for w in given], [_folded(w) for w in asked]
    best: tuple[int, int, int, int] | None = None
    for place, word in enumerate(words):
        if word not in PRONOUNS:
            continue
        for before in range(min(place, len(wanted) - 1) + 1):
            if wanted[:before] != words[place - before : place]:
                continue
            for after in range(min(len(words) - place, len(wanted) - before) - 1, -1, -1):
                if wanted[len(wanted) - after :] == words[place + 1 : place + 1 + after]:
                    if best is None or before + after > best[0]:
                        best = before + after, place, before, len(wanted) - after
                    break
    if best is None or best[0] == 0:
        return None
    matched, place, first, last = best
    candidate = wanted[first:last]
    content = [word for word in candidate if word not in _DETERMINERS and not word.startswith("'")]
    if len(candidate) > LONGEST or not content or any(word not in words for word in content):
        return None
    if candidate == [words[place]]:
        return None  # the pronoun itself
    text = _as_in(premise, hypothesis[asked[first].start() : asked[last - 1].end()])
    return Alignment(given[place].start(), given[place].end(), text, matched)


def pronoun_questions(
    premises: Sequence[str],
    hypotheses: Sequence[str],
    labels: Sequence[int],
    known: Sequence[PronounQuestion] = (),
) -> tuple[list[PronounQuestion], list[int]]:
    """Gather the rows that ask for the same pronoun of the same premise, and name the rivals of their candidates.

    Winograd's sentences come in twins that differ behind the pronoun only. So the candidates of every other question
    whose premise is the same up to the pronoun are rivals; of those questions no label is looked at. A rival is wrong
    where a candidate that is asked for is right, and else unknown.

    Args:
        premises: of the rows.
        hypotheses: of the rows.
        labels: of the rows, 1 for entailed.
        known: questions of other rows, the training ones, whose candidates may be rivals too.

    Returns:
        The questions, in the order of their first rows, and the indices of the rows that cannot be aligned. Each row
        is in exactly one of the two.

    >>> text = "The pot fell on the shelf and it broke."
    >>> questions, unaligned = pronoun_questions([text] * 3, ["The pot broke.", "The shelf broke.", "No."], [1, 0, 0])
    >>> questions[0].candidates, questions[0].labels, unaligned
    (('The pot', 'the shelf'), (1, 0), [2])
    """
    groups: dict[tuple[str, int, int], dict[str, list[int]]] = {}
    spelled: dict[str, str] = {}
    unaligned: list[int] = []
    for row, (premise, hypothesis) in enumerate(zip(premises, hypotheses, strict=True)):
        found = align(premise, hypothesis)
        if found is None:
            unaligned.append(row)
            continue
        folded = found.candidate.casefold()
        spelled.setdefault(folded, found.candidate)
        groups.setdefault((premise, found.start, found.end), {}).setdefault(folded, []).append(row)
    questions = [
        PronounQuestion(
            premise,
            start,
            end,
            tuple(spelled[name] for name in candidates),
            tuple(max(int(labels[row]) for row in rows) for rows in candidates.values()),
            tuple(tuple(rows) for rows in candidates.values()),
        )
        for (premise, start, end), candidates in groups.items()
    ]
    return _with_rivals(questions, known), unaligned


def _with_rivals(questions: Sequence[PronounQuestion], known: Sequence[PronounQuestion]) -> list[PronounQuestion]:
    named: dict[str, dict[str, str]] = {}
    for question in (*known, *questions):
        asked = [c for c, rows in zip(question.candidates, question.rows, strict=True) if rows]
        named.setdefault(_twins(question), {}).update({candidate.casefold(): candidate for candidate in asked})
    complete = []
    for question in questions:
        own = {candidate.casefold() for candidate in question.candidates}
        rivals = [candidate for folded, candidate in named[_twins(question)].items() if folded not in own]
        label = 0 if 1 in question.labels else -1
        complete.append(
            replace(
                question,
                candidates=(*question.candidates, *rivals),
                labels=(*question.labels, *[label] * len(rivals)),
                rows=(*question.rows, *[()] * len(rivals)),
            )
        )
    return complete


def _twins(question: PronounQuestion) -> str:
    """What the premises of twins have in common."""
    return " ".join(_folded(word) for word in _WORD.finditer(question.premise[: question.end]))


def _folded(word: re.Match[str]) -> str:
    return word.group().casefold().replace(_APOSTROPHES[1], _APOSTROPHES[0])


def _as_in(premise: str, candidate: str) -> str:
    """Spell the candidate as the premise does, else without the capital that only began the hypothesis."""
    place = premise.casefold().find(candidate.casefold())
    if place >= 0 and len(premise) == len(premise.casefold()):
        return premise[place : place + len(candidate)]
    first = candidate.split(maxsplit=1)[0]
    return candidate[0].lower() + candidate[1:] if first.lower() in _DETERMINERS else candidate
