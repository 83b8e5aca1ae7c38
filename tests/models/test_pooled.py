"""The pooled classifier: its vectors, its folder, and when it is chosen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from sentence_transformers import SentenceTransformer  # comes with the embedded model
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    pipeline,
)

from steadytune import Stack, freeze, layerwise_decay, noisytune, smart
from steadytune.errors import ModelNotFoundError, SettingsError
from steadytune.heads.registry import head_of
from steadytune.models.load import load_model
from steadytune.models.pooled.choice import choose_pooling
from steadytune.models.pooled.configuration import PooledConfig
from steadytune.models.pooled.declared import Declared, declared_pooling
from steadytune.models.pooled.modeling import PooledForSequenceClassification
from steadytune.models.pooled.pooling import POOLINGS, pooled
from steadytune.tasks.named.demo import minilm_folder
from steadytune.tasks.named.registry import task_record

SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
CONFIGURATIONS = {
    "BERT": BertConfig(**SMALL),
    "RoBERTa": RobertaConfig(**SMALL, pad_token_id=0),
    "DistilBERT": DistilBertConfig(vocab_size=60, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    "ELECTRA": ElectraConfig(**SMALL, embedding_size=16),
    "MPNet": MPNetConfig(**SMALL, pad_token_id=0),
    "ModernBERT": ModernBertConfig(**SMALL, pad_token_id=0, cls_token_id=1, sep_token_id=2),
}
TEXTS = ["a good film", "bad", "one of the longest and most boring films that I have ever seen in my whole life"]


def model_over(config: Any, pooling: str = "mean", *, normalize: bool = True) -> PooledForSequenceClassification:
    torch.manual_seed(0)
    return PooledForSequenceClassification(PooledConfig.over(config, pooling, normalize=normalize))


def slow_vector(states: list[list[float]], pooling: str) -> list[float]:
    """Of the real tokens of one text."""
    if pooling == "mean":
        return [sum(column) / len(states) for column in zip(*states, strict=True)]
    if pooling == "max":
        return [max(column) for column in zip(*states, strict=True)]
    return states[0] if pooling == "first" else states[-1]


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_vector_is_that_of_the_real_tokens(pooling: str, left: bool) -> None:
    torch.manual_seed(0)
    lengths, width = [5, 1, 3], 5
    states = torch.randn(3, width, 4, dtype=torch.float64)
    mask = torch.zeros(3, width, dtype=torch.int64)
    for row, length in enumerate(lengths):
        mask[row, slice(width - length, None) if left else slice(length)] = 1
    expected = [slow_vector(states[row][mask[row] == 1].tolist(), pooling) for row in range(3)]
    found = pooled(states, mask, pooling, normalize=False)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    unit = pooled(states, mask, pooling, normalize=True)
    torch.testing.assert_close(unit.norm(dim=-1), torch.full((3,), 2.0, dtype=torch.float64))
    torch.testing.assert_close(unit, 2 * found / found.norm(dim=-1, keepdim=True))


def test_vectors_are_those_of_sentence_transformers() -> None:
    model, tokenizer, _ = load_model("minilm", task_record("sst2"), new_head=True)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        vectors = model.eval().features(**inputs) / model.config.hidden_size**0.5
    theirs = SentenceTransformer(str(minilm_folder()), device="cpu").encode(TEXTS)
    torch.testing.assert_close(vectors, torch.from_numpy(theirs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", CONFIGURATIONS)
def test_every_weight_trains_and_a_saved_folder_answers_alike(family: str, tmp_path: Path) -> None:
    model = model_over(CONFIGURATIONS[family]).train()
    batch = {**tiny.batch(4), "labels": torch.tensor([0, 1, 0, 1])}
    batch = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    model(**batch).loss.backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    assert model.base_model is not model
    model.save_pretrained(tmp_path)
    again, loading = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values())
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(**batch).logits, model.eval()(**batch).logits, rtol=0, atol=0)


def test_the_encoder_of_a_folder_loads_in_plain_transformers(tmp_path: Path) -> None:
    model = model_over(CONFIGURATIONS["BERT"]).eval()
    model.save_pretrained(tmp_path)
    encoder = BertModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    batch = {name: tiny.batch(3)[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        assert torch.equal(encoder(**batch).last_hidden_state, model.bert(**batch).last_hidden_state)


def test_a_pipeline_reads_a_folder(tmp_path: Path) -> None:
    model, tokenizer, _ = load_model("minilm", task_record("sst2"), new_head=True)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    answers = pipeline("text-classification", model=str(tmp_path))(TEXTS, batch_size=3)
    assert {answer["label"] for answer in answers} <= set(task_record("sst2").label_names or ())


@pytest.mark.long
@pytest.mark.parametrize("order", ["import steadytune, transformers", "import transformers.models.auto, steadytune"])
def test_the_order_of_imports_does_not_matter(order: str, tmp_path: Path) -> None:
    model_over(CONFIGURATIONS["BERT"]).save_pretrained(tmp_path)
    load = "transformers.AutoModelForSequenceClassification.from_pretrained"
    code = f"{order}\nimport transformers\nprint(type({load}({str(tmp_path)!r})).__name__)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "PooledForSequenceClassification"


def test_auto_follows_the_checkpoint(tmp_path: Path) -> None:
    assert declared_pooling(minilm_folder()) == Declared("mean", normalize=True)
    model, _, _ = load_model("minilm", task_record("stsb"), new_head=True)
    assert isinstance(model, PooledForSequenceClassification)
    assert (model.config.pooling, model.config.normalize, model.config.problem_type) == ("mean", True, "regression")
    assert isinstance(
        load_model("minilm", task_record("sst2"), new_head=True, pooling="cls")[0], BertForSequenceClassification
    )
    config = AutoConfig.from_pretrained(minilm_folder())
    head = head_of("classification")
    assert choose_pooling(str(tmp_path), head, config, "auto") is None, "declares nothing"
    config.architectures = ["BertForSequenceClassification"]
    assert choose_pooling(str(minilm_folder()), head, config, "auto") is None, "has a trained head of its own"
    assert choose_pooling(str(minilm_folder()), head_of("token_classification"), config, "auto") is None


def test_cls_is_the_models_own_class_bit_for_bit() -> None:
    task = task_record("sst2")
    torch.manual_seed(3)
    ours, _, _ = load_model("minilm", task, new_head=True, pooling="cls")
    torch.manual_seed(3)
    plain = AutoModelForSequenceClassification.from_pretrained(
        minilm_folder(), use_safetensors=True, **head_of("classification").configuration(task.label_names)
    )
    assert tiny.differences(tiny.weights(ours), tiny.weights(plain)) == []


@pytest.mark.parametrize(
    ("modules", "switches"),
    [
        ([{"type": "x.Transformer", "path": ""}], {}),
        (
            [{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "../1_Pooling"}],
            {"pooling_mode_mean_tokens": True},
        ),
        (
            [{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "1_Pooling"}, {"type": "x.Dense", "path": "2"}],
            {"pooling_mode_mean_tokens": True},
        ),
        (
            [{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "1_Pooling"}],
            {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
        ),
        (
            [{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "1_Pooling"}],
            {"pooling_mode_mean_sqrt_len_tokens": True},
        ),
        ([1, None], {}),
        ({"a": 1}, {}),
    ],
)
def test_what_cannot_be_followed_is_not_declared(tmp_path: Path, modules: Any, switches: dict[str, bool]) -> None:
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(switches))
    assert declared_pooling(tmp_path) is None


@pytest.mark.parametrize(("switch", "pooling"), [("cls_token", "first"), ("lasttoken", "last"), ("max_tokens", "max")])
def test_other_declared_poolings(tmp_path: Path, switch: str, pooling: str) -> None:
    (tmp_path / "modules.json").write_text('[{"type": "x.Transformer"}, {"type": "x.Pooling", "path": "1_Pooling"}]')
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{switch}": True}))
    assert declared_pooling(tmp_path) == Declared(pooling, normalize=False)


def test_what_cannot_be_pooled_is_refused_in_one_line(tmp_path: Path) -> None:
    config = CONFIGURATIONS["BERT"]
    with pytest.raises(SettingsError, match="--pooling mean: only classes, several labels and numbers are pooled"):
        choose_pooling(str(tmp_path), head_of("token_classification"), config, "mean")
    with pytest.raises(SettingsError, match="bert is an encoder-decoder"):
        choose_pooling(str(tmp_path), head_of("classification"), BertConfig(is_encoder_decoder=True), "mean")
    model_over(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(minilm_folder()).save_pretrained(tmp_path)
    with pytest.raises(ModelNotFoundError, match="trained with --pooling mean"):
        load_model(str(tmp_path), task_record("sst2"), pooling="max")


def test_methods_find_encoder_layers_and_head() -> None:
    model = model_over(CONFIGURATIONS["DistilBERT"])
    stack = Stack([noisytune(), smart(), layerwise_decay(), freeze(layers=1)])
    stack.prepare(model, total_updates=3)
    stack.optimizer(torch.optim.AdamW(model.parameters(), lr=1e-3))
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen
    assert not any(name.startswith("classifier") for name in frozen)
    batch = tiny.batch(4)
    stack.loss(model, {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).backward()
