"""Faults of others, NEFTune: our form passes each check, and the faulty form fails it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers import tiny
from helpers.faulty_forms import shown
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

from steadytune import Stack
from steadytune.core.authoring.training import Attachment, Training
from steadytune.methods.neftune import NEFTune


class HookOnInputEmbeddings(NEFTune):
    """As the Trainer of Transformers has it: ``get_input_embeddings()`` of the model, and the padded length."""

    def attach(self, training: Training) -> Attachment:
        def add(module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            width = self.alpha / (output.shape[1] * output.shape[2]) ** 0.5
            return output + torch.empty_like(output).uniform_(-width, width) if module.training else output

        training.cleanup.append(training.model.get_input_embeddings().register_forward_hook(add).remove)
        return Attachment()


def t5() -> nn.Module:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
    tokens = {"vocab_size": tiny.VOCABULARY, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    config = T5Config(**sizes, **tokens, classifier_dropout=0.0, num_labels=2)
    return tiny.seeded(lambda: T5ForSequenceClassification(config), 0)


def bart() -> nn.Module:
    sizes = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in (("layers", 2), ("ffn_dim", 32))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "dropout": 0.0, "attention_dropout": 0.0}
    tokens = {"vocab_size": tiny.VOCABULARY, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    more = {"decoder_start_token_id": 2, "max_position_embeddings": 40, "init_std": 0.2}
    config = BartConfig(d_model=16, num_labels=2, **sizes, **heads, **tokens, **more)
    return tiny.seeded(lambda: BartForSequenceClassification(config), 0)


def neftune_is_felt(form: NEFTune, build: Callable[[], nn.Module], pad: int) -> None:
    ids = [torch.cat([sentence, torch.tensor([2])]) for sentence in tiny.sentences(4)]
    network, given = build(), tiny.batch_of(ids, [0, 1, 1, 0], pad=pad)
    plain = network(**given).logits.detach()
    with Stack([form]) as stack:
        stack.prepare(network)
        noisy = network(**given).logits.detach()
        network.eval()
        assert torch.equal(network(**given).logits, plain), "evaluation has changed"
    assert float((noisy - plain).abs().max()) > 1e-3, "no effect at all"


@pytest.mark.parametrize(("build", "pad"), [(t5, 0), (bart, 1)], ids=["t5", "bart"])
def test_neftune_is_felt_by_encoder_decoders(build: Callable[[], nn.Module], pad: int) -> None:
    """T5 and BART never call the module that ``get_input_embeddings()`` returns, so a hook on it does nothing."""
    neftune_is_felt(HookOnInputEmbeddings(alpha=50), tiny.bert, 0)  # where it is called, the faulty form is felt
    shown(
        lambda form: neftune_is_felt(form, build, pad),
        NEFTune(alpha=50),
        HookOnInputEmbeddings(alpha=50),
        "no effect at all",
    )


def neftune_s_noise_has_one_length(form: NEFTune) -> None:
    """The noise on a sentence is alpha / sqrt(3) long, whatever the sentence and however far it is padded."""
    network = tiny.bert(hidden_size=64)
    embedding = network.get_input_embeddings()
    for extra in (0, 24):
        given, seen = tiny.batch(4, extra=extra), []
        with Stack([form]) as stack:
            stack.prepare(network)
            handle = embedding.register_forward_hook(lambda _m, _i, output, to=seen: to.append(output.detach()))
            network(**given)
            handle.remove()
        added = (seen[0] - embedding.weight[given["input_ids"]].detach()) * given["attention_mask"].unsqueeze(-1)
        for length in added.flatten(1).norm(dim=1).tolist():
            assert length == pytest.approx(6 / 3**0.5, rel=0.15), "the noise is shorter on padded sentences"


def test_neftune_s_length_is_that_of_the_sentence() -> None:
    """Transformers divides by the length of the padded batch, so short sentences get less noise."""
    shown(neftune_s_noise_has_one_length, NEFTune(alpha=6), HookOnInputEmbeddings(alpha=6), "shorter on padded")
