"""The probe: the linear models, and the run that it makes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.tiny_model import rows, write_csv
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold, cross_val_score

import steadytune
from steadytune.errors import SettingsError
from steadytune.models.load import load_model
from steadytune.settings.train import TrainSettings
from steadytune.tasks.named.registry import task_record
from steadytune.training.probe.linear import INVERSE_STRENGTHS, NEVER, fit_classes, fit_labels, fit_numbers
from steadytune.training.run import train

pytest_plugins = ["helpers.tiny_model"]


def drawn(count: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    return chance.normal(size=(count, 6)) * 3 + np.eye(6)[labels] * 2, labels


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_classes_are_those_of_scikit_learn(classes: int) -> None:
    features, labels = drawn(60, classes)
    scale = np.linalg.norm(features, axis=1).mean()
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    losses = [
        -cross_val_score(
            LogisticRegression(C=c, max_iter=5000), features / scale, labels, cv=folds, scoring="neg_log_loss"
        ).mean()
        for c in INVERSE_STRENGTHS
    ]
    found = fit_classes(features, labels, classes)
    assert found.strength == (INVERSE_STRENGTHS[int(np.argmin(losses))],)
    theirs = LogisticRegression(C=found.strength[0], max_iter=5000).fit(features / scale, labels)
    logits = features @ found.weight.T + found.bias
    ours = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(ours, theirs.predict_proba(features / scale), atol=1e-3)


def test_numbers_and_labels_are_those_of_scikit_learn() -> None:
    features, labels = drawn(50, 3)
    scale = np.linalg.norm(features, axis=1).mean()
    numbers = features[:, 0] * 2 + labels
    found = fit_numbers(features, numbers)
    theirs = Ridge(alpha=found.strength[0]).fit(features / scale, numbers)
    np.testing.assert_allclose(features @ found.weight[0] + found.bias[0], theirs.predict(features / scale), atol=1e-6)
    several = np.stack([labels == 0, labels != 2, np.ones(50)], axis=1).astype(int)
    fitted = fit_labels(features, several)
    one = fit_classes(features, several[:, 0], 2)
    np.testing.assert_allclose(fitted.weight[0], one.weight[1] - one.weight[0])
    assert (features @ fitted.weight.T + fitted.bias)[:, 2].min() > 5, "every row has the third label"


def test_classes_that_few_or_no_rows_have() -> None:
    features, _ = drawn(5, 2)
    found = fit_classes(features, np.array([0, 0, 0, 0, 2]), 4)
    assert found.bias[1] == found.bias[3] == NEVER
    assert (features @ found.weight.T + found.bias).argmax(1).tolist()[:4] == [0, 0, 0, 0]
    alone = fit_classes(features, np.zeros(5, dtype=int), 2)
    assert math.isnan(alone.strength[0])
    assert (features @ alone.weight.T + alone.bias).argmax(1).tolist() == [0] * 5


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    return {
        "train_file": str(write_csv(tmp_path / "train.csv", rows(24))),
        "test_file": str(write_csv(tmp_path / "test.csv", rows(12, seed=1))),
    }


def test_a_probe_is_an_ordinary_run_and_the_same_each_time(tiny_folder: Path, data: dict[str, str]) -> None:
    settings = {"model": str(tiny_folder), **data}
    first = steadytune.probe(settings.pop("model"), settings.pop("train_file"), **settings, output_dir="a")
    again = steadytune.probe(str(tiny_folder), data["train_file"], test_file=data["test_file"], output_dir="b")
    assert again.metrics["after"] == first.metrics["after"]
    assert first.metrics["training"]["updates"] == 0
    assert first.metrics["after"]["test"]["loss"] < first.metrics["before"]["test"]["loss"]
    assert train(TrainSettings(model=str(tiny_folder), **data, probe=True, output_dir="a")).was_finished
    found = steadytune.predict(first.folder, data["test_file"])
    assert found.scores["accuracy"] == first.metrics["after"]["test"]["accuracy"]
    trained, _, _ = load_model(str(first.folder), task_record("sst2"), new_head=True)
    plain, _, _ = load_model(str(tiny_folder), task_record("sst2"), new_head=True, pooling="mean")
    pairs = zip(trained.base_model.parameters(), plain.base_model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs), "the encoder is as it was"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"methods": "smart"}, "--probe trains no weights, so methods do nothing: leave out smart"),
        ({"learning_rate": 1e-3}, "--learning-rate does nothing with --probe"),
        ({"max_steps": 7}, "--max-steps does nothing with --probe"),
        ({"pooling": "cls"}, "--pooling cls does not go with --probe"),
    ],
)
def test_what_a_probe_cannot_do_is_refused(
    tiny_folder: Path, data: dict[str, str], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said):
        train(TrainSettings(model=str(tiny_folder), **data, probe=True, **settings))
    assert not Path("runs").exists()
