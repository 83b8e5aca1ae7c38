"""`steadytune predict`: files in, the same columns and two more out, whatever happens in between."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers import heads, tiny_model, trained
from pyarrow import parquet

import steadytune
from steadytune.cli import main
from steadytune.models.inputs import read_inputs
from steadytune.prediction import chunks
from steadytune.prediction.predictors import Predictor

TEXTS = ["good film", 'a "quoted", text\nof two lines', "bad", "", "the plot was not very good", "dull — ok"]
tiny_folder = tiny_model.tiny_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return trained.trained_folder(tmp_path_factory.mktemp("trained") / "classes", "classification")


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Call the command line and return its status with what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any) -> tuple[int, str, str]:
        status = main(["predict", *map(str, arguments)])
        return (status, *capsys.readouterr())

    return call


@pytest.fixture
def small_chunks(monkeypatch) -> None:
    """Let these few rows be many chunks."""
    monkeypatch.setattr(chunks.read_chunks, "__defaults__", (2,))


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize(
    ("read", "written"),
    [
        *((suffix, suffix) for suffix in (".csv", ".tsv", ".jsonl", ".parquet")),
        *((".csv", ".parquet"), (".parquet", ".csv"), (".jsonl", ".parquet"), (".parquet", ".jsonl")),
    ],
)
@pytest.mark.usefixtures("small_chunks")
def test_all_columns_and_the_order_of_rows_are_kept(read, written, model, run, tmp_path) -> None:
    typed = read in (".jsonl", ".parquet")
    rows = [{"id": i + 7 if typed else f"0{i}", "text": text, "Note ": f"é{i}"} for i, text in enumerate(TEXTS)]
    write_rows(tmp_path / f"rows{read}", rows)
    status, out, err = run(model, f"rows{read}", "--output", f"scored{written}", "--all-probabilities")
    assert status == 0, err
    assert "Wrote 6 rows to" in out
    assert "1 row without text in column 'text', predicted as empty: data row 4." in err
    found = rows_of(tmp_path / f"scored{written}")
    added = ["predicted", "probability", "probability_no", "probability_yes"]
    assert [list(row) for row in found] == [["id", "text", "Note ", *added]] * len(rows)
    kept_types = typed and written in (".jsonl", ".parquet")
    assert [{k: row[k] for k in rows[0]} for row in found] == (
        rows if kept_types else [{k: str(v) for k, v in row.items()} for row in rows]
    )
    wanted = steadytune.predict(model, [text or "x" for text in TEXTS])
    for text, row, one in zip(TEXTS, found, wanted, strict=True):
        if not text:
            assert not any(row[name] for name in added)
            continue
        assert row["predicted"] == one.label
        assert float(row["probability"]) == pytest.approx(one.probability, abs=1e-6)
        assert float(row["probability_no"]) == pytest.approx(one.probabilities["no"], abs=1e-6)


def test_json_lines_keep_what_each_object_has(model, run, tmp_path) -> None:
    rows = [{"text": "good", "a": [1, {"b": None}]}, {"z": 2**70, "text": "bad"}, {"text": "x", "a": "0"}]
    write_rows(tmp_path / "rows.jsonl", rows)
    assert run(model, "rows.jsonl", "-o", "scored.jsonl")[0] == 0
    found = rows_of(tmp_path / "scored.jsonl")
    assert [{k: v for k, v in row.items() if k not in ("predicted", "probability")} for row in found] == rows
    assert run(model, "rows.jsonl", "-o", "scored.csv")[0] == 0
    assert [row["a"] for row in rows_of(tmp_path / "scored.csv")] == ['[1, {"b": null}]', "", "0"]
    assert run(model, "rows.jsonl", "-o", "scored.parquet")[0] == 0
    assert [row["z"] for row in rows_of(tmp_path / "scored.parquet")] == [None, str(2**70), None]


EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "classification": [{"text": "good film"}],
    "regression": [{"text": "good film"}],
    "multi_label": [{"text": "good film"}],
    "token_classification": [{"tokens": ["good", "film"]}],
    "question_answering": [{"question": "was the film", "context": "a good film"}],
    "causal_lm": [{"prompt": "the film was"}],
}


@pytest.mark.parametrize("head", heads.TRAINED_HEADS)
def test_every_head_writes_every_format_and_prints_a_table(head, run, tmp_path) -> None:
    folder = trained.trained_folder(tmp_path / "model", head, "llama")
    write_rows(tmp_path / "rows.jsonl", EXAMPLES[head])
    (wanted,) = steadytune.predict(folder, EXAMPLES[head])
    for suffix in (".jsonl", ".parquet", ".csv"):
        status, _, err = run(folder, "rows.jsonl", "-o", f"scored{suffix}")
        assert status == 0, err
        (row,) = rows_of(tmp_path / f"scored{suffix}")
        if suffix != ".csv":
            label = list(wanted.label) if isinstance(wanted.label, tuple) else wanted.label
            assert row["predicted"] == label
        elif head == "multi_label":
            assert row["predicted"] == "|".join(wanted.label), "as training reads several labels"
        assert ("probability" in row) == (head != "regression")
    status, out, _ = run(folder, "rows.jsonl")
    assert status == 0
    assert out.splitlines()[0].split()[0] == "predicted"
    assert len(out.splitlines()) == 2
    assert max(map(len, out.splitlines())) <= 80


def test_the_table_fits_80_columns(model, run) -> None:
    texts = ["good " * 60, "字" * 100, "a\tb\x1b[31m", "x"]
    given = [part for text in texts for part in ("--text", text)]
    status, out, _ = run(model, *given, "--all-probabilities")
    assert status == 0
    lines = out.splitlines()
    assert lines[0].split() == ["predicted", "probability", "text"]
    assert len(lines) == 1 + 2 * len(texts), "each row and its probabilities"
    assert "\x1b" not in out
    from rich.cells import cell_len

    assert max(map(cell_len, lines)) <= 80


@pytest.mark.parametrize(
    ("content", "options", "said", "rows"),
    [
        ("good film\n\nbad\n", (), "one text on each line", 3),
        ("text,n\ngood film,1\nbad,2\n", (), "Standard input is read as csv", 2),
        ("n;text\n1;good film\n", (), "standard input: a semicolon separates the columns", 1),
        ('{"text": "good"}\n{"text": "bad"}\n', (), "read as jsonl", 2),
        ('[{"text": "good"},\n {"text": "bad"}]\n', (), "read as json ", 2),
        ("text\ngood\n", ("--input-format", "lines"), "", 2),
        ("n\ttext\n1\tgood\n", ("--input-format", "tsv"), "", 1),
    ],
)
def test_standard_input(content, options, said, rows, model, run, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    status, out, err = run(model, "-", *options)
    assert status == 0, err
    assert said in err
    assert len(out.splitlines()) == 1 + rows


@pytest.mark.parametrize(
    ("name", "content", "arguments", "said"),
    [
        ("a.csv", "text,label\ngood,yes\n", ("-o", "a.csv", "--overwrite"), "is the file that is read"),
        ("a.csv", "text\ngood\n", ("-o", "there.csv"), "exists already; give another name, or --overwrite"),
        ("a.csv", "text\ngood\n", ("-o", "b.xls"), "must end in one of .csv"),
        ("a.csv", "text\ngood\n", ("-o", "no/b.csv"), "there is no folder 'no'"),
        ("a.csv", "text,predicted\ngood,1\n", ("-o", "b.csv"), "has the column 'predicted' already"),
        ("a.csv", "text,probability_no\ngood,1\n", ("-o", "b.csv", "--all-probabilities"), "'probability_no' already"),
        (
            "a.csv",
            "text\ngood\nbad,worse\n",
            ("-o", "b.csv"),
            "data row 2 (counted from 1 after any header): 2 fields",
        ),
        ("a.csv", 'text\ngood\n"bad\n', ("-o", "b.csv"), "never closed"),
        ("a.csv", b"text\n\xc3\xa9 \xc3\xa9\nbad \xe9\n", ("-o", "b.csv"), "0xe9 is not utf-8"),
        ("a.csv", b"text\nbad \xe9\n", ("-o", "b.csv", "--encoding", "utf-9"), "--encoding 'utf-9': unknown"),
        ("a.csv", "text\ngood\n", ("--delimiter", "x"), "--delimiter 'x': give a comma"),
        ("a.csv", "text\ngo\0od\n", ("-o", "b.csv"), "a NUL byte"),
        ("a.csv", "text\n", ("-o", "b.csv"), "has columns but no rows"),
        ("a.csv", "text,text\na,b\n", ("-o", "b.csv"), "the column 'text' occurs 2 times"),
        ("a.csv", "body1,n\na,b\n", ("-o", "b.csv"), "found are 'body1', 'n'. Name the column with --text-column"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', ("-o", "b.csv"), "data row 2"),
        ("a.jsonl", '{"text": "a", "text": "b"}\n', ("-o", "b.csv"), "occurs twice"),
        ("a.jsonl", "[1]\n", ("-o", "b.csv"), "'a.jsonl'"),
        ("a.parquet", b"PAR1 cut off", ("-o", "b.csv"), "damaged"),
        ("a.csv", "text\ngood\n", ("--text", "good"), "a.csv and --text: give one or the other"),
        ("a.csv", "text\ngood\n", ("--input-format", "cvs"), "--input-format: must be one of"),
        ("a.conll", "good B-x\n", (), "holds words and tags, and the model predicts one class"),
    ],
)
def test_mistakes_are_one_line_and_leave_no_file(name, content, arguments, said, model, run, tmp_path) -> None:
    Path(tmp_path, name).write_bytes(content if isinstance(content, bytes) else content.encode())
    Path(tmp_path, "there.csv").write_text("mine")
    status, out, err = run(model, name, *arguments)
    assert status == 2
    assert said in err
    assert not out
    assert len(err.splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {name, "there.csv"}
    assert (tmp_path / "there.csv").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Nothing to predict"),
        (("--text-pair", "a"), "is the second text of a --text"),
        (("--text", "a", "--text-pair", "b", "--text-pair", "c"), "2 second texts for 1 texts"),
        (("no.csv",), "there is no such file"),
        (("no.csv", "--input-format", "csv"), "there is no such file"),
    ],
)
def test_mistakes_on_the_command_line(arguments, said, model, run) -> None:
    status, _, err = run(model, *arguments)
    assert (status, len(err.splitlines())) == (2, 1)
    assert said in err


def test_a_prefix_and_overwriting(model, run, tmp_path) -> None:
    rows = [{"text": "good film", "predicted": "mine"}]
    write_rows(tmp_path / "a.csv", rows)
    for _ in range(2):
        assert run(model, "a.csv", "-o", "b.csv", "--column-prefix", "new_", "--overwrite")[0] == 0
    assert list(rows_of(tmp_path / "b.csv")[0]) == ["text", "predicted", "new_predicted", "new_probability"]


def process(*arguments: Any, **more: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "steadytune", "predict", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


@pytest.mark.usefixtures("small_chunks")
def test_stopped_in_the_middle_it_leaves_no_half_file(model, run, tmp_path, monkeypatch) -> None:
    write_rows(tmp_path / "rows.csv", [{"text": text} for text in TEXTS])
    ask, seen = Predictor.predict, []

    def interrupted(self: Any, *arguments: Any, **options: Any) -> Any:
        seen.append({path.name.split(".")[-1] for path in tmp_path.iterdir()})
        if len(seen) == 3:
            raise KeyboardInterrupt
        return ask(self, *arguments, **options)

    monkeypatch.setattr(Predictor, "predict", interrupted)
    assert run(model, "rows.csv", "-o", "scored.csv")[0] == 130
    assert seen[2] == {"csv", "unfinished"}
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.long
def test_killed_in_the_middle_it_leaves_no_half_file(model, tmp_path) -> None:
    write_rows(tmp_path / "rows.csv", [{"text": "good film"}] * 100_000)
    running = process(model, "rows.csv", "--output", "scored.csv", cwd=tmp_path)
    began = time.monotonic()
    while not any(path.stat().st_size for path in tmp_path.glob("scored.csv.*")) and time.monotonic() - began < 60:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert list(tmp_path.glob("scored.csv.*.unfinished")), "it was in the middle"
    assert not (tmp_path / "scored.csv").exists()
    write_rows(tmp_path / "rows.csv", [{"text": "good film"}])
    assert main(["predict", str(model), str(tmp_path / "rows.csv"), "-o", str(tmp_path / "scored.csv")]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"rows.csv", "scored.csv"}, "and what it left is removed"


def test_output_that_nobody_reads_is_no_error(model, run, monkeypatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        assert run(model, "--text", "good")[0] == 0


@pytest.mark.long
def test_a_reader_that_has_read_enough_is_no_error(model, tmp_path) -> None:
    write_rows(tmp_path / "rows.csv", [{"text": "good film"}] * 20_000)
    running = process(model, "rows.csv", cwd=tmp_path)
    assert running.stdout is not None
    assert running.stdout.readline().startswith(b"predicted")
    running.stdout.close()
    assert running.stderr is not None
    assert running.stderr.read() == b""
    assert running.wait() == 0


# ---------------------------------------------------------------- what a training leaves


def trained_run(folder: Path, model: Path, **options: Any) -> Path:
    given = {"model": model, "max-steps": 2, "output-dir": folder, "use-cpu": None, **options}
    arguments = [part for k, v in given.items() for part in ([f"--{k}"] if v is None else [f"--{k}", str(v)])]
    assert main(["train", *arguments, "--quiet"]) == 0
    return folder


def test_a_run_reads_its_columns_pairs_and_length_as_in_training(tiny_folder, run, tmp_path) -> None:
    rows = [{"first": a, "second": "the plot was long " * 4, "kind": b} for a, b in tiny_model.rows(40)]
    write_rows(tmp_path / "train.csv", rows)
    write_rows(tmp_path / "test.csv", rows[:11])
    columns = {"text-column": "first", "text-pair-column": "second", "label-column": "kind"}
    files = {"train-file": tmp_path / "train.csv", "test-file": tmp_path / "test.csv"}
    folder = trained_run(tmp_path / "run", tiny_folder, **files, **columns, **{"max-length": 12})
    inputs = read_inputs(folder / "model")
    assert inputs is not None
    assert (inputs.text_column, inputs.text_pair_column, inputs.label_column) == ("first", "second", "kind")
    assert (inputs.max_length, inputs.is_pair, inputs.head) == (12, True, "classification")
    measured = json.loads((folder / "metrics.json").read_text())["after"]["test"]
    for place in (folder, folder / "model"):
        found = steadytune.predict(place, tmp_path / "test.csv")
        assert found.scores == pytest.approx({name: measured[name] for name in found.scores})
        assert set(found.scores) == set(measured) - {"rows", "loss"}
    status, out, err = run(folder, "test.csv")
    assert status == 0, err
    assert f"Scores of 11 rows with labels: accuracy {measured['accuracy']:.4f}" in out
    status, _, err = run(folder, "--text", "good film")
    assert (status, "the model reads pairs; give --text-pair as well" in err) == (2, True)
    (folder / "model" / "steadytune_inputs.json").unlink()  # a run of an older version
    assert steadytune.predict(folder, tmp_path / "test.csv").scores == found.scores
    (folder / "model" / "steadytune_inputs.json").write_text("{}")
    assert "is damaged" in run(folder, "test.csv")[2]


@pytest.mark.parametrize(
    ("labels", "scored", "said"),
    [
        (["yes", "no", "yes"], 3, ""),
        ([" yes ", "", "no"], 2, "1 rows have no label and are not in the scores."),
        (["yes", "perhaps", "no"], 0, "Not scored: data row 2 has the label 'perhaps', which the model does not have"),
        (["", "", ""], 0, ""),
    ],
)
def test_labels_that_are_there_are_scored(labels, scored, said, model, run, tmp_path) -> None:
    write_rows(tmp_path / "a.csv", [{"text": f"good film {i}", "label": x} for i, x in enumerate(labels)])
    status, out, err = run(model, "a.csv")
    assert status == 0, err
    assert (f"Scores of {scored} rows with labels: accuracy" in out) == bool(scored)
    assert said in err


@pytest.mark.parametrize("head", [h for h in heads.TRAINED_HEADS if h != "classification"])
def test_every_head_is_scored_as_evaluate_does(head, tmp_path, tiny_folder) -> None:
    from cli.test_head_commands import FILES

    suffix, write = FILES[head]
    for seed, name in enumerate(("train", "test")):
        (tmp_path / f"{name}.{suffix}").write_text(write(heads.rows(head, 24, seed)), encoding="utf-8")
    model = tiny_folder if head != "causal_lm" else heads.language_model_folder(tmp_path / "decoder", "llama")
    files = {"train-file": tmp_path / f"train.{suffix}", "test-file": tmp_path / f"test.{suffix}", "head": head}
    folder = trained_run(tmp_path / "run", model, **files, **{"max-length": 24})
    measured = json.loads((folder / "metrics.json").read_text())["after"]["test"]
    found = steadytune.predict(folder, tmp_path / f"test.{suffix}")
    assert set(found.scores) == set(measured) - {"rows", "loss"}
    assert found.scores == pytest.approx({name: measured[name] for name in found.scores}, abs=1e-5)


def test_a_comparison_predicts_with_its_best_kept_model(model, run, tmp_path) -> None:
    import shutil
    from dataclasses import replace

    from helpers import comparisons

    made = comparisons.comparison(comparisons.cell({"none": (0.0, 0.004), "smart": (0.01, 0.004)}))
    best = max(made.cells[0].runs, key=lambda r: r.metrics["after"]["validation"][made.cells[0].metric])
    folder = tmp_path / "compared"
    folder.mkdir()
    (folder / "comparison.json").write_text(json.dumps(made.as_json()))
    status, _, err = run(folder, "--text", "good film")
    assert (status, "no model was kept" in err) == (2, True)
    others = [r for r in made.cells[0].runs if r is not best][:2]
    wrong = trained.trained_folder(tmp_path / "wrong", "regression")
    for record, source in ((best, model), *((r, wrong) for r in others)):
        shutil.copytree(source, folder / "runs" / record.key / "model")
    status, out, err = run(folder, "--text", "good film", "--text", "bad")
    assert status == 0, err
    assert f"Best model of {folder}: {best.candidate}" in err
    assert out.splitlines()[0].split() == ["predicted", "probability", "text"], "the model of classes, not of numbers"
    two = replace(made, cells=(*made.cells, replace(made.cells[0], task="other")))
    (folder / "comparison.json").write_text(json.dumps(two.as_json()))
    status, _, err = run(folder, "--text", "good film")
    assert (status, "compares several tasks" in err) == (2, True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", gzip.compress(b"n,text\n1,good film\n", mtime=0)),
        ("a.csv", "n;text\n1;é good film\n".encode("cp1252")),
        ("a.csv", "n,text\n1,good film\n".encode("utf-16")),
        ("a.json", b'[{"n": 1, "text": "good film"}]'),
        ("a.jsonl.gz", gzip.compress(b'{"n": 1, "text": "good film"}\n', mtime=0)),
        ("a.txt", b"good film\n"),
        ("a.csv", b"Review,n\ngood film,1\n"),
    ],
)
def test_files_are_read_as_in_training(name, content, model, run, tmp_path) -> None:
    Path(tmp_path, name).write_bytes(content)
    status, _, err = run(model, name, "-o", "scored.jsonl")
    assert status == 0, err
    (row,) = rows_of(tmp_path / "scored.jsonl")
    assert row["predicted"] == steadytune.predict(model, ["good film"])[0].label


def test_columns_of_0_and_1_are_labels(run, tmp_path) -> None:
    folder = trained.trained_folder(tmp_path / "model", "multi_label")
    names = heads.LABELS["multi_label"]
    rows = [{"text": text, **dict.fromkeys(names, 0)} for text in TEXTS if text]
    for row, one in zip(rows, steadytune.predict(folder, [row["text"] for row in rows]), strict=True):
        row.update(dict.fromkeys(one.label, 1))
    write_rows(tmp_path / "a.csv", rows)
    assert "f1_micro 1.0000" in run(folder, "a.csv")[1]


def test_words_with_or_without_tags(run, tmp_path) -> None:
    folder = trained.trained_folder(tmp_path / "tags", "token_classification")
    Path("bare.conll").write_text("good\nfilm\n\nbad\n")
    Path("tagged.txt").write_text("good B-x\nfilm I-x\n\nbad O\n")
    Path("mixed.conll").write_text("good B-x\nfilm\n")
    status, out, err = run(folder, "bare.conll", "-o", "scored.jsonl")
    assert status == 0, err
    assert [row["tokens"] for row in rows_of(tmp_path / "scored.jsonl")] == [["good", "film"], ["bad"]]
    status, out, _ = run(folder, "tagged.txt")
    assert "Scores of 2 rows with labels: precision" in out
    status, _, err = run(folder, "mixed.conll")
    assert (status, "'film' is not a word, white space and a tag" in err) == (2, True)


def test_an_unfinished_run_and_other_folders_are_refused(model, run, tmp_path) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("task: movie-reviews\n")
    (tmp_path / "empty").mkdir()
    for place, said in (("begun", "the run is not finished"), ("empty", "holds no config.json"), ("./no", "no such")):
        status, _, err = run(place, "--text", "good")
        assert status == 2
        assert said in err
        assert "--model" not in err


def test_a_mistake_is_told_before_torch_is_imported(model, tmp_path) -> None:
    (tmp_path / "a.csv").write_text("body1,n\na,b\n")
    code = (
        "import sys; from steadytune.cli import main; "
        f"assert main(['predict', {str(model)!r}, 'a.csv']) == 2; assert 'torch' not in sys.modules; "
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=os.environ)
