"""Paths in a configuration count from its folder, wherever the command is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from steadytune.cli.app import main
from steadytune.settings.resolve import resolve_settings
from steadytune.training.rows import load_data

ROWS = "text,label\n" + "good film,yes\nbad film,no\n" * 10


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "inner" / "rows").mkdir(parents=True)
    (tmp_path / "inner" / "rows" / "train.csv").write_text(ROWS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("config", ["inner/c.yaml", "./inner/../inner/c.yaml", "{place}/inner/c.yaml"])
def test_every_path_counts_from_the_folder_of_the_configuration(place: Path, config: str) -> None:
    content = "train_file: rows/train.csv\nvalidation_file: rows/train.csv\noutput_dir: out\nmodel: minilm\n"
    (place / "inner" / "c.yaml").write_text(content)
    settings = resolve_settings({}, config.format(place=place))
    assert Path(str(settings.train_file)).resolve() == place / "inner" / "rows" / "train.csv"
    assert settings.folder.resolve() == place / "inner" / "out"
    assert settings.model == "minilm"
    assert len(load_data(settings).splits["validation"]) == 20


def test_options_count_from_here_and_other_paths_stay(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYTUNE_OUTPUT_URLS", "s3://bucket")
    (place / "inner" / "m").mkdir()
    absolute = place / "inner" / "rows" / "train.csv"
    content = (
        f"train_file: rows/train.csv\ntest_file: {absolute}\nmodel: m\noutput_dir: s3://bucket/x\ndata_dir: ~/d\n"
    )
    (place / "inner" / "c.yaml").write_text(content)
    settings = resolve_settings({"train_file": "inner/rows/train.csv"}, "inner/c.yaml")
    assert (settings.train_file, settings.test_file) == ("inner/rows/train.csv", str(absolute))
    assert (settings.model, settings.output_dir, settings.data_dir) == ("inner/m", "s3://bucket/x", "~/d")


def test_the_configuration_that_a_run_kept_counts_from_where_it_was_started(place: Path) -> None:
    kept = place / "runs" / "first"
    kept.mkdir(parents=True)
    (kept / "config.yaml").write_text("train_file: inner/rows/train.csv\noutput_dir: runs/first\n")
    settings = resolve_settings({}, "runs/first/config.yaml")
    assert (settings.train_file, settings.output_dir) == ("inner/rows/train.csv", "runs/first")


def test_init_writes_paths_as_seen_from_its_output(place: Path) -> None:
    assert main(["init", "inner/rows/train.csv", "-q", "--verb", "train", "-o", "configs/c.yaml"]) == 0
    settings = resolve_settings({}, "configs/c.yaml")
    assert Path(str(settings.train_file)).resolve() == place / "inner" / "rows" / "train.csv"
    assert len(load_data(settings).splits["train"]) > 0
