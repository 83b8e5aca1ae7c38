"""A tiny random encoder with its tokenizer, saved as a folder, and rows of data for it: what a run needs."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny
from transformers import BertForSequenceClassification, BertTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NEUTRAL = ("film", "plot", "a", "the", "was", "not", "very", "dull", "long")
WORDS = ("good", "fine", "bad", "poor", *NEUTRAL)
POSITIONS = 40
HEADER = ("text", "label")

Row = tuple[Any, ...]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained encoder without a head, as `save_pretrained` writes it, with dropout; never changed."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    model: BertForSequenceClassification = tiny.bert(
        dropout=0.1, vocab_size=len(SPECIAL) + len(WORDS), max_position_embeddings=POSITIONS
    )
    model.bert.save_pretrained(folder)
    return folder


@pytest.fixture
def changed_model(tiny_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies the tiny model, changes its config.json (`None` takes a key out), and removes files."""

    def change(remove: Sequence[str] = (), **config: Any) -> Path:
        folder = tmp_path / "changed-model"
        shutil.copytree(tiny_folder, folder)
        content = json.loads((folder / "config.json").read_text()) | config
        kept = {name: value for name, value in content.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))
        for name in remove:
            (folder / name).unlink()
        return folder

    return change


def sentence(mood: int, chance: random.Random) -> str:
    words = [chance.choice(("good", "fine") if mood else ("bad", "poor")), *chance.choices(NEUTRAL, k=4)]
    chance.shuffle(words)
    return " ".join(words)


def rows(count: int, labels: Sequence[Any] = ("no", "yes"), *, seed: int = 0) -> list[Row]:
    """Sentences whose label is told by one word."""
    chance = random.Random(seed)
    return [(sentence(i % 2, chance), labels[i % len(labels)]) for i in range(count)]


def write_csv(path: Path, content: Sequence[Row], header: Sequence[str] = HEADER) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *content])
    return path


def write_jsonl(path: Path, content: Sequence[Row], header: Sequence[str] = HEADER) -> Path:
    lines = [json.dumps(dict(zip(header, row, strict=True))) + "\n" for row in content]
    path.write_text("".join(lines), encoding="utf-8")
    return path
