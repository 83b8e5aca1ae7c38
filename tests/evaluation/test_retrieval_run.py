"""Sentence retrieval: a model's sentence vectors, scores by hand, and `steadytune evaluate --only retrieval`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from helpers import heads, tiny_model
from pyarrow import parquet
from transformers import AutoModel, AutoTokenizer

from steadytune.cli import main
from steadytune.errors import DataError, SettingsError
from steadytune.evaluation import evaluate as evaluate_file
from steadytune.evaluation.evaluate import evaluate
from steadytune.evaluation.measures import sentences
from steadytune.evaluation.measures.sentences import checked_layer, sentence_vectors
from steadytune.heads.scores.retrieval import mining_scores
from steadytune.settings.evaluate import EvaluateOptions
from steadytune.settings.train import TrainSettings
from steadytune.training.run import train

tiny_folder = tiny_model.tiny_folder
TEXTS = ("good", "a very long and dull film was not good", "bad film", "the plot", "fine", "poor poor film film", "a")

#: In the tiny vocabulary, with one word each: the same word is the same vector, another word another one.
#: German: the first three are right both ways; the English "plot" of row 4 is nearest to "plot" in row 5.
GERMAN = [("good", "good"), ("bad", "bad"), ("film", "film"), ("dull", "plot"), ("plot", "long")]
TUNING = [("good", "good"), ("bad", "bad"), ("a", "fine")]
MINED = [("film", "film"), ("dull", "plot"), ("plot", "long")]


@pytest.fixture(params=["bert", "llama", "t5"])
def kind(request, tiny_folder, tmp_path) -> Path:
    return tiny_folder if request.param == "bert" else heads.language_model_folder(tmp_path / "m", request.param)


def loaded(folder: Path) -> tuple[Any, Any]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return AutoModel.from_pretrained(folder, dtype=torch.float64), tokenizer


def vectors(model: Any, tokenizer: Any, texts: Sequence[str], layer: int, **options: Any) -> np.ndarray:
    given: Callable[[int, int], Sequence[str]] = lambda start, stop: texts[start:stop]  # noqa: E731
    return sentence_vectors(model, tokenizer, given, len(texts), **{"layer": layer, "max_length": 16} | options)


def write_pairs(folder: Path, file: str, pairs: Sequence[tuple[str, str]]) -> None:
    path = folder / f"{file}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    theirs, english = zip(*pairs, strict=True)
    parquet.write_table(pa.table({"source_sentence": theirs, "target_sentence": english}), path)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_sentence_vector_is_the_mean_of_its_tokens_read_alone(kind, layer, monkeypatch):
    monkeypatch.setattr(sentences, "ROWS_AT_ONCE", 4)
    model, tokenizer = loaded(kind)
    model.train()
    found = vectors(model, tokenizer, TEXTS, layer, batch_size=3)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert found.dtype == np.float64
    body = model.encoder if hasattr(model, "encoder") and model.config.is_encoder_decoder else model
    model.eval()
    for text, vector in zip(TEXTS, found, strict=True):
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=16)
        with torch.no_grad():
            states = body(input_ids=inputs["input_ids"], output_hidden_states=True).hidden_states[layer][0]
        assert np.allclose(vector, states.mean(0).numpy(), rtol=1e-10, atol=1e-12)
    assert (vectors(model, tokenizer, TEXTS, layer, batch_size=3) == found).all()
    cut = vectors(model, tokenizer, TEXTS[1:2], layer, max_length=4)
    assert not np.allclose(cut, found[1])


def test_the_layer_is_a_middle_one_unless_asked_for(kind):
    model, _ = loaded(kind)
    assert checked_layer(model, None) == 2
    assert checked_layer(model, 0) == 0
    for layer in (-1, 3):
        with pytest.raises(SettingsError, match=r"has the layers 0 \(embeddings\) to 2"):
            checked_layer(model, layer)


@pytest.fixture
def data(tmp_path) -> Path:
    folder = tmp_path / "data"
    write_pairs(folder, "tatoeba/de/validation", GERMAN)
    write_pairs(folder, "tatoeba/fr/validation", [("good", "good"), ("bad", "bad")])
    write_pairs(folder, "bucc/de/validation", TUNING)
    write_pairs(folder, "bucc/de/test", MINED)
    write_pairs(folder, "bucc/fr/test", [("good", "good")])
    return folder


def test_the_scores_of_a_pretrained_model_are_those_worked_out_by_hand(tiny_folder, data, tmp_path):
    told: list[str] = []
    options = EvaluateOptions(only=["retrieval"], data_dir=str(data), layer=0)
    found = evaluate(tiny_folder, options, tmp_path / "found.json", told.append)
    assert found == json.loads((tmp_path / "found.json").read_text())
    model, tokenizer = loaded(tiny_folder)
    words = ("good", "bad", "film", "dull", "plot", "long")
    table = {w: v / np.linalg.norm(v) for w, v in zip(words, vectors(model, tokenizer, words, 0), strict=True)}

    def nearest(asked: str, among: Sequence[str]) -> str:
        return max(among, key=lambda word: float(table[asked] @ table[word]))

    german = {
        "rows": 5,
        "accuracy": sum(nearest(e, [t for t, _ in GERMAN]) == t for t, e in GERMAN) / 5,
        "accuracy_to_english": sum(nearest(t, [e for _, e in GERMAN]) == e for t, e in GERMAN) / 5,
    }
    tatoeba = found["retrieval"]["tatoeba"]
    assert tatoeba["languages"] == {"de": german, "fr": {"rows": 2, "accuracy": 1.0, "accuracy_to_english": 1.0}}
    assert german["accuracy"] in (0.6, 0.8)
    assert tatoeba["mean"]["accuracy"] == (german["accuracy"] + 1) / 2
    bucc = found["retrieval"]["bucc"]["languages"]
    assert list(bucc) == ["de"]
    assert any("test_fr not used" in line for line in told)
    sides = [vectors(model, tokenizer, side, 0) for side in (*zip(*TUNING, strict=True), *zip(*MINED, strict=True))]
    expected = mining_scores((sides[0], sides[1]), sides[2], sides[3])
    assert bucc["de"] == pytest.approx({"rows": 3} | expected, rel=1e-5)
    assert expected["recall"] == pytest.approx(1 / 3), "of film-film, dull-plot and plot-long only the first is found"
    settings = found["settings"]["retrieval"]
    assert (settings["layer"], settings["layers"], settings["rows"]) == (0, 2, {"tatoeba": 7, "bucc": 6})

    evaluate(tiny_folder, options, tmp_path / "found.json", told.append)
    assert told[-1] == "retrieval: measured before"
    limited = EvaluateOptions(only=["retrieval"], data_dir=str(data), max_eval_samples=2)
    again = evaluate(tiny_folder, limited)
    assert again["settings"]["retrieval"]["layer"] == 2
    assert {entry["rows"] for entry in again["retrieval"]["tatoeba"]["languages"].values()} == {2}


@pytest.fixture
def run(tiny_folder, tmp_path) -> Path:
    file = tiny_model.write_csv(tmp_path / "rows.csv", tiny_model.rows(40))
    options = {"model": str(tiny_folder), "train_file": str(file), "max_steps": 3, "max_length": 16, "use_cpu": True}
    return train(TrainSettings(**options, output_dir=str(tmp_path / "run"))).folder


def test_a_run_has_the_same_scores_alone_and_beside_other_parts(run, data, capsys):
    alone = evaluate(run, EvaluateOptions(only=["retrieval"], data_dir=str(data)))
    (run / "evaluation.json").unlink()
    beside = evaluate(run, EvaluateOptions(only=["sets", "retrieval"], data_dir=str(data)))
    assert beside["retrieval"] == alone["retrieval"]
    assert beside["settings"]["retrieval"] == alone["settings"]["retrieval"]
    kept = evaluate(run, EvaluateOptions(only=["retrieval"], data_dir=str(data), layer=1))
    assert kept["sets"] == beside["sets"]
    assert kept["task"] == beside["task"]
    assert kept["retrieval"] != beside["retrieval"]
    capsys.readouterr()
    assert main(["evaluate", str(run), "--only", "retrieval", "--data-dir", str(data)]) == 0
    shown = capsys.readouterr().out
    assert "Retrieval, tatoeba, layer 2 of 2" in shown
    assert max(len(line) for line in shown.splitlines() if "│" in line) <= 80


def test_what_is_not_there_is_said(run, data, tmp_path, tiny_folder, monkeypatch, capsys):
    found = evaluate(run, EvaluateOptions(only=["sets", "retrieval"], data_dir=str(tmp_path)))
    assert "no tatoeba/af/validation.parquet" in found["not_done"]["retrieval"]
    monkeypatch.setattr(evaluate_file, "NAMES", ("sets", "retrieval"))
    found = evaluate(run, EvaluateOptions(data_dir=str(tmp_path)))
    assert found["not_done"]["retrieval"].startswith("neither the data folder nor the Hub's cache has tatoeba.")
    with pytest.raises(DataError, match="no tatoeba/af/validation"):
        evaluate(tiny_folder, EvaluateOptions(only=["retrieval"], data_dir=str(tmp_path)))
    with pytest.raises(SettingsError, match="--layer 7: the model has"):
        evaluate(run, EvaluateOptions(only=["sets", "retrieval"], data_dir=str(data), layer=7))
    with pytest.raises(SettingsError, match="--layer: must be at least 0"):
        EvaluateOptions(layer=-1)
    assert main(["evaluate", str(tiny_folder)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "nowhere"), "--only", "retrieval"]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert main(["evaluate", str(tiny_folder), "--only", "retrieval", "--data-dir", str(data)]) == 0
    assert "Nothing is kept" in capsys.readouterr().out
