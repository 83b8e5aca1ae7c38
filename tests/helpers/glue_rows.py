"""A data folder with a few rows of GLUE tasks, and a masked language model for its pronouns."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from helpers import tiny, tiny_model
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
NOUNS = ("cat", "dog", "pot", "shelf", "tree", "roof", "ball", "table")
WORDS = (*NOUNS, "the", "hit", "because", "it", "was", "red", "blue", "big", "##s", "old", ".", ",")

#: Premise, hypothesis and label of WNLI.
Pronouns = list[tuple[str, str, int]]


def write_split(folder: Path, task: str, split: str, columns: Mapping[str, Sequence[Any]]) -> None:
    place = folder / "glue" / task
    place.mkdir(parents=True, exist_ok=True)
    count = len(columns["label"])
    pq.write_table(pa.table({**columns, "idx": list(range(count))}), place / f"{split}.parquet")


def write_tasks(folder: Path, rows: Mapping[str, int], evaluated: int) -> Path:
    """So many training rows of each task, whose label is told by a word; MRPC has a test split too."""
    for task, count in rows.items():
        for split, size in (("train", count), ("validation", evaluated), ("test", evaluated)):
            if split == "test" and task != "mrpc":
                continue
            made = tiny_model.rows(size, (0, 1), seed=len(task) + len(split))
            texts, labels = [text for text, _ in made], [label for _, label in made]
            pair = {"sentence1": texts, "sentence2": texts[::-1]}
            columns: dict[str, Any] = {"sentence": texts} if task == "sst2" else pair
            scores = [float(2 * label + i / size) for i, label in enumerate(labels)] if task == "stsb" else labels
            write_split(folder, task, split, {**columns, "label": scores})
    return folder


def write_tags(folder: Path, counts: Mapping[str, int]) -> Path:
    """Rows of WNUT-17 by split: words of moods are persons, all others nothing."""
    place = folder / "wnut17"
    place.mkdir(parents=True)
    for split, count in counts.items():
        words = [text.split() for text, _ in tiny_model.rows(count, seed=len(split))]
        tags = [["B-person" if w in ("good", "fine", "bad", "poor") else "O" for w in row] for row in words]
        pq.write_table(pa.table({"tokens": words, "ner_tags": tags}), place / f"{split}.parquet")
    return folder


def pronouns(count: int, seed: int = 0) -> Pronouns:
    """Two rows per sentence; what is meant is always one of the first four nouns."""
    chance = random.Random(seed)
    rows: Pronouns = []
    for _ in range(count):
        nouns = [chance.choice(NOUNS[:4]), chance.choice(NOUNS[4:])]
        right = nouns[0]
        chance.shuffle(nouns)
        color = chance.choice(("red", "blue"))
        premise = f"The {nouns[0]} hit the {nouns[1]} because it was {color}."
        rows += [(premise, f"The {noun} was {color}.", int(noun == right)) for noun in nouns]
    return rows


def write_wnli(folder: Path) -> Path:
    """16 and 8 such sentences, and in each split a row that asks for no pronoun."""
    unaligned = [("The cat hit the dog.", "The dog was red.", 0)]
    for split, rows in (("train", pronouns(16) + unaligned), ("validation", pronouns(8, seed=1) + unaligned)):
        first, second, labels = map(list, zip(*rows, strict=True))
        write_split(folder, "wnli", split, {"sentence1": first, "sentence2": second, "label": labels})
    return folder


def tokenizer_in(folder: Path) -> BertTokenizerFast:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\n", encoding="utf-8")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    return tokenizer


def bert_config(dropout: float = 0.0) -> BertConfig:
    return BertConfig(**tiny.sizes(dropout, vocab_size=len(SPECIAL) + len(WORDS)))


def language_model(dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> BertForMaskedLM:
    return tiny.seeded(lambda: BertForMaskedLM(bert_config(dropout)), 0, dtype)


def language_model_folder(place: Path) -> Path:
    """A tiny random BERT with a masked-language-model head, with dropout."""
    tokenizer_in(place)
    language_model(dropout=0.1).save_pretrained(place)
    return place
