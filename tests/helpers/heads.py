"""Tiny models and rows for every head, built in milliseconds: what runs of all kinds of tasks need."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from helpers import tiny, tiny_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration
from transformers.models.llama import LlamaConfig

from steadytune.tasks.task import Head, RowCounts, Task, TaskData

TRAINED_HEADS: tuple[Head, ...] = (
    "classification",
    "regression",
    "multi_label",
    "token_classification",
    "question_answering",
    "causal_lm",
)
#: Each head with the kind of model that has it; the first and a decoder in `make test`, all in `make test-long`.
KINDS = [
    *[
        pytest.param(head, "bert", id=head, marks=[pytest.mark.long] if i > 0 else [])
        for i, head in enumerate(h for h in TRAINED_HEADS if h != "causal_lm")
    ],
    pytest.param("causal_lm", "llama", id="decoder"),
    pytest.param("causal_lm", "t5", id="encoder-decoder", marks=pytest.mark.long),
]
LABELS = {
    "classification": ("no", "yes"),
    "multi_label": ("good", "long", "dull"),
    "token_classification": ("O", "B-x", "I-x"),
}
METRICS = {
    "classification": "accuracy",
    "regression": "pearson",
    "multi_label": "f1_micro",
    "token_classification": "f1",
    "question_answering": "f1",
    "causal_lm": "exact_match",
}


def sentence(mood: int, chance: random.Random) -> list[str]:
    words = [chance.choice(("good", "fine") if mood else ("bad", "poor"))]
    words += chance.choices(tiny_model.NEUTRAL, k=chance.randint(3, 7))
    chance.shuffle(words)
    return words


def rows(head: Head, count: int, seed: int = 0) -> Dataset:
    """Rows whose label follows from their words; the words of the tiny model's vocabulary."""
    chance = random.Random(seed)
    texts = [sentence(i % 2, chance) for i in range(count)]
    joined = [" ".join(words) for words in texts]
    if head == "classification":
        return Dataset.from_dict({"text": joined, "label": [i % 2 for i in range(count)]})
    if head == "regression":
        return Dataset.from_dict({"text": joined, "label": [float(i % 2) + 0.25 for i in range(count)]})
    if head == "multi_label":
        return Dataset.from_dict({"text": joined, "label": [[int(n in w) for n in LABELS[head]] for w in texts]})
    if head == "token_classification":
        # A mood, and "film" after it, are one entity.
        tags = []
        for words in texts:
            found = [1 if w in ("good", "fine", "bad", "poor") else 0 for w in words]
            tags.append(
                [
                    2 if w == "film" and i and found[i - 1] else t
                    for i, (w, t) in enumerate(zip(words, found, strict=True))
                ]
            )
        return Dataset.from_dict({"tokens": texts, "label": tags})
    if head == "question_answering":
        moods = [next(w for w in words if w in ("good", "fine", "bad", "poor")) for words in texts]
        answers = [{"text": [m], "answer_start": [t.index(m)]} for m, t in zip(moods, joined, strict=True)]
        ids = [str(i) for i in range(count)]
        return Dataset.from_dict(
            {"id": ids, "question": ["was the film"] * count, "context": joined, "answers": answers}
        )
    answers = ["good film" if i % 2 else "bad plot" for i in range(count)]
    return Dataset.from_dict({"prompt": [f"{text} " for text in joined], "answer": answers})


def data(head: Head, train: int = 24, held_out: int = 8) -> TaskData:
    """A task of a head with three splits."""
    record = Task("toy", head, "", "", "", None, "", LABELS.get(head), {}, METRICS[head])
    sizes = {"train": train, "validation": held_out, "test": held_out}
    splits = {name: rows(head, size, seed) for seed, (name, size) in enumerate(sizes.items())}
    return TaskData(record, splits, (), {name: RowCounts(n, n) for name, n in sizes.items()})


def word_tokenizer(words: Sequence[str], *, begins: bool) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words that ends texts with </s>, and begins them with <s>."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *words])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    special = [("<s>", 1), ("</s>", 2)]
    single = "<s> $A" if begins else "$A </s>"
    backend.post_processor = TemplateProcessing(single=single, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def language_model_folder(folder: Path, kind: str) -> Path:
    """A decoder ("llama") or an encoder-decoder ("t5") with random weights, as `save_pretrained` writes it."""
    tokenizer = word_tokenizer(tiny_model.WORDS, begins=kind == "llama")
    size = len(tokenizer)
    if kind == "llama":
        config = LlamaConfig(
            **tiny.llama_sizes(0.1) | {"vocab_size": size, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        )
        model: Any = tiny.seeded(lambda: LlamaForCausalLM(config), 0)
    else:
        own = T5Config(
            vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
        )
        model = tiny.seeded(lambda: T5ForConditionalGeneration(own), 0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
