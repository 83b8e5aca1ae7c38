"""A tiny random model of every supported family, with every head that Transformers has for it, and a batch for it."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

WORDS, LENGTH, ROWS, CLASSES, CHOICES = 60, 9, 3, 3, 2
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ENCODER = {"vocab_size": WORDS, **SIZES, "max_position_embeddings": 32, **SPECIAL}
DECODER = {**ENCODER, "num_key_value_heads": 1, "head_dim": 8}
HIDDEN = ("hidden_dropout_prob", "attention_probs_dropout_prob")

#: The family's name, its configuration, the prefix of its classes, sizes, and what its rates of dropout are called.
FAMILIES: dict[str, tuple[str, str, dict[str, Any], tuple[str, ...]]] = {
    "BERT": ("BertConfig", "Bert", ENCODER, HIDDEN),
    "DistilBERT": (
        "DistilBertConfig",
        "DistilBert",
        {"vocab_size": WORDS, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "max_position_embeddings": 32}
        | {"pad_token_id": 0},
        ("dropout", "attention_dropout", "seq_classif_dropout", "qa_dropout"),
    ),
    "RoBERTa": ("RobertaConfig", "Roberta", ENCODER, HIDDEN),
    "XLM-R": ("XLMRobertaConfig", "XLMRoberta", ENCODER, HIDDEN),
    "DeBERTa-v2": ("DebertaV2Config", "DebertaV2", ENCODER, HIDDEN),
    "DeBERTa-v3": (
        "DebertaV2Config",
        "DebertaV2",
        ENCODER
        | {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
        | {"share_att_key": True, "norm_rel_ebd": "layer_norm", "position_buckets": 8},
        HIDDEN,
    ),
    "ELECTRA": ("ElectraConfig", "Electra", ENCODER | {"embedding_size": 8}, (*HIDDEN, "summary_last_dropout")),
    "ALBERT": ("AlbertConfig", "Albert", ENCODER | {"embedding_size": 8}, (*HIDDEN, "classifier_dropout_prob")),
    "XLNet": (
        "XLNetConfig",
        "XLNet",
        {"vocab_size": WORDS, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24, **SPECIAL},
        ("dropout", "summary_last_dropout"),
    ),
    "ModernBERT": (
        "ModernBertConfig",
        "ModernBert",
        ENCODER | {"cls_token_id": 1, "sep_token_id": 2},
        ("attention_dropout", "embedding_dropout", "mlp_dropout", "classifier_dropout"),
    ),
    "T5": (
        "T5Config",
        "T5",
        {"vocab_size": WORDS, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
        | {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0},
        ("dropout_rate", "classifier_dropout"),
    ),
    "BART": (
        "BartConfig",
        "Bart",
        {"vocab_size": WORDS, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2}
        | {"decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 32}
        | {"decoder_start_token_id": 2, "forced_eos_token_id": None, **SPECIAL},
        ("dropout", "attention_dropout", "activation_dropout", "classifier_dropout"),
    ),
    "GPT-2": (
        "GPT2Config",
        "GPT2",
        {"vocab_size": WORDS, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, **SPECIAL},
        ("resid_pdrop", "embd_pdrop", "attn_pdrop", "classifier_dropout", "summary_first_dropout"),
    ),
    "Llama": ("LlamaConfig", "Llama", DECODER, ("attention_dropout", "classifier_dropout")),
    "Qwen3": ("Qwen3Config", "Qwen3", DECODER, ("attention_dropout", "classifier_dropout")),
    "ViT": ("ViTConfig", "ViT", SIZES | {"image_size": 8, "patch_size": 4, "num_channels": 3}, HIDDEN),
}

#: The head's name, and what its class is called behind the family's prefix (the first that there is).
HEADS: dict[str, tuple[str, ...]] = {
    "classification": ("ForSequenceClassification", "ForImageClassification"),
    "multi-label": ("ForSequenceClassification", "ForImageClassification"),
    "regression": ("ForSequenceClassification", "ForImageClassification"),
    "token classification": ("ForTokenClassification",),
    "question answering": ("ForQuestionAnsweringSimple", "ForQuestionAnswering"),
    "multiple choice": ("ForMultipleChoice",),
    "causal LM": ("ForCausalLM", "LMHeadModel"),
    "masked LM": ("ForMaskedLM",),
    "seq2seq LM": ("ForConditionalGeneration",),
}


def model_class(family: str, head: str) -> type[PreTrainedModel] | None:
    """The class of Transformers, where there is one."""
    _, prefix, _, _ = FAMILIES[family]
    found = (getattr(transformers, prefix + suffix, None) for suffix in HEADS[head])
    return next((kind for kind in found if kind is not None), None)


def build(
    family: str, head: str, *, seed: int = 0, dropout: float = 0.0, dtype: torch.dtype = torch.float32, **settings: Any
) -> Any:
    """A tiny random model in training mode, with all its rates of dropout the same."""
    name, _, values, rates = FAMILIES[family]
    kind = model_class(family, head)
    assert kind is not None
    extra: dict[str, Any] = {"num_labels": {"regression": 1, "question answering": 2}.get(head, CLASSES)}
    problem = {"multi-label": "multi_label_classification", "regression": "regression"}.get(head)
    if head == "causal LM" and family in ("BERT", "RoBERTa", "XLM-R", "ELECTRA"):
        extra["is_decoder"] = True
    extra |= dict.fromkeys(rates, dropout)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        config = getattr(transformers, name)(**values | extra | settings, problem_type=problem)
        config._attn_implementation = "eager"
        model: Any = kind(config)
        return model.to(dtype).train()


def batch_for(family: str, head: str, *, seed: int = 0, rows: int = ROWS, dtype: torch.dtype = torch.float32) -> Any:
    """A batch with padding on the right in all rows but the first, and labels that leave some positions out."""
    generator = torch.Generator().manual_seed(seed)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    if family == "ViT":
        inputs = {"pixel_values": torch.randn(rows, 3, 8, 8, generator=generator, dtype=dtype)}
    else:
        shape = (rows, CHOICES, LENGTH) if head == "multiple choice" else (rows, LENGTH)
        ids = integers(3, WORDS, *shape)
        lengths = LENGTH - (torch.arange(math.prod(shape[:-1])) % 3).view(shape[:-1])
        mask = (torch.arange(LENGTH) < lengths.unsqueeze(-1)).long()
        ids[torch.arange(LENGTH) == lengths.unsqueeze(-1) - 1] = SPECIAL["eos_token_id"]  # T5 and BART classify there
        inputs = {"input_ids": ids * mask, "attention_mask": mask}
    if head in ("classification", "multiple choice"):
        return inputs | {"labels": integers(0, CHOICES if head == "multiple choice" else CLASSES, rows)}
    if head == "multi-label":
        return inputs | {"labels": integers(0, 2, rows, CLASSES).to(dtype)}
    if head == "regression":
        return inputs | {"labels": torch.randn(rows, generator=generator, dtype=dtype)}
    if head == "question answering":
        start = integers(0, LENGTH - 3, rows)
        return inputs | {"start_positions": start, "end_positions": start + 1}
    if head == "seq2seq LM":
        labels = integers(3, WORDS, rows, 5)
        labels[1:, -1] = -100
        return inputs | {"labels": labels}
    labels = inputs["input_ids"].clone() if "LM" in head else integers(0, CLASSES, rows, LENGTH)
    labels[inputs["attention_mask"] == 0] = -100
    labels[:, :2] = -100
    return inputs | {"labels": labels}


def pairs() -> list[tuple[str, str]]:
    """Every family with every head that Transformers has for it."""
    return [(family, head) for family in FAMILIES for head in HEADS if model_class(family, head) is not None]
