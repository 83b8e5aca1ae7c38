"""`steadytune init`: what it sees in rows, and that the configuration it writes runs as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers import tiny_model
from safetensors.numpy import load_file

from steadytune.cli import main
from steadytune.comparison.candidates import candidates
from steadytune.proposal.first_look import first_look
from steadytune.settings.compare import CompareSettings
from steadytune.settings.resolve import resolve
from steadytune.settings.train import TrainSettings
from steadytune.training.rows import load_data

tiny_folder = tiny_model.tiny_folder


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def classes(rows: int = 40) -> str:
    return "text,label\n" + "".join(f"{'word ' * (i % 9)}film {i},{'bad' if i % 4 else 'good'}\n" for i in range(rows))


def lines(rows: list[dict]) -> str:
    return "\n".join(json.dumps(row) for row in rows) + "\n"


QUESTION = {"question": "Who came?", "context": "Ann came.", "answers": {"text": ["Ann"], "answer_start": [0]}}
FILES = {
    "classes.csv": (classes(), "classification", ()),
    "pairs.tsv": (
        "premise\thypothesis\tgold\n" + "".join(f"a {i}\tb {i}\t{i % 3}\n" for i in range(30)),
        "classification",
        ("--text-column", "premise", "--text-pair-column", "hypothesis", "--label-column", "gold"),
    ),
    "numbers.jsonl": (lines([{"text": f"t {i}", "label": i / 7} for i in range(30)]), "regression", ()),
    "several.jsonl": (
        lines([{"text": f"t {i}", "label": ["a", "b"][: i % 3]} for i in range(30)]),
        "multi_label",
        ("--head", "multi_label"),
    ),
    "tags.conll": ("".join(f"Ann B-PER\ncame{i} O\n\n" for i in range(30)), "token_classification", ()),
    "questions.jsonl": (lines([QUESTION | {"id": str(i)} for i in range(30)]), "question_answering", ()),
    "prompts.jsonl": (lines([{"prompt": f"a {i}", "answer": "b"} for i in range(30)]), "causal_lm", ()),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("verb", ["compare", "train"])
def test_the_written_configuration_is_of_these_rows(place: Path, capsys, name: str, verb: str) -> None:
    content, head, options = FILES[name]
    (place / name).write_text(content)
    assert main(["init", name, *options, "--verb", verb, "-o", "made.yaml"]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert shown.splitlines()[-1] == f"Written: made.yaml. Next: steadytune {verb} --config made.yaml"
    if verb == "compare":
        settings = resolve(CompareSettings, {}, place / "made.yaml")
        assert [c.label for c in candidates(settings)] == ["none", "noisytune", "smart"]
        settings = settings.run_settings()
    else:
        settings = resolve(TrainSettings, {}, place / "made.yaml")
        assert settings.methods == ["none"], "no method at three times the price that nobody has asked for"
    data = load_data(settings)
    assert data.task.head == head
    assert {"train", "validation", "test"} <= data.splits.keys()  # without a test file rows are held out
    assert f"{len(data.splits['train'])} train" in shown
    written = (place / "made.yaml").read_text()
    for line in written.splitlines():
        assert line.startswith("#") or "  # " in line or not line  # every setting says why
    assert settings.max_length == 128


def test_values_follow_from_the_rows(place: Path) -> None:
    rows = [f"{'word ' * 50}{i},{'bad' if i % 4 else 'good'}" for i in range(400)]
    (place / "train.csv").write_text("text,label\n" + "\n".join([*rows, *rows[:6], "twice,good", "twice,bad"]) + "\n")
    (place / "test.csv").write_text(classes())
    look = first_look(TrainSettings(train_file="train.csv", test_file="test.csv"))
    assert look.lengths.exact
    assert 52 <= look.lengths.median <= look.lengths.most <= look.lengths.longest < 60
    assert sum(look.classes.values()) == look.rows
    assert look.majority == pytest.approx(0.75, abs=0.02)
    assert look.repeats.agreeing == tuple((i, 400 + i) for i in range(6))  # those held out as well
    assert look.repeats.contradictory == ((406, 407),)
    assert main(["init", "train.csv", "--test-file", "test.csv", "-q"]) == 0
    made = yaml.safe_load((place / "steadytune.yaml").read_text())
    assert made["max_length"] % 8 == 0
    assert made["max_length"] == 128, "a shorter limit saves nothing: batches are padded to their longest row"
    assert made["per_device_train_batch_size"] == 16
    updates = made["num_train_epochs"] * -(-look.rows // 16)
    assert 200 <= updates < 200 + look.rows / 16 + 1
    assert "hold_out" not in made
    settings = resolve(CompareSettings, {}, place / "steadytune.yaml")
    trainings = len(candidates(settings)) * (len(settings.learning_rates) + settings.seeds - 1)
    assert f"27 trainings, {27 * updates:,} updates in all" in (place / "steadytune.yaml").read_text()
    assert trainings == 27
    assert settings.learning_rates == [1e-4, 3e-4, 5e-4]  # minilm is a small sentence encoder
    text = (place / "steadytune.yaml").read_text()
    assert "# 2 rows of the training file have a text that has another label, too: data rows 407 = 408." in text
    assert (
        "# 12 rows of the training file have a text that occurs more than once: data rows 1 = 401, 2 = 402, " in text
    )
    assert "Always the largest class would score 0.7" in text


def test_duplicates_and_contradictions_are_counted(place: Path) -> None:
    (place / "train.csv").write_text("text,label\n" + "a,x\na,y\nb,x\nb,x\n" + "".join(f"c{i},x\n" for i in range(9)))
    (place / "other.csv").write_text(classes())
    (place / "other.csv").write_text("text,label\nq,x\nr,y\n")
    look = first_look(TrainSettings(train_file="train.csv", validation_file="other.csv"))
    assert (look.repeats.agreeing, look.repeats.contradictory) == (((2, 3),), ((0, 1),))


def test_rows_of_other_splits_that_are_in_training_are_located(place: Path) -> None:
    (place / "train.csv").write_text(
        "text,label\n" + "".join(f"t{i if i < 30 else i - 10},{'xy'[i % 2]}\n" for i in range(40))
    )
    (place / "test.csv").write_text("text,label\nnew,x\nt23,y\nother,y\nt25,y\nt24,x\n")
    notes = load_data(TrainSettings(train_file="train.csv", test_file="test.csv")).notes
    assert any(
        "3 of the 5 test rows have the text of a training row (data rows 2, 4, 5 of 'test.csv')" in n for n in notes
    )
    held_out = next(n for n in notes if "validation rows ha" in n)
    rows = [int(row) for row in held_out.partition("(data row")[2].lstrip("s ").partition(" of")[0].split(", ")]
    assert rows
    assert all(row > 20 for row in rows)  # whose text occurs twice in the file


def test_a_model_without_a_fast_tokenizer_is_measured_by_words(place: Path, tiny_folder: Path) -> None:
    (place / "train.csv").write_text(classes())
    folder = place / "tiny"
    shutil.copytree(tiny_folder, folder)
    (folder / "tokenizer.json").unlink()
    look = first_look(TrainSettings(train_file="train.csv", model=str(folder)))
    assert not look.lengths.exact
    assert look.lengths.longest == round(1.4 * 10) + 2


def test_a_named_task(place: Path, capsys) -> None:
    assert main(["init", "--task", "movie-reviews", "--verb", "train"]) == 0
    settings = resolve(TrainSettings, {}, place / "steadytune.yaml")
    assert (settings.task, settings.num_train_epochs) == ("movie-reviews", 3.0)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give your rows, as in `steadytune init train.csv`, or --task movie-reviews"),
        (["missing.csv"], "missing.csv"),
        (["train.csv", "--task", "movie-reviews"], "--task and --train-file: give one or the other"),
        (["train.csv", "--verb", "trian"], "Did you mean 'train'?"),
        (["train.csv", "--model", "./none"], "no such folder"),
        (["train.csv", "--text-column", "txt"], "Did you mean 'text'?"),
        (["train.csv", "-o", "mine.yaml"], "mine.yaml: exists; give another --output, or --overwrite."),
    ],
)
def test_what_cannot_be_used_is_told_and_nothing_is_written(place: Path, capsys, arguments, told) -> None:
    (place / "train.csv").write_text(classes())
    (place / "mine.yaml").write_text("mine")
    assert main(["init", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in place.iterdir()) == ["mine.yaml", "train.csv"]
    assert (place / "mine.yaml").read_text() == "mine"


def test_hostile_names_stay_text(place: Path, capsys) -> None:
    name = "a: [b] #\u202e.csv"
    (place / name).write_text('text,label\n"a\n# set",x\nb,"y: {\x1b[31m"\n' + "c,x\nd,x\n" * 5)
    assert main(["init", name]) == 0
    assert "\x1b" not in capsys.readouterr().out
    settings = resolve(CompareSettings, {}, place / "steadytune.yaml")
    assert settings.train_file == name
    assert "\u202e" not in (place / "steadytune.yaml").read_text().replace(name, "")


def test_learning_rates_follow_from_the_size_of_the_model(place: Path, tiny_folder: Path) -> None:
    (place / "train.csv").write_text(classes())
    tensors = load_file(tiny_folder / "model.safetensors")
    look = first_look(TrainSettings(train_file="train.csv", model=str(tiny_folder)))
    assert look.model.parameters == sum(tensor.size for tensor in tensors.values())
    assert not look.model.sentence_encoder
    (place / "model").mkdir()
    for file in tiny_folder.iterdir():
        (place / "model" / file.name).write_bytes(file.read_bytes())
    (place / "model" / "modules.json").write_text("[]")
    assert first_look(TrainSettings(train_file="train.csv", model="model")).model.sentence_encoder
