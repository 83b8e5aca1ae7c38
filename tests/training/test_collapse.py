"""A run that learned nothing says so in its last line and in its metrics, with the advice that fits."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from helpers import tiny_model

from steadytune.cli import main
from steadytune.training.collapse import collapse

tiny_folder = tiny_model.tiny_folder
ONE = {"accuracy": 0.6, "f1_macro": 0.375, "matthews": 0.0, "f1": 0.75}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"loss": 0.7}, ONE | {"loss": 0.69}, "larger --learning-rate"),
        ({}, ONE, "larger --learning-rate"),
        ({"loss": 0.7}, ONE | {"loss": 9.0}, "smaller --learning-rate"),
        ({"loss": 0.7}, ONE | {"loss": math.inf}, "smaller --learning-rate"),
        ({}, {"accuracy": 0.58, "f1_macro": 0.5, "matthews": 0.1, "f1": 0.4}, "not above the share of the largest"),
        ({}, {"accuracy": 0.7, "f1_macro": 0.6, "matthews": 0.2, "f1": 0.5}, ""),
    ],
)
def test_what_is_said(before: dict[str, float], after: dict[str, float], said: str) -> None:
    found = collapse(before, after, "accuracy", 0.6)
    assert said in found
    assert bool(said) == bool(found)


def test_it_is_the_last_line_and_in_the_metrics(tmp_path: Path, tiny_folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    rows = "text,label\n" + "".join(f"film {i},{'good' if i % 4 else 'bad'}\n" for i in range(16))
    (tmp_path / "train.csv").write_text(rows)
    options = ("--validation-file", "train.csv", "--learning-rate", "1e-6", "--max-steps", "1")
    assert (
        main(["train", "--train-file", "train.csv", "--model", str(tiny_folder), *options, "--output-dir", "r"]) == 0
    )
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("Nothing was learned: ")
    assert json.loads((tmp_path / "r" / "metrics.json").read_text())["collapse"] == last
