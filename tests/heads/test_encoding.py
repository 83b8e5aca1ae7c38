"""What a model is given: no word is lost in windows, answers are where they were, and rows are grouped by length."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from helpers import heads, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertTokenizerFast

from steadytune.errors import SettingsError
from steadytune.heads import features as encoding
from steadytune.heads.answer_spans import best_span
from steadytune.heads.encoded import lengths_of
from steadytune.heads.features import encode
from steadytune.heads.head import IGNORED
from steadytune.heads.registry import head_of
from steadytune.tasks.task import Task
from steadytune.training.sampling import GroupedByLength, grouped_order

#: Words of several pieces, so that a word may lie on the border of two windows.
PIECES = ("play", "##ing", "##s", "un", "##der", "##stand", "a", "b", "?", "who", "is")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizerFast:
    file = tmp_path_factory.mktemp("tokenizer") / "vocab.txt"
    file.write_text("\n".join([*tiny_model.SPECIAL, *PIECES]), encoding="utf-8")
    return BertTokenizerFast(vocab=str(file))


WORDS = ("playing", "plays", "understand", "a", "b", "understanding", "playings")
#: The control character is no token at all.
sentences = st.lists(st.sampled_from([*WORDS, "\u200b"]), min_size=1, max_size=30)


def record(head: Any, names: tuple[str, ...] | None = None) -> Task:
    return Task("toy", head, "", "", "", None, "", names, {}, "f1")


# ---------------------------------------------------------------- tags


@settings(max_examples=60, deadline=None)
@given(st.lists(sentences, min_size=1, max_size=4), st.integers(6, 24))
def test_every_word_carries_its_tag_once(tokenizer, texts, max_length) -> None:
    tags = [[i % 7 for i, _ in enumerate(words)] for words in texts]
    found = head_of("token_classification").encoder(tokenizer, max_length)(
        {"tokens": texts, "label": tags}, [10, 11, 12, 13]
    )
    seen: list[tuple[int, int]] = []
    for i, ids in enumerate(found["input_ids"]):
        row = found["row"][i] - 10
        assert len(ids) <= max_length
        places = [p for p, label in enumerate(found["labels"][i]) if label != IGNORED]
        assert len(places) == len(found["words"][i]) > 0
        for place, word in zip(places, found["words"][i], strict=True):
            assert found["labels"][i][place] == tags[row][word]
            # The token is the first of the word.
            assert tokenizer.convert_ids_to_tokens(ids[place]) == tokenizer.tokenize(texts[row][word])[0]
            seen.append((row, word))
    expected = [(r, w) for r, words in enumerate(texts) for w, word in enumerate(words) if tokenizer.tokenize(word)]
    assert Counter(seen) == Counter(expected)


def test_a_word_without_a_token_is_told(tokenizer) -> None:
    rows = Dataset.from_dict({"tokens": [["a", "\u200b", "b"], ["\u200b"]], "label": [[0, 1, 1], [1]]})
    found = encode(rows, record("token_classification", ("O", "B-x")), tokenizer, 16, name="validation")
    assert found.notes == ("validation: for 2 of 4 words the tokenizer has no token; they count as wrong.",)
    assert found.features["row"][:] == [0]


# ---------------------------------------------------------------- answers


@settings(max_examples=60, deadline=None)
@given(sentences.filter(lambda words: any(w != "\u200b" for w in words)), st.integers(16, 40), st.data())
def test_answers_are_where_they_were(tokenizer, words, max_length, data) -> None:
    context = " ".join(words)
    spoken = [i for i, w in enumerate(words) if w != "\u200b"]
    first = data.draw(st.sampled_from(spoken))
    last = data.draw(st.sampled_from([i for i in spoken if first <= i < first + 3]))
    begin = len(" ".join(words[:first])) + (first > 0)
    answer = context[begin : len(" ".join(words[: last + 1]))]
    row = {"question": ["who is a ?"], "context": [context], "answers": [{"text": [answer], "answer_start": [begin]}]}
    found = head_of("question_answering").encoder(tokenizer, max_length)(row, [0])
    covered: set[int] = set()
    held = 0
    for i, ids in enumerate(found["input_ids"]):
        assert len(ids) <= max_length
        starts, ends = found["offset_start"][i], found["offset_end"][i]
        start, end = found["start_positions"][i], found["end_positions"][i]
        covered |= set(starts) - {-1}
        holds = any(s == begin for s in starts) and any(e == begin + len(answer) for e in ends)
        if not holds:
            assert (start, end) == (0, 0)
            continue
        held += 1
        assert context[starts[start] : ends[end]] == answer
    whole = tokenizer(context, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    assert covered == {o[0] for o in whole}, "every token of the context is in a window"
    if len(whole) <= max_length - 4 - 3:
        assert held == 1


@pytest.mark.parametrize(
    ("context", "answer", "expected"),
    [
        ("playing a", "play", (0, 4)),  # within a word, and not the token behind it
        ("playing a", "ing", (4, 7)),
        ("a playing", "a play", (0, 6)),
        ("playing a", "lay", (0, 4)),  # the token that holds it
    ],
)
def test_an_answer_may_be_a_part_of_a_word(tokenizer, context, answer, expected) -> None:
    answers = [{"text": [answer], "answer_start": [context.index(answer)]}]
    row = {"question": ["who ?"], "context": [context], "answers": answers}
    found = head_of("question_answering").encoder(tokenizer, 24)(row, [0])
    start, end = found["start_positions"][0], found["end_positions"][0]
    assert (found["offset_start"][0][start], found["offset_end"][0][end]) == expected


def test_a_window_with_a_part_of_the_answer_is_one_without(tokenizer) -> None:
    context = "a b " * 8  # 16 tokens, in windows of 11 that share 4
    answers = [{"text": ["a b a b a b"], "answer_start": [12]}]  # tokens 6 to 11
    row = {"question": ["who ?"], "context": [context.strip()], "answers": answers}
    found = head_of("question_answering").encoder(tokenizer, 16)(row, [0])
    first = [next(s for s in starts if s >= 0) // 2 for starts in found["offset_start"]]
    assert len(first) == 2
    assert first[1] > 6, "the second window begins within the answer"
    assert (found["start_positions"], found["end_positions"]) == ([0, 0], [0, 0])


def slow_best_span(starts: list[float], ends: list[float], allowed: list[bool]) -> tuple[float, int, int] | None:
    spans = [
        (-(starts[i] + ends[j]), i, j)
        for i in range(len(starts))
        for j in range(i, min(len(starts), i + 30))
        if allowed[i] and allowed[j] and np.isfinite([starts[i], ends[j]]).all()
    ]
    return (-min(spans)[0], *min(spans)[1:]) if spans else None


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 19), st.integers(0, 10_000))
def test_the_best_span_is_the_best_of_all(length, seed) -> None:
    chance = np.random.default_rng(seed)
    starts, ends = chance.normal(size=(2, length))
    allowed = chance.random(length) < 0.7
    if seed % 5 == 0:
        starts[chance.integers(length)] = np.nan
    assert best_span(starts, ends, allowed) == slow_best_span(list(starts), list(ends), list(allowed))


def test_an_answer_has_at_most_30_tokens() -> None:
    starts, ends = np.zeros(60), np.zeros(60)
    starts[5], ends[35], ends[34] = 9, 9, 4
    assert best_span(starts, ends, np.ones(60, dtype=bool)) == (13.0, 5, 34)


def test_a_long_question_is_cut_and_told(tokenizer) -> None:
    rows = Dataset.from_dict(
        {
            "id": ["1", "2"],
            "question": ["who is a ? " * 20, "who ?"],
            "context": ["a b a b", "b a"],
            "answers": [{"text": ["b"], "answer_start": [2]}, {"text": [], "answer_start": []}],
        }
    )
    found = encode(rows, record("question_answering"), tokenizer, 24, name="test")
    assert len(found.notes) == 1
    assert "test: 1 of 2 questions is longer" in found.notes[0]
    assert found.features["start_positions"][1] == 0, "no answer: the first special token"
    with pytest.raises(SettingsError, match="--max-length 6: leaves no room"):
        head_of("question_answering").encoder(tokenizer, 6)


# ---------------------------------------------------------------- prompts


@pytest.fixture(scope="module")
def words() -> Any:
    return heads.word_tokenizer(list("abcdefgh"), begins=True)


@pytest.mark.parametrize(
    ("prompt", "answer", "ids", "labels", "cut"),
    [
        ("a b", "c", "<s> a b c </s>", "- - - c </s>", 0),
        ("a b c d e f", "g h", "<s> d e f g h </s>", "- - - - g h </s>", 1),  # the prompt loses its beginning
        ("a b", "a b c d e f g h", "<s> a b c d e f", "- a b c d e f", 1),  # the answer its end
        ("a", "b c d e f", "<s> b c d e f </s>", "- b c d e f </s>", 1),
        ("a", "b c d e", "<s> a b c d e </s>", "- - b c d e </s>", 0),
    ],
)
def test_prompts_and_answers_are_one_text(words, prompt, answer, ids, labels, cut) -> None:
    found = head_of("causal_lm").encoder(words, 7)({"prompt": [prompt], "answer": [answer]}, [5])
    assert words.convert_ids_to_tokens(found["input_ids"][0]) == ids.split()
    shown = ["-" if i == IGNORED else words.convert_ids_to_tokens(i) for i in found["labels"][0]]
    assert shown == labels.split()
    assert (found["cut"], found["row"]) == ([cut], [5])


def test_an_encoder_decoder_reads_the_prompt_and_writes_the_answer() -> None:
    tokenizer = heads.word_tokenizer(list("abcdefgh"), begins=False)
    encoder = head_of("causal_lm").encoder(tokenizer, 4, is_encoder_decoder=True)
    found = encoder({"prompt": ["a b", "a b c d e"], "answer": ["c", "d"]}, [0, 1])
    assert [tokenizer.convert_ids_to_tokens(i) for i in found["input_ids"]] == [
        ["a", "b", "</s>"],
        ["a", "b", "c", "</s>"],
    ]
    assert [tokenizer.convert_ids_to_tokens(i) for i in found["labels"]] == [["c", "</s>"], ["d", "</s>"]]
    assert found["cut"] == [0, 1]


# ---------------------------------------------------------------- texts


@pytest.mark.parametrize("pair", [False, True])
def test_texts_that_are_too_long_are_counted(tokenizer, pair) -> None:
    columns: dict[str, Any] = {"text": ["a b", "a b a b", "a b a b a"], "label": [0, 1, 0]}
    if pair:
        columns["text_pair"] = ["", "", "b"]
    limit = 7 if pair else 6
    found = encode(Dataset.from_dict(columns), record("classification", ("n", "y")), tokenizer, limit)
    assert [len(ids) for ids in found.features["input_ids"]] == ([5, 7, 7] if pair else [4, 6, 6])
    assert found.features["cut"][:] == [0, 0, 1]
    assert found.notes == (f"train: 1 of 3 rows is longer, and only a part of it is read (--max-length {limit}).",)


def test_several_labels_are_floats(tokenizer) -> None:
    rows = Dataset.from_dict({"text": ["a", "b"], "label": [[0, 1], [1, 1]]})
    assert encode(rows, record("multi_label", ("x", "y")), tokenizer, 8).features["labels"][:] == [
        [0.0, 1.0],
        [1.0, 1.0],
    ]


def test_what_cannot_be_trained_is_said(tokenizer) -> None:
    with pytest.raises(SettingsError, match="evaluated only"):
        head_of("retrieval").encoder(tokenizer, 16)


# ---------------------------------------------------------------- large splits


def test_features_of_a_large_split_are_made_once(tokenizer, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = Dataset.from_dict({"text": ["a b " * (i % 4 + 1) for i in range(40)], "label": [i % 2 for i in range(40)]})
    task = record("classification", ("n", "y"))
    in_memory = encode(rows, task, tokenizer, 8)
    assert not list(tmp_path.rglob("*.arrow"))

    monkeypatch.setattr(encoding, "LARGE", 10)
    first = encode(rows, task, tokenizer, 8)
    assert first.features[:] == in_memory.features[:]
    files = sorted((tmp_path / "cache").rglob("*.arrow"))
    assert len(files) == 1
    times = [f.stat().st_mtime_ns for f in files]
    tokenizer("another call", truncation=True, max_length=3)  # leaves its settings in the tokenizer
    again = encode(rows, task, tokenizer, 8)
    assert again.features[:] == first.features[:]
    assert sorted((tmp_path / "cache").rglob("*.arrow")) == files
    assert [f.stat().st_mtime_ns for f in files] == times
    for other in (
        lambda: encode(rows, task, tokenizer, 6),
        lambda: encode(rows.map(lambda r: {"text": r["text"] + "b"}), task, tokenizer, 8),
        lambda: encode(
            rows, task, BertTokenizerFast(vocab={w: i for i, w in enumerate([*tiny_model.SPECIAL, "b", "a"])}), 8
        ),
    ):
        before = len(list((tmp_path / "cache").rglob("*.arrow")))
        assert other().features[:] != first.features[:]
        assert len(list((tmp_path / "cache").rglob("*.arrow"))) == before + 1


# ---------------------------------------------------------------- the order of the rows


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 300), st.integers(1, 40), st.integers(0, 9), st.integers(0, 3))
def test_every_row_comes_once_an_epoch(count, per_update, seed, epoch) -> None:
    lengths = np.random.default_rng(seed).integers(1, 50, count)
    sampler = GroupedByLength(lengths, per_update, seed)
    sampler.set_epoch(epoch)
    assert sorted(sampler) == list(range(count))
    assert len(sampler) == count
    assert list(sampler) == list(sampler)
    assert list(sampler) == list(map(int, grouped_order(lengths, per_update, (seed, epoch))))


def test_epochs_and_seeds_differ() -> None:
    lengths = np.arange(64) % 9
    orders = {tuple(grouped_order(lengths, 4, (seed, epoch))) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_updates_are_of_one_length_and_in_no_order_of_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 4000)
    order = grouped_order(lengths, 8, (0, 0))
    updates = lengths[order].reshape(-1, 8)
    grouped = updates.max(1).sum() * 8 / lengths.sum()
    at_random = np.random.default_rng(1).permutation(lengths).reshape(-1, 8).max(1).sum() * 8 / lengths.sum()
    # Tokens with padding, per token.
    assert grouped < 1.05
    assert at_random > 1.6
    means = updates.mean(1)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.1, "long updates do not come together"


def test_the_rows_left_over_are_no_shorter_than_others() -> None:
    lengths = np.arange(1, 22)
    last = [lengths[grouped_order(lengths, 8, (seed, 0))[16:]].mean() for seed in range(300)]
    assert np.mean(last) == pytest.approx(11, abs=0.6)


def test_lengths_follow_a_selection() -> None:
    rows = Dataset.from_dict({"input_ids": [[1], [1, 2], [], [1, 2, 3]]})
    assert lengths_of(rows.select([3, 0, 3])).tolist() == [3, 1, 3]
    assert lengths_of(rows.select([])).tolist() == []


def test_evaluation_goes_from_long_to_short(tokenizer) -> None:
    rows = Dataset.from_dict({"text": ["a", "a b a", "a b"], "label": [0, 1, 0]})
    found = encode(rows, record("classification", ("n", "y")), tokenizer, 8).longest_first()
    assert found.features["row"][:] == [1, 2, 0]
    assert found.rows["text"][:] == ["a", "a b a", "a b"]
