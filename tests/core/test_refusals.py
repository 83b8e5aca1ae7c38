"""What is refused, each in one line, because it would be wrong or without effect in silence."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from steadytune import noisytune
from steadytune.core.arithmetic.randomness import require_replay
from steadytune.errors import HostError, MethodError


def tiny_llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, head_dim=8
        )
    )


def test_language_models_are_perturbed_with_their_head():
    report = noisytune().transform(tiny_llama(), seed=0)
    reasons = {t.name: t.reason for t in report.tensors}
    assert reasons["lm_head.weight"] == ""  # pretrained, though it lies outside the body


@pytest.mark.parametrize("kind", ["mps", "xpu"])
def test_devices_without_replay_are_refused(kind):
    with pytest.raises(HostError, match=kind):
        require_replay(torch.device(kind))


@pytest.mark.parametrize("kind", ["cpu", "cuda:1"])
def test_devices_with_replay_are_not(kind):
    require_replay(torch.device(kind))


def test_adapters_are_no_head():
    peft = pytest.importorskip("peft", reason="LoRA is an extra")
    model = peft.get_peft_model(tiny_llama(), peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(MethodError, match="perturb_weights"):
        noisytune(head=True).transform(model, seed=0)


@pytest.mark.parametrize("skip", [5, [5], None, {"a": 1}])
def test_what_is_no_pattern_is_refused(skip):
    with pytest.raises(MethodError, match=r"noisytune\.skip"):
        noisytune(skip=skip)
