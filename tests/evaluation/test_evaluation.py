"""Evaluation on texts and arrays: noise, calibration and agreement, against hand-computed and slow forms."""

from __future__ import annotations

import math
import random
import string

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from steadytune.comparison.calibration import calibration_of
from steadytune.errors import DataError
from steadytune.evaluation.measures.annotators import agreement, by_agreement, distance
from steadytune.evaluation.measures.calibration import (
    BINS,
    HIGHEST_TEMPERATURE,
    LOWEST_TEMPERATURE,
    calibration,
    fitted_temperature,
    reliability_bins,
)
from steadytune.evaluation.measures.perturbations import (
    KINDS,
    NEIGHBORS,
    OCR_CONFUSIONS,
    perturb,
    perturb_rows,
)
from steadytune.evaluation.measures.robustness import under_noise
from steadytune.heads.registry import HEADS
from steadytune.training.predictions import read_predictions

CHARACTER_KINDS = [kind for kind in KINDS if kind != "word_drop"]
SENTENCE = "The quick brown fox jumps over the lazy dog, 1984 times; Zürich sleeps. "


def text_of(words: int, seed: int = 0) -> str:
    chance = random.Random(seed)
    return " ".join("".join(chance.choices(string.ascii_letters, k=chance.randint(1, 9))) for _ in range(words))


def edit_distance(a: str, b: str) -> int:
    """Restricted Damerau-Levenshtein distance: insertions, deletions, substitutions, transpositions of neighbors."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
            if i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]:
                table[i][j] = min(table[i][j], table[i - 2][j - 2] + 1)
    return table[len(a)][len(b)]


# ---------------------------------------------------------------- noise on texts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_the_rate_is_the_expected_share(kind, rate) -> None:
    """Counted from the texts alone; 4.5 standard deviations of the binomial, as one test in 100,000 by chance."""
    texts = [text_of(200, seed) for seed in range(40)]
    noisy = [perturb(t, kind, rate, seed=7).text for t in texts]
    if kind == "word_drop":
        changed = sum(len(t.split()) - len(n.split()) for t, n in zip(texts, noisy, strict=True))
        eligible = sum(len(t.split()) for t in texts)
    elif kind in ("casing", "keyboard"):
        changed = sum(x != y for t, n in zip(texts, noisy, strict=True) for x, y in zip(t, n, strict=True))
        eligible = sum(c.isalpha() for t in texts for c in t)
    else:
        changed = sum(perturb(t, kind, rate, seed=7).changed for t in texts)
        eligible = sum(c.isalpha() if kind == "typos" else c in OCR_CONFUSIONS for t in texts for c in t)
    assert eligible > 5000
    assert abs(changed / eligible - rate) < 4.5 * math.sqrt(rate * (1 - rate) / eligible)


def test_typos_are_single_edits_of_all_four_kinds() -> None:
    shapes = set()
    for seed in range(400):
        text = text_of(4, seed)
        found = perturb(text, "typos", 0.08, seed)
        edits = edit_distance(text, found.text)
        assert edits <= found.changed
        if found.changed <= 1:  # neighboring edits can cancel; one alone cannot
            assert edits == found.changed
        if found.changed == 1:
            longer = len(found.text) - len(text)
            moved = sorted(text) == sorted(found.text)
            shapes.add({1: "insert", -1: "delete", 0: "transpose" if moved else "substitute"}[longer])
    assert shapes == {"insert", "delete", "transpose", "substitute"}


def test_keys_are_hit_beside_the_right_one() -> None:
    assert {key: set(NEIGHBORS[key]) for key in "gqm"} == {"g": set("tyfhvb"), "q": set("12wa"), "m": set("njk")}
    assert all(a in NEIGHBORS[b] for a, near in NEIGHBORS.items() for b in near)
    text = text_of(50)
    for a, b in zip(text, perturb(text, "keyboard", 1.0, 0).text, strict=True):
        assert (a == b == " ") or b.lower() in NEIGHBORS[a.lower()]
        assert a.isupper() == b.isupper() or b.isdigit()


def test_characters_are_misread_as_the_table_says() -> None:
    for character, looks in OCR_CONFUSIONS.items():
        assert {perturb(character, "ocr", 1.0, seed).text for seed in range(60)} == set(looks)


def test_what_changes_at_a_rate_changes_at_every_higher_one() -> None:
    text = text_of(100)
    for kind in ("casing", "keyboard"):
        low, high = (perturb(text, kind, rate, 3).text for rate in (0.1, 0.4))
        places = [{(i, b) for i, (a, b) in enumerate(zip(text, n, strict=True)) if a != b} for n in (low, high)]
        assert places[0] < places[1]
    low, high = (perturb(text, "word_drop", rate, 3).text.split() for rate in (0.1, 0.4))
    remaining = iter(low)
    assert all(word in remaining for word in high)
    assert len(high) < len(low)


def test_noise_is_the_same_on_every_machine() -> None:
    """Pinned: noise that changes between versions or machines makes results that cannot be compared."""
    assert [perturb(SENTENCE, kind, 0.15, seed=1).text for kind in KINDS] == PINNED


PINNED = [
    "The qujikc brow rox juhps oevr th lazy doog, 9184 times; Zürachf slezes. ",
    "ThE quick BRown foX jumps oveR thE lazy dog, 1984 tImes; ZüRICh sleeps. ",
    "The quici bro3n fos jumpe ogdr the laz6 dog, 1984 times; Aürich aleeps. ",
    "The quick browri fox jumps ovcr the la2y clog, 1984 timcs; Zürich sleeqs. ",
    "The quick brown fox the lazy dog, times; Zürich sleeps.",
]


@given(st.text(max_size=60), st.sampled_from(KINDS), st.floats(0, 1), st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_any_text_survives(text, kind, rate, seed) -> None:
    found = perturb(text, kind, rate, seed)
    assert found == perturb(text, kind, rate, seed)
    assert bool(found.text.strip()) == bool(text.strip())
    assert 0 <= found.changed <= found.units
    if rate == 0:
        assert found.text == text
    if found.changed == 0:
        assert found.text == text
    found.text.encode()


def test_other_seeds_and_other_fields_give_other_noise() -> None:
    text = text_of(30)
    for kind in KINDS:
        given = {perturb(text, kind, 0.3, seed, field=f).text for seed in (0, 1) for f in ("text", "text_pair")}
        assert len(given) == 4


def rows_of(head: str) -> Dataset:
    text, more = [text_of(6, i) for i in range(8)], [text_of(6, 50 + i) for i in range(8)]
    label = [i % 2 for i in range(8)]
    return Dataset.from_dict(
        {
            "classification": {"text": text, "text_pair": more, "label": label},
            "regression": {"text": text, "label": [float(x) for x in label]},
            "multi_label": {"text": text, "label": [[x, 1 - x] for x in label]},
            "token_classification": {"tokens": [t.split() for t in text], "label": [[1] * 6] * 8},
            "question_answering": {
                "id": list("abcdefgh"),
                "question": text,
                "context": more,
                "answers": [{"text": [m[:4]], "answer_start": [0]} for m in more],
            },
            "causal_lm": {"prompt": text, "answer": more},
            "retrieval": {"text": text, "text_pair": more},
        }[head]
    )


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", KINDS)
def test_labels_stay_true(head, kind) -> None:
    rows = rows_of(head)
    noisy, changed = perturb_rows(rows, head, kind, 0.4, seed=2)
    assert 0 < changed < 1 or head == "token_classification"
    for column in rows.column_names:
        same = rows[column][:] == noisy[column][:]
        drops_no_lone_word = kind == "word_drop" and column == "tokens"
        assert same == (column not in HEADS[head].noisy_columns or drops_no_lone_word), column
    if head == "token_classification":
        assert [len(t) for t in noisy["tokens"]] == [len(t) for t in rows["label"]]
        assert all(token for tokens in noisy["tokens"] for token in tokens)
    alone, _ = perturb_rows(rows.select([5]), head, kind, 0.4, seed=2)
    assert alone[0] == noisy[5], "the noise of a row does not depend on the others"


def test_a_score_under_noise_has_mean_deviation_and_every_seed() -> None:
    rows = rows_of("classification")
    seen = []

    def score(noisy: Dataset) -> float:
        seen.append(noisy["text"][:])
        return len(seen) / 10

    found = under_noise(rows, "classification", score, kind="casing", rates=[0.5, 0.1, 0], seeds=[0, 1, 2], clean=0.9)
    assert list(found) == [0.0, 0.1, 0.5]
    assert (found[0.0].mean, found[0.0].std, found[0.0].changed) == (0.9, 0.0, 0.0)
    assert found[0.1].seeds == {0: 0.1, 1: 0.2, 2: 0.3}
    assert found[0.1].mean == pytest.approx(0.2)
    assert found[0.1].std == pytest.approx(0.1)  # over n - 1
    assert 0.0 < found[0.1].changed < found[0.5].changed
    assert len({tuple(texts) for texts in seen}) == 6
    alone = under_noise(rows, "classification", score, kind="casing", rates=[0.5], seeds=[0], clean=0.9)
    assert alone[0.5].std is None


# ---------------------------------------------------------------- calibration


def slow_ece(p: np.ndarray, labels: np.ndarray, groups: list[list[int]]) -> float:
    total = 0.0
    for group in groups:
        if group:
            right = [float(max(range(p.shape[1]), key=lambda c, i=i: p[i, c]) == labels[i]) for i in group]
            sure = [max(p[i]) for i in group]
            total += abs(sum(right) / len(group) - sum(sure) / len(group)) * len(group) / len(p)
    return total


def random_case(seed: int, rows: int = 101, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    return chance.normal(size=(rows, classes)) * 2, chance.integers(classes, size=rows)


@pytest.mark.parametrize("seed", range(5))
def test_calibration_is_as_slowly_computed(seed) -> None:
    logits, labels = random_case(seed)
    p = np.array([[math.exp(z) / sum(math.exp(y) for y in row) for z in row] for row in logits.tolist()])
    found = calibration(logits, labels)
    widths = [[i for i in range(len(p)) if k / BINS < max(p[i]) <= (k + 1) / BINS] for k in range(BINS)]
    order = sorted(range(len(p)), key=lambda i: max(p[i]))
    sizes = [len(p) // BINS + (k < len(p) % BINS) for k in range(BINS)]
    masses = [[order.pop(0) for _ in range(size)] for size in sizes]
    assert found.ece == pytest.approx(slow_ece(p, labels, widths), abs=1e-12)
    assert found.ece_equal_mass == pytest.approx(slow_ece(p, labels, masses), abs=1e-12)
    brier = sum((p[i, c] - (c == labels[i])) ** 2 for i in range(len(p)) for c in range(3)) / len(p)
    assert found.brier == pytest.approx(brier, abs=1e-12)
    assert found.nll == pytest.approx(-sum(math.log(p[i, y]) for i, y in enumerate(labels)) / len(p), abs=1e-12)
    assert [b.count for b in found.bins] == [len(group) for group in widths]
    assert sum(b.count for b in found.bins) == found.rows == 101


def test_the_edges_of_the_bins() -> None:
    confidence = np.array([0.0, 1 / 15, 1 / 15 + 1e-9, 0.5, 1.0])
    bins = reliability_bins(confidence, np.array([0.0, 1.0, 1.0, 0.0, 1.0]))
    assert [i for i, b in enumerate(bins) for _ in range(b.count)] == [0, 0, 1, 7, 14]
    assert (bins[0].confidence, bins[0].accuracy) == (pytest.approx(1 / 30), 0.5)
    assert bins[3] == type(bins[3])(3 / 15, 4 / 15, 0, None, None)


def test_sure_models_that_are_right_or_wrong() -> None:
    sure = np.array([[500.0, -500.0]] * 4)
    right = calibration(sure, np.zeros(4, dtype=int))
    assert (right.ece, right.brier, right.nll, right.accuracy) == (0.0, 0.0, 0.0, 1.0)
    wrong = calibration(sure, np.ones(4, dtype=int))
    assert (wrong.ece, wrong.brier, wrong.nll, wrong.accuracy) == (1.0, 2.0, 1000.0, 0.0)


@given(st.integers(0, 10_000), st.floats(0.2, 5))
@settings(max_examples=25, deadline=None)
def test_temperature_is_the_best_one_and_scales_with_the_logits(seed, factor) -> None:
    logits, _ = random_case(seed, rows=60)
    chance = np.random.default_rng(seed + 1)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([chance.choice(3, p=row) for row in p])  # from the model itself: T is near 1
    best = fitted_temperature(logits, labels)
    assert 0.3 < best < 4
    assert fitted_temperature(factor * logits, labels) == pytest.approx(factor * best, rel=1e-4)
    nll = calibration(logits, labels, temperature=best).nll
    others = [calibration(logits, labels, temperature=t).nll for t in np.geomspace(0.1, 10, 50)]
    assert nll <= min(others) + 1e-10
    assert calibration(logits, labels, temperature=best).accuracy == calibration(logits, labels).accuracy


def test_temperature_stays_in_its_range() -> None:
    logits = np.array([[2.0, -2.0]] * 3)
    sharp = fitted_temperature(logits, np.zeros(3, dtype=int))
    assert LOWEST_TEMPERATURE <= sharp < 0.2
    assert calibration(logits, np.zeros(3, dtype=int), temperature=sharp).nll == pytest.approx(0, abs=1e-12)
    assert fitted_temperature(logits, np.ones(3, dtype=int)) == pytest.approx(HIGHEST_TEMPERATURE, rel=1e-3)


def test_yes_no_labels_are_decisions_of_two_classes() -> None:
    logits, labels = np.array([[0.3, -2.0], [1.0, 4.0]]), np.array([[1, 0], [0, 1]])
    found = calibration(*HEADS["multi_label"].as_decisions(logits, labels))
    q = 1 / (1 + np.exp(-logits))
    assert found.nll == pytest.approx(-(labels * np.log(q) + (1 - labels) * np.log(1 - q)).mean())
    assert found.brier == pytest.approx(2 * ((q - labels) ** 2).mean())
    assert found.accuracy == 0.75


@pytest.mark.parametrize("logits", [np.zeros((0, 2)), np.zeros(3), np.array([[np.nan, 0.0]])])
def test_what_has_no_calibration_is_refused(logits) -> None:
    with pytest.raises(DataError):
        calibration(logits, np.zeros(len(logits), dtype=int))


# ---------------------------------------------------------------- agreement of annotators


def test_agreement_has_the_papers_names() -> None:
    rows = [[0, 0, 0, 0, 0], [2, 2, 1, 2, 2], [1, 1, 0, 0, 1], [0, 0, 0, 1, 2], [0, 0, 1, 1, 2]]
    assert [agreement(row, 3) for row in rows] == ["5/0/0", "4/1/0", "3/2/0", "3/1/1", "2/2/1"]


def test_distances_are_as_slowly_computed() -> None:
    chance = np.random.default_rng(0)
    p, f = chance.dirichlet([0.5] * 3, size=20), chance.dirichlet([1.0] * 3, size=20)
    p[0] = [1.0, 0.0, 0.0]
    found = distance(p, np.log(f))
    pairs = list(zip(p.tolist(), f.tolist(), strict=True))
    cross = np.mean([-sum(a * math.log(b) for a, b in zip(x, y, strict=True)) for x, y in pairs])
    entropy = np.mean([-sum(a * math.log(a) for a in x if a > 0) for x, _ in pairs])
    assert found.cross_entropy == pytest.approx(cross, abs=1e-12)
    assert found.human_entropy == pytest.approx(entropy, abs=1e-12)
    assert found.kl == pytest.approx(cross - entropy, abs=1e-12)
    assert found.js == pytest.approx(np.mean([jensenshannon(x, y) ** 2 for x, y in pairs]), abs=1e-12)
    tv = np.mean([sum(abs(a - b) for a, b in zip(x, y, strict=True)) / 2 for x, y in pairs])
    assert found.total_variation == pytest.approx(tv, abs=1e-12)
    same = distance(f, np.log(f))
    assert (same.kl, same.js, same.total_variation) == (pytest.approx(0, abs=1e-12),) * 3
    far = distance(np.array([[1.0, 0.0]]), np.array([[-2000.0, 0.0]]))
    assert (far.kl, far.js, far.total_variation) == (2000.0, pytest.approx(math.log(2)), 1.0)


def test_groups_have_their_own_rows() -> None:
    logits = np.log(np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.3, 0.4, 0.3]]))
    annotators = [[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [1, 1, 1, 0, 0]]
    found = by_agreement(logits, np.array([0, 0, 1]), annotators, [[100, 0, 0], [50, 50, 0], [10, 80, 10]])
    assert {name: (g.rows, g.accuracy) for name, g in found.items()} == {
        "all": (3, pytest.approx(2 / 3)),
        "5/0/0": (1, 1.0),
        "3/2/0": (2, 0.5),
    }
    assert found["5/0/0"].five.kl == pytest.approx(-math.log(0.8))
    assert found["5/0/0"].hundred == found["5/0/0"].five
    second = -0.5 * math.log(0.1) - 0.5 * math.log(0.8)
    third = -0.2 * math.log(0.3) - 0.8 * math.log(0.4)
    assert found["3/2/0"].hundred is not None
    assert found["3/2/0"].hundred.cross_entropy == pytest.approx((second + third) / 2)
    assert by_agreement(logits, np.array([0, 0, 1]), annotators)["all"].hundred is None


@pytest.mark.parametrize(
    ("annotators", "counts", "where"),
    [
        ([[0, 1], []], None, "annotator_labels of row 2"),
        ([[0, 1], [3, 0]], None, "annotator_labels of row 2"),
        ([[0], [1]], [[1, 2, 3], [0, 0, 0]], "label_count of row 2"),
        ([[0], [1]], [[1, 2], [1, 1, 1]], "label_count of row 1"),
    ],
)
def test_bad_annotations_are_told_by_row(annotators, counts, where) -> None:
    with pytest.raises(DataError, match=where):
        by_agreement(np.zeros((2, 3)), np.zeros(2, dtype=int), annotators, counts)


@pytest.mark.parametrize("damage", ["cut", "labels", "shapes", "head"])
def test_kept_predictions_that_are_damaged_count_as_none(damage: str, tmp_path) -> None:
    file = tmp_path / "predictions" / "test.npz"
    file.parent.mkdir()
    logits, labels = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32), np.array([0, 1])
    np.savez_compressed(file, logits=logits, labels=labels, head="classification")
    assert read_predictions(tmp_path, "test") is not None
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-40])
    else:
        wrong = {"labels": (logits, labels + 7), "shapes": (logits[:1], labels), "head": (logits, labels)}[damage]
        head = "clasification" if damage == "head" else "classification"
        np.savez_compressed(file, logits=wrong[0], labels=wrong[1], head=head)
    assert read_predictions(tmp_path, "test") is None
    assert calibration_of(tmp_path, ["test"]) == {}
