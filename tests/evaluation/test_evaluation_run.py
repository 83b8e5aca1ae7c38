"""`steadytune evaluate`: what its file holds, for every head, and that nothing of it is lost or mixed up."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers import heads, tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from steadytune.cli import main
from steadytune.errors import ModelNotFoundError, SettingsError
from steadytune.evaluation import evaluate as evaluate_file
from steadytune.evaluation import held_out as evaluate_rows
from steadytune.evaluation.evaluate import check_run, evaluate
from steadytune.evaluation.measures import attack
from steadytune.evaluation.parts import PARTS
from steadytune.settings.evaluate import NAMES, EvaluateOptions
from steadytune.settings.train import TrainSettings
from steadytune.tasks.named.evaluation_sets import EvaluationSet, EvaluationSets
from steadytune.tasks.task import TaskData
from steadytune.training import run as run_file
from steadytune.training.run import train

tiny_folder = tiny_model.tiny_folder

REAL = Path(__file__).parents[3] / "shared" / "data"
QUICK = {"seeds": 2, "rates": (0.3,), "radii": (0.1, 1.0)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_folder) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {"bert": tiny_folder} | {k: heads.language_model_folder(place / k, k) for k in ("llama", "t5")}


@pytest.fixture
def give(monkeypatch) -> Callable[[TaskData], None]:
    """Let trainings and evaluations of this test have these rows."""

    def set_data(data: TaskData) -> None:
        monkeypatch.setattr(run_file, "load_data", lambda settings: data)
        monkeypatch.setattr(evaluate_file, "load_data", lambda settings: data)

    return set_data


@pytest.fixture
def further(monkeypatch) -> Callable[..., None]:
    """Let the task have further sets."""

    def set_sets(sets: dict[str, EvaluationSet], notes: tuple[str, ...] = ()) -> None:
        monkeypatch.setattr(evaluate_rows, "load_evaluation_sets", lambda name, folder: EvaluationSets(sets, notes))

    return set_sets


@pytest.fixture
def run(folders, tmp_path) -> Callable[..., Path]:
    """Trains for a few updates and returns the folder."""

    def make(kind: str = "bert", **changes: Any) -> Path:
        options = {
            "model": str(folders[kind]),
            "task": "movie-reviews",
            "max_length": 32,
            "max_steps": 12,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 3,
            "learning_rate": 1e-2,
            "use_cpu": True,
            "output_dir": str(tmp_path / "run"),
        }
        return train(TrainSettings(**options | changes)).folder

    return make


@pytest.fixture
def classifier(give, run) -> Path:
    give(heads.data("classification"))
    return run()


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))


def one_set(rows: Dataset, kind: Any, names: tuple[str, ...], class_of_output: tuple[int, ...]) -> EvaluationSet:
    return EvaluationSet("other", "test", kind, rows, names, class_of_output, "", "folder")


# ---------------------------------------------------------------- every head


@pytest.mark.parametrize(("head", "kind"), heads.KINDS)
def test_every_head_is_evaluated_and_what_is_not_done_is_said(head, kind, give, run) -> None:
    give(heads.data(head))
    folder = run(kind)
    found = evaluate(folder, EvaluateOptions(**QUICK))
    assert found == read(folder)
    assert set(NAMES) == (set(found) & set(NAMES)) | set(found["not_done"])
    assert not set(found) & set(found["not_done"])
    assert set(found["settings"]) == set(found) & set(NAMES)

    after = json.loads((folder / "metrics.json").read_text())["after"]
    for split, scores in found["sets"].items():
        for name, value in scores["metrics"].items():
            assert value == pytest.approx(after[split][name], abs=1e-6), f"{split} {name} is as training reported it"
    words = head == "token_classification"
    assert set(found["perturbations"]) == {"typos", "casing", "keyboard", "ocr"} | (set() if words else {"word_drop"})
    metric = found["task"]["metric"]
    for entry in found["perturbations"].values():
        assert list(entry) == ["0.0", "0.3"]
        assert entry["0.0"]["mean"] == pytest.approx(after["test"][metric], abs=1e-6)
        assert list(entry["0.3"]["seeds"]) == ["0", "1"]
    for radius in ("1e-05", "0.001"):
        entry = found["smoothness"][radius]
        assert entry["adversarial"] > entry["random"] > 0
        assert entry["lipschitz"]["largest"] >= entry["lipschitz"]["mean"] > entry["random_lipschitz"]["mean"] > 0
    assert [layer["depth"] for layer in found["movement"]["layers"]][:3] == [0, 1, 2]
    assert all(layer["distance"]["relative_l2"] > 0 for layer in found["movement"]["layers"][:3])
    assert all(0 < layer["cka"] < 1 for layer in found["movement"]["layers"][:3])

    classes = head in ("classification", "multi_label", "token_classification")
    assert ("calibration" in found) == classes
    assert ("embedding_attack" in found) == (classes or head == "regression")
    assert "annotators" in found["not_done"]


def test_accuracies_of_parts_agree(classifier) -> None:
    found = evaluate(classifier, EvaluateOptions(**QUICK))
    accuracy = found["sets"]["test"]["metrics"]["accuracy"]
    assert found["calibration"]["test"]["accuracy"] == accuracy
    assert found["calibration"]["test"]["scaled"]["accuracy"] == accuracy
    assert found["perturbations"]["typos"]["0.0"]["mean"] == accuracy
    assert found["embedding_attack"]["0.0"]["accuracy"] == accuracy
    assert found["embedding_attack"]["1.0"]["robust_accuracy"] < accuracy
    assert [entry["in_sample"] for entry in found["calibration"].values()] == [True, False]
    validation = found["calibration"]["validation"]
    assert validation["scaled"]["nll"] <= validation["nll"]


def test_outputs_come_in_the_order_of_the_rows(classifier) -> None:
    """Batches are made of rows of about the same length, and what is said of a row is said of that row."""
    from steadytune.evaluation.model import EvaluatedModel

    settings = check_run(classifier)
    task = heads.data("classification").task
    rows = heads.rows("classification", 11, seed=5)
    logits, labels = EvaluatedModel(str(classifier / "model"), task, settings).outputs(rows)
    tokenizer = AutoTokenizer.from_pretrained(classifier / "model")
    model = AutoModelForSequenceClassification.from_pretrained(classifier / "model").eval()
    with torch.no_grad():
        single = [model(**tokenizer(text, return_tensors="pt")).logits[0].numpy() for text in rows["text"]]
    np.testing.assert_allclose(logits, np.stack(single), rtol=1e-4, atol=1e-5)
    assert labels.tolist() == rows["label"][:]


# ---------------------------------------------------------------- further sets, annotators


def test_sets_with_other_classes_are_scored_in_their_own(give, run, further) -> None:
    data = heads.data("classification")
    record = data.task.__class__(**{**vars(data.task), "label_names": ("entailment", "neutral", "contradiction")})
    give(TaskData(record, data.splits, ("test",), data.counts))
    folder = run()
    rows = heads.rows("classification", 9, seed=4)
    further({"hans": one_set(rows, "adversarial", ("entailment", "not"), (0, 1, 1))}, ("Not evaluated on snli: gone",))
    told: list[str] = []
    found = evaluate(folder, EvaluateOptions(only=("sets", "calibration")), tell=told.append)
    assert {name: entry["kind"] for name, entry in found["sets"].items()} == {
        "validation": "in_domain",
        "test": "out_of_domain",
        "hans": "adversarial",
    }
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    with torch.no_grad():
        best = [int(model(**tokenizer(t, return_tensors="pt")).logits.argmax()) for t in rows["text"]]
    expected = np.mean([(b > 0) == bool(label) for b, label in zip(best, rows["label"], strict=True)])
    assert found["sets"]["hans"]["metrics"]["accuracy"] == pytest.approx(expected)
    assert set(found["calibration"]) == {"validation", "test"}, "probabilities of other classes are not compared"
    assert "Not evaluated on snli: gone" in told
    lines = [line for line in told if line.startswith("sets: ")]
    assert lines[0] == "sets: the scores on every set of rows ..."
    assert re.fullmatch(r"sets: took \d+ s", lines[-1])


def test_annotators_are_heard_where_they_are(classifier, further) -> None:
    rows = heads.rows("classification", 6, seed=4)
    rows = rows.add_column("annotator_labels", [[0, 0, 0, 0, 1], [1] * 5] * 3)
    rows = rows.add_column("label_count", [[70, 30], [1, 99]] * 3)
    further({"chaos": one_set(rows, "annotators", ("no", "yes"), (0, 1))})
    found = evaluate(classifier, EvaluateOptions(only=("annotators",)))["annotators"]["chaos"]["groups"]
    assert {name: group["rows"] for name, group in found.items()} == {"all": 6, "5/0": 3, "4/1": 3}
    assert found["5/0"]["five"]["human_entropy"] == 0.0
    assert found["4/1"]["hundred"]["human_entropy"] == pytest.approx(-0.7 * np.log(0.7) - 0.3 * np.log(0.3))


def test_bad_annotations_stop_no_other_part(classifier, further) -> None:
    rows = heads.rows("classification", 2).add_column("annotator_labels", [[0, 7], [1]])
    further({"chaos": one_set(rows, "annotators", ("no", "yes"), (0, 1))})
    found = evaluate(classifier, EvaluateOptions(only=("annotators", "sets")))
    assert "row 1" in found["not_done"]["annotators"]
    assert "chaos" in found["sets"]


# ---------------------------------------------------------------- the file


def test_parts_add_up_and_are_measured_once(classifier, monkeypatch) -> None:
    calls: list[str] = []
    for name, part in list(PARTS.items()):

        def counted(evaluation, name=name, part=part):
            work = part(evaluation)
            if not isinstance(work, str):
                measure = work.measure
                object.__setattr__(work, "measure", lambda: (calls.append(name), measure())[1])
            return work

        monkeypatch.setitem(PARTS, name, counted)  # pyright: ignore[reportArgumentType]
    first = evaluate(classifier, EvaluateOptions(only=("perturbations",), **QUICK))
    assert set(first) & set(NAMES) == {"perturbations"}
    both = evaluate(classifier, EvaluateOptions(only=("calibration",), **QUICK))
    assert both["perturbations"] == first["perturbations"]
    assert calls == ["perturbations", "calibration"]
    evaluate(classifier, EvaluateOptions(only=("calibration", "perturbations"), **QUICK))
    assert calls == ["perturbations", "calibration"]
    for changed in ({"rates": (0.2,)}, {"seeds": 3}, {"max_eval_samples": 5}):
        evaluate(classifier, EvaluateOptions(only=("perturbations",), **{**QUICK, **changed}))
        assert calls.pop() == "perturbations"
        assert calls == ["perturbations", "calibration"]
    assert "calibration" in read(classifier)


def test_a_stopped_evaluation_keeps_the_parts_that_were_done(classifier, monkeypatch) -> None:
    def stop(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(attack, "embedding_attack", stop)
        with pytest.raises(KeyboardInterrupt):
            evaluate(classifier, EvaluateOptions(**QUICK))
    done = set(read(classifier)) & set(NAMES)
    assert done == {"sets", "calibration", "movement", "perturbations"}
    told: list[str] = []
    evaluate(classifier, EvaluateOptions(**QUICK), tell=told.append)
    assert {line.split(":")[0] for line in told if "measured before" in line} == done
    assert set(read(classifier)) & set(NAMES) == {*NAMES} - {"annotators", "retrieval"}


def test_another_model_or_other_rows_are_never_mixed(classifier, give) -> None:
    options = EvaluateOptions(only=("sets", "movement"))
    before = evaluate(classifier, options)
    give(heads.data("classification", held_out=6))
    fewer = evaluate(classifier, EvaluateOptions(only=("sets",)))
    assert fewer["sets"]["test"]["rows"] == 6
    assert fewer["movement"] == before["movement"]
    file = classifier / "model" / "model.safetensors"
    save_file({k: 1.5 * v for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    told: list[str] = []
    after = evaluate(classifier, EvaluateOptions(only=("sets",)), tell=told.append)
    assert any("of another model" in line for line in told)
    assert "movement" not in after


def test_evaluations_repeat(classifier, tmp_path) -> None:
    options = EvaluateOptions(**QUICK)
    first, second = (evaluate(classifier, options, tmp_path / f"{i}.json") for i in range(2))
    assert first == second
    assert not (classifier / "evaluation.json").exists()


def test_a_model_that_is_no_number_is_refused(classifier) -> None:
    file = classifier / "model" / "model.safetensors"
    save_file({k: torch.full_like(v, torch.nan) for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(ModelNotFoundError, match="holds NaN or an infinity"):
        evaluate(classifier, EvaluateOptions(**QUICK))


def test_a_pretrained_model_that_is_gone_is_said(classifier, folders, tmp_path) -> None:
    config = (classifier / "config.yaml").read_text()
    (classifier / "config.yaml").write_text(config.replace(str(folders["bert"]), str(tmp_path / "gone")))
    found = evaluate(classifier, EvaluateOptions(only=("movement",)))
    assert "not there any more" in found["not_done"]["movement"]


# ---------------------------------------------------------------- the command


@pytest.fixture
def trained(tiny_folder, tmp_path, monkeypatch) -> Path:
    """A run on the user's own files, trained by the command line."""
    monkeypatch.chdir(tmp_path)
    for name, count in (("train", 16), ("test", 8)):
        tiny_model.write_csv(tmp_path / f"{name}.csv", tiny_model.rows(count))
    options = "--train-file train.csv --test-file test.csv --max-length 16 --max-steps 2 --output-dir own --use-cpu"
    assert main(["train", "--model", str(tiny_folder), *options.split(), "--quiet"]) == 0
    return tmp_path / "own"


def test_the_command_prints_tables_of_80_columns(trained, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    assert main(["evaluate", "own", "--seeds", "2", "--rates", "0.1,0.3", "--radii", "0.1"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    tables = [line for line in captured.out.splitlines() if line[:1] in "┏┃┡│└"]
    assert len(tables) > 20
    assert all(len(line) <= 80 for line in tables)
    assert not [line for line in tables if "…" in line], "nothing is cut off"
    for title in ("Sets", "Calibration", "noise", "word embeddings", "Smoothness", "Movement"):
        assert title in captured.out
    assert re.search("annotators not done: no set carries annotator labels", captured.out)
    assert set(read(trained)) & set(NAMES) == {*NAMES} - {"annotators", "retrieval"}


def test_json_and_quiet_print_nothing_else(trained, capsys) -> None:
    capsys.readouterr()
    assert main(["evaluate", "own", "--only", "sets", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read(trained)
    assert main(["evaluate", "own", "--only", "embedding-attack", "--radii", "1", "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert list(read(trained)["embedding_attack"]) == ["0.0", "1.0"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("own", "--only", "callibration"), "Did you mean 'calibration'?"),
        (("own", "--rates", "0.1,x"), "--rates: write numbers"),
        (("own", "--rates", "1.5"), "--rates: must be above 0 and at most 1; got '1.5'."),
        (("own", "--rates", ""), "--rates: must be"),
        (("own", "--radii", "-1"), "--radii: must be above 0; got '-1'."),
        (("own", "--radii", "nan"), "--radii: must be a finite number; got nan."),
        (("own", "--seeds", "0"), "--seeds: must be at least 1; got 0."),
        (("own", "--max-eval-samples", "0"), "--max-eval-samples: must be at least 1"),
        (("own", "--output", "."), "is a folder; give a file."),
        (("gone",), "there is no such folder"),
        ((".",), "holds no run (no config.yaml)"),
        ((".", "--only", ""), "--only: names no part"),
    ],
)
def test_mistakes_are_one_line(trained, capsys, arguments, expected) -> None:
    before = {p: p.stat().st_mtime_ns for p in trained.rglob("*")}
    capsys.readouterr()
    assert main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert {p: p.stat().st_mtime_ns for p in trained.rglob("*")} == before


def test_a_run_without_a_model_and_a_broken_file_are_told(trained, capsys) -> None:
    (trained / "evaluation.json").write_text("[1]")
    assert main(["evaluate", "own", "--only", "sets"]) == 2
    assert "is no evaluation" in capsys.readouterr().err
    (trained / "evaluation.json").unlink()
    os.rename(trained / "model", trained / "elsewhere")
    with pytest.raises(SettingsError, match="its model was not kept"):
        check_run(trained)
    (trained / "metrics.json").write_text("{}")
    with pytest.raises(SettingsError, match="it is not finished"):
        check_run(trained)


# ---------------------------------------------------------------- real rows


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the data sets in ../shared/data")
def test_a_real_model_on_real_rows(tmp_path, monkeypatch) -> None:
    """minilm on a little of SNLI, with ChaosNLI and HANS."""
    monkeypatch.chdir(tmp_path)
    options = "--model minilm --task snli --train-size 64 --max-steps 4 --max-length 32 --max-eval-samples 12"
    assert main(["train", *options.split(), "--data-dir", str(REAL), "--output-dir", "run", "--quiet"]) == 0
    quick = "--seeds 1 --rates 0.3 --radii 0.03 --quiet"
    assert main(["evaluate", "run", *quick.split()]) == 0
    found = read(tmp_path / "run")
    assert list(found["not_done"]) == ["retrieval"], "no rows of Tatoeba and BUCC are there"
    assert {"validation", "test", "hans", "anli-r1", "adv-mnli", "chaosnli-snli"} <= set(found["sets"])
    groups = found["annotators"]["chaosnli-snli"]["groups"]
    assert groups["all"]["rows"] == 12
    assert {"3/2/0", "3/1/1"} & set(groups)
    layers = found["movement"]["layers"]
    assert len(layers) == 7, "the embeddings and six layers; a pooled classifier has no pooler"
    assert all(0.9 < layer["cka"] <= 1 for layer in layers[:2])
    assert found["embedding_attack"]["0.03"]["robust_accuracy"] <= found["embedding_attack"]["0.0"]["accuracy"]
    casing = found["perturbations"]["casing"]
    assert casing["0.3"]["mean"] == casing["0.0"]["mean"], "minilm reads no case"
