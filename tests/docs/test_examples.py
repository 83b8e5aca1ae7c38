"""Every script in examples/ runs as a user starts it, on a tiny model."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from helpers import tiny_language, tiny_model
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

EXAMPLES = Path(__file__).parents[2] / "examples"
tiny_folder = tiny_model.tiny_folder
CLASSIFIERS = ("trainer", "plain_pytorch", "accelerate_loop", "lightning_module")
LANGUAGE = ("seq2seq_trainer", "sft_trainer")


def run(name: str, model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", str(model), str(folder)])
    monkeypatch.chdir(folder.parent)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def test_every_example_is_run_by_a_test() -> None:
    found = {path.stem for path in EXAMPLES.glob("*.py")}
    assert found == {*CLASSIFIERS, *LANGUAGE, "own_method"}  # own_method: tests/testing/test_contract.py


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "lightning_module":
        pytest.importorskip("lightning", reason="the extra `lightning`")
    run(name, tiny_folder, tmp_path / "trained", monkeypatch)
    _, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "trained", output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]


def test_accelerate_continues_where_it_was(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "trained"
    run("accelerate_loop", tiny_folder, folder, monkeypatch)
    assert "epoch 0:" in capsys.readouterr().out
    assert [path.name for path in sorted(folder.glob("epoch-*"))] == ["epoch-000", "epoch-001", "epoch-002"]
    run("accelerate_loop", tiny_folder, folder, monkeypatch)
    assert "epoch" not in capsys.readouterr().out


def test_an_encoder_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_language.saved(tiny_language.seq2seq(dropout=0.1), tmp_path / "model")
    run("seq2seq_trainer", folder, tmp_path / "trained", monkeypatch)
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "trained").config.model_type == "t5"


def test_an_adapter_of_a_language_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl", reason="the extra `trl`")
    folder = tiny_language.saved(tiny_language.causal(dropout=0.1), tmp_path / "model")
    run("sft_trainer", folder, tmp_path / "trained", monkeypatch)
    assert (tmp_path / "trained" / "adapter_config.json").is_file()
    AutoModelForCausalLM.from_pretrained(folder).load_adapter(tmp_path / "trained")
