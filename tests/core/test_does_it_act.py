"""A method that does nothing is told of, and the logs of one that acts add up to the loss."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers import tiny, tiny_language
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import DataCollatorForSeq2Seq, GPT2Config, GPT2LMHeadModel

from steadytune import Stack, SteadyTrainer, alum, bregman, neftune, r3f, r_drop, smart, smoothness, vat
from steadytune.errors import HostError

LARGER: dict[str, Any] = {"radius": 1e-2, "noise_std": 1e-3, "step_size": 1e-1}


def words(seed: int = 0) -> dict[str, Tensor]:
    ids = torch.randint(3, 18, (4, 9), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids}


def trained(methods: list[Any], *, dropout: float = 0.0, memory: Any = "full") -> nn.Module:
    model = tiny_language.causal(dropout=dropout)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with torch.random.fork_rng(), Stack(methods, memory=memory) as stack:
        torch.manual_seed(0)
        stack.prepare(model, optimizer, total_updates=3)
        for update in range(3):
            stack.backward(model, words(update))
            optimizer.step()
            optimizer.zero_grad()
    return model


# --- terms that are too small ---------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["full", "low"])
@pytest.mark.parametrize(
    ("methods", "name"),
    [([smart()], "smoothness"), ([r3f()], "r3f"), ([alum()], "alum")],
    ids=["smart", "r3f", "alum"],
)
def test_a_term_that_trains_nothing_is_told_of_once(
    methods: list[Any], name: str, memory: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="steadytune"):
        trained(methods, memory=memory)
    (record,) = caplog.records
    told = record.getMessage()
    assert told.startswith(f"{name}: LlamaForCausalLM has no dropout, so at a radius of 1e-05 the term is ")
    assert f"trains nothing. Larger: {name}(radius=" in told


def test_the_reason_is_that_of_the_case(caplog: pytest.LogCaptureFixture) -> None:
    trained([smoothness(masks="same")], dropout=0.1)
    assert "masks='same' repeats the dropout" in caplog.text
    model = tiny_language.causal(dropout=0.1)
    model.model.eval()
    stack = Stack([r3f()])
    stack.prepare(model)
    stack.backward(model, words())
    assert "no layer drops anything (are some in evaluation mode?)" in caplog.text


@pytest.mark.parametrize(
    ("methods", "dropout"),
    [
        ([smart()], 0.1),
        ([r3f(), neftune()], 0.0),
        ([smoothness(**LARGER)], 0.0),
        ([r3f(radius=1e-1)], 0.0),
        ([alum(**LARGER)], 0.0),
        ([vat()], 0.0),
        ([smoothness(weight=0.0)], 0.0),
    ],
    ids=["dropout", "neftune", "smoothness", "r3f", "alum", "vat", "weight 0"],
)
def test_what_acts_or_only_measures_is_not_told_of(
    methods: list[Any], dropout: float, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="steadytune"):
        trained(methods, dropout=dropout)
    assert not caplog.records


@pytest.mark.parametrize("method", [smoothness(**LARGER), r3f(radius=1e-1), alum(**LARGER)], ids=lambda m: m.name)
def test_the_settings_that_the_warning_names_are_felt(method: Any) -> None:
    plain, small, large = (tiny.weights(trained(ms)) for ms in ([], [type(method)()], [method]))
    moved = tiny.distance(plain, tiny.weights(tiny_language.causal()))
    assert tiny.distance(small, plain) < 0.01 * moved
    assert tiny.distance(large, plain) > 0.05 * moved


def test_r_drop_names_the_models_own_setting() -> None:
    adapted = get_peft_model(tiny_language.causal(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    sizes = {"vocab_size": 18, "n_embd": 8, "n_layer": 1, "n_head": 1}
    gpt2 = GPT2LMHeadModel(GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0))
    for model, setting in (
        (tiny_language.causal(), "attention_dropout=0.1"),
        (tiny.bert(), "hidden_dropout_prob=0.1"),
        (tiny_language.seq2seq(), "dropout_rate=0.1"),
        (gpt2, "resid_pdrop=0.1"),
        (adapted, "lora_dropout=0.1 in LoraConfig"),
    ):
        with pytest.raises(HostError, match=rf"a dropout above 0 \({setting}\), or leave"):
            Stack([r_drop()]).prepare(model)


# --- logs -----------------------------------------------------------------------------------------


@pytest.mark.skipif(
    transformers.__version__.startswith("5.0."),
    reason="Transformers 5.0 divides the printed loss, with plain training too, by tokens that predict nothing",
)
@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("settings", [{}, {"label_smoothing_factor": 0.1}, {"memory": "low"}], ids=str)
def test_the_printed_loss_is_the_sum_of_what_is_printed_beside_it(
    settings: dict[str, Any], every: int, tmp_path: Path
) -> None:
    """A language model's loss is divided by the tokens of an update, of which its micro-batches hold unequal parts."""
    rows = [{"input_ids": ids.tolist(), "labels": ids.tolist()} for ids in tiny.sentences(16, high=12)]
    rows = [{name: [i % 18 for i in ids] for name, ids in row.items()} for row in rows]
    own = {name: settings[name] for name in settings if name == "memory"}
    trainer = SteadyTrainer(
        model=tiny_language.causal(dropout=0.1),
        args=tiny.arguments(
            tmp_path,
            max_steps=4,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            logging_strategy="steps",
            logging_steps=every,
            **{name: settings[name] for name in settings if name != "memory"},
        ),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tiny_language.tokenizer()),
        methods=[r_drop(0.5), smoothness(weight=2.0, **LARGER), bregman(3.0, momentum=False, inner_steps=2)],
        **own,
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 4 // every
    for entry in logs:
        total = entry["task_loss"] + 0.5 * entry["r_drop"] + 2 * entry["smoothness"] + 3 * entry["bregman"]
        assert float(entry["loss"]) == pytest.approx(total, rel=1e-5)
        assert min(entry[name] for name in ("r_drop", "smoothness")) > 1e-4
