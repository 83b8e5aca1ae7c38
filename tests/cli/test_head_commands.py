"""`steadytune train` for every head from the user's own file, to the table and the model it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from helpers import heads, tiny_model

from steadytune.cli import main

tiny_folder = tiny_model.tiny_folder


def lines(content: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in content)


def as_conll(rows: Any) -> str:
    names = heads.LABELS["token_classification"]
    blocks = ["".join(f"{w} {names[t]}\n" for w, t in zip(r["tokens"], r["label"], strict=True)) for r in rows]
    return "\n".join(blocks)


def as_squad(rows: Any) -> str:
    paragraphs = [
        {
            "context": row["context"],
            "qas": [
                {
                    "id": row["id"],
                    "question": row["question"],
                    "answers": [
                        {"text": row["answers"]["text"][0], "answer_start": row["answers"]["answer_start"][0]}
                    ],
                }
            ],
        }
        for row in rows
    ]
    return json.dumps({"version": "1.1", "data": [{"title": "films", "paragraphs": paragraphs}]})


def as_named_labels(rows: Any) -> str:
    names = heads.LABELS["multi_label"]
    return lines(
        [{"text": r["text"], "label": [n for n, yes in zip(names, r["label"], strict=True) if yes]} for r in rows]
    )


FILES = {
    "classification": ("csv", lambda rows: "text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows)),
    "regression": ("csv", lambda rows: "text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in rows)),
    "multi_label": ("jsonl", as_named_labels),
    "token_classification": ("conll", as_conll),
    "question_answering": ("json", as_squad),
    "causal_lm": ("jsonl", lambda rows: lines(list(rows))),
}
ARCHITECTURES = {
    "token_classification": transformers.BertForTokenClassification,
    "question_answering": transformers.BertForQuestionAnswering,
    "causal_lm": transformers.LlamaForCausalLM,
}


@pytest.mark.parametrize("head", heads.TRAINED_HEADS)
def test_every_head_trains_from_a_file(head, tmp_path, monkeypatch, tiny_folder, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    suffix, write = FILES[head]
    for seed, name in enumerate(("train", "test")):
        Path(f"{name}.{suffix}").write_text(write(heads.rows(head, 24, seed)), encoding="utf-8")
    model = tiny_folder if head != "causal_lm" else heads.language_model_folder(tmp_path / "decoder", "llama")
    given = {
        "model": model,
        "train-file": f"train.{suffix}",
        "test-file": f"test.{suffix}",
        "head": head,
        "methods": "smart",
        "max-steps": 3,
        "max-length": 24,
        "output-dir": "run",
    }
    command = ["train", *(part for k, v in given.items() for part in (f"--{k}", str(v)))]
    assert main(command) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    metrics = json.loads(Path("run/metrics.json").read_text())
    assert metrics["metric"] in shown, "the main metric is in the table"
    assert metrics["metric"] in metrics["after"]["test"]
    # 24 rows, of which a tenth is held out.
    assert metrics["training"]["rows"] == 24 - metrics["after"]["validation"]["rows"]
    assert metrics["after"]["test"]["rows"] == 24
    kind: Any = ARCHITECTURES.get(head, transformers.BertForSequenceClassification)
    loaded = kind.from_pretrained("run/model")
    if head in heads.LABELS and head != "classification":
        assert sorted(loaded.config.id2label.values()) == sorted(heads.LABELS[head])
    capsys.readouterr()
    assert main(command) == 0
    assert "finished before" in capsys.readouterr().out
