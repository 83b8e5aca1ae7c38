"""A model's folder from a stranger: what its files say of themselves is checked before anything is read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_model

from steadytune.errors import CheckpointError, ModelNotFoundError
from steadytune.integrations.transformers.checkpoints import remove_older
from steadytune.models.checkpoint.files import weight_files
from steadytune.models.load import find_model
from steadytune.training.folder import RunFolder

tiny_folder = tiny_model.tiny_folder


@pytest.fixture
def model(tiny_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    return folder


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "vocab.txt", "new.json"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_in_the_folder_is_refused_at_once(model: Path, name: str, kind: str) -> None:
    (model / "other.safetensors").write_bytes(b"")
    (model / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(model / name)
    else:
        (model / name).symlink_to("/dev/zero")
    with pytest.raises(ModelNotFoundError, match="is a pipe or a device"):
        find_model(str(model))


NO_SIZES = (-1, 0, 1.5, "768", True, [1], {}, 10**30, float("nan"), "²")


@pytest.mark.parametrize("value", NO_SIZES)
@pytest.mark.parametrize("name", ["hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings"])
def test_a_size_that_is_no_positive_whole_number_is_refused(model: Path, name: str, value: Any) -> None:
    change(model / "config.json", **{name: value})
    with pytest.raises(ModelNotFoundError, match=f"{name} in config.json") as error:
        find_model(str(model))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [-1, 0, 0.5, "x", True, None, float("nan"), -1e30])
def test_a_length_that_is_no_positive_whole_number_is_refused(model: Path, value: Any) -> None:
    (model / "tokenizer_config.json").write_text(json.dumps({"model_max_length": value}))
    with pytest.raises(ModelNotFoundError, match="model_max_length"):
        find_model(str(model))


@pytest.mark.parametrize("value", [512, 1e30, int(1e30)])
def test_a_usual_length_is_taken(model: Path, value: Any) -> None:
    (model / "tokenizer_config.json").write_text(json.dumps({"model_max_length": value}))
    assert find_model(str(model)).found_in == "folder"


@pytest.mark.parametrize(
    "name",
    ["../outside.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..", "x.bin", "", 3, None, ["x"], "a\\b"],
)
def test_an_index_names_only_files_of_its_folder(model: Path, tmp_path: Path, name: Any) -> None:
    shutil.copy(model / "model.safetensors", tmp_path / "outside.safetensors")
    (model / "model.safetensors").rename(model / "outside.safetensors")
    index = {"weight_map": {"bert.embeddings.word_embeddings.weight": name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelNotFoundError, match="names"):
        find_model(str(model))
    with pytest.raises(CheckpointError, match="names"):
        weight_files(model)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": []}', "x", '{"weight_map": {}}', "[" * 10**5])
def test_an_index_that_is_none_is_refused(model: Path, content: str) -> None:
    (model / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelNotFoundError):
        find_model(str(model))


@pytest.mark.parametrize("number", ["²", "٣", "\uff19", "-1", "1e3", "9" * 5000, "", "1 "])
def test_a_checkpoint_is_numbered_with_plain_digits(tmp_path: Path, number: str) -> None:
    name = f"checkpoint-{number}"[:200]
    folder = tmp_path / "checkpoints" / name
    folder.mkdir(parents=True)
    (folder / "steadytune.safetensors").write_bytes(b"x")
    assert RunFolder(tmp_path).last_checkpoint() is None
    (tmp_path / "checkpoints" / "checkpoint-3").mkdir()
    remove_older(tmp_path / "checkpoints" / "checkpoint-3", 1)
    assert folder.is_dir()
