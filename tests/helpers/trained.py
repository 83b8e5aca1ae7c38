"""Tiny random models that count as trained, saved with a head and the names of its outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from helpers import heads, tiny, tiny_model
from transformers import BertConfig, BertTokenizerFast

KINDS = {
    "classification": transformers.BertForSequenceClassification,
    "regression": transformers.BertForSequenceClassification,
    "multi_label": transformers.BertForSequenceClassification,
    "token_classification": transformers.BertForTokenClassification,
    "question_answering": transformers.BertForQuestionAnswering,
}
PROBLEMS = {"regression": "regression", "multi_label": "multi_label_classification"}


def trained_folder(folder: Path, head: str, kind: str = "bert") -> Path:
    """A model of a head in a folder, as `save_pretrained` writes it."""
    if head == "causal_lm":
        return heads.language_model_folder(folder, kind)
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join([*tiny_model.SPECIAL, *tiny_model.WORDS]) + "\n", encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    names = heads.LABELS.get(head, ("LABEL_0",) if head == "regression" else ("LABEL_0", "LABEL_1"))
    sizes = tiny.sizes(vocab_size=len(tiny_model.SPECIAL) + len(tiny_model.WORDS), max_position_embeddings=24)
    sizes |= {"initializer_range": 1.0, "problem_type": PROBLEMS.get(head)}
    del sizes["num_labels"]
    config = BertConfig(**sizes, id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})
    model: Any = tiny.seeded(lambda: KINDS[head](config), 3)
    model.save_pretrained(folder)
    return folder
