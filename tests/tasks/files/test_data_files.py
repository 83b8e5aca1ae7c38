"""The user's own files: everything readable arrives unchanged, everything else is one line that names the place."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import string
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from steadytune.errors import DataError, SettingsError
from steadytune.support.text import excerpt
from steadytune.tasks import load_files
from steadytune.tasks.files.formats import delimited, json_objects

SHARED = Path(__file__).parents[4] / "shared" / "data"
GOOD = "text,label\ngood,pos\nbad,neg\nfine,pos\npoor,neg\n"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the folder {SHARED} with public data sets is absent")


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def csv_file(path: Path, rows: list[tuple[object, ...]], header: tuple[str, ...] = ("text", "label")) -> Path:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])
    return write(path, text.getvalue())


def jsonl_file(path: Path, rows: list[object]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def parquet_file(path: Path, **columns: object) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


def error_of(call: Callable[[], object], *parts: str, kind: type[Exception] = DataError) -> str:
    """The message of the error that the call raises: one printable line that holds all the parts."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) is kind
    assert message.isprintable(), message
    for part in parts:
        assert part in message, message
    return message


def train_error(path: Path, *parts: str, **settings_: object) -> str:
    return error_of(lambda: load_files(path, **settings_), str(path), *parts)  # type: ignore[arg-type]


# --- what can be read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["csv", "tsv", "jsonl", "ndjson", "json", "parquet", "CSV"])
def test_every_format_gives_the_same_rows(tmp_path, extension):
    texts, labels = ["good, very", 'b"a"d', "NA", "12"], ["pos", "neg", "pos", "neg"]
    path = tmp_path / f"train.{extension}"
    if extension == "parquet":
        parquet_file(path, text=texts, label=labels, other=[1, 2, 3, 4])
    elif "json" in extension:
        jsonl_file(path, [{"other": [1], "text": t, "label": y} for t, y in zip(texts, labels, strict=True)])
    else:
        rows = [(i, t, y) for i, (t, y) in enumerate(zip(texts, labels, strict=True))]
        csv_file(path, rows, ("other", "text", "label"))
    data = load_files(path, validation_file=path)
    assert data.task.label_names == ("neg", "pos")
    assert data.task.head == "classification"
    assert data.task.metric == "accuracy"
    assert data.task.name == "train"
    for split in ("train", "validation"):
        assert data.splits[split].column_names == ["text", "label"]
        assert data.splits[split]["text"][:] == texts
        assert data.splits[split]["label"][:] == [1, 0, 1, 0]
        assert data.splits[split].features["label"].dtype == "int64"
        assert data.splits[split].features["text"].dtype == "string"
        assert data.counts[split] == (4, 4)
    assert any("4 of the 4 validation rows have the text" in note for note in data.notes)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
            lambda text: text.strip() and not text.isspace()
        ),
        min_size=2,
        max_size=8,
    ),
    st.sampled_from([",", "\t"]),
    # with "\n" Python's writer leaves a lone "\r" unquoted, and a reader must take it for the end of a row
    st.sampled_from([(csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\r\n"), (csv.QUOTE_ALL, "\n")]),
)
def test_any_text_survives_a_csv_file(tmp_path, texts, delimiter, writing):
    quoting, line_end = writing
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=delimiter, quoting=quoting, lineterminator=line_end)
    writer.writerows([("text", "label"), *((text, row % 2) for row, text in enumerate(texts))])
    path = write(tmp_path / ("t.tsv" if delimiter == "\t" else "t.csv"), buffer.getvalue())
    data = load_files(path, validation_file=path)
    assert data.splits["train"]["text"][:] == texts
    assert data.splits["train"]["label"][:] == [row % 2 for row in range(len(texts))]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text('a",\n \r', max_size=24))
def test_csv_is_read_as_the_strict_standard_reader_reads_it_or_refused(tmp_path, body):
    """Stray quotes must never join two rows: either the rows of Python's strict reader, or an error."""
    content = "text,label\nfirst,x\nsecond,y\n" + body + "\nlast,x\n"
    path = write(tmp_path / "t.csv", content)
    try:
        expected = [row for row in csv.reader(io.StringIO(content, newline=""), strict=True) if row][1:]
    except csv.Error:
        expected = None
    if expected is not None and all(len(row) == 2 and row[0].strip() and row[1].strip() for row in expected):
        data = load_files(path, validation_file=path)
        assert data.splits["train"]["text"][:] == [row[0] for row in expected]
        names = data.task.label_names or ()
        assert [names[label] for label in data.splits["train"]["label"]] == [row[1].strip() for row in expected]
    else:
        train_error(path)


def test_words_that_mean_null_elsewhere_stay_text(tmp_path):
    texts = ["NA", "null", "None", "nan", "#N/A", "-1", "2020-01-01", "true", '""']
    path = csv_file(tmp_path / "t.csv", [(text, row % 2) for row, text in enumerate(texts)])
    assert load_files(path, path).splits["train"]["text"][:] == texts
    rows = [{"text": text, "label": row % 2} for row, text in enumerate(texts)]
    assert load_files(jsonl_file(tmp_path / "t.jsonl", rows), path).splits["train"]["text"][:] == texts


def test_names_that_mean_null_elsewhere_stay_classes(tmp_path):
    path = csv_file(tmp_path / "t.csv", [("a", "None"), ("b", "NA"), ("c", "nan"), ("d", "None")])
    assert load_files(path, path).task.label_names == ("NA", "None", "nan")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_byte_order_mark_is_accepted(tmp_path, name):
    rows = {"t.csv": GOOD, "t.jsonl": '{"text":"good","label":"pos"}\n{"text":"bad","label":"neg"}\n'}
    data = load_files(*[write(tmp_path / name, b"\xef\xbb\xbf" + rows[name].encode())] * 2)
    assert data.splits["train"]["text"][0] == "good"


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
@pytest.mark.parametrize("length", [1, 5000])
def test_rows_and_texts_longer_than_a_block_are_read(tmp_path, monkeypatch, name, length):
    for module in (delimited, json_objects):
        monkeypatch.setattr(module, "_LETTERS", 256)
    texts = [f"{row}\nword,\n" * length for row in range(200)]
    path = tmp_path / name
    if name == "t.csv":
        csv_file(path, [(text, row % 2) for row, text in enumerate(texts)])
    else:
        jsonl_file(path, [{"text": text, "label": row % 2} for row, text in enumerate(texts)])
    assert load_files(path, path).splits["train"]["text"][:] == texts


def test_blank_lines_and_old_line_ends_are_no_rows(tmp_path):
    path = write(tmp_path / "t.csv", "\ntext,label\r\n\r\na,x\r\nb,y\r\n\r\n")
    assert load_files(path, path).splits["train"]["text"][:] == ["a", "b"]
    path = write(tmp_path / "u.csv", "text,label\ra,x\rb,y\r")
    assert load_files(path, path).splits["train"]["text"][:] == ["a", "b"]


def test_pairs_and_column_options(tmp_path):
    path = csv_file(tmp_path / "t.csv", [("p", "h", "x"), ("q", "i", "y")], ("premise", "hypothesis", "gold"))
    data = load_files(
        path, path, text_column="premise", text_pair_column="hypothesis", label_column="gold", head="classification"
    )
    assert data.splits["train"].column_names == ["text", "text_pair", "label"]
    assert data.splits["train"][1] == {"text": "q", "text_pair": "i", "label": 1}
    assert (data.task.text_column, data.task.text_pair_column, data.task.label_column) == (
        "premise",
        "hypothesis",
        "gold",
    )
    path = csv_file(tmp_path / "u.csv", [("p", "h", "x"), ("q", "i", "y")], ("text", "text_pair", "label"))
    assert load_files(path, path).splits["train"]["text_pair"][:] == ["h", "i"]


def test_columns_may_hold_a_dot_and_folders_an_equals_sign(tmp_path):
    folder = tmp_path / "label=9"
    folder.mkdir()
    path = folder / "t.parquet"
    parquet.write_table(pa.table({"my.text": ["a", "b"], "label": [0, 1]}), path)
    assert load_files(path, path, text_column="my.text").splits["train"]["label"][:] == [0, 1]


def test_dictionary_and_large_columns_of_parquet(tmp_path):
    path = parquet_file(
        tmp_path / "t.parquet",
        text=pa.array(["a", "b", "a"], pa.large_string()),
        label=pa.array(["x", "y", "x"]).dictionary_encode(),
    )
    data = load_files(path, path)
    assert data.splits["train"]["label"][:] == [0, 1, 0]
    assert data.splits["train"].features["text"].dtype == "string"


# --- what the labels mean --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "head", "names", "encoded"),
    [
        (["pos", "neg"], None, ("neg", "pos"), [1, 0]),
        ([" pos", "pos ", "neg"], None, ("neg", "pos"), [1, 1, 0]),
        (["1", "0"], None, ("0", "1"), [1, 0]),
        (["10", "9", "+2"], None, ("2", "9", "10"), [2, 1, 0]),
        (["1.0", "0.0"], None, ("0", "1"), [1, 0]),
        (["-1", "1"], None, ("-1", "1"), [0, 1]),
        (["2.5", "1"], None, None, [2.5, 1.0]),
        (["1e-3", "-.5"], None, None, [0.001, -0.5]),
        (["1", "0"], "regression", None, [1.0, 0.0]),
        ([str(k) for k in range(30)], "classification", tuple(map(str, range(30))), list(range(30))),
    ],
)
def test_what_labels_mean(tmp_path, labels, head, names, encoded):
    path = csv_file(tmp_path / "t.csv", [(f"t{i}", label) for i, label in enumerate(labels)])
    data = load_files(path, path, head=head)
    assert data.task.head == ("regression" if names is None else "classification")
    assert data.task.label_names == names
    assert data.splits["train"]["label"][:] == encoded
    assert data.splits["train"].features["label"].dtype == ("float64" if names is None else "int64")
    assert data.task.metric == ("pearson" if names is None else "accuracy")
    assert "because" in data.task.description


@pytest.mark.parametrize("values", [[True, False], [1, 0], [1.0, 0.0], ["1", "0"]])
def test_json_labels_of_every_type(tmp_path, values):
    path = jsonl_file(tmp_path / "t.jsonl", [{"text": f"t{i}", "label": value} for i, value in enumerate(values)])
    assert load_files(path, path).splits["train"]["label"][:] == [1, 0]


def test_formats_may_differ_between_splits(tmp_path):
    train = csv_file(tmp_path / "t.csv", [("a", 0), ("b", 1), ("c", 2)])
    validation = parquet_file(tmp_path / "v.parquet", text=["d", "e"], label=pa.array([2, 0], pa.int8()))
    test = jsonl_file(tmp_path / "x.jsonl", [{"text": "f", "label": 1.0}])
    data = load_files(train, validation, test)
    assert data.splits["validation"]["label"][:] == [2, 0]
    assert data.splits["test"]["label"][:] == [1]
    assert data.notes == ("Classes with a single training row: '0', '1', '2'.",)


# --- the held-out rows -----------------------------------------------------------------------------------------------


def test_a_tenth_is_held_out_stratified_and_nothing_is_lost(tmp_path):
    rows = [(f"t{i}", "rare" if i % 20 == 0 else "common") for i in range(200)]
    path = csv_file(tmp_path / "t.csv", rows)
    data = load_files(path, seed=3)
    train, validation = data.splits["train"], data.splits["validation"]
    assert sorted([*train["text"], *validation["text"]]) == sorted(text for text, _ in rows)
    assert validation["label"][:].count(1) == 1
    assert (len(train), len(validation)) == (180, 20)
    assert data.counts == {"train": (200, 180), "validation": (200, 20)}
    assert any("20 of the 200 training rows" in note and "seed 3" in note for note in data.notes)
    names = dict(rows)
    for split in (train, validation):
        assert all(names[row["text"]] == ("common", "rare")[row["label"]] for row in split)
    again, other = load_files(path, seed=3), load_files(path, seed=4)
    assert again.splits["validation"]["text"][:] == validation["text"][:]
    assert other.splits["validation"]["text"][:] != validation["text"][:]


def test_a_repeated_text_that_ends_up_on_both_sides_is_told(tmp_path):
    data = load_files(csv_file(tmp_path / "t.csv", [("same", i % 2) for i in range(20)]))
    assert any("2 of the 2 validation rows have the text" in note for note in data.notes)
    pairs = [("same", f"t{i}", i % 2) for i in range(20)]
    data = load_files(csv_file(tmp_path / "p.csv", pairs, ("text", "text_pair", "label")))
    assert not any("have the text" in note for note in data.notes)


def test_every_class_of_two_rows_is_in_both_splits(tmp_path):
    path = csv_file(tmp_path / "t.csv", [(f"t{i}", f"c{i // 2}") for i in range(12)] + [("single", "one")])
    data = load_files(path)
    assert set(data.splits["validation"]["label"]) == set(range(6))
    assert set(data.splits["train"]["label"]) == set(range(7))


def test_no_row_to_spare(tmp_path):
    train_error(csv_file(tmp_path / "t.csv", [("a", "x"), ("b", "y")]), "validation file")


def test_regression_holds_out_a_tenth(tmp_path):
    path = csv_file(tmp_path / "t.csv", [(f"t{i}", i / 7) for i in range(40)])
    data = load_files(path)
    assert len(data.splits["validation"]) == 4
    assert any("Regression" in note for note in data.notes)


# --- what cannot be read: the file -----------------------------------------------------------------------------------


def test_missing_folder_and_unknown_extension(tmp_path):
    train_error(tmp_path / "none.csv", "no such file")
    train_error(tmp_path / "a" / "none.csv", "no such file")
    (tmp_path / "folder.csv").mkdir()
    train_error(tmp_path / "folder.csv", "folder")
    message = train_error(write(tmp_path / "t.cvs", GOOD), "'.cvs'", "Did you mean '.csv'?")
    for known in (".csv", ".tsv", ".jsonl", ".parquet"):
        assert known in message
    train_error(write(tmp_path / "t.text", GOOD), "unknown extension")
    train_error(write(tmp_path / "t.txt", GOOD), "line 1", "is not a word", "Rename")
    train_error(write(tmp_path / "noextension", GOOD), "unknown extension")
    error_of(lambda: load_files("x" * 5000 + ".csv"), "cannot be read")
    error_of(lambda: load_files("a\0b.csv"), "cannot be read")


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p.csv")
    train_error(tmp_path / "p.csv", "pipe")


def test_no_permission(tmp_path, monkeypatch):
    path = write(tmp_path / "t.csv", GOOD)

    def refuse(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)  # the tests may run as root, who may read everything
    train_error(path, "permission")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("extension", ["csv", "tsv", "jsonl", "parquet"])
def test_empty_file(tmp_path, extension, content):
    train_error(write(tmp_path / f"t.{extension}", content), "empty")


def test_columns_but_no_rows(tmp_path):
    train_error(write(tmp_path / "t.csv", "text,label\n"), "no rows")
    train_error(write(tmp_path / "u.csv", "text,label"), "no rows")
    train_error(
        parquet_file(tmp_path / "t.parquet", text=pa.array([], pa.string()), label=pa.array([], pa.int64())), "no rows"
    )


def test_content_of_another_format(tmp_path):
    real = parquet_file(tmp_path / "t.parquet", text=["a", "b"], label=[0, 1]).read_bytes()
    train_error(write(tmp_path / "a.parquet", GOOD), "not parquet", ".csv")
    train_error(write(tmp_path / "b.csv", real), "parquet", "rename")
    train_error(write(tmp_path / "c.jsonl", real), "parquet", "rename")
    train_error(write(tmp_path / "e.csv", '{"text": "a", "label": 0}\n'), "JSON", ".jsonl")
    train_error(write(tmp_path / "f.csv", gzip.compress(GOOD.encode())), "gzip")
    train_error(write(tmp_path / "g.csv.gz", GOOD), "not gzip", "rename")
    train_error(write(tmp_path / "m.csv.gz", gzip.compress(GOOD.encode() * 99)[:-20]), "cut off")
    train_error(write(tmp_path / "h.csv", b"PK\x03\x04" + b"x" * 50), "spreadsheet")
    train_error(write(tmp_path / "j.parquet", b"\0\1\2\3" * 9), "binary")
    train_error(write(tmp_path / "k.parquet", real[: len(real) // 2]), "damaged")
    train_error(write(tmp_path / "l.jsonl", GOOD), "data row 1", "not JSON")


def test_nul_bytes_and_other_encodings_name_the_cell(tmp_path):
    train_error(write(tmp_path / "a.csv", "text,label\na,x\n\nb\0,y\n"), "data row 2", "'text'", "NUL")
    damaged = 'text,label\n"é\n\n",x\nb,\xe9\n'.encode("latin-1").replace(b'"\xe9', b'"\xc3\xa9')
    train_error(write(tmp_path / "b.csv", damaged), "data row 2", "'label'", "0xe9", "UTF-8")
    train_error(write(tmp_path / "c.csv", b"te\xe9xt,label\n\xc3\xa9,x\n"), "header", "0xe9")
    lines = b'{"text": "\xc3\xa9", "label": 0}\n\n{"text": "\xff", "label": 1}\n'
    train_error(write(tmp_path / "d.jsonl", lines), "data row 2", "0xff", "UTF-8")
    train_error(write(tmp_path / "g.json", b"[" + lines.replace(b"\n\n", b",") + b"]"), "data row 2", "0xff")
    train_error(write(tmp_path / "e.jsonl", lines.replace(b"\xff", b"\0")), "data row 2", "NUL")
    invalid = pa.array([b"a", b"\xff", b"c"], pa.binary()).view(pa.string())
    parquet_file(tmp_path / "f.parquet", text=invalid, label=[0, 1, 0])
    train_error(tmp_path / "f.parquet", "data row 2", "'text'", "UTF-8")


# --- what cannot be read: the table ----------------------------------------------------------------------------------


def test_ragged_rows(tmp_path):
    train_error(write(tmp_path / "a.csv", 'text,label\n"a\nb",x\n\nc,d,y\n'), "data row 2", "3 fields", "has 2")
    train_error(write(tmp_path / "b.csv", "text,label\na,x\nb\n"), "data row 2", "1 fields")
    train_error(write(tmp_path / "c.tsv", "text\tlabel\na\tx\ty\n"), "data row 1", "a tab")


def test_broken_quoting_never_joins_rows(tmp_path):
    joined = 'text,label\nx,1\n"foo bar,1\nbaz "qux",0\nlast,0\n'  # Arrow alone reads three rows
    train_error(write(tmp_path / "a.csv", joined), "data row 2", "middle of the field")
    train_error(write(tmp_path / "b.csv", 'text,label\nx,1\n"foo,1\nbar,0\n'), "data row 2", "never closed")
    train_error(write(tmp_path / "c.tsv", 'text\tlabel\n"foo" bar\t1\n'), "data row 1", "middle of the field")
    train_error(write(tmp_path / "d.csv", '"text"x,label\na,1\n'), "header")
    train_error(write(tmp_path / "f.csv", 'text,label\na,x\nb,"y\n'), "data row 2", "never closed")
    lone = 'text,label\n5" pipe,x\n",a" b,y\n6",x\n'  # the lone quotes hide the broken one from a count
    train_error(write(tmp_path / "g.csv", lone), "data row 2", "middle of the field")
    path = write(tmp_path / "e.csv", 'text,label\n5" pipe,x\nsay "hi" twice,y\n')
    assert load_files(path, path).splits["train"]["text"][:] == ['5" pipe', 'say "hi" twice']


def test_columns_missing_or_twice(tmp_path):
    train_error(csv_file(tmp_path / "a.csv", [("a", "b", "x")], ("text", "text", "label")), "'text'", "2 times")
    message = train_error(csv_file(tmp_path / "b.csv", [("a", "x", "y")], ("p", "q", "r")), "which column is the text")
    assert "'p', 'q', 'r'" in message
    assert "--text-column" in message
    assert "--label-column" in message
    train_error(csv_file(tmp_path / "c.csv", [("a",)], ("text",)), "--label-column", "no column 'label'")
    path = csv_file(tmp_path / "d.csv", [("a", "x"), ("b", "y")], ("text", "label"))
    train_error(path, "no column 'premise'", "--text-pair-column", text_pair_column="premise")
    train_error(write(tmp_path / "e.csv", "text/label\na/x\n"), "Neither comma, semicolon, tab nor bar")
    train_error(
        parquet_file(tmp_path / "f.parquet", text=["a"], lable=[1]), "Did you mean 'lable'?", label_column="label"
    )
    train_error(jsonl_file(tmp_path / "g.jsonl", [{"text": "a"}]), "no column 'label'", "'text'")
    other = csv_file(tmp_path / "v.csv", [("a", "x")], ("text", "class"))
    error_of(lambda: load_files(path, other), str(other), "no column 'label'")
    error_of(lambda: load_files(path, text_column="label"), "two things", kind=SettingsError)
    twice = write(tmp_path / "h.jsonl", '{"text":"a","label":1}\n{"text":"b","text":"c","label":0}\n')
    train_error(twice, "data row 2", "'text'", "twice")


@pytest.mark.parametrize(
    ("second", "parts"),
    [
        ('{"text": 5, "label": "y"}', ("'text'", "a number")),
        ('{"text": ["b"], "label": "y"}', ("'text'", "a list")),
        ('{"text": {"b": 1}, "label": "y"}', ("'text'", "an object")),
        ('{"text": null, "label": "y"}', ("'text'", "missing")),
        ('{"label": "y"}', ("'text'", "missing")),
        ('{"text": "\\ud800", "label": "y"}', ("'text'", "surrogate")),
        ('{"text": "", "label": "y"}', ("'text'", "empty")),
        ('{"text": " \\n\\u3000", "label": "y"}', ("'text'", "white space")),
        ('{"text": "b", "label": 5}', ("'label'", "a number", "a string")),
        ('{"text": "b", "label": ["y"]}', ("'label'", "a list")),
        ('{"text": "b", "label": null}', ("'label'", "missing")),
        ('{"text": "b"}', ("'label'", "missing")),
        ('{"text": "b", "label": " "}', ("'label'", "empty")),
        ('{"text": "b", "label": "y"', ("not JSON",)),
        ('["b", "y"]', ("not a JSON object",)),
        ('"b"', ("not a JSON object",)),
    ],
)
def test_faulty_json_rows(tmp_path, second, parts):
    path = write(tmp_path / "t.jsonl", '{"text": "a", "label": "x"}\n\n' + second + '\n{"text": "c", "label": "y"}\n')
    train_error(path, "data row 2", *parts)


def test_json_is_faulty_after_the_rows_searched_for_names(tmp_path):
    rows: list[object] = [{"text": f"t{i}", "label": i % 2} for i in range(3000)]
    rows[2500] = {"text": 3, "label": 0}
    train_error(jsonl_file(tmp_path / "t.jsonl", rows), "data row 2501", "a number")


def test_text_that_is_missing_or_of_another_type(tmp_path):
    train_error(csv_file(tmp_path / "a.csv", [("a", "x"), ("", "y")]), "data row 2", "'text'", "empty")
    train_error(csv_file(tmp_path / "b.csv", [("a", "x"), (" \n", "y")]), "data row 2", "'text'", "white space")
    labels = ["x", "y", "x"]
    train_error(parquet_file(tmp_path / "c.parquet", text=["a", None, "c"], label=labels), "data row 2", "missing")
    train_error(parquet_file(tmp_path / "d.parquet", text=[1, 2, 3], label=labels), "'text'", "data row 1", "int64")
    train_error(parquet_file(tmp_path / "e.parquet", text=[["a"]] * 3, label=labels), "'text'", "data row 1", "list")
    train_error(
        csv_file(tmp_path / "f.csv", [("a", "b", "x"), ("c", "", "y")], ("text", "text_pair", "label")),
        "data row 2",
        "'text_pair'",
        "empty",
    )


def test_all_rows_that_cannot_be_used_are_told_at_once(tmp_path):
    rows = [(f"t{i}", "xy"[i % 2]) for i in range(40)]
    for row in (3, 7, 9):
        rows[row] = ("", "x")
    rows[11], rows[12], rows[9] = (" \t", "y"), ("t", " "), ("", "")
    message = train_error(
        csv_file(tmp_path / "a.csv", rows), "5 rows cannot be used (counted from 1 after any header)"
    )
    assert "column 'text' is empty in data rows 4, 8, 10 and is only white space in data row 12;" in message
    assert "column 'label' is empty in data rows 10, 13. Fill them in or remove these rows." in message
    many = train_error(csv_file(tmp_path / "b.csv", [("", "x")] * 30), "30 rows cannot be used")
    assert "data rows 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 20 more." in many
    nothing = parquet_file(tmp_path / "g.parquet", text=["a", "b", "c"], label=pa.nulls(3))
    train_error(nothing, "3 rows", "'label' is missing in data rows 1, 2, 3.")
    absent = parquet_file(tmp_path / "h.parquet", text=[None, "a", None], label=["x", "y", "x"])
    train_error(absent, "column 'text' is missing in data rows 1, 3. Fill")
    ragged = write(tmp_path / "c.csv", "text,label\na,x\nb,c,y\nd,x\ne\nf,g,y\n")
    train_error(ragged, "data row 2 ", "3 fields where the header has 2", "Also ragged: data rows 4, 5.")
    train_error(csv_file(tmp_path / "d.csv", [("a", "1"), ("b", "0"), ("c", "nan"), ("d", "inf")]), "in data row 4.")
    other = csv_file(tmp_path / "e.csv", [("a", "x"), ("b", "u"), ("c", "v")])
    train = csv_file(tmp_path / "f.csv", [("a", "x"), ("b", "y")])
    error_of(lambda: load_files(train, other), "data row 2", "'u' was never seen", "The same is wrong in data row 3.")


# --- what cannot be read: the labels ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "row", "problem"),
    [
        (["x", "", "y"], 2, "empty"),
        (["x", "y", "  "], 3, "empty"),
        (["1", "0", "pos", "1"], 3, "'pos' is a name where most are numbers"),
        (["x", "y", "7", "x"], 3, "'7' is a number where most are names"),
        (["1", "0", "nan"], 3, "not a finite number"),
        (["0.5", "inf", "1"], 2, "not a finite number"),
        (["0.5", "1e999", "1"], 2, "not a finite number"),
        (["0", "1", "-1"], 3, "unlabeled"),
        (["-1", "-1", "-1"], 1, "unlabeled"),
    ],
)
def test_faulty_labels_in_csv(tmp_path, labels, row, problem):
    path = csv_file(tmp_path / "t.csv", [(f"t{i}", label) for i, label in enumerate(labels)])
    train_error(path, f"data row {row} ", "'label'", problem)


@pytest.mark.parametrize(
    ("labels", "row", "problem"),
    [
        (pa.array([0, None, 1]), 2, "missing"),
        (pa.array([0.5, float("nan"), 1.0]), 2, "not a finite number"),
        (pa.array([0.5, float("-inf"), 1.0]), 2, "not a finite number"),
        (pa.array([0, 1, -1], pa.int8()), 3, "unlabeled"),
        (pa.array(["x", None, "y"]).dictionary_encode(), 2, "missing"),
        (pa.array([[0], [1], [0]]), 1, "list"),
        (pa.array([None, 0, 1]), 1, "missing"),
        (pa.array([True, None, False]), 2, "missing"),
    ],
)
def test_faulty_labels_in_parquet(tmp_path, labels, row, problem):
    path = parquet_file(tmp_path / "t.parquet", text=["a", "b", "c"], label=labels)
    train_error(path, f"data row {row} ", "'label'", problem)


def test_json_numbers_that_are_not_finite(tmp_path):
    path = write(tmp_path / "t.jsonl", '{"text":"a","label":0.5}\n{"text":"b","label":NaN}\n')
    train_error(path, "data row 2", "'label'", "not a finite number")


def test_head_that_does_not_fit(tmp_path):
    names = csv_file(tmp_path / "a.csv", [("a", "1"), ("b", "x"), ("c", "2")])
    train_error(names, "data row 2", "'x' is not a number", head="regression")
    scores = csv_file(tmp_path / "b.csv", [("a", "1"), ("b", "2.5"), ("c", "2")])
    train_error(scores, "data row 2", "2.5 is no class number", head="classification")
    many = csv_file(tmp_path / "c.csv", [(f"t{i}", i) for i in range(21)])
    train_error(many, "21 different whole numbers", "head")
    error_of(
        lambda: load_files(many, head="clasification"),  # type: ignore[arg-type]
        "Did you mean 'classification'?",
        kind=SettingsError,
    )


@pytest.mark.parametrize(("label", "head"), [("same", None), ("1", None), ("2.5", None), ("1", "regression")], ids=str)
def test_one_label_is_nothing_to_learn(tmp_path, label, head):
    train_error(csv_file(tmp_path / "t.csv", [("a", label), ("b", label)]), "nothing to learn", head=head)


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize(
    ("train", "other", "parts"),
    [
        (["x", "y"], ["x", "z"], ("'z' was never seen", "'x', 'y'")),
        (["0", "1"], ["1", "2"], ("2 was never seen", "'0', '1'")),
        (["0", "1"], ["1", "0.5"], ("0.5 was never seen",)),
        (["0", "1"], ["1", "pos"], ("'pos' was never seen",)),
        (["x", "y"], ["x", "1"], ("'1' was never seen",)),
        (["0", "1"], ["0", "-1"], ("unlabeled",)),
        (["0", "1"], ["0", ""], ("empty",)),
        (["0.5", "1"], ["0.5", "high"], ("'high' is not a number",)),
        (["0.5", "1"], ["0.5", "nan"], ("not a finite",)),
    ],
)
def test_labels_of_other_splits(tmp_path, split, train, other, parts):
    path = csv_file(tmp_path / "t.csv", [(f"t{i}", label) for i, label in enumerate(train * 2)])
    bad = csv_file(tmp_path / f"{split}.csv", [(f"v{i}", label) for i, label in enumerate(other)])
    error_of(lambda: load_files(path, **{f"{split}_file": bad}), str(bad), "data row 2", "'label'", *parts)  # type: ignore[arg-type]


def test_a_test_file_of_hidden_scores_is_refused(tmp_path):
    path = csv_file(tmp_path / "t.csv", [("a", 0.5), ("b", 1)])
    hidden = csv_file(tmp_path / "x.csv", [("c", -1), ("d", -1)])
    error_of(lambda: load_files(path, path, hidden), str(hidden), "data row 1", "unlabeled")


def test_nothing_from_a_file_reaches_the_terminal_raw(tmp_path):
    evil = "\x1b[31m\n" + "z" * 500
    path = csv_file(tmp_path / "t.csv", [("a", "1"), ("b", "0"), ("c", evil)])
    message = train_error(path, "data row 3")
    assert len(message) < 500
    train_error(csv_file(tmp_path / "u.csv", [("a", "b", "x")], (evil, "y", "label")), "which column is the text")
    train_error(write(tmp_path / "v.csv", f'text,label\na,b,"{evil}"\n'), "3 fields")
    path = csv_file(tmp_path / "w\x1b[31m.csv", [("a", "x"), ("", "y")])
    error_of(lambda: load_files(path), "data row 2")


@given(st.text())
def test_excerpts_are_short_and_printable(text):
    shown = excerpt(text)
    assert shown.isprintable()
    assert len(shown) <= 70
    if len(text) <= 20 and set(text) <= set(string.ascii_letters):
        assert shown == repr(text)


def test_the_fingerprint_follows_from_the_rows(tmp_path):
    """By it tokenized rows are found again in the cache."""
    rows = [(f"text {i}", "ab"[i % 2]) for i in range(40)]
    first = load_files(csv_file(tmp_path / "a.csv", rows))
    again = load_files(csv_file(tmp_path / "b.csv", rows))
    other = load_files(csv_file(tmp_path / "c.csv", [*rows[:-1], ("text 39", "a")]))
    for split in ("train", "validation"):
        assert first.splits[split]._fingerprint == again.splits[split]._fingerprint
    assert first.splits["train"]._fingerprint != other.splits["train"]._fingerprint
    assert first.splits["train"]._fingerprint != first.splits["validation"]._fingerprint


# --- real data -------------------------------------------------------------------------------------------------------


@needs_shared
def test_glue_rte_is_read_whole():
    folder = SHARED / "glue" / "rte"
    data = load_files(
        folder / "train.parquet",
        folder / "validation.parquet",
        text_column="sentence1",
        text_pair_column="sentence2",
    )
    assert data.counts == {"train": (2490, 2490), "validation": (277, 277)}
    assert data.task.label_names == ("0", "1")
    raw = parquet.read_table(folder / "train.parquet")
    train = data.splits["train"].with_format("arrow")[:]
    assert train["text"].to_pylist() == raw["sentence1"].to_pylist()
    assert train["text_pair"].to_pylist() == raw["sentence2"].to_pylist()
    assert train["label"].to_pylist() == raw["label"].to_pylist()


@needs_shared
def test_glue_stsb_is_regression_and_cola_survives_csv(tmp_path):
    folder = SHARED / "glue" / "stsb"
    files = (folder / "train.parquet", folder / "validation.parquet")
    data = load_files(*files, text_column="sentence1", text_pair_column="sentence2")
    assert data.task.head == "regression"
    assert np.ptp(data.splits["train"]["label"][:]) == 5.0
    cola = parquet.read_table(SHARED / "glue" / "cola" / "train.parquet").to_pylist()
    path = csv_file(tmp_path / "cola.csv", [(row["sentence"], row["label"]) for row in cola])
    data = load_files(path, path)
    assert data.splits["train"]["text"][:] == [row["sentence"] for row in cola]
    assert data.splits["train"]["label"][:] == [row["label"] for row in cola]
