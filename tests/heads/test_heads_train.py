"""Training and evaluating every head: what is learned, what is scored, and that it ends the same when interrupted."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset
from helpers import heads, tiny, tiny_model
from safetensors.torch import load_file
from transformers import EvalPrediction

from steadytune.cli import main
from steadytune.errors import DataError, ModelNotFoundError, SettingsError
from steadytune.heads.kinds.causal_lm import language_model_scores
from steadytune.heads.registry import head_of
from steadytune.heads.scores.answers import question_answering_scores
from steadytune.heads.scores.metrics import compute_metrics
from steadytune.heads.scores.tags import tag_scores
from steadytune.models.load import load_model
from steadytune.settings.train import TrainSettings
from steadytune.tasks.named.registry import task_record
from steadytune.tasks.task import Task, TaskData
from steadytune.training import run as run_file
from steadytune.training import skeleton
from steadytune.training.callbacks import InterruptCallback
from steadytune.training.reporter import Silent
from steadytune.training.run import train
from steadytune.training.skeleton import Interrupted
from steadytune.training.transfer import transfer

tiny_folder, changed_model = tiny_model.tiny_folder, tiny_model.changed_model

REAL = Path(__file__).parents[3] / "shared" / "data"
#: A head and, for language models, the kind of model.
CLASSES = {
    "classification": transformers.AutoModelForSequenceClassification,
    "regression": transformers.AutoModelForSequenceClassification,
    "multi_label": transformers.AutoModelForSequenceClassification,
    "token_classification": transformers.AutoModelForTokenClassification,
    "question_answering": transformers.AutoModelForQuestionAnswering,
    "causal_lm": transformers.AutoModelForCausalLM,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_folder) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("models")
    return {"bert": tiny_folder} | {k: heads.language_model_folder(place / k, k) for k in ("llama", "t5")}


@pytest.fixture
def give(monkeypatch) -> Callable[[TaskData], None]:
    """Let the runs of this test have these rows."""
    return lambda data: monkeypatch.setattr(run_file, "load_data", lambda settings: data)


@pytest.fixture
def settings(folders, tmp_path) -> Callable[..., TrainSettings]:
    def make(kind: str = "bert", folder: str = "run", **changes: Any) -> TrainSettings:
        return TrainSettings(
            **{
                "model": str(folders[kind]),
                "task": "movie-reviews",
                "methods": "noisytune,smart",
                "max_length": 24,
                "num_train_epochs": 3.0,
                "per_device_train_batch_size": 4,
                "learning_rate": 1e-2,
                "logging_steps": 1,
                "output_dir": str(tmp_path / folder),
            }
            | changes
        )

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


# ---------------------------------------------------------------- the scores, by a slow way of their own


def slow_scores(data: TaskData, folder: Path, split: str = "test") -> dict[str, float]:
    """The scores of a saved model, one row at a time, without anything of ours but the metrics."""
    head = data.task.head
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    kind: Any = CLASSES[head]
    if head == "causal_lm" and json.loads((folder / "config.json").read_text()).get("is_encoder_decoder"):
        kind = transformers.AutoModelForSeq2SeqLM
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), "an ordinary model: no missing, unexpected or mismatched keys"
    model.eval()
    rows: list[Any] = list(data.splits[split])
    with torch.no_grad():
        if head == "token_classification":
            return _slow_tags(model, tokenizer, rows, data.task.label_names or ())
        if head == "question_answering":
            found = [_slow_answer(model, tokenizer, row) for row in rows]
            return question_answering_scores(found, [row["answers"]["text"] for row in rows])
        if head == "causal_lm":
            return _slow_language_model(model, tokenizer, rows)
        logits = [model(**tokenizer(row["text"], return_tensors="pt")).logits[0].numpy() for row in rows]
        return compute_metrics(head, np.stack(logits), np.array([row["label"] for row in rows]))


def _slow_tags(model: Any, tokenizer: Any, rows: list[Any], names: tuple[str, ...]) -> dict[str, float]:
    predicted = []
    for row in rows:  # every word of the tiny vocabulary is one token, after [CLS]
        ids = [tokenizer.cls_token_id, *tokenizer.convert_tokens_to_ids(row["tokens"]), tokenizer.sep_token_id]
        best = model(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()
        predicted.append([names[i] for i in best[1:-1]])
    return tag_scores(predicted, [[names[i] for i in row["label"]] for row in rows])


def _slow_answer(model: Any, tokenizer: Any, row: Any) -> str:
    words = row["context"].split()
    ids = tokenizer(row["question"], row["context"], return_tensors="pt")
    outputs = model(**ids)
    first = ids["input_ids"].shape[1] - 1 - len(words)
    spans = [
        (float(outputs.start_logits[0, first + i] + outputs.end_logits[0, first + j]), i, j)
        for i in range(len(words))
        for j in range(i, len(words))
    ]
    _, i, j = max(spans)
    return " ".join(words[i : j + 1])


def _slow_language_model(model: Any, tokenizer: Any, rows: list[Any]) -> dict[str, float]:
    """Greedy decoding for the exact matches, the model's own loss for the perplexity."""
    total, tokens, written = 0.0, 0, []
    for row in rows:
        prompt = tokenizer(row["prompt"], return_tensors="pt")
        answer = tokenizer(row["answer"], return_tensors="pt", add_special_tokens=False)["input_ids"]
        answer = torch.cat([answer, torch.tensor([[tokenizer.eos_token_id]])], dim=1)
        if model.config.is_encoder_decoder:
            loss = model(**prompt, labels=answer).loss
            begin = 1
        else:
            ids = torch.cat([prompt["input_ids"], answer], dim=1)
            labels = ids.clone()
            begin = prompt["input_ids"].shape[1]
            labels[:, :begin] = -100
            loss = model(input_ids=ids, labels=labels).loss
        total += float(loss) * answer.shape[1]
        tokens += answer.shape[1]
        greedy = model.generate(**prompt, do_sample=False, max_new_tokens=answer.shape[1])[0, begin:]
        written.append(greedy.tolist() == answer[0].tolist())
    return {"perplexity": math.exp(total / tokens), "exact_match": sum(written) / len(rows)}


@pytest.mark.parametrize(("head", "kind"), heads.KINDS)
def test_every_head_learns_and_is_scored(settings, give, head, kind) -> None:
    data = heads.data(head, train=48)
    give(data)
    result = train(settings(kind, num_train_epochs=5.0, learning_rate=5e-3))
    before, after = (result.metrics[when]["test"] for when in ("before", "after"))
    assert after["rows"] == len(data.splits["test"])
    assert after["loss"] < before["loss"], "it learns"
    assert result.metrics["metric"] == data.task.metric
    log = [json.loads(line) for line in (result.folder / "log.jsonl").read_text().splitlines()]
    terms = [line for line in log if "smoothness" in line]
    assert all(line["smoothness"] > 0 for line in terms)
    assert terms[-1]["bregman"] > 0
    slow = slow_scores(data, result.folder / "model")
    assert {name: after[name] for name in slow} == pytest.approx(slow, rel=1e-4)


@pytest.mark.parametrize(("head", "kind"), heads.KINDS)
def test_every_head_ends_the_same_when_it_is_interrupted(settings, give, monkeypatch, head, kind) -> None:
    give(heads.data(head, train=16))
    undisturbed = train(settings(kind, "undisturbed"))
    made: list[InterruptCallback] = []

    class Remembered(InterruptCallback):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    class Stops(Silent):
        def step(self, done: int, loss: float | None) -> None:
            if done == 5:
                made[-1].interrupt()

    with monkeypatch.context() as patched:
        patched.setattr(skeleton, "InterruptCallback", Remembered)
        with pytest.raises(Interrupted):
            train(settings(kind), Stops())
    result = train(settings(kind))
    assert tiny.differences(weights(undisturbed.folder), weights(result.folder)) == []
    assert result.metrics["after"] == undisturbed.metrics["after"]


@pytest.mark.parametrize("methods", ["r_drop", "freelb", "l2_sp,r3f", "mixout,sam", "child_tuning", "neftune,vat"])
@pytest.mark.parametrize(("head", "kind"), heads.KINDS[2:])
def test_other_methods_train_every_head(settings, give, head, kind, methods) -> None:
    give(heads.data(head, train=8, held_out=4))
    result = train(settings(kind, methods=methods, num_train_epochs=1.0, learning_rate=1e-3))
    assert result.metrics["training"]["updates"] == 2
    assert math.isfinite(result.metrics["after"]["test"]["loss"])


def test_the_order_of_rows_is_that_of_the_seed_alone(settings, give) -> None:
    """Losses of the first update, before any weight differs: the same rows with every method."""
    give(heads.data("classification"))
    first = {}
    for methods in ("none", "smart", "r3f"):  # r_drop's task loss is that of both its passes
        for grouped in (True, False):
            folder = train(
                settings("bert", f"{methods}-{grouped}", methods=methods, group_by_length=grouped, max_steps=1)
            ).folder
            line = json.loads((folder / "log.jsonl").read_text().splitlines()[0])
            first[methods, grouped] = line.get("task_loss", line["loss"])
    for grouped in (True, False):
        assert first["none", grouped] == pytest.approx(first["smart", grouped], rel=1e-6)
        assert first["none", grouped] == pytest.approx(first["r3f", grouped], rel=1e-6)
    assert first["none", True] != first["none", False]


def test_sentences_beyond_the_length_are_scored_in_windows(settings, give, monkeypatch) -> None:
    long = heads.data("token_classification", train=8, held_out=4)
    words, tags = ([word for row in long.splits["test"][name] for word in row] for name in ("tokens", "label"))
    long.splits["test"] = Dataset.from_dict({"tokens": [words], "label": [tags]})
    give(long)
    seen: list[Any] = []
    monkeypatch.setattr(
        "steadytune.heads.kinds.token_classification.tag_scores",
        lambda found, gold, _, **__: seen.append((found, gold)) or {"f1": 0.0},
    )
    result = train(settings(max_length=8, methods="none", num_train_epochs=8.0))
    assert result.metrics["after"]["test"]["rows"] == 1
    names = heads.LABELS["token_classification"]
    (found,), (gold,) = seen[-1]
    assert gold == [names[tag] for tag in tags]
    # Each window alone, as the saved model sees it: a quarter of the tokens is seen again before each window.
    model = transformers.AutoModelForTokenClassification.from_pretrained(result.folder / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(result.folder / "model")
    expected: list[str] = []
    for begin in range(0, len(words), 4):
        ids = tokenizer.convert_tokens_to_ids(["[CLS]", *words[begin : begin + 6], "[SEP]"])
        with torch.no_grad():
            best = model(input_ids=torch.tensor([ids])).logits[0].argmax(-1).tolist()[1:-1]
        expected += [names[i] for i in best][len(expected) - begin :]
        if begin + 6 >= len(words):
            break
    assert len(set(expected)) > 1
    assert found == expected


# ---------------------------------------------------------------- single scores


def test_perplexity_of_nothing_finite_is_left_out() -> None:
    assert "perplexity" not in language_model_scores(np.array([[np.nan, 1.0, 2.0]]))
    assert "perplexity" not in language_model_scores(np.array([[1e9, 0.0, 1.0]]))


def test_transfer_names_each_language_and_its_gap() -> None:
    task = task_record("xnli")
    scores = {"validation": {"accuracy": 0.9}, "validation_de": {"accuracy": 0.6}, "validation_sw": {"accuracy": 0.3}}
    found = transfer(task, scores)
    assert {k: (v["score"], v["split"]) for k, v in found.items()} == {
        "en": (0.9, "validation"),
        "de": (0.6, "validation_de"),
        "sw": (0.3, "validation_sw"),
    }
    assert {k: round(v["gap"], 9) for k, v in found.items()} == {"en": 0, "de": 0.3, "sw": 0.6}
    # Test splits count where English has one too.
    with_test = transfer(task, scores | {"test": {"accuracy": 1.0}, "test_de": {"accuracy": 0.5}})
    assert {k: (v["split"], v["gap"]) for k, v in with_test.items() if k != "sw"} == {
        "en": ("test", 0.0),
        "de": ("test_de", 0.5),
    }
    # TyDi QA has Swahili test rows, but no English ones.
    swahili = transfer(task_record("tydiqa"), {"validation": {"f1": 0.5}, "test_sw": {"f1": 0.25}})
    assert swahili["sw"] == {"split": "test_sw", "score": 0.25, "gap": 0.25}
    assert transfer(task, {"validation": {"accuracy": 0.9}}) == {}
    assert transfer(task_record("rte"), {"validation": {"accuracy": 0.9}, "test": {"accuracy": 0.9}}) == {}


def test_a_run_in_several_languages_has_a_table_of_transfer(settings, give, tmp_path, capsys, monkeypatch) -> None:
    data = heads.data("classification", held_out=6)
    record = task_record("xnli")
    own = {**data.task.__dict__, "sources": record.sources}
    splits = {**data.splits, "validation_de": data.splits["test"], "validation_sw": data.splits["train"]}
    del splits["test"]
    give(TaskData(Task(**own), splits, (), {}))
    result = train(settings())
    after = result.metrics["after"]
    for language in ("de", "sw"):
        entry = result.metrics["transfer"][language]
        assert entry["score"] == after[f"validation_{language}"]["accuracy"]
        assert entry["gap"] == after["validation"]["accuracy"] - entry["score"]
    monkeypatch.setattr("steadytune.cli.verbs.train.check_source", lambda settings: None)
    options = settings().model_dump(exclude_none=True, exclude={"set", "methods", "trust_remote_code"})
    given = [
        part for k, v in options.items() if not isinstance(v, bool) for part in (f"--{k.replace('_', '-')}", str(v))
    ]
    assert main(["train", *given, "--methods", "noisytune,smart"]) == 0
    shown = capsys.readouterr().out
    assert "gap to en" in shown
    assert "Mean gap to English over 2 languages" in shown


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize("head", ["regression", "multi_label", "question_answering"])
def test_label_smoothing_is_refused_where_it_would_do_nothing(settings, give, head) -> None:
    give(heads.data(head, train=8, held_out=4))
    with pytest.raises(SettingsError, match="--label-smoothing-factor"):
        train(settings(label_smoothing_factor=0.1))


def test_what_is_for_evaluation_only_is_not_trained(capsys, tmp_path) -> None:
    for task, instead in (("hans", "train on --task"), ("tatoeba", "evaluation only")):
        assert main(["train", "--task", task, "--output-dir", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert instead in error
        assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_encoder_is_no_language_model(tiny_folder, folders, tmp_path) -> None:
    task = Task("toy", "causal_lm", "", "", "", None, "", None, {}, "perplexity")
    with pytest.raises(ModelNotFoundError, match="holds no whole language model"):
        load_model(str(tiny_folder), task)
    # With a head of its own it would read what it is to write.
    masked = transformers.BertForMaskedLM(transformers.BertConfig(**tiny.sizes()))
    masked.save_pretrained(tmp_path / "masked")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(tmp_path / "masked")
    with pytest.raises(ModelNotFoundError, match="is an encoder"):
        load_model(str(tmp_path / "masked"), task)
    for kind in ("llama", "t5"):
        model, _, _ = load_model(str(folders[kind]), task)
        assert model.config.is_encoder_decoder == (kind == "t5")


def test_a_slow_tokenizer_cannot_tell_where_words_are(give, settings, monkeypatch) -> None:
    give(heads.data("token_classification", train=8, held_out=4))
    monkeypatch.setattr(transformers.PreTrainedTokenizerBase, "is_fast", False, raising=False)
    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "is_fast", False, raising=False)
    with pytest.raises(SettingsError, match="needs a fast tokenizer"):
        train(settings())


def test_a_head_of_another_width_is_told(tiny_folder, tmp_path, give, settings) -> None:
    give(heads.data("token_classification", train=8, held_out=4))
    folder = train(settings(num_train_epochs=1.0)).folder / "model"
    task = Task("toy", "token_classification", "", "", "", None, "", ("O", "B-x"), {}, "f1")
    with pytest.raises(ModelNotFoundError, match="its head has not 2 outputs"):
        load_model(str(folder), task)


@pytest.mark.parametrize(
    ("settings_of_tokenizer", "told"),
    [
        ({"pad_token": "[PA@]"}, r"pad token '\[PA@\]' has the number \d+, and the word embeddings end at"),
        ({"half\ud800": 1}, "holds half a character"),  # it would fail when the trained model is saved
    ],
    ids=["unknown padding", "half a character"],
)
def test_a_tokenizer_that_is_not_of_the_model_is_refused(tiny_folder, tmp_path, settings_of_tokenizer, told) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings_of_tokenizer))
    with pytest.raises(ModelNotFoundError, match=told):
        load_model(str(folder), _classes(("a", "b")))


def _classes(names: tuple[str, ...]) -> Task:
    return Task("toy", "classification", "", "", "", None, "", names, {}, "accuracy")


@pytest.mark.parametrize("names", [("yes", "no"), ("a", "b"), ("a", "b", "c")])
def test_a_head_of_other_classes_is_replaced_to_train_and_refused_to_evaluate(
    tiny_folder, give, settings, names
) -> None:
    data = heads.data("classification", train=8, held_out=4)
    assert data.task.label_names == ("no", "yes")
    give(data)
    folder = str(train(settings(num_train_epochs=1.0)).folder / "model")
    kept, _, source = load_model(folder, data.task, new_head=True)
    assert source.note is None
    transformers.set_seed(0)
    model, _, source = load_model(folder, _classes(names), new_head=True)
    told = source.note or ""
    assert "no, yes" in told
    assert ", ".join(names) in told
    before, after = kept.state_dict(), model.state_dict()
    named: Any = model.config.id2label
    assert [named[i] for i in range(len(names))] == list(names)
    for name, tensor in after.items():
        is_body = name.startswith(f"{model.base_model_prefix}.")
        same = before[name].shape == tensor.shape and torch.equal(before[name], tensor)
        assert same == is_body or (name.endswith("bias") and not tensor.any()), name
    with pytest.raises(ModelNotFoundError, match="outputs"):
        load_model(folder, _classes(names))


def test_columns_and_head_are_of_files_alone(settings) -> None:
    from steadytune.training.rows import check_source

    for name in ("text_column", "text_pair_column", "label_column"):
        with pytest.raises(SettingsError, match=f"--{name.replace('_', '-')}: is for your own files"):
            check_source(settings(task="rte", **{name: "x"}))
    with pytest.raises(SettingsError, match="--head: is for your own files"):
        check_source(settings(task="rte", head="regression"))


def test_rows_read_used_and_refused_are_told(tmp_path) -> None:
    from steadytune.training.rows import load_data

    file = tmp_path / "rows.csv"
    file.write_text("text,label\n" + "good,yes\nbad,no\n" * 20)
    told = load_data(TrainSettings(train_file=str(file), train_size="10")).notes[-1]
    assert told == "Read 40 rows (none rejected); training on 10 of 36."


@pytest.mark.skipif(not (REAL / "tydiqa_goldp").is_dir(), reason="needs ../shared/data beside the repository")
def test_rows_refused_in_another_split_stay_counted() -> None:
    from steadytune.training.rows import load_data

    told = load_data(TrainSettings(task="tydiqa", data_dir=str(REAL))).notes[-1]
    assert told == "Read 9,126 rows (2,675 rejected)."


def test_rows_without_validation_are_told(monkeypatch, settings) -> None:
    from steadytune.training import rows as data_file

    data = heads.data("classification", train=8, held_out=4)
    del data.splits["validation"]
    monkeypatch.setattr(data_file, "load_task", lambda name, folder: data)
    with pytest.raises(DataError, match="no validation rows"):
        data_file.load_data(settings())


def test_the_data_folder_is_an_option_or_in_the_environment(monkeypatch, settings) -> None:
    from steadytune.training import rows as data_file

    asked: list[Any] = []

    def load(name: str, folder: Any) -> TaskData:
        asked.append(folder)
        return heads.data("classification", train=8, held_out=4)

    monkeypatch.setattr(data_file, "load_task", load)
    data_file.load_data(settings())
    monkeypatch.setenv("STEADYTUNE_DATA", "/from/environment")
    data_file.load_data(settings())
    data_file.load_data(settings(data_dir="/as/option"))
    assert asked == [None, "/from/environment", "/as/option"]


# ---------------------------------------------------------------- real data


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "udpos").is_dir(), reason="needs ../shared/data beside the repository")
def test_minilm_learns_real_parts_of_speech(tmp_path) -> None:
    result = train(
        TrainSettings(
            task="udpos",
            data_dir=str(REAL),
            methods="smart",
            train_size=320,
            max_eval_samples=40,
            num_train_epochs=2.0,
            learning_rate=1e-3,
            max_length=48,
            output_dir=str(tmp_path / "run"),
        )
    )
    before, after = (result.metrics[when]["test"] for when in ("before", "after"))
    assert before["accuracy"] < 0.2
    assert after["accuracy"] > before["accuracy"] + 0.15
    # An English model on text of another script: much is lost.
    assert result.metrics["transfer"]["zh"]["gap"] > 0.05


def test_mlqa_is_counted_by_its_own_script(monkeypatch) -> None:
    encoded: Any = SimpleNamespace(rows={"answers": [{"text": ["b"]}]})
    monkeypatch.setattr("steadytune.heads.answer_spans.best_answers", lambda *_: ["a \u201cb\u201d"])
    predicted = EvalPrediction((np.zeros((1, 2)), np.zeros((1, 2))), np.zeros(1))
    scorers = [head_of("question_answering").scorer(task_record(n), encoded, "validation") for n in ("mlqa", "xquad")]
    found = [scorer(predicted)["exact_match"] for scorer in scorers]
    assert found == [1.0, 0.0], "SQuAD's script leaves quotes beyond ASCII"
