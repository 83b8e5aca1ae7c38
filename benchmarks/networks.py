"""The models that are measured, and their batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from benchmarks.setting import Setting
from steadytune.tasks.named.demo import minilm_folder
from steadytune.testing import tiny

Batch = dict[str, Tensor]


def _minilm() -> nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(minilm_folder(), num_labels=2)


def _bert_base() -> nn.Module:
    return BertForSequenceClassification(BertConfig())  # the default sizes of Transformers are those of bert-base


def _roberta_large() -> nn.Module:
    sizes: dict[str, Any] = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    config = RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1, **sizes)
    return RobertaForSequenceClassification(config)


#: Models by name; all but minilm have the shapes of the published model and random weights.
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "minilm": _minilm,
    "bert-base": _bert_base,
    "roberta-large": _roberta_large,
}


def network(name: str, setting: Setting) -> nn.Module:
    """The model in training mode on the device, with the same weights in every call."""
    if setting.tiny:
        made = tiny.model(dropout=0.1)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = NETWORKS[name]()
    return nn.Module.to(made, setting.device).train()


def small_network(setting: Setting) -> nn.Module:
    """A model whose step is so short that what a host adds to it can be seen."""
    if setting.tiny:
        return network("tiny", setting)
    sizes: dict[str, Any] = {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 512,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made: nn.Module = BertForSequenceClassification(BertConfig(vocab_size=1000, **sizes))
    return nn.Module.to(made, setting.device).train()


def random_batch(model: nn.Module, setting: Setting) -> Batch:
    """Rows of real tokens only, all of them the whole length."""
    return batch_of_lengths([setting.tokens] * setting.batch, model, setting)


def batch_of_lengths(lengths: list[int], model: nn.Module, setting: Setting) -> Batch:
    """Random tokens in rows of these lengths, padded to the longest, with two classes in turn."""
    vocabulary = int(model.get_input_embeddings().weight.shape[0])  # pyright: ignore - models of Transformers have it
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary // 4, vocabulary, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)).expand(len(lengths), -1) < torch.tensor(lengths).unsqueeze(1)
    padding = getattr(getattr(model, "config", None), "pad_token_id", None) or 0
    batch = {
        "input_ids": ids.where(mask, torch.tensor(padding)),
        "attention_mask": mask.long(),
        "labels": torch.arange(len(lengths)) % 2,
    }
    return {name: tensor.to(setting.device) for name, tensor in batch.items()}
