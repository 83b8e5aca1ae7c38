"""A score is a property of model and rows: not of padding, batches, the order of rows or a configuration's words."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from steadytune.evaluation.model import EvaluatedModel
from steadytune.heads.answer_spans import best_span
from steadytune.heads.registry import FILE_HEADS
from steadytune.settings.train import TrainSettings
from steadytune.tasks.task import Task
from steadytune.testing import families

WORDS = [f"w{i}" for i in range(families.WORDS - 4)]
#: What the tiny models call our heads.
NAMES = {
    **{"classification": "classification", "regression": "regression", "multi_label": "multi-label"},
    **{"token_classification": "token classification", "question_answering": "question answering"},
}
#: One family for each way to read positions and to find the output of a row; the others in `make test-long`.
QUICK = ("BERT", "XLNet", "BART", "GPT-2", "Llama")


def own_name(family: str, head: str) -> str:
    if head != "causal_lm":
        return NAMES[head]
    return "seq2seq LM" if family in ("T5", "BART") else "causal LM"


def is_quick(family: str, head: str) -> bool:
    return family in QUICK and (family == "BERT" or head not in ("regression", "multi_label"))


PAIRS = [
    pytest.param(family, head, id=f"{family}-{head}", marks=[] if is_quick(family, head) else [pytest.mark.long])
    for family in families.FAMILIES
    for head in FILE_HEADS
    if family != "ViT"
    and (family, head) != ("XLNet", "causal_lm")  # which is refused, as it sees later tokens
    and families.model_class(family, own_name(family, head)) is not None
]


def tokenizer(side: str) -> PreTrainedTokenizerFast:
    words = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special, padding_side=side, model_max_length=30)


def saved(folder: Path, model: Any, side: str, pad: int | None) -> str:
    model.config.pad_token_id = pad
    model.save_pretrained(folder)
    tokenizer(side).save_pretrained(folder)
    return str(folder)


def sentences(seed: int = 0) -> list[list[str]]:
    chance = random.Random(seed)
    return [chance.sample(WORDS, length) for length in (2, 9, 3, 12, 1, 5, 7, 2)]


@torch.no_grad()
def answered(model: Any, head: str) -> dict[str, list[Any]]:
    """Rows whose labels are what the model answers to each of them alone, without any padding."""
    model.eval()
    texts, fast = sentences(), tokenizer("right")

    def ask(*text: str) -> Any:
        return model(**fast(*text, return_tensors="pt", return_token_type_ids=False))

    joined = [" ".join(words) for words in texts]
    if head == "causal_lm":
        return {"prompt": [f"{text} " for text in joined], "answer": joined[::-1]}
    if head == "question_answering":
        answers = []
        for text in joined:
            found, places = ask("w1 w2", text), fast("w1 w2", text, return_offsets_mapping=True)
            context = np.array([part == 1 for part in places.sequence_ids(0)])
            best = best_span(found.start_logits[0].numpy(), found.end_logits[0].numpy(), context)
            assert best is not None
            begin, end = places["offset_mapping"][best[1]][0], places["offset_mapping"][best[2]][1]
            answers.append({"text": [text[begin:end]], "answer_start": [begin]})
        count = len(joined)
        return {"id": [str(i) for i in range(count)], "question": ["w1 w2"] * count, "context": joined} | {
            "answers": answers
        }
    if head == "token_classification":
        tags = [ask(text).logits[0, 1:-1].argmax(-1).tolist() for text in joined]
        return {"tokens": texts, "label": tags}
    logits = [ask(text).logits[0] for text in joined]
    labels = {
        "classification": lambda found: int(found.argmax()),
        "regression": lambda found: float(found[0]),
        "multi_label": lambda found: (found > 0).int().tolist(),
    }
    return {"text": joined, "label": [labels[head](found) for found in logits]}


def sharpened(family: str, head: str) -> Any:
    """A tiny model whose outputs differ more between rows than random small weights let them."""
    model = families.build(family, own_name(family, head), seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1 and float(parameter.std()) < 0.1:
                parameter.mul_(6)
    return model


def scores(folder: str, head: str, rows: dict[str, list[Any]], size: int) -> dict[str, float]:
    names = None if head in ("regression", "question_answering", "causal_lm") else ("O", "B-x", "I-x")
    metrics = {"token_classification": ("accuracy",)}.get(head, ())
    task = Task("toy", head, "", "", "text", None, "label", names, {}, "accuracy", metrics)
    settings = TrainSettings(task="rte", use_cpu=True, per_device_eval_batch_size=size)
    return EvaluatedModel(folder, task, settings).scores(Dataset.from_dict(rows), "validation")


PERFECT = {
    "classification": "accuracy",
    "regression": "pearson",
    "multi_label": "accuracy",
    "token_classification": "accuracy",
    "question_answering": "exact_match",
}


@pytest.mark.parametrize(("family", "head"), PAIRS)
def test_a_score_is_a_property_of_model_and_rows(family: str, head: str, tmp_path) -> None:
    model = sharpened(family, head)
    rows = answered(model, head)
    reversed_rows = {name: values[::-1] for name, values in rows.items()}
    plain = saved(tmp_path / "plain", model, "right", 0)
    alone = scores(plain, head, rows, 1)
    if head in PERFECT:
        assert alone[PERFECT[head]] == pytest.approx(1.0, abs=1e-6), "each row alone is what its label was made of"
    # DistilBERT and its like need the number of the padding token; decoders often come without one.
    pad = None if family in ("GPT-2", "Llama", "Qwen3") else 0
    other = saved(tmp_path / "other", model, "left", pad)
    for folder, size, given in ((plain, 64, reversed_rows), (other, 64, rows), (other, 3, reversed_rows)):
        assert scores(folder, head, given, size) == pytest.approx(alone, rel=1e-4, abs=1e-5)


def test_a_decoder_whose_configuration_names_another_padding_token(tmp_path) -> None:
    model = sharpened("Llama", "classification")
    rows = answered(model, "classification")
    folder = saved(tmp_path / "model", model, "right", 7)
    assert scores(folder, "classification", rows, 64)["accuracy"] == 1.0


def test_a_tokenizer_that_makes_no_mask(tmp_path) -> None:
    model = sharpened("BERT", "classification")
    rows = answered(model, "classification")
    folder = saved(tmp_path / "model", model, "right", 0)
    file = Path(folder, "tokenizer_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_input_names": ["input_ids"]}))
    assert scores(folder, "classification", rows, 64)["accuracy"] == 1.0


def test_a_tokenizer_without_a_token_for_padding(tmp_path) -> None:
    model = sharpened("BERT", "classification")
    rows = answered(model, "classification")
    folder = saved(tmp_path / "model", model, "right", 0)
    bare = tokenizer("right")
    bare.pad_token = bare.eos_token = bare.bos_token = None  # pyright: ignore[reportAttributeAccessIssue]
    bare.save_pretrained(folder)
    assert scores(folder, "classification", rows, 64)["accuracy"] == 1.0
