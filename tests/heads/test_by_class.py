"""Scores of each class, against a slow count."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_model import rows, write_csv

from steadytune.cli import main
from steadytune.heads.scores.by_class import LARGEST_MATRIX, scores_by_class

pytest_plugins = ["helpers.tiny_model"]


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_a_slow_count(seed: int) -> None:
    chance = np.random.default_rng(seed)
    classes, count = int(chance.integers(2, 6)), int(chance.integers(1, 40))
    logits, labels = chance.normal(size=(count, classes)), chance.integers(0, classes, count)
    logits[chance.random(count) < 0.1] = np.nan  # such a row predicts nothing
    found = scores_by_class(logits, labels, [f"c{i}" for i in range(classes)])
    kept = [(int(t), int(np.argmax(x))) for t, x in zip(labels, logits, strict=True) if np.isfinite(x).all()]
    for i in range(classes):
        right = sum(t == p == i for t, p in kept)
        true, predicted = sum(t == i for t, _ in kept), sum(p == i for _, p in kept)
        precision, recall = right / predicted if predicted else 0, right / true if true else 0
        f1 = 2 * precision * recall / (precision + recall) if right else 0
        assert found["classes"][f"c{i}"] == pytest.approx(
            {"support": true, "precision": precision, "recall": recall, "f1": f1}
        )
        assert found["confusion"][i] == [sum((t, p) == (i, j) for t, p in kept) for j in range(classes)]


def test_many_classes_have_no_matrix() -> None:
    names = [str(i) for i in range(LARGEST_MATRIX + 1)]
    found = scores_by_class(np.eye(len(names)), np.arange(len(names)), names)
    assert found["confusion"] == []
    assert found["classes"]["7"]["f1"] == 1.0


def test_train_shows_the_classes_of_the_test_rows(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "train.csv", rows(16))
    write_csv(tmp_path / "test.csv", rows(10, seed=1))
    asked = ["train", "train.csv", "--test-file", "test.csv", "--model", str(tiny_folder), "--output-dir", "out"]
    assert main([*asked, "--max-steps", "2"]) == 0
    shown = capsys.readouterr().out
    assert "test, by class:" in shown
    metrics = json.loads(Path("out/metrics.json").read_text())
    assert set(metrics["by_class"]) == {"validation", "test"}
    found = metrics["by_class"]["test"]
    assert sum(map(sum, found["confusion"])) == metrics["after"]["test"]["rows"] == 10
    right = sum(found["confusion"][i][i] for i in range(2))
    assert right / 10 == pytest.approx(metrics["after"]["test"]["accuracy"])
