"""Tiny random models, batches and data sets, for the tests to build in milliseconds."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    TrainingArguments,
)

Model = TypeVar("Model", bound=nn.Module)

VOCABULARY = 60
WIDTH = 16
PAD = {"bert": 0, "roberta": 1, "llama": 0}


def sizes(dropout: float = 0.0, **settings: Any) -> dict[str, Any]:
    """Configuration of an encoder whose logits are spread enough for divergences to be felt."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 40,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "initializer_range": 0.2,
        "num_labels": 2,
    } | settings


def bert(
    *, dropout: float = 0.0, seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any
) -> BertForSequenceClassification:
    return seeded(lambda: BertForSequenceClassification(BertConfig(**sizes(dropout, **settings))), seed, dtype)


def roberta(
    *, dropout: float = 0.0, seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any
) -> RobertaForSequenceClassification:
    config = RobertaConfig(**sizes(dropout, **settings), pad_token_id=1, bos_token_id=0, eos_token_id=2)
    return seeded(lambda: RobertaForSequenceClassification(config), seed, dtype)


def llama(
    *, dropout: float = 0.0, seed: int = 0, dtype: torch.dtype = torch.float32, **settings: Any
) -> LlamaForSequenceClassification:
    config = LlamaConfig(**llama_sizes(dropout) | settings)
    return seeded(lambda: LlamaForSequenceClassification(config), seed, dtype)


def llama_sizes(dropout: float = 0.0) -> dict[str, Any]:
    kept = sizes()
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        del kept[name]
    return kept | {"num_key_value_heads": 1, "attention_dropout": dropout, "pad_token_id": 0}


def seeded(build: Callable[[], Model], seed: int, dtype: torch.dtype = torch.float32) -> Model:
    """Build a model from a seed without touching the random state, and leave it in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().to(dtype).train()


ENCODERS: dict[str, Callable[..., PreTrainedModel]] = {"bert": bert, "roberta": roberta, "llama": llama}


def sentences(count: int, *, seed: int = 0, low: int = 3, high: int = 9) -> list[Tensor]:
    """Token ids of different lengths, free of special tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(low, high, (count,), generator=generator).tolist()
    return [torch.randint(5, VOCABULARY, (length,), generator=generator) for length in lengths]


def batch_of(
    ids: Sequence[Tensor], labels: Tensor | Sequence[Any], *, pad: int = 0, extra: int = 0
) -> dict[str, Tensor]:
    """A right-padded batch, with ``extra`` columns of padding more than it needs."""
    length = max(map(len, ids)) + extra
    padded = torch.full((len(ids), length), pad)
    mask = torch.zeros((len(ids), length), dtype=torch.long)
    for row, sentence in enumerate(ids):
        padded[row, : len(sentence)] = sentence
        mask[row, : len(sentence)] = 1
    return {"input_ids": padded, "attention_mask": mask, "labels": torch.as_tensor(labels)}


def batch(count: int = 4, *, seed: int = 0, labels: int = 2, pad: int = 0, extra: int = 0) -> dict[str, Tensor]:
    """A random batch for classification (``labels`` classes) or regression (``labels=1``, in float64)."""
    generator = torch.Generator().manual_seed(seed + 1000)
    if labels == 1:
        targets = torch.randn(count, generator=generator, dtype=torch.float64)
    else:
        targets = torch.randint(labels, (count,), generator=generator)
    return batch_of(sentences(count, seed=seed), targets, pad=pad, extra=extra)


def rows(whole: Mapping[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
    """Some examples of a batch, with no more padding than they need."""
    part = {name: tensor[start:stop] for name, tensor in whole.items()}
    length = int(part["attention_mask"].sum(1).max())
    return {name: tensor[:, :length] if tensor.dim() > 1 else tensor for name, tensor in part.items()}


def dataset(count: int = 32, *, seed: int = 0, labels: int = 2) -> list[dict[str, Any]]:
    """Rows for a Trainer; `collate` makes batches of them."""
    whole = batch(count, seed=seed, labels=labels)
    lengths = whole["attention_mask"].sum(1).tolist()
    return [
        {"input_ids": ids[:length], "labels": label}
        for ids, label, length in zip(whole["input_ids"], whole["labels"], lengths, strict=True)
    ]


def collate(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    return batch_of([e["input_ids"] for e in examples], torch.stack([e["labels"] for e in examples]))


def arguments(folder: Path | str, **settings: Any) -> TrainingArguments:
    """Training arguments for a few quiet steps on the CPU."""
    defaults: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "dataloader_num_workers": 0,
        "max_grad_norm": 0.0,
        "seed": 11,
    }
    return TrainingArguments(**defaults | settings)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's parameters."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's gradients, zero where there is none."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone()
        for name, p in model.named_parameters()
    }


def differences(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not equal bit for bit, of two mappings with equal names."""
    assert list(first) == list(second)
    return [name for name in first if not torch.equal(first[name], second[name])]


def distance(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> float:
    """Largest difference between two mappings of tensors, in units of the largest entry of the second."""
    assert set(first) == set(second)
    assert all(torch.isfinite(t).all() for t in first.values())
    scale = max(float(t.abs().max()) for t in second.values())
    return max(float((first[name] - second[name]).abs().max()) for name in second) / scale


def clone(model: Model) -> Model:
    return copy.deepcopy(model)


class Records(logging.Handler):
    """Collects the messages of a logger, whatever its propagation."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def only(values: Iterable[Any]) -> Any:
    (value,) = values
    return value
