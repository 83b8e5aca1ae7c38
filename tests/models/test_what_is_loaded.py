"""What a model is loaded as: the precision, layers, words and tokens that were meant, or one line that says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from steadytune.errors import DataError, ModelNotFoundError
from steadytune.heads.features import encode
from steadytune.heads.texts import pair_separator
from steadytune.models.load import load_model
from steadytune.tasks.task import Task

WORDS = ["anna", "lives", "in", "oslo", "the", "film", "is", "good", "bad", "it", "rains", "and", "book"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def task(head: str) -> Task:
    names = ("O", "B-x") if head == "token_classification" else ("no", "yes")
    return Task("toy", head, "", "", "text", None, "label", names, {}, "accuracy")


def words() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special, model_max_length=32)


def pieces(rule: Any) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = rule
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["[PAD]", "[UNK]"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([" ".join(WORDS)] * 50, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32)


def saved(folder: Path, tokenizer: Any, kind: str = "bert", dtype: torch.dtype = torch.float32, **sizes: Any) -> str:
    own = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    own |= {"max_position_embeddings": 32, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    model = AutoModel.from_config(AutoConfig.for_model(kind, **own | sizes))
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def configured(folder: str, **changes: Any) -> None:
    file = Path(folder, "config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_weights_in_16_bits_are_trained_in_32_unless_asked(tmp_path) -> None:
    folder = saved(tmp_path / "model", words(), dtype=torch.bfloat16)
    model, _, source = load_model(folder, task("classification"), new_head=True)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert source.note is not None
    assert "stored in bfloat16 and trained in float32; --dtype auto" in source.note
    kept, _, _ = load_model(folder, task("classification"), new_head=True, dtype="auto")
    assert {p.dtype for p in kept.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    "rule",
    [
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        pre_tokenizers.Metaspace(prepend_scheme="never"),
        pre_tokenizers.Metaspace(prepend_scheme="always"),
    ],
    ids=["bytes", "digits-bytes", "spaces-never", "spaces-always"],
)
def test_words_of_a_list_are_the_words_of_a_text(rule: Any, tmp_path) -> None:
    folder = saved(tmp_path / "model", pieces(rule), "modernbert", cls_token_id=1, sep_token_id=1, eos_token_id=1)
    _, tokenizer, _ = load_model(folder, task("token_classification"), new_head=True)
    tokenizer.save_pretrained(tmp_path / "again")  # as after training
    for again in (tokenizer, PreTrainedTokenizerFast.from_pretrained(tmp_path / "again")):
        listed = again(["anna", "lives", "in", "oslo"], is_split_into_words=True, add_special_tokens=False)
        assert listed["input_ids"] in [
            again(text)["input_ids"] for text in (" anna lives in oslo", "anna lives in oslo")
        ]
        starts = [
            again.convert_ids_to_tokens(i)[0] for i, w in zip(listed["input_ids"], listed.word_ids(), strict=True)
        ]
        assert starts.count("Ġ") + starts.count("\u2581") >= 3


@pytest.mark.parametrize(
    ("more", "fewer"), [(1, "layers that config.json does not name"), (3, "are not in its weights")]
)
def test_a_configuration_with_another_number_of_layers(more: int, fewer: str, tmp_path) -> None:
    folder = saved(tmp_path / "model", words())
    configured(folder, num_hidden_layers=more)
    with pytest.raises(ModelNotFoundError, match=fewer):
        load_model(folder, task("classification"), new_head=True)


def test_tokens_that_were_added_get_a_row_where_a_model_is_trained(tmp_path) -> None:
    tokenizer = words()
    folder = saved(tmp_path / "model", tokenizer)
    rows = len(tokenizer)
    tokenizer.add_tokens(["<drug>", "<dose>"])
    tokenizer.save_pretrained(folder)
    model, loaded, source = load_model(folder, task("classification"), new_head=True)
    assert model.get_input_embeddings().num_embeddings == rows + 2 == len(loaded)
    assert source.note is not None
    assert "2 added tokens ('<drug>' for one)" in source.note
    with pytest.raises(ModelNotFoundError, match="'<drug>' of its tokenizer would need word embeddings up to"):
        load_model(folder, task("classification"))


def test_a_tokenizer_with_more_words_than_the_model_is_another_model_s(tmp_path) -> None:
    folder = saved(tmp_path / "model", words(), vocab_size=10)
    with pytest.raises(ModelNotFoundError, match="the tokenizer is not that of the model"):
        load_model(folder, task("classification"), new_head=True)


def test_a_folder_of_an_adapter_is_told_before_training(tmp_path) -> None:
    folder = saved(tmp_path / "model", words())
    Path(folder, "adapter_config.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="holds a PEFT adapter; merge it into its base model first"):
        load_model(folder, task("classification"), new_head=True)


def bart_words(template: str = "<s> $A </s>") -> PreTrainedTokenizerFast:
    vocabulary = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single=template, pair=f"{template} $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special, model_max_length=32)


BART = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "eos_token_id": 2} | {
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "decoder_start_token_id": 2,
}


@pytest.mark.parametrize("pair", [False, True])
def test_a_text_that_holds_the_end_token_is_named(pair: bool, tmp_path) -> None:
    from datasets import Dataset

    folder = saved(tmp_path / "model", bart_words(), "bart", **BART)
    _, tokenizer, _ = load_model(folder, task("classification"), new_head=True)
    texts = ["the film", "the film", "the </s> film"]
    columns: dict[str, Any] = {"text": texts, "label": [0, 1, 0]} | ({"text_pair": ["good"] * 3} if pair else {})
    with pytest.raises(DataError, match=r"^test, row 3: its text holds the end token '</s>'"):
        encode(Dataset.from_dict(columns), task("classification"), tokenizer, 16, name="test", is_encoder_decoder=True)
    fine = Dataset.from_dict({name: values[:2] for name, values in columns.items()})
    assert len(encode(fine, task("classification"), tokenizer, 16, is_encoder_decoder=True).features) == 2


def test_an_encoder_decoder_whose_tokenizer_ends_no_text(tmp_path) -> None:
    folder = saved(tmp_path / "model", bart_words("<s> $A"), "bart", **BART)
    with pytest.raises(ModelNotFoundError, match="its tokenizer ends no text with it"):
        load_model(folder, task("classification"), new_head=True)


def test_something_stands_between_the_texts_of_a_pair() -> None:
    assert pair_separator(words()) == ""
    for rule in (pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Metaspace(prepend_scheme="first")):
        tokenizer = pieces(rule)
        separator = pair_separator(tokenizer)
        if separator:
            glued = tokenizer("it rains", "it is")["input_ids"]
            apart = tokenizer("it rains", separator + "it is")["input_ids"]
            assert apart != glued
    assert pair_separator(pieces(pre_tokenizers.ByteLevel(add_prefix_space=False))) == "\n"
