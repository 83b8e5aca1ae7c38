"""A tiny model in a folder, small enough that loading it costs nothing."""

from __future__ import annotations

from pathlib import Path

from helpers import tiny
from helpers.tiny_model import SPECIAL, WORDS
from transformers import BertTokenizerFast


def tiny_model_folder(parent: Path) -> Path:
    """Save a random encoder of one layer with its tokenizer."""
    folder = parent / "tiny"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    model = tiny.bert(num_hidden_layers=1, vocab_size=len(SPECIAL) + len(WORDS))
    model.bert.save_pretrained(folder)
    return folder
