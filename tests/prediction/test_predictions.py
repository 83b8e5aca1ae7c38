"""Predictions of every head are those of plain Transformers, asked one row at a time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from helpers import heads, tiny_model, trained

import steadytune
from steadytune.errors import DataError, SettingsError, SteadytuneError

#: Of different lengths, so that batches have padding; two are longer than the models' 24 positions.
TEXTS = [
    "good film",
    "a very long and dull plot was the film not " * 4,
    "bad",
    "the plot was not very good",
    "dull dull film",
    "fine " * 40,
    "the film was a long film",
]
NEW_TOKENS = 6


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("trained")
    kinds = {"causal_lm": ("llama", "t5")}
    return {
        f"{head}-{kind}": trained.trained_folder(place / f"{head}-{kind}", head, kind)
        for head in heads.TRAINED_HEADS
        for kind in kinds.get(head, ("bert",))
    }


def loaded(folder: Path, kind: Any) -> tuple[Any, Any]:
    return kind.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)


def logits_of(folder: Path, *texts: str) -> torch.Tensor:
    model, tokenizer = loaded(folder, transformers.AutoModelForSequenceClassification)
    with torch.no_grad():
        return model(**tokenizer(*texts, truncation=True, max_length=24, return_tensors="pt")).logits[0]


def test_classes(folders) -> None:
    folder = folders["classification-bert"]
    found = steadytune.predict(folder, TEXTS, per_device_eval_batch_size=3)
    assert len(found) == len(TEXTS)
    assert {one.label for one in found} == {"no", "yes"}
    for text, one in zip(TEXTS, found, strict=True):
        wanted = logits_of(folder, text).double().softmax(-1)
        assert one.label == ("no", "yes")[int(wanted.argmax())]
        assert one.probability == pytest.approx(float(wanted.max()), abs=1e-5)
        assert list(one.probabilities.values()) == pytest.approx(wanted.tolist(), abs=1e-5)


def test_pairs_numbers_and_several_labels(folders) -> None:
    pairs = [("good film", text) for text in TEXTS]
    for pair, one in zip(pairs, steadytune.predict(folders["regression-bert"], pairs), strict=True):
        assert one.label == pytest.approx(float(logits_of(folders["regression-bert"], *pair)[0]), abs=1e-4)
        assert one.probability is None
    names = heads.LABELS["multi_label"]
    for text, one in zip(TEXTS, steadytune.predict(folders["multi_label-bert"], TEXTS), strict=True):
        wanted = logits_of(folders["multi_label-bert"], text).double().sigmoid()
        assert one.label == tuple(name for name, p in zip(names, wanted, strict=True) if p > 0.5)
        assert one.probability == pytest.approx(math.prod(max(float(p), 1 - float(p)) for p in wanted), abs=1e-5)
        assert one.probabilities == pytest.approx(dict(zip(names, wanted.tolist(), strict=True)), abs=1e-5)


def test_tags_of_words_also_beyond_the_longest_input(folders) -> None:
    model, tokenizer = loaded(folders["token_classification-bert"], transformers.AutoModelForTokenClassification)
    rows = [text.split() for text in TEXTS]
    found = steadytune.predict(folders["token_classification-bert"], rows, per_device_eval_batch_size=2)
    assert [len(one.label) for one in found] == [len(words) for words in rows]
    for words, one in zip(rows, found, strict=True):
        if len(words) > 22:  # in windows, which the encoder's own tests look at
            continue
        with torch.no_grad():
            wanted = model(**tokenizer(words, is_split_into_words=True, return_tensors="pt")).logits[0, 1:-1]
        assert one.label == tuple(heads.LABELS["token_classification"][int(i)] for i in wanted.argmax(-1))
        assert one.probability == pytest.approx(wanted.double().softmax(-1).amax(-1).tolist(), abs=1e-5)
    assert steadytune.predict(folders["token_classification-bert"], TEXTS).labels == found.labels, "text is split"


def test_answers(folders) -> None:
    model, tokenizer = loaded(folders["question_answering-bert"], transformers.AutoModelForQuestionAnswering)
    contexts = [text for text in TEXTS if len(text.split()) < 12]
    found = steadytune.predict(
        folders["question_answering-bert"], [{"question": "was the film", "context": text} for text in contexts]
    )
    for context, one in zip(contexts, found, strict=True):
        encoded = tokenizer("was the film", context, return_tensors="pt", return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping")[0]
        with torch.no_grad():
            out = model(**encoded)
        inside = [i for i, part in enumerate(encoded.sequence_ids(0)) if part == 1]
        start, end = (part[0, inside].double().log_softmax(-1) for part in (out.start_logits, out.end_logits))
        spans = {(i, j): float(start[i] + end[j]) for i in range(len(inside)) for j in range(i, len(inside))}
        i, j = max(spans, key=lambda span: spans[span])
        assert one.label == context[int(offsets[inside[i]][0]) : int(offsets[inside[j]][1])]
        assert one.probability == pytest.approx(math.exp(spans[i, j]), rel=1e-4)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_written_texts(kind, folders) -> None:
    folder = folders[f"causal_lm-{kind}"]
    is_decoder = kind == "llama"
    model, tokenizer = loaded(
        folder, transformers.AutoModelForCausalLM if is_decoder else transformers.AutoModelForSeq2SeqLM
    )
    texts = TEXTS[2:5] + TEXTS[:1]
    found = steadytune.predict(folder, texts, max_new_tokens=NEW_TOKENS, per_device_eval_batch_size=3)
    for text, one in zip(texts, found, strict=True):
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"] if is_decoder else tokenizer(text)["input_ids"]
        ids = [tokenizer.bos_token_id, *prompt] if is_decoder else [model.config.decoder_start_token_id]
        written, total = [], 0.0
        while len(written) < NEW_TOKENS and (not written or written[-1] != tokenizer.eos_token_id):
            given = {"input_ids": torch.tensor([ids])}
            if not is_decoder:
                given = {"input_ids": torch.tensor([prompt]), "decoder_input_ids": torch.tensor([ids])}
            with torch.no_grad():
                logs = model(**given).logits[0, -1].double().log_softmax(-1)
            written.append(int(logs.argmax()))
            ids.append(written[-1])
            total += float(logs.max())
        assert one.label == tokenizer.decode(written, skip_special_tokens=True).strip()
        assert one.probability == pytest.approx(math.exp(total), rel=1e-3)


def test_a_long_prompt_loses_its_beginning_as_in_training(folders) -> None:
    folder = folders["causal_lm-llama"]
    long, end = "the plot " * 60, "was not very good film"
    one, same, other = (
        steadytune.predict(folder, [text], max_length=12, max_new_tokens=NEW_TOKENS)[0]
        for text in (f"{long}{end}", f"dull bad {end}", end)
    )
    # 12 tokens: the one that begins every text, the prompt's last 5, and 6 to write.
    assert (one.label, one.probability) == (same.label, pytest.approx(same.probability))
    assert other.label == one.label


@pytest.mark.parametrize("size", [1, 64])
def test_rows_may_come_in_any_form(size, folders, tmp_path) -> None:
    folder, texts = folders["classification-bert"], TEXTS[:4]
    file = tiny_model.write_csv(tmp_path / "rows.csv", [(text, "x") for text in texts], ("text", "other"))
    wanted = steadytune.predict(folder, texts).labels
    pandas = pytest.importorskip("pandas")
    forms = [
        [{"text": text} for text in texts],
        Dataset.from_dict({"text": texts}),
        pandas.DataFrame({"text": texts, "n": range(4)}),
        Dataset.from_dict({"text": texts}).data.table,
        file,
        str(file),
        (text for text in texts),
        np.array(texts, dtype=object),
    ]
    for form in forms:
        assert steadytune.predict(folder, form, per_device_eval_batch_size=size).labels == wanted
    assert steadytune.predict(folder, texts[0]).labels == wanted[:1]


def test_rows_without_text_are_predicted_as_empty_and_named(folders) -> None:
    rows = [{"text": text} for text in ("good film", "", None, "  ", 3, "bad \ud800", "bad")]
    found = steadytune.predict(folders["classification-bert"], rows)
    assert [one.label is None for one in found] == [False, True, True, True, True, True, False]
    assert found.notes == ("5 rows without text in column 'text', predicted as empty: data rows 2, 3, 4, 5, 6.",)
    with pytest.raises(DataError, match="no row has text in column 'text'"):
        steadytune.predict(folders["classification-bert"], ["", " "])


def test_outputs_that_are_not_finite_predict_nothing(folders, monkeypatch) -> None:
    from steadytune.prediction.predictors import Predictor

    ask = Predictor._ask

    def broken(self: Any, batch: Any) -> Any:
        (logits,) = ask(self, batch)
        logits[-1] = float("nan")
        return (logits,)

    monkeypatch.setattr(Predictor, "_ask", broken)
    found = steadytune.predict(folders["classification-bert"], ["good film good film", "bad"])
    assert found.labels[1] is None
    assert found.labels[0] is not None
    assert "not finite, predicted as empty: data row 2" in found.notes[0]


@pytest.mark.parametrize(
    ("rows", "options", "said"),
    [
        ([], {}, "there are none"),
        ([{"body1": "good", "n": 1}], {}, "no column 'text' for the text, as in training; found are 'body1', 'n'"),
        ([("a", "b", "c")], {}, "row 1 has 3 texts"),
        ({"text": "good"}, {}, "a single dictionary"),
        ([3], {}, "give texts, pairs of texts"),
        (["good"], {"texts_column": "a"}, "has no option 'texts_column'"),
        (["good"], {"text_column": "a"}, "no column 'a', which --text-column names"),
        (["good"], {"max_length": 1}, "--max-length: "),
        (["good"], {"bf16": True, "fp16": True}, "give one or the other"),
        (["good"], {"fp16": True, "use_cpu": True}, "--fp16 needs a GPU"),
        ([{"text": "a", "other": "b"}], {"label_column": "text"}, "is asked to be two things"),
    ],
)
def test_mistakes_are_one_line(rows, options, said, folders) -> None:
    with pytest.raises(SteadytuneError, match=said) as error:
        steadytune.predict(folders["classification-bert"], rows, **options)
    assert "\n" not in str(error.value)


def test_a_model_without_a_trained_head_is_refused(folders, tmp_path, tiny_folder) -> None:
    from safetensors.torch import load_file, save_file

    for name in (tiny_folder, "minilm"):
        with pytest.raises(SteadytuneError, match=r"has no trained head \(its class is BertModel\)"):
            steadytune.predict(name, ["good"])
    headless = trained.trained_folder(tmp_path / "headless", "classification")
    tensors = load_file(headless / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}
    save_file(kept, headless / "model.safetensors", {"format": "pt"})
    with pytest.raises(SteadytuneError, match=r"has no trained head: classifier.bias is not in its weights"):
        steadytune.predict(headless, ["good"])
    with pytest.raises(SettingsError, match="--all-probabilities: is for classes"):
        steadytune.predict(folders["question_answering-bert"], [("was", "good")], all_probabilities=True)


def test_half_precision_is_near(folders) -> None:
    one, half = (steadytune.predict(folders["classification-bert"], TEXTS, bf16=bf16) for bf16 in (False, True))
    assert [p.probability for p in half] == pytest.approx([p.probability for p in one], abs=0.1)
    assert [p.probability for p in half] != [p.probability for p in one]


tiny_folder = tiny_model.tiny_folder
