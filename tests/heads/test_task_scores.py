"""The benchmarks' own scores, worked out by hand and against slow forms: answers, tags, labels, retrieval."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from steadytune.errors import DataError
from steadytune.heads.scores.answers import question_answering_scores
from steadytune.heads.scores.metrics import compute_metrics
from steadytune.heads.scores.retrieval import best_threshold, mined_pairs, mining_scores, retrieval_accuracy
from steadytune.heads.scores.tags import Entity, entities, tag_scores
from steadytune.tasks import take_subset

# --- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("language", "prediction", "answers", "exact", "f1"),
    [
        ("en", "The Denver Broncos!", ["Denver Broncos"], 1.0, 1.0),
        ("en", "Denver", ["Denver Broncos", "broncos"], 0.0, 2 / 3),
        ("en", "another", ["other"], 0.0, 0.0),  # an article is a word, not a part of one
        ("en", "a “b”", ["b"], 0.0, 0.0),  # SQuAD knows the punctuation of ASCII only
        (None, "the cat", ["cat"], 1.0, 1.0),
        ("de", "der große Hund", ["Große Hund"], 1.0, 1.0),
        ("de", "the cat", ["cat"], 0.0, 2 / 3),
        ("de", "„Hund“", ["hund"], 1.0, 1.0),
        ("es", "los gatos de la casa", ["gatos de casa"], 1.0, 1.0),
        ("vi", "của những năm", ["năm"], 1.0, 1.0),
        ("ar", "الكتاب الجديد", ["كتاب جديد"], 1.0, 1.0),
        ("hi", "एक घर", ["घर"], 0.0, 2 / 3),
        ("zh", "中国北京。", ["中国北京"], 1.0, 1.0),
        ("zh", "在北京", ["北京"], 0.0, 0.8),
        ("zh", "iPhone 5手机", ["iPhone手机"], 0.0, 6 / 7),
        ("ja", "東京タワー", ["タワー"], 0.0, 0.75),
        ("ru", "в Москве", ["Москве"], 0.0, 2 / 3),
        ("en", "", [], 1.0, 1.0),
        ("en", "something", [], 0.0, 0.0),
    ],
)
def test_answers_by_hand(language, prediction, answers, exact, f1):
    scores = question_answering_scores([prediction], [answers], language)
    assert scores == {"exact_match": exact, "f1": pytest.approx(f1)}


def test_english_as_mlqa_counts_it_drops_all_punctuation():
    assert question_answering_scores(["a “b”"], [["b"]], "en", "mlqa")["exact_match"] == 1.0


def slow_words(text: str) -> list[str]:
    """The words that SQuAD 1.1 compares, in English."""
    kept = "".join(c for c in text.lower() if c.isalnum() or c.isspace())
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def slow_overlap(found: list[str], wanted: list[str]) -> float:
    """The F1 of two answers: each shared word is struck out once."""
    rest, shared = list(wanted), 0
    for word in found:
        if word in rest:
            rest.remove(word)
            shared += 1
    if not shared:
        return 0.0
    precision, recall = shared / len(found), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


ANSWER = st.lists(st.sampled_from(["the", "An", "cat", "Dog,", "x-y", "a", "7"]), max_size=5).map(" ".join)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(ANSWER, st.lists(ANSWER, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_answers_in_english_agree_with_a_slow_form(rows):
    scores = question_answering_scores([prediction for prediction, _ in rows], [answers for _, answers in rows])
    exact = [any(slow_words(p) == slow_words(a) for a in answers) for p, answers in rows]
    overlap = [max(slow_overlap(slow_words(p), slow_words(a)) for a in answers) for p, answers in rows]
    assert scores["exact_match"] == pytest.approx(sum(exact) / len(rows))
    assert scores["f1"] == pytest.approx(sum(overlap) / len(rows))


def test_answers_that_do_not_fit():
    for predictions, answers in (([], []), (["a"], [])):
        with pytest.raises(DataError):
            question_answering_scores(predictions, answers)


# --- tags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "lenient", "strict"),
    [
        ("B-A I-A O B-A", [("A", 0, 2), ("A", 3, 4)], [("A", 0, 2), ("A", 3, 4)]),
        ("B-A B-A I-A", [("A", 0, 1), ("A", 1, 3)], [("A", 0, 1), ("A", 1, 3)]),
        ("I-A I-A O I-B", [("A", 0, 2), ("B", 3, 4)], []),
        ("B-A I-B I-B O", [("A", 0, 1), ("B", 1, 3)], [("A", 0, 1)]),
        ("B-A I-B I-A", [("A", 0, 1), ("B", 1, 2), ("A", 2, 3)], [("A", 0, 1)]),
        ("O O", [], []),
        ("S-A B-A E-A E-B", [("A", 0, 1), ("A", 1, 3), ("B", 3, 4)], [("A", 0, 1), ("A", 1, 3)]),
    ],
)
def test_entities_by_hand(tags, lenient, strict):
    assert entities(tags.split()) == [Entity(*entity) for entity in lenient]
    assert entities(tags.split(), strict=True) == [Entity(*entity) for entity in strict]


def conlleval(tags: list[str]) -> set[tuple[str, int, int]]:
    """A slow form of the rule: a chunk begins at B, or at I after O or another kind, and goes on with I of its own."""
    found = set()
    for start in range(len(tags)):
        if tags[start] == "O":
            continue
        prefix, kind = tags[start].split("-")
        before = tags[start - 1] if start else "O"
        if prefix == "I" and before != "O" and before.split("-")[1] == kind:
            continue
        end = start + 1
        while end < len(tags) and tags[end] == f"I-{kind}":
            end += 1
        found.add((kind, start, end))
    return found


SENTENCES = st.lists(
    st.lists(st.tuples(*[st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"])] * 2), min_size=1, max_size=9), min_size=1
)


@settings(max_examples=200, deadline=None)
@given(SENTENCES)
def test_tag_scores_agree_with_a_slow_form(sentences):
    predicted, tags = ([[pair[side] for pair in row] for row in sentences] for side in (0, 1))
    found = [conlleval(row) for row in predicted]
    wanted = [conlleval(row) for row in tags]
    right = sum(len(a & b) for a, b in zip(found, wanted, strict=True))
    total = sum(map(len, found)) + sum(map(len, wanted))
    if not total and all(tag == "O" for row in tags for tag in row):
        return  # nothing to find in the tags, which then mark no entities for sure
    scores = tag_scores(predicted, tags)
    assert scores["f1"] == pytest.approx(2 * right / total if total else 0.0)
    precision, recall = scores["precision"], scores["recall"]
    assert scores["f1"] == pytest.approx(2 * precision * recall / (precision + recall) if right else 0.0)


def test_surface_forms_count_once():
    tokens = [["Paris", "is"], ["Paris"], ["Rome"]]
    tags = [["B-loc", "O"], ["B-loc"], ["B-loc"]]
    predicted = [["B-loc", "O"], ["B-loc"], ["O"]]
    scores = tag_scores(predicted, tags, tokens)
    assert scores["f1"] == pytest.approx(4 / 5)
    assert scores["surface_f1"] == pytest.approx(2 / 3)


def test_parts_of_speech_are_scored_by_word():
    scores = tag_scores([["NOUN", "NOUN", "VERB"]], [["NOUN", "VERB", "VERB"]])
    assert scores == {
        "accuracy": pytest.approx(2 / 3),
        "f1_macro": pytest.approx((2 / 3 + 2 / 3) / 2),
    }
    # a tag predicted where the sentences have none counts as wrong, whatever it is
    assert tag_scores([["O", "NOUN"]], [["VERB", "NOUN"]])["accuracy"] == 0.5


def test_tags_that_do_not_fit():
    for predicted, tags in (([["O"]], [["O", "O"]]), ([], [["O"]]), ([[]], [[]])):
        with pytest.raises(DataError):
            tag_scores(predicted, tags)


# --- many labels -----------------------------------------------------------------------------------------------------


def test_many_labels_by_hand():
    outputs = np.array([[1.0, -1.0, 0.5], [-2.0, 3.0, -1.0], [0.0, 1.0, -1.0]])
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    scores = compute_metrics("multi_label", outputs, labels)
    # found: 4 labels, 3 of them right; wanted: 4
    assert scores["f1_micro"] == pytest.approx(6 / 8)
    assert scores["f1_macro"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert scores["accuracy"] == pytest.approx(1 / 3)
    bad = outputs.copy()
    bad[1, 2] = math.nan
    scores = compute_metrics("multi_label", bad, labels)
    assert (scores["accuracy"], scores["non_finite"]) == (0.0, 1.0)
    assert scores["f1_micro"] == pytest.approx(4 / 7)


def test_a_single_label_and_labels_that_do_not_fit():
    assert compute_metrics("multi_label", np.array([[1.0], [-1.0]]), np.array([[1], [0]]))["f1_micro"] == 1.0
    for labels in (np.array([[1], [2]]), np.array([1, 0]), np.array([[1, 0], [0, 1]])):
        with pytest.raises(DataError):
            compute_metrics("multi_label", np.array([[1.0], [-1.0]]), labels)
    with pytest.raises(DataError, match="retrieval is not scored from arrays"):
        compute_metrics("retrieval", np.ones((2, 2)), np.ones(2))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_many_labels_agree_with_counting(classes, rows, seed):
    generator = np.random.default_rng(seed)
    outputs, labels = generator.normal(size=(rows, classes)), generator.integers(0, 2, (rows, classes))
    found = outputs > 0
    count = Counter(zip(found.ravel().tolist(), labels.ravel().tolist(), strict=True))
    total = 2 * count[(True, 1)] + count[(True, 0)] + count[(False, 1)]
    expected = 2 * count[(True, 1)] / total if total else 0.0
    assert compute_metrics("multi_label", outputs, labels)["f1_micro"] == pytest.approx(expected)


# --- retrieval -------------------------------------------------------------------------------------------------------


def slow_margins(source: np.ndarray, target: np.ndarray, neighbors: int) -> np.ndarray:
    """The ratio margin of every pair, one by one."""
    cosines = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in target] for a in source])
    margins = np.empty_like(cosines)
    for i, j in np.ndindex(*cosines.shape):
        row = sorted(cosines[i], reverse=True)[:neighbors]
        column = sorted(cosines[:, j], reverse=True)[:neighbors]
        margins[i, j] = cosines[i, j] / (sum(row) / (2 * len(row)) + sum(column) / (2 * len(column)))
    return margins


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_mining_agrees_with_a_slow_form(sources, targets, neighbors, seed):
    generator = np.random.default_rng(seed)
    source, target = generator.uniform(0.1, 1, (sources, 3)), generator.uniform(0.1, 1, (targets, 3))
    margins = slow_margins(source, target, neighbors)
    candidates = {(i, int(margins[i].argmax())) for i in range(sources)}
    candidates |= {(int(margins[:, j].argmax()), j) for j in range(targets)}
    ranked = sorted(margins[pair] for pair in candidates)
    assume(all(b - a > 1e-9 for a, b in itertools.pairwise(ranked)))  # of equal ones either may come first
    expected: list[tuple[int, int]] = []
    for i, j in sorted(candidates, key=lambda pair: -margins[pair]):
        if all(i != a and j != b for a, b in expected):
            expected.append((i, j))
    ours, theirs, scores = mined_pairs(source, target, neighbors)
    assert list(zip(ours.tolist(), theirs.tolist(), strict=True)) == expected
    assert np.allclose(scores, [margins[pair] for pair in expected])
    assert (np.diff(scores) <= 0).all()


def test_retrieval_over_more_rows_than_a_block(monkeypatch):
    monkeypatch.setattr("steadytune.heads.scores.retrieval._MOST_AT_ONCE", 350)
    generator = np.random.default_rng(0)
    source = generator.normal(size=(50, 8))
    target = source + 0.05 * generator.normal(size=source.shape)
    assert retrieval_accuracy(source, target) == 1.0
    assert retrieval_accuracy(source, np.roll(target, 1, axis=0)) == 0.0
    noise = generator.normal(size=(10, 8))
    scores = mining_scores((source, target), np.vstack([source, noise]), target)
    assert scores["recall"] > 0.95
    assert scores["f1"] > 0.95


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=12), st.integers(0, 3))
def test_no_threshold_is_better_than_the_best(pairs, missing):
    scores, right = np.array([s / 5 for s, _ in pairs]), np.array([r for _, r in pairs])
    wanted = max(int(right.sum()) + missing, 1)

    def f1(threshold: float) -> float:
        taken = scores >= threshold
        return 2 * (right & taken).sum() / (taken.sum() + wanted)

    best = f1(best_threshold(scores, right, wanted))
    assert best == pytest.approx(max(f1(s) for s in scores))


def test_vectors_that_cannot_be_compared():
    for source, target in ((np.eye(2), np.eye(3)[:2]), (np.zeros((1, 2)), np.ones((1, 2))), (np.ones(2), np.ones(2))):
        with pytest.raises((DataError, ValueError)):
            retrieval_accuracy(source, target)
    with pytest.raises(DataError, match="no pairs"):
        best_threshold(np.array([]), np.array([]), 1)


# --- small subsets of every head -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [[[0, 1], [1, 1], [0, 0], [1, 0]] * 25, [[3], [1, 2], [0, 0, 0], []] * 25, None],
    ids=["sets", "tags", "no"],
)
def test_rows_of_heads_without_classes_are_drawn_plainly_and_by_seed(labels):
    columns = {"text": [str(i) for i in range(100)]} | ({} if labels is None else {"label": labels})
    rows = Dataset.from_dict(columns)
    names = None if labels is None else ("a", "b", "c", "d")
    few = take_subset(rows, "10%", 0, names)
    assert len(few) == 10
    assert few["text"][:] == sorted(few["text"], key=int)
    assert take_subset(rows, "10%", 0, names)["text"][:] == few["text"][:]
    assert take_subset(rows, "10%", 1, names)["text"][:] != few["text"][:]
