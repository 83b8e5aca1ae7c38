"""The scores of extractive question answering: exact match and word overlap, as SQuAD 1.1 and MLQA count them.

In English answers are compared as SQuAD 1.1 does (Rajpurkar et al., 2016): in lower case, without the punctuation of
ASCII and without articles. In other languages as MLQA does (Lewis et al., 2020): without any Unicode punctuation and
without the language's own articles; Chinese characters count as one word each, and so do Japanese ones.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal

from steadytune.errors import DataError

Script = Literal["squad", "mlqa"]

_ASCII_PUNCTUATION = frozenset(string.punctuation)
#: Words that carry no meaning for the comparison, by language; MLQA gives these, and none for Hindi and Chinese.
_ARTICLES: Mapping[str, str] = {
    "en": r"\b(?:a|an|the)\b",
    "es": r"\b(?:un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(?:của|là|cái|chiếc|những)\b",
    "de": r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": r"\u0627\u0644",  # al-, anywhere in the text: equivalent to MLQA's own pattern
}
#: What counts as a word for itself, in languages written without spaces; MLQA knows Chinese only.
_ONE_WORD_EACH = {"zh": re.compile(r"[\u4e00-\u9fa5]"), "ja": re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")}


def question_answering_scores(
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    language: str | None = "en",
    script: Script | None = None,
) -> dict[str, float]:
    """Return `exact_match` and `f1`, means over the questions in [0, 1], each against the answer that fits best.

    `answers` holds the accepted answers of each question; a question with none is right only when the prediction is
    empty (SQuAD 2.0). `language` is an ISO 639-1 code, `script` the counting: SQuAD's for English, else MLQA's. The
    two differ in English only for punctuation beyond ASCII. Raises DataError for no rows or unequal numbers.

    >>> question_answering_scores(["the red cat"], [["Red cat!", "cat"]])
    {'exact_match': 1.0, 'f1': 1.0}
    >>> question_answering_scores(["猫在家"], [["猫"]], "zh")
    {'exact_match': 0.0, 'f1': 0.5}
    """
    if not predictions or len(predictions) != len(answers):
        raise DataError(f"{len(predictions)} predicted answers do not fit {len(answers)} questions.")
    language = language or "en"
    script = script or ("squad" if language == "en" else "mlqa")
    has_unanswerable = not all(len(accepted) for accepted in answers)
    exact = overlap = 0.0
    for prediction, accepted in zip(predictions, answers, strict=True):
        found = _normalized(prediction, language, script)
        wanted = [_normalized(answer, language, script) for answer in accepted]
        if has_unanswerable:  # SQuAD 2.0's script drops answers of nothing but articles and punctuation
            wanted = [answer for answer in wanted if answer]
        if not wanted or (has_unanswerable and not found):
            exact += not (found or wanted)
            overlap += not (found or wanted)
            continue
        exact += found in wanted
        overlap += max(_overlap(_words(found, language), _words(answer, language)) for answer in wanted)
    return {"exact_match": exact / len(predictions), "f1": overlap / len(predictions)}


def _normalized(text: str, language: str, script: Script) -> str:
    """Return a text in lower case without punctuation and articles, single spaces between its words."""
    text = "".join(c for c in text.lower() if not _is_punctuation(c, script))
    articles = _ARTICLES.get(language)
    if articles is not None:
        text = re.sub(articles, " ", text)
    return " ".join(_words(text, language))


@cache
def _is_punctuation(character: str, script: Script) -> bool:
    return character in _ASCII_PUNCTUATION or (script == "mlqa" and unicodedata.category(character).startswith("P"))


def _words(text: str, language: str) -> list[str]:
    """Return the words: what stands between spaces, and each Chinese or Japanese character for itself."""
    if language in _ONE_WORD_EACH:
        text = _ONE_WORD_EACH[language].sub(r" \g<0> ", text)
    return text.split()


def _overlap(found: list[str], wanted: list[str]) -> float:
    """Return the harmonic mean of precision and recall of the words, 0 when none is shared."""
    shared = sum((Counter(found) & Counter(wanted)).values())
    return 2 * shared / (len(found) + len(wanted)) if shared else 0.0
