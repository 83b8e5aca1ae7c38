"""The user's own files for the heads beyond one label per text: many labels, tags, questions, prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from steadytune.errors import DataError, SettingsError
from steadytune.tasks import load_files
from steadytune.tasks.files.tags import tag_names


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def lines(path: Path, rows: list[object]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def refused(path: Path, *parts: str, **options: object) -> str:
    """The message of the error, one printable line that names the file."""
    with pytest.raises(DataError) as caught:
        load_files(path, path, **options)
    message = str(caught.value)
    assert message.isprintable()
    for part in (path.name, *parts):
        assert part in message, message
    return message


def rows_of(path: Path, split: str = "train", **options: object) -> list[dict]:
    return load_files(path, path, **options).splits[split].to_list()


# --- many labels -----------------------------------------------------------------------------------------------------

TEXTS = ["one", "two", "three"]
SETS = [["b", "a"], [], ["c"]]


@pytest.mark.parametrize("delimiter", ["|", ";"])
def test_labels_of_a_row_in_every_format(tmp_path, delimiter):
    body = "".join(f"{t},{delimiter.join(s)}\n" for t, s in zip(TEXTS, SETS, strict=True))
    files = [
        write(tmp_path / "t.csv", "text,label\n" + body),
        write(tmp_path / "t.tsv", "text\tlabel\n" + body.replace(",", "\t")),
        lines(tmp_path / "t.jsonl", [{"text": t, "label": s} for t, s in zip(TEXTS, SETS, strict=True)]),
        lines(
            tmp_path / "s.jsonl", [{"text": t, "label": delimiter.join(s)} for t, s in zip(TEXTS, SETS, strict=True)]
        ),
    ]
    parquet.write_table(pa.table({"text": TEXTS, "label": SETS}), tmp_path / "t.parquet")
    for file in [*files, tmp_path / "t.parquet"]:
        data = load_files(file, file, head="multi_label")
        assert data.task.label_names == ("a", "b", "c"), file
        assert data.splits["train"]["label"][:] == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
        assert data.splits["train"].features["label"].feature.dtype == "int8"
        assert data.task.metric == "f1_micro"


def test_a_comma_delimits_where_nothing_else_does_and_numbers_are_sorted_as_such(tmp_path):
    file = write(tmp_path / "t.csv", 'text,label\nx,"10, 9"\ny,2\n')
    data = load_files(file, file, head="multi_label")
    assert data.task.label_names == ("2", "9", "10")
    assert data.splits["train"]["label"][:] == [[0, 1, 1], [1, 0, 0]]
    numbers = lines(tmp_path / "t.jsonl", [{"text": "x", "label": [10, 9]}, {"text": "y", "label": [2]}])
    assert load_files(numbers, numbers, head="multi_label").splits["train"]["label"][:] == [[0, 1, 1], [1, 0, 0]]


def test_the_delimiter_is_that_of_the_training_file(tmp_path):
    train = write(tmp_path / "t.csv", "text,label\nx,a|b;c\n")
    other = write(tmp_path / "v.csv", "text,label\nx,b;c\n")
    data = load_files(train, other, head="multi_label")
    assert data.task.label_names == ("a", "b;c")
    assert data.splits["validation"]["label"][:] == [[0, 1]]


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (["a", "a"], "'a' occurs twice"),
        (["a", " "], "one of the labels is empty"),
        (None, "the labels are missing"),
        ({"a": 1}, "an object"),
        ([["a"]], "holds a list"),
        ([1], "a list of numbers where the rows before have a list of strings"),
        (["z", None], "empty or missing"),
    ],
)
def test_faulty_label_sets_name_the_row(tmp_path, label, problem):
    file = lines(tmp_path / "t.jsonl", [{"text": "x", "label": ["a"]}, {"text": "y", "label": label}])
    refused(file, "data row 2", "'label'", problem, head="multi_label")


def test_label_sets_that_cannot_be_learnt_or_were_never_seen(tmp_path):
    refused(write(tmp_path / "t.csv", "text,label\nx,\ny,\n"), "nothing to learn", head="multi_label")
    train = write(tmp_path / "u.csv", "text,label\nx,a|b\ny,\n")
    other = write(tmp_path / "v.csv", "text,label\nx,a\ny,z|a\n")
    with pytest.raises(DataError, match=r"v\.csv', data row 2 .*'z' was never seen in training"):
        load_files(train, other, head="multi_label")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sets(st.sampled_from("abcdefg")), min_size=1, max_size=30).filter(any))
def test_label_sets_survive_encoding(tmp_path_factory, sets):
    file = tmp_path_factory.mktemp("sets") / "t.csv"
    body = "".join(f"x,{'|'.join(sorted(s))}\n" for s in sets)
    data = load_files(write(file, "text,label\n" + body), file, head="multi_label")
    names = data.task.label_names
    found = [{n for n, on in zip(names, row, strict=True) if on} for row in data.splits["train"]["label"]]
    assert found == sets


# --- words and tags --------------------------------------------------------------------------------------------------

WORDS = [["EU", "rejects", "German", "call"], ["Peter", "Blackburn"]]
TAGS = [["B-ORG", "O", "B-MISC", "O"], ["B-PER", "I-PER"]]
NAMES = ("O", "B-MISC", "I-MISC", "B-ORG", "I-ORG", "B-PER", "I-PER")


def conll(delimiter: str, middle: str = "") -> str:
    sentences = [
        "\n".join(f"{w}{delimiter}{middle}{t}" for w, t in zip(ws, ts, strict=True))
        for ws, ts in zip(WORDS, TAGS, strict=True)
    ]
    return "\n\n".join(sentences)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.conll", conll(" ")),
        ("t.txt", conll("  ") + "\n\n\n"),
        ("t.tsv", conll("\t").replace("\n", "\r\n")),
        ("t.conll", "-DOCSTART- -X- O O\n\n" + conll(" ", "NNP I-NP ")),
        ("t.conll", "\n" + conll("\t", "x y\t")),
    ],
)
def test_a_word_and_its_tag_on_each_line(tmp_path, name, content):
    file = write(tmp_path / name, content)
    data = load_files(file, file, head="token_classification")
    assert data.task.label_names == NAMES
    assert data.splits["train"]["tokens"][:] == WORDS
    assert [[NAMES[i] for i in row] for row in data.splits["train"]["label"]] == TAGS
    assert data.counts["train"] == (2, 2)


def test_tags_as_lists_are_told_by_their_columns(tmp_path):
    rows = [{"tokens": w, "ner_tags": t} for w, t in zip(WORDS, TAGS, strict=True)]
    files = [lines(tmp_path / "t.jsonl", rows)]
    parquet.write_table(pa.table({"tokens": WORDS, "ner_tags": TAGS}), tmp_path / "t.parquet")
    for file in (*files, tmp_path / "t.parquet"):
        data = load_files(file, file)
        assert data.task.head == "token_classification"
        assert (data.task.label_names, data.splits["train"]["tokens"][:]) == (NAMES, WORDS)


def test_tags_that_are_numbers_or_no_entities(tmp_path):
    file = lines(tmp_path / "t.jsonl", [{"tokens": ["a", "b"], "tags": [10, 2]}])
    assert load_files(file, file).task.label_names == ("2", "10")
    assert tag_names(["VERB", "NOUN"]) == ("NOUN", "VERB")
    assert tag_names(["O", "E-PER", "B-PER"]) == ("B-PER", "E-PER", "O")


def test_lines_longer_than_a_block_and_words_with_quotes_and_spaces(tmp_path, monkeypatch):
    monkeypatch.setattr("steadytune.tasks.files.formats.sentences._WORDS", 64)
    words = ["x" * 300, '"', "New York", "naïve"]
    file = write(tmp_path / "t.tsv", "\n".join(f"{w}\t{t}" for w, t in zip(words, ["O", "A", "O", "A"], strict=True)))
    assert rows_of(file, head="token_classification")[0]["tokens"] == words


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("a O\nb\n", ("line 2", "'b' is not a word")),
        ("a\tO\nb O\n", ("line 2", "a tab and a tag")),
        ("a\tO\n \tO\n", ("line 2",)),
        ("a\tO\nb\t\n", ("line 2",)),
        ("\n\n", ("no rows",)),
        ("a O\nb O\n", ("every word has the tag 'O'",)),
    ],
)
def test_faulty_lines_are_named(tmp_path, content, parts):
    file = write(tmp_path / "t.conll", content)
    if not content.strip():
        parts = ("empty",)
    refused(file, *parts)


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    file = tmp_path / "t.conll"
    file.write_bytes(b"\xc3\xa9 O\nb \xff\n")
    refused(file, "line 2", "0xff")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "2 words but 1 tags"),
        ({"tokens": [], "tags": []}, "no words"),
        ({"tokens": ["a", ""], "tags": ["O", "O"]}, "a word is empty"),
        ({"tokens": ["a"], "tags": [""]}, "a tag is empty"),
        ({"tokens": "a", "tags": ["O"]}, "a string where a list is needed"),
        ({"tokens": ["a"]}, "null where a list is needed"),
        ({"tokens": [1], "tags": ["O"]}, "holds a number"),
    ],
)
def test_faulty_lists_of_tags_name_the_row(tmp_path, row, problem):
    file = lines(tmp_path / "t.jsonl", [{"tokens": ["x"], "tags": ["A"]}, row])
    message = refused(file, head="token_classification")
    assert "data row 2" in message
    assert problem in message or "is missing" in message, message


def test_a_tag_never_seen_in_training(tmp_path):
    train = write(tmp_path / "t.conll", "a O\nb B-X\n")
    other = write(tmp_path / "v.conll", "a O\n\nb I-X\n\nc B-Y\n")
    with pytest.raises(DataError, match=r"v\.conll', line 5 \(sentence 3\): the tag 'B-Y' was never seen"):
        load_files(train, other)


# --- questions -------------------------------------------------------------------------------------------------------

CONTEXT = "Café Lumière lies in Paris."
ROWS = [
    {"id": "1", "question": "Where?", "context": CONTEXT, "answers": {"text": ["Paris"], "answer_start": [21]}},
    {"id": "2", "question": "When?", "context": CONTEXT, "answers": {"text": [], "answer_start": []}},
]
NESTED = {
    "version": "1.1",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {"id": "1", "question": "Where?", "answers": [{"text": "Paris", "answer_start": 21}]},
                        {"id": "2", "question": "When?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}


@pytest.mark.parametrize("indent", [None, 2])
def test_questions_in_every_layout_give_the_same_rows(tmp_path, indent):
    nested = write(tmp_path / "squad.json", json.dumps(NESTED, indent=indent))
    flat = lines(tmp_path / "t.jsonl", ROWS)
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    for file in (nested, flat, tmp_path / "t.parquet"):
        data = load_files(file, file)
        assert data.task.head == "question_answering"
        assert data.splits["train"].to_list() == ROWS


def test_questions_without_or_with_repeated_ids_get_row_numbers(tmp_path):
    file = lines(tmp_path / "t.jsonl", [{k: v for k, v in row.items() if k != "id"} for row in ROWS])
    assert [row["id"] for row in rows_of(file)] == ["row-1", "row-2"]
    file = lines(tmp_path / "u.jsonl", [{**row, "id": 7} for row in ROWS])
    assert [row["id"] for row in rows_of(file)] == ["7-1", "7-2"]


def test_columns_of_questions_can_be_named(tmp_path):
    file = lines(tmp_path / "t.jsonl", [{"q": "Where?", "c": CONTEXT, "a": ROWS[0]["answers"]}] * 2)
    data = load_files(file, file, text_column="q", text_pair_column="c", label_column="a", head="question_answering")
    assert data.splits["train"][0]["question"] == "Where?"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"answers": {"text": ["Paris"], "answer_start": [20]}}, "does not stand at its answer_start"),
        ({"answers": {"text": ["Paris"], "answer_start": [-1]}}, "does not stand"),
        ({"answers": {"text": ["Paris"], "answer_start": []}}, "1 answers but 0 places"),
        ({"answers": {"text": [""], "answer_start": [0]}}, "the answer is empty"),
        ({"answers": None}, "answers"),
        ({"answers": ["Paris"]}, "write the answers as"),
        ({"answers": {"text": ["Paris"], "answer_start": ["a"]}}, "not a whole number"),
        ({"question": " "}, "white space"),
        ({"context": 3}, "a number, not a string"),
    ],
)
def test_faulty_questions_name_the_row(tmp_path, change, problem):
    file = lines(tmp_path / "t.jsonl", [ROWS[0], {**ROWS[1], **change}])
    refused(file, "row 2", problem)


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("data", 0, "paragraphs", 0, "qas", 1, "question"), None, "paragraph 1, question 2: 'question'"),
        (("data", 0, "paragraphs", 0, "context"), 3, "document 1, paragraph 1: 'context'"),
        (("data", 0, "paragraphs", 0, "qas", 0, "answers"), "Paris", "question 1: 'answers'"),
        (("data", 0, "paragraphs", 0, "qas", 0, "answers", 0, "answer_start"), None, "an answer_start"),
        (("data", 0, "paragraphs", 0, "qas", 0, "answers", 0, "answer_start"), 3, "data row 1"),
    ],
)
def test_faulty_nested_questions_are_named(tmp_path, path, value, problem):
    content = json.loads(json.dumps(NESTED))
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    refused(write(tmp_path / "t.json", json.dumps(content)), problem)
    refused(write(tmp_path / "u.json", json.dumps(NESTED)[:-3]), "not readable as JSON")


# --- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["answer", "completion"])
def test_prompts_and_answers_in_every_format(tmp_path, answer):
    rows = [{"prompt": "2+2=", answer: "4"}, {"prompt": "3+3=", answer: "6"}]
    files = [
        lines(tmp_path / "t.jsonl", rows),
        write(tmp_path / "t.csv", f"{answer},prompt\n4,2+2=\n6,3+3=\n"),
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    for file in (*files, tmp_path / "t.parquet"):
        data = load_files(file, file)
        assert data.task.head == "causal_lm"
        assert data.splits["train"].to_list() == [
            {"prompt": "2+2=", "answer": "4"},
            {"prompt": "3+3=", "answer": "6"},
        ]
        assert data.splits["train"].column_names == ["prompt", "answer"]


def test_faulty_prompts_name_the_row(tmp_path):
    refused(write(tmp_path / "t.csv", "prompt,answer\na,b\nc,\n"), "data row 2", "'answer'", "empty")
    refused(lines(tmp_path / "t.jsonl", [{"prompt": "a", "answer": 4}] * 2), "data row 1", "a number")
    refused(write(tmp_path / "u.csv", "text,label\na,b\nc,d\n"), "no column 'prompt'", head="causal_lm")


# --- all -------------------------------------------------------------------------------------------------------------


def test_a_layout_of_another_head_is_refused(tmp_path):
    words = write(tmp_path / "t.conll", conll(" "))
    nested = write(tmp_path / "t.json", json.dumps(NESTED))
    table = write(tmp_path / "t.csv", "text,label\na,b\nc,d\n")
    refused(words, "words with tags", "token_classification", head="classification")
    refused(nested, "SQuAD", head="regression")
    refused(table, ".conll", head="token_classification")
    refused(table, "SQuAD", head="question_answering")
    train = write(tmp_path / "u.csv", "text,label\na,b\nc,d\n")
    with pytest.raises(DataError, match="words with tags"):
        load_files(train, words)
    with pytest.raises(SettingsError, match="unknown head 'retrieval'; known are causal_lm, classification"):
        load_files(table, head="retrieval")


@pytest.mark.parametrize("head", ["multi_label", "token_classification", "question_answering", "causal_lm"])
def test_a_tenth_is_held_out_and_repeats_are_told_for_every_head(tmp_path, head):
    many = {
        "multi_label": [{"text": f"t{i}", "label": ["a", "b"][: i % 3]} for i in range(40)],
        "token_classification": [{"tokens": [f"w{i}", "x"], "tags": ["B-A", "O"]} for i in range(40)],
        "question_answering": [{**ROWS[0], "id": str(i), "question": f"q{i}"} for i in range(40)],
        "causal_lm": [{"prompt": f"p{i}", "answer": "a"} for i in range(40)],
    }[head]
    file = lines(tmp_path / "t.jsonl", many)
    data = load_files(file, head=head, seed=3)
    assert data.counts == {"train": (40, 36), "validation": (40, 4)}
    assert any("held out" in note for note in data.notes)
    again = load_files(file, head=head, seed=3)
    assert again.splits["validation"].to_list() == data.splits["validation"].to_list()
    whole = sorted(json.dumps(row) for split in data.splits.values() for row in split)
    assert len(whole) == 40
    told = load_files(file, file, head=head).notes
    assert any("40 of the 40 validation rows have the text of a training row" in note for note in told)
