"""Tell from the names of columns which is the text and which the label."""

# ruff: noqa: SIM905 - words are easier to read than a column of strings

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

#: Usual names, as `plain_name` writes them.
TEXTS = frozenset(
    "text texts sentence sentences review reviews tweet tweets content contents comment comments message messages "
    "body utterance utterances query question title description document doc article headline post abstract "
    "passage paragraph phrase snippet sms email mail news input input_text source_text full_text raw_text clean_text "
    "cleaned_text review_text review_body reviewtext tweet_text comment_text comment_body text_body message_text "
    "post_text news_text article_text sentence_text feedback caption transcript prompt".split()
)
PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "answer"),
    ("question1", "question2"),
    ("text_a", "text_b"),
    ("texta", "textb"),
    ("text1", "text2"),
    ("sentence_a", "sentence_b"),
    ("context", "response"),
    ("query", "passage"),
    ("query", "document"),
    ("question", "sentence"),
    ("question", "passage"),
    ("claim", "evidence"),
    ("string1", "string2"),
    ("sent1", "sent2"),
    ("q1", "q2"),
    ("s1", "s2"),
    ("text_left", "text_right"),
)
LABELS = frozenset(
    "label labels intent intents category categories class classes sentiment sentiments target targets topic topics "
    "score scores rating ratings stars star star_rating polarity emotion emotions gold gold_label golden annotation "
    "annotations tag tags y class_label class_name label_name category_name is_duplicate similarity similarity_score "
    "relatedness_score entailment_judgment entailment_label judgment grade domain stance verdict outcome output "
    "humor_rating toxicity spam_label target_label".split()
)
#: Columns that are neither, whatever they hold.
NEITHER = frozenset(
    "id ids idx index row row_id rowid uid uuid guid key number nr no pairid pair_id pid sid text_id sentence_id "
    "tweet_id review_id comment_id doc_id user user_id username author date time datetime timestamp created_at url "
    "link split fold set lang language source_id unnamed:0 sample_id example_id annotator".split()
) | {""}
ANSWERS = ("answer", "completion", "response", "output", "target")
PROMPTS = ("prompt", "instruction", "question", "input", "query")
WORDS = ("tokens", "words", "token", "word")


def plain_name(name: str) -> str:
    r"""Return a name as names are compared: without case, blanks around it, invisible letters; one form for each.

    >>> plain_name("\ufeff Sentence 1 "), plain_name("Text-Pair"), plain_name("sentence_1")
    ('sentence1', 'text_pair', 'sentence1')
    """
    text = unicodedata.normalize("NFKC", name)
    text = "".join(c for c in text if unicodedata.category(c) not in ("Cf", "Cc") or c in "\t\n\r")
    text = re.sub(r"[\s_-]+", "_", text.casefold().strip().strip("_"))
    return re.sub(r"_(?=\d)|(?<=:)_", "", text)


def usual(header: Sequence[str], names: Sequence[str] | frozenset[str]) -> list[str]:
    """Return the columns whose name is a usual one.

    >>> usual(["ID", "Review "], TEXTS)
    ['Review ']
    """
    return [name for name in header if plain_name(name) in names]


def pairs(header: Sequence[str]) -> list[tuple[str, str]]:
    """Return the usual pairs of texts of which both are there.

    >>> pairs(["Premise", "Hypothesis", "gold"])
    [('Premise', 'Hypothesis')]
    """
    by_name = {plain_name(name): name for name in reversed(header)}
    return [(by_name[one], by_name[two]) for one, two in PAIRS if one in by_name and two in by_name]
