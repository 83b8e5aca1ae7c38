"""What is fuzzed: data files, configurations and command lines, each driven through the command line."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import fuzz_options
import pyarrow as pa
import yaml
from fuzz_bytes import spoiled
from fuzz_command import REFUSED, STOPPED, Fault, command, files_in
from fuzz_coverage import Case
from fuzz_oracle import differences
from pyarrow import parquet
from transformers import AutoTokenizer

from steadytune.comparison import compare
from steadytune.heads.features import encode
from steadytune.training import run
from steadytune.training.hybrid import run as hybrid
from steadytune.training.multi_task import run as multi_task
from steadytune.training.skeleton import Interrupted

HEADS = ("classification", "regression", "multi_label", "token_classification", "question_answering", "causal_lm")
EXTENSIONS = (
    ".csv",
    ".tsv",
    ".jsonl",
    ".json",
    ".ndjson",
    ".parquet",
    ".conll",
    ".txt",
    ".CSV",
    ".csv.gz",
    ".jsonl.gz",
    ".yaml",
    "",
)
TEXTS = ("good film", "a bad, long plot", 'the "fine" dull', "not very poor")


class _Stub:
    """Takes the place of a run: keeps what it was given, and is stopped at once."""

    given: dict[str, Any] = {}  # noqa: RUF012 - one for all

    def __init__(self, _making: Any, settings: Any, data: Any, *_: Any, **__: Any) -> None:
        _Stub.given = {"settings": settings, "data": data}
        raise Interrupted(0, 1)


def _stopped(*_: Any, **__: Any) -> Any:
    raise Interrupted(0, 1)


def _interrupted(*_: Any) -> Any:
    raise KeyboardInterrupt


@contextlib.contextmanager
def nothing_trains() -> Iterator[None]:
    """While it lasts, every check of the verbs runs, and no training."""
    with (
        patch.object(run, "_Run", _Stub),
        patch.object(multi_task, "_first_phase", _stopped),
        patch.object(hybrid, "load_language_model", _stopped),
        patch.object(compare.ComparisonSession, "all", _interrupted),
    ):
        yield


def _table(rows: Sequence[Sequence[Any]], header: Sequence[str] = ("text", "label"), delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([header, *rows])
    return text.getvalue().encode()


def _objects(rows: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _parquet(columns: dict[str, list[Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def data_seeds() -> list[Case]:
    """Sound files of every format and head."""
    classes = [(text, ("no", "yes")[i % 2]) for i, text in enumerate(TEXTS * 3)]
    scores = [(text, i / 4) for i, (text, _) in enumerate(classes)]
    pairs = [(text, text[::-1], i % 2) for i, (text, _) in enumerate(classes)]
    sets = [(text, ("a|b", "", "b")[i % 3]) for i, (text, _) in enumerate(classes)]
    keyed = [{"text": text, "label": label, "other": [1, {"x": None}]} for text, label in classes]
    numbered = [{"text": text, "label": i % 3} for i, (text, _) in enumerate(classes)]
    lists = [{"text": text, "label": ["a", "b"][: i % 3]} for i, (text, _) in enumerate(classes)]
    tagged = "".join("film B-X\nthe O\n\nbad O\nplot I-X\n\n" for _ in range(4))
    answers = {"text": ["plot"], "answer_start": [4]}
    questions = [
        {"id": f"q{i}", "question": f"what {i}?", "context": "the plot é", "answers": answers} for i in range(8)
    ]
    nested = [
        {"id": q["id"], "question": q["question"], "answers": [{"text": "plot", "answer_start": 4}]} for q in questions
    ]
    squad = {"data": [{"title": "t", "paragraphs": [{"context": "the plot é", "qas": nested}]}]}
    prompts = [{"prompt": text, "answer": f"so {i}"} for i, (text, _) in enumerate(classes)]
    words = [{"tokens": ["the", "plot"], "tags": ["O", f"B-{'XY'[i % 2]}"]} for i in range(8)]
    return [
        Case("a.csv", _table(classes)),
        Case("a.csv", _table(scores), ("--head", "regression")),
        Case("a.csv", _table(pairs, ("text", "text_pair", "label"))),
        Case("a.csv", _table(pairs, ("q", "p", "y")), ("--text-column", "q", "--label-column", "y")),
        Case("a.csv", _table(sets), ("--head", "multi_label")),
        Case("a.tsv", _table(classes, delimiter="\t")),
        Case("a.jsonl", _objects(keyed)),
        Case("a.json", _objects(numbered)),
        Case("a.jsonl", _objects(lists), ("--head", "multi_label")),
        Case("a.conll", tagged.encode()),
        Case("a.txt", tagged.replace(" ", "\tx\t").encode()),
        Case("a.jsonl", _objects(words)),
        Case("a.jsonl", _objects(questions)),
        Case("a.json", json.dumps(squad).encode()),
        Case("a.jsonl", _objects(prompts)),
        Case("a.parquet", _parquet({"text": [t for t, _ in classes], "label": [i % 2 for i in range(len(classes))]})),
    ]


class DataFiles:
    """Files of rows, given to `train`; what is accepted is compared with a slow reader, row by row."""

    name = "data files"

    def __init__(self, place: Path, model: Path) -> None:
        self.place, self.model = place, model
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.accepted = 0

    def seeds(self) -> Sequence[Case]:
        return data_seeds()

    def mutated(self, case: Case, other: Case, chance: Random) -> Case:
        name, arguments = case.name, case.arguments
        if chance.random() < 0.06:
            name = "a" + chance.choice(EXTENSIONS)
        if chance.random() < 0.08:
            arguments = ("--head", chance.choice(HEADS))
        if chance.random() < 0.04:
            column = chance.choice(("text", "label", "other", "", "\x1b[31m", "é", "question"))
            arguments = (*arguments, chance.choice(("--text-column", "--label-column")), column)
        return Case(name, spoiled(case.content, other.content, chance), arguments)

    def run(self, case: Case) -> str:
        emptied(self.place)
        file = self.place / case.name
        file.write_bytes(case.content)
        alone = len(case.content) % 2 == 0  # then a part is held out
        files = ["--train-file", str(file), *(() if alone else ("--validation-file", str(file)))]
        before = files_in(self.place)
        _Stub.given = {}
        with nothing_trains():
            arguments = ["train", *files, "--model", str(self.model), "--output-dir", str(self.place / "out")]
            outcome = command([*arguments, "--use-cpu", *case.arguments], allowed=(REFUSED, STOPPED))
        if files_in(self.place) - before:
            raise Fault(f"left behind: {sorted(files_in(self.place) - before)[0]}")
        if outcome.status == REFUSED:
            return "refused"
        self._compare(file, _Stub.given["data"], case.arguments, alone=alone)
        return "accepted"

    def _compare(self, file: Path, data: Any, given: Sequence[str], *, alone: bool) -> None:
        found = () if alone else (differences(file, data, split, given) for split in ("train", "validation"))
        wrong = next(filter(None, found), None)
        used = {split: count.used for split, count in data.counts.items()}
        if alone and sum(used.values()) != data.counts["train"].read:
            wrong = f"{used} used of {data.counts['train'].read} read"
        if wrong:
            raise Fault(f"other rows: {wrong}")
        self.accepted += 1
        if self.accepted % 5 == 0:  # what was accepted must also be fit for a model
            for split, rows in data.splits.items():
                encode(rows, data.task, self.tokenizer, 16, name=split)


class Configurations:
    """YAML files given to `--config`; what is accepted is compared with the lines of the file."""

    name = "configurations"

    def __init__(self, place: Path, model: Path) -> None:
        self.place, self.model = place, model

    def seeds(self) -> Sequence[Case]:
        common = f"train_file: t.csv\nmodel: {self.model}\noutput_dir: out\nuse_cpu: true\n"
        run_ = "methods: noisytune,smart\nset:\n  smart.weight: 3\n  noisytune: {intensity: 0.1}\nseed: 7\nbf16: no\n"
        more = "# a comment\nlearning-rate: 1e-3\nmax_steps: 5\ntrain_size: 50%\nnum_train_epochs: 2\nhead: null\n"
        several = "methods: [none, smart]\nseeds: 2\nlearning_rates: [1e-4, 2e-4]\nvary: {smart.weight: [1, 2]}\n"
        return [
            Case("train", (common + run_).encode()),
            Case("train", (common + more).encode()),
            Case("train", json.dumps({"train_file": "t.csv", "model": str(self.model), "output_dir": "out"}).encode()),
            Case("train", (f"a: &x {{seed: 3}}\n<<: *x\n{common}".replace("a: &x {seed: 3}\n<<: *x\n", "")).encode()),
            Case("compare", (common + several).encode()),
        ]

    def mutated(self, case: Case, other: Case, chance: Random) -> Case:
        content = case.content
        if chance.random() < 0.4:
            return Case(case.name, spoiled(content, other.content, chance), case.arguments)
        for _ in range(chance.choice((1, 1, 2, 3))):
            content = self._with_other_value(case.name, content, chance)
        return Case(case.name, content, case.arguments)

    def _with_other_value(self, verb: str, content: bytes, chance: Random) -> bytes:
        name = chance.choice(fuzz_options.setting_names(verb))
        gone = (name.encode(), b"  ") if name == "set" else name.encode()
        lines = [line for line in content.split(b"\n") if not line.startswith(gone)]
        value = chance.choice(fuzz_options.PLAIN_VALUES if chance.random() < 0.5 else fuzz_options.YAML_VALUES)
        return b"\n".join([*lines, f"{name}: {value}\n".encode("utf-8", "surrogateescape")])

    def run(self, case: Case) -> str:
        emptied(self.place)
        (self.place / "t.csv").write_bytes(data_seeds()[0].content)
        file = self.place / "c.yaml"
        file.write_bytes(case.content)
        before = files_in(self.place)
        _Stub.given = {}
        with nothing_trains():
            arguments = [case.name, "--config", str(file), "--output-dir", "out", *case.arguments]
            outcome = command(arguments, allowed=(REFUSED, STOPPED))
        if outcome.status == REFUSED:
            if files_in(self.place) - before:
                raise Fault(f"left behind: {sorted(files_in(self.place) - before)[0]}")
            return "refused"
        if _Stub.given:
            _check_settings(case.content, _Stub.given["settings"])
        return "accepted"


def _check_settings(content: bytes, settings: Any) -> None:
    """Each `name: value` of the file must have become that setting, and each name must be there once."""
    node = yaml.compose(content.decode("utf-8-sig"), Loader=yaml.SafeLoader)
    names = [key.value.replace("-", "_") for key, _ in node.value] if node is not None else []
    if len(names) != len(set(names)):
        raise Fault("a setting is there twice")
    for key, value in node.value if node is not None else ():
        name = key.value.replace("-", "_")
        if name in ("output_dir", "methods", "set") or not isinstance(value, yaml.ScalarNode):
            continue
        got = getattr(settings, name)
        if not _means(value.value, got):
            raise Fault(f"{name}: {value.value!r} became {got!r}")


def _means(written: str, got: Any) -> bool:
    if isinstance(got, bool):
        with contextlib.suppress(ValueError):
            return float(written) == got
        return written.lower() in ({"true", "yes", "on", "y", "t"} if got else {"false", "no", "off", "n", "f"})
    if got is None:
        return written.lower() in ("", "~", "null")
    if isinstance(got, int | float):
        text = written.strip().replace("_", "")
        with contextlib.suppress(ValueError):
            return float(text) == got
        return ":" in text or text[:2].lower() in ("0x", "0b") or got == int(text, 0)
    return got == written or yaml.safe_load(written) == got or str(yaml.safe_load(written)) == got


class CommandLines:
    """Options of every verb with values of every kind."""

    name = "command lines"

    def __init__(self, place: Path, model: Path) -> None:
        self.place, self.model = place, model

    def seeds(self) -> Sequence[Case]:
        data = ("--train-file", "t.csv", "--model", str(self.model))
        return [
            Case("train", arguments=(*data, "--output-dir", "out")),
            Case("compare", arguments=(*data, "--methods", "none,smart", "--seeds", "2")),
            Case("methods", arguments=("smart",)),
            Case("explain", arguments=("noisytune,smart",)),
            Case("tasks", arguments=("rte",)),
        ]

    def mutated(self, case: Case, other: Case, chance: Random) -> Case:
        if chance.random() < 0.25:
            verb = chance.choice(fuzz_options.verbs())
            return Case(verb, arguments=fuzz_options.arguments(verb, chance, str(self.model)))
        return Case(case.name, arguments=fuzz_options.changed(case.name, case.arguments, chance))

    def run(self, case: Case) -> str:
        emptied(self.place)
        (self.place / "t.csv").write_bytes(data_seeds()[0].content)
        with nothing_trains():
            outcome = command([case.name, *case.arguments])
        if outcome.status == REFUSED and (left := files_in(self.place) - {"t.csv"}):
            raise Fault(f"left behind: {sorted(left)[0]}")
        return "refused" if outcome.status == REFUSED else "accepted"


def emptied(place: Path) -> None:
    """Remove all that lies in a folder."""
    for path in place.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
