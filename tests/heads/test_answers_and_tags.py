"""Questions without an answer as SQuAD 2.0 counts them, and tags scored by what the training tags mark."""

from __future__ import annotations

import collections
import re
import string
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from helpers import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from steadytune.heads.answer_spans import best_answers
from steadytune.heads.encoded import Encoded
from steadytune.heads.features import encode
from steadytune.heads.registry import head_of
from steadytune.heads.scores.answers import question_answering_scores
from steadytune.heads.scores.tags import tag_scores
from steadytune.tasks.task import Task

PIECES = ["the", "a", "cat", "Cat", "sat", ".", "!", "an apple", ""]


def official(gold_answers: list[str], prediction: str) -> tuple[int, float]:
    """Exact match and F1 of one question, transcribed from SQuAD 2.0's evaluation script."""

    def normalize(text: str) -> str:
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    def f1(gold: str, found: str) -> float:
        gold_words, found_words = normalize(gold).split(), normalize(found).split()
        same = sum((collections.Counter(gold_words) & collections.Counter(found_words)).values())
        if not gold_words or not found_words:
            return float(gold_words == found_words)
        if same == 0:
            return 0.0
        precision, recall = same / len(found_words), same / len(gold_words)
        return 2 * precision * recall / (precision + recall)

    gold_answers = [answer for answer in gold_answers if normalize(answer)] or [""]
    return max(int(normalize(a) == normalize(prediction)) for a in gold_answers), max(
        f1(a, prediction) for a in gold_answers
    )


spoken = st.lists(st.sampled_from(PIECES), max_size=3).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.lists(spoken, max_size=2), spoken), min_size=1, max_size=4))
def test_scores_are_those_of_squad_2(questions) -> None:
    questions = [*questions, ([], "cat")]  # so that it is a split of SQuAD 2.0
    found = question_answering_scores(
        [prediction for _, prediction in questions], [answers for answers, _ in questions]
    )
    exact, overlap = np.mean([official(answers, prediction) for answers, prediction in questions], axis=0)
    assert found == pytest.approx({"exact_match": exact, "f1": overlap})


def windows(answers: list[list[str]]) -> Encoded:
    """Two rows with a window of [CLS] w w each, the first row with two of them."""
    features = {
        "row": [0, 0, 1],
        "offset_start": [[-1, 0, 2]] * 3,
        "offset_end": [[-1, 1, 3]] * 3,
        "nowhere": [0, 0, 0],
    }
    rows = {"context": ["a b", "c d"], "answers": [{"text": a, "answer_start": [0] * len(a)} for a in answers]}
    return Encoded(Dataset.from_dict(features), Dataset.from_dict(rows))


def test_the_empty_answer_wins_by_its_least_score_over_the_windows() -> None:
    answers = [["a"], []]
    starts = np.array([[5.0, 2.0, 0.0], [0.5, 0.0, 0.0], [3.0, 1.0, 0.0]])
    zeros = np.zeros_like(starts)
    assert best_answers(windows(answers), starts, zeros) == ["a", ""]  # 0.5 < 2 in the second window; 3 > 1
    assert best_answers(windows([["a"], ["c"]]), starts, zeros) == ["a", "c"], "each row of this split has an answer"
    starts[1, 0] = 4.0
    assert best_answers(windows(answers), starts, zeros) == ["", ""]
    starts[0, 0] = np.nan
    assert best_answers(windows(answers), starts, zeros) == ["a", ""]


@pytest.mark.parametrize("odd", ["O", "0", "PER", "X", "B-"])
def test_one_odd_tag_in_a_split_changes_no_figure_s_meaning(odd: str) -> None:
    nothing = [["O"] * 4]
    found = tag_scores(nothing, [["B-PER", "O", "O", odd]], scheme=("O", "B-PER", "I-PER"))
    assert found["f1"] == 0.0
    assert tag_scores([["B-PER", "O", "O", "O"]], [["B-PER", "O", "O", odd]], scheme=("O", "B-PER"))["f1"] == 1.0


def test_a_split_without_entities_is_still_scored_by_entities() -> None:
    found = tag_scores([["O", "B-PER"]], [["O", "O"]], scheme=("O", "B-PER"))
    assert (found["f1"], found["accuracy"]) == (0.0, 0.5)


def test_the_accuracy_of_words_is_called_accuracy() -> None:
    assert set(tag_scores([["N", "V"]], [["N", "N"]])) == {"accuracy", "f1_macro"}
    head = head_of("token_classification")
    assert head.file_metrics(("NOUN", "VERB"))[0] == "accuracy"
    assert head.file_metrics(("O", "B-PER", "I-PER"))[0] == "f1"
    assert head.file_metrics(("O", "B-PER", "M-PER", "E-PER", "S-PER"))[0] == "f1"


@pytest.mark.parametrize("side", ["left", "right"])
def test_no_word_is_lost_on_either_side_of_truncation(side: str) -> None:
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*tiny_model.SPECIAL, "w"])}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", truncation_side=side
    )
    rows = Dataset.from_dict({"tokens": [["w"] * 100, ["w"] * 3], "label": [[i % 2 for i in range(100)], [0, 1, 1]]})
    task = Task("toy", "token_classification", "", "", "", None, "", ("O", "B-x"), {}, "f1")
    found = encode(rows, task, tokenizer, 16)
    assert found.notes == ()
    seen = sorted(
        (row, word)
        for row, words in zip(found.features["row"], found.features["words"], strict=True)
        for word in words
    )
    assert seen == [(0, i) for i in range(100)] + [(1, i) for i in range(3)]
    for row, words, labels in zip(*(found.features[name] for name in ("row", "words", "labels")), strict=True):
        assert [label for label in labels if label != -100] == [rows["label"][row][word] for word in words]
