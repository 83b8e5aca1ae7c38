"""Tiny language models with a tokenizer of whole words, saved as `save_pretrained` writes them."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from helpers import tiny
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

WORDS = ("red", "blue", "green", "sky", "grass", "rose", "is", "the", "a", "what", "color", "of", "?", ":", "it")
SPECIAL = ("<pad>", "<unk>", "</s>")


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")


def causal(
    *, dropout: float = 0.0, seed: int = 0, dtype: torch.dtype = torch.float32, vocabulary: int | None = None
) -> LlamaForCausalLM:
    size = len(SPECIAL) + len(WORDS) if vocabulary is None else vocabulary
    config = LlamaConfig(**tiny.llama_sizes(dropout) | {"vocab_size": size, "eos_token_id": 2, "bos_token_id": None})
    return tiny.seeded(lambda: LlamaForCausalLM(config), seed, dtype)


def seq2seq(*, dropout: float = 0.0, seed: int = 0, dtype: torch.dtype = torch.float32) -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=len(SPECIAL) + len(WORDS),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        dropout_rate=dropout,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=2,
    )
    return tiny.seeded(lambda: T5ForConditionalGeneration(config), seed, dtype)


def prompts(count: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Rows with a prompt and a completion of different lengths."""
    chance = random.Random(seed)
    return [
        {
            "prompt": " ".join(chance.choices(WORDS, k=chance.randint(2, 5))),
            "completion": " " + " ".join(chance.choices(WORDS, k=chance.randint(1, 6))),
        }
        for _ in range(count)
    ]


def saved(model: LlamaForCausalLM | T5ForConditionalGeneration, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
