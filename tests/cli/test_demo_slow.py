"""The embedded demo, from the command line to the scores, with the real minilm."""

from __future__ import annotations

import json
import math

import pytest

from steadytune.cli import main

COMMAND = (
    "train --model minilm --task movie-reviews --train-size 64 --max-steps 6 --max-eval-samples 64 --max-length 32 "
    "--methods noisytune,smart --logging-steps 1 --output-dir run"
)


@pytest.mark.slow
@pytest.mark.long
def test_the_demo_trains_the_real_model(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(COMMAND.split()) == 0, capsys.readouterr().err
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    for when in ("before", "after"):
        assert set(metrics[when]) == {"validation", "test", "imdb"}
        for scores in metrics[when].values():
            assert scores["rows"] == 64
            assert 0 <= scores["accuracy"] <= 1
            assert math.isfinite(scores["loss"])
    assert metrics["before"] != metrics["after"]
    assert metrics["training"]["rows"] == 64
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = [line for line in log if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 7))
    for line in steps:
        assert all(math.isfinite(line[name]) for name in ("loss", "task_loss", "smoothness", "bregman", "grad_norm"))
    text = capsys.readouterr().out
    for split in ("validation", "test", "imdb"):
        assert f"{split}: 64 of " in text
