"""What a second pass of a term must share with the clean pass: the decoder's inputs, the sentence, the items."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import transformers
from helpers import tiny
from torch import Tensor, nn
from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel, RobertaForMaskedLM

from steadytune import Stack, alum, r3f, smoothness, vat
from steadytune.core.model.outputs import predicts_next_token
from steadytune.errors import HostError
from steadytune.testing.families import SIZES, batch_for, build

SEQ2SEQ: dict[str, Any] = {
    "vocab_size": 60,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
NEARLY_NOTHING: dict[str, Any] = {"radius": 1e-7, "noise_std": 1e-7}
FELT: dict[str, Any] = {"radius": 0.1, "noise_std": 0.1, "step_size": 0.1}


def of_class(name: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, name.partition("For")[0] + "Config")
    return getattr(transformers, name)(config(**SEQ2SEQ | settings)).double().train()


def bert_to_bert() -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(SIZES)
    part = BertConfig(
        vocab_size=60, **sizes, pad_token_id=0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    config = EncoderDecoderConfig.from_encoder_decoder_configs(part, part)
    config.pad_token_id, config.decoder_start_token_id = 0, 1
    return EncoderDecoderModel(config).double().train()


def term(model: nn.Module, batch: dict[str, Tensor], *methods: Any) -> float:
    """The value of the only term."""
    with Stack(methods) as stack:
        stack.prepare(model)
        stack.backward(model, batch)
        return stack.take_logs()[methods[0].name]


@pytest.mark.parametrize(
    "name",
    ["M2M100ForConditionalGeneration", "BlenderbotForConditionalGeneration", "MBartForConditionalGeneration"],
)
def test_a_decoder_reads_the_same_in_every_pass(name: str) -> None:
    model, batch = of_class(name, max_position_embeddings=64), batch_for("BART", "seq2seq LM")
    assert 0 <= term(model, batch, smoothness(**NEARLY_NOTHING)) < 1e-12
    assert term(model, batch, smoothness(**FELT)) > 1e-9


def test_a_pair_of_models_masks_the_same_in_every_pass() -> None:
    """An encoder-decoder of two BERTs makes its decoder's attention mask of the labels, where it makes the inputs."""
    model, batch = bert_to_bert(), batch_for("BART", "seq2seq LM")
    batch["labels"][:, 1] = -100  # what comes after it would see it
    assert 0 <= term(model, batch, smoothness(**NEARLY_NOTHING)) < 1e-12
    assert term(model, batch, smoothness(**FELT)) > 1e-9


def test_the_sentence_is_perturbed_and_not_what_the_model_embeds_later() -> None:
    """LED embeds the padding up to its attention window by a second call of the same module."""
    sizes = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64, "attention_window": 4}
    model, batch = of_class("LEDForConditionalGeneration", **sizes), batch_for("BART", "seq2seq LM")
    calls: list[int] = []
    model.get_encoder().get_input_embeddings().register_forward_hook(lambda *given: calls.append(given[2].shape[1]))
    assert term(model, batch, smoothness(**FELT)) > 1e-9
    assert len(set(calls)) == 2


@pytest.mark.parametrize("kind", ["BartForCausalLM", "MBartForCausalLM", "PegasusForCausalLM"])
def test_a_decoder_whose_labels_are_not_shifted_is_followed(kind: str) -> None:
    model = of_class(kind, is_decoder=True, is_encoder_decoder=False, max_position_embeddings=64)
    ids = torch.randint(3, 60, (2, 6), generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, -100)
    labels[:, 0] = ids[:, 3]  # of the first position alone: a shifted loss would have nothing to learn from
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    assert float(model(**batch).loss.detach()) > 1
    assert not predicts_next_token(model)
    assert term(model, batch, smoothness(**FELT)) > 1e-8


def test_a_subclass_predicts_as_its_parent_does() -> None:
    class Mine(RobertaForMaskedLM):
        pass

    parent = build("RoBERTa", "masked LM")
    parent.__class__ = Mine
    assert not predicts_next_token(parent)


@pytest.mark.parametrize(("family", "head"), [("T5", "seq2seq LM"), ("BERT", "classification")])
def test_a_term_follows_a_loss_that_ignores_the_number_of_items(
    family: str, head: str, caplog: pytest.LogCaptureFixture
) -> None:
    """These losses are averages over the micro-batch whatever number of items they are told."""
    batch = batch_for(family, head, dtype=torch.float64)

    def gradients(**given: Any) -> dict[str, Tensor]:
        model = build(family, head, dtype=torch.float64)
        with Stack([r3f(weight=50.0, radius=0.5)]) as stack:
            stack.prepare(model)
            stack.backward(model, {**batch, **given})
        return tiny.gradients(model)

    plain = gradients()
    with caplog.at_level(logging.WARNING, logger="steadytune"):
        told = gradients(num_items_in_batch=torch.tensor(1000))
    assert tiny.distance(told, plain) < 1e-12
    assert "num_items_in_batch" in caplog.text


def test_a_term_follows_a_loss_that_heeds_the_number_of_items() -> None:
    batch = batch_for("Llama", "causal LM", dtype=torch.float64)
    own = int(batch["labels"][:, 1:].ne(-100).sum())

    def gradients(items: int) -> dict[str, Tensor]:
        model = build("Llama", "causal LM", dtype=torch.float64)
        with Stack([r3f(weight=50.0, radius=0.5)]) as stack:
            stack.prepare(model)
            stack.backward(model, {**batch, "num_items_in_batch": torch.tensor(items)})
        return {name: gradient * items for name, gradient in tiny.gradients(model).items()}

    assert tiny.distance(gradients(4 * own), gradients(own)) < 1e-6  # the loss of Transformers is in float32


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model, _: setattr(model.config, "return_dict", False), "return_dict"),
        (lambda _, b: b.pop("labels"), "labels"),
    ],
    ids=["tuple", "no labels"],
)
def test_a_model_without_a_named_loss_is_told_in_a_line(change: Any, said: str) -> None:
    model, batch = build("BERT", "classification"), batch_for("BERT", "classification")
    change(model, batch)
    with Stack([r3f()]) as stack:
        stack.prepare(model)
        with pytest.raises(HostError, match=said):
            stack.backward(model, batch)


def packed_and_apart() -> tuple[dict[str, Any], dict[str, Any]]:
    """Four documents in two packed rows, as a collator without padding makes them, and the same in a row each."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 60, (4, 5), generator=generator)
    labels = ids.clone()
    labels[:, :2] = -100
    position = torch.arange(5).repeat(2, 2)
    packed = {"input_ids": ids.view(2, 10), "labels": labels.view(2, 10), "position_ids": position}
    # Only without a cache does the model look for the borders.
    return packed | {"use_cache": False}, {"input_ids": ids, "labels": labels}


@pytest.mark.parametrize(
    "method",
    [
        smoothness(weight=50.0, radius=0.1, noise_std=0.01, step_size=0.03, ascent_steps=2, masks="same"),
        vat(weight=5.0, power_iterations=2),
        alum(weight=50.0, radius=0.1, noise_std=0.01, step_size=0.03, masks="same"),
    ],
    ids=lambda method: method.name,
)
def test_each_document_of_a_packed_row_is_a_sentence_of_its_own(method: Any) -> None:
    found = []
    for batch in packed_and_apart():
        model = build("Llama", "causal LM", dtype=torch.float64)
        model.set_attn_implementation("sdpa")
        with Stack([method]) as stack:
            stack.prepare(model)
            stack.backward(model, batch)
            found.append((tiny.gradients(model), stack.take_logs()[method.name]))
    (packed, value), (apart, expected) = found
    assert expected > 1e-6
    assert value == pytest.approx(expected, rel=1e-6)  # norms and losses of Transformers are in float32
    assert tiny.distance(packed, apart) < 1e-5
