"""Statistics of comparisons, each figure against an independent calculation, and verdicts that claim no more."""

from __future__ import annotations

import itertools
import math
import statistics as plain_python
import warnings
from dataclasses import asdict, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from steadytune.comparison.records import Cell, RunRecord
from steadytune.comparison.statistics import paired_tests as pairing
from steadytune.comparison.statistics.cells import CellStatistics, compare_cell
from steadytune.comparison.statistics.paired_tests import (
    Paired,
    bootstrap_interval,
    holm,
    paired,
    seeds_needed,
    smallest_p,
    summary,
    with_worst,
)
from steadytune.comparison.statistics.verdict import Verdict, headline, verdict

#: Accuracies of a small test set: whole thousandths, so that ties are common and fractions exact.
ACCURACY = st.integers(0, 1000)
#: Either any scores, or such that differ by little, so that many sums of gains are equal.
NEAR = st.tuples(ACCURACY, st.integers(-4, 4)).map(lambda pair: (pair[0], pair[0] + pair[1]))
PAIRS = st.one_of(st.lists(side, min_size=1, max_size=8) for side in (st.tuples(ACCURACY, ACCURACY), NEAR))
FEW = settings(max_examples=100, deadline=None)


def compare(gains: list[float], base: float = 0.5, **options: Any) -> Paired:
    """Paired scores with these gains; few resamples, as only the bootstrap of few tests needs many."""
    return paired(
        dict.fromkeys(range(len(gains)), base),
        {seed: base + gain for seed, gain in enumerate(gains)},
        **{"resamples": 200} | options,
    )


def of_thousandths(pairs: list[tuple[int, int]], **options: Any) -> Paired:
    sides = ({seed: pair[side] / 1000 for seed, pair in enumerate(pairs)} for side in (0, 1))
    return paired(*sides, **{"resamples": 200} | options)


def by_enumeration(gains: list[Fraction]) -> Fraction:
    """The sign-flip test in the words of its definition, in exact arithmetic."""
    observed = abs(sum(gains, Fraction(0)))
    flips = list(itertools.product((1, -1), repeat=len(gains)))
    extreme = [signs for signs in flips if abs(sum(s * g for s, g in zip(signs, gains, strict=True))) >= observed]
    return Fraction(len(extreme), len(flips))


# Summaries


def test_a_summary_is_that_of_the_standard_library() -> None:
    values = [0.81, 0.79, 0.84, 0.5, 0.83]
    found = summary([*values, None, math.nan, math.inf])
    assert found.mean == pytest.approx(plain_python.mean(values))
    assert found.sd == pytest.approx(plain_python.stdev(values))
    assert (found.n, found.failed, found.median, found.best, found.worst) == (5, 3, 0.81, 0.84, 0.5)


def test_the_best_loss_is_the_smallest() -> None:
    found = summary([3.0, 1.0, 2.0], greater_is_better=False)
    assert (found.best, found.worst) == (1.0, 3.0)


def test_a_summary_of_one_run_has_no_spread_and_of_none_nothing() -> None:
    assert summary([0.5]).sd is None
    assert summary([None]) == pairing.Summary(0, None, None, None, None, None, 1)


# The exact tests


@FEW
@given(PAIRS)
def test_the_permutation_test_is_the_enumeration_of_all_sign_flips(pairs: list[tuple[int, int]]) -> None:
    gains = [Fraction(after - before, 1000) for before, after in pairs]
    found = of_thousandths(pairs)
    assert found.p == float(by_enumeration(gains))
    assert found.mean == pytest.approx(float(sum(gains) / len(gains)))
    assert (found.wins, found.losses) == (sum(g > 0 for g in gains), sum(g < 0 for g in gains))
    assert found.ties == gains.count(Fraction(0))


@FEW
@given(st.lists(st.integers(-999, 999).filter(bool), min_size=1, max_size=10, unique_by=abs))
def test_the_signed_rank_test_is_that_of_scipy(gains: list[int]) -> None:
    found = of_thousandths([(0, gain) for gain in gains])
    assert found.p_wilcoxon == pytest.approx(stats.wilcoxon(gains, method="exact").pvalue)


@FEW
@given(PAIRS)
def test_the_signed_rank_test_is_exact_with_tied_ranks_too(pairs: list[tuple[int, int]]) -> None:
    gains = [after - before for before, after in pairs if after != before]
    sizes = [abs(gain) for gain in gains]
    mean_rank = {size: Fraction(2 * sum(s < size for s in sizes) + sizes.count(size) + 1, 2) for size in sizes}
    ranks = [mean_rank[abs(gain)] * (1 if gain > 0 else -1) for gain in gains]
    assert of_thousandths(pairs).p_wilcoxon == float(by_enumeration(ranks))


def test_scipy_permutes_the_same() -> None:
    before, after = [0.71, 0.74, 0.7, 0.73, 0.72, 0.75, 0.7], [0.75, 0.73, 0.74, 0.78, 0.73, 0.77, 0.76]
    expected = stats.permutation_test(
        (np.array(after), np.array(before)),
        lambda a, b: np.mean(a - b),
        permutation_type="samples",
        n_resamples=np.inf,
    )
    assert paired(dict(enumerate(before)), dict(enumerate(after))).p == pytest.approx(expected.pvalue)


@FEW
@given(PAIRS)
def test_no_p_lies_below_the_smallest_possible(pairs: list[tuple[int, int]]) -> None:
    found = of_thousandths(pairs)
    assert smallest_p(found.n) == found.smallest_p
    assert found.smallest_p <= found.p <= 1
    assert smallest_p(found.n - found.ties) <= min(found.p, found.p_wilcoxon)


@pytest.mark.parametrize("n", range(1, 13))
def test_the_smallest_p_is_reached_by_gains_of_one_sign(n: int) -> None:
    assert compare([0.01 * (i + 1) for i in range(n)]).p == smallest_p(n)
    assert (smallest_p(n) < 0.05) == (n >= 6)


def test_equal_gains_count_as_they_should_whatever_their_rounding() -> None:
    # 0.1 + 0.2 - 0.3 is not 0 in binary, and a test that compares sums exactly would miss such ties.
    rounded = paired({0: 0.3, 1: 0.8, 2: 0.9}, {0: 0.1 + 0.2, 1: 0.7, 2: 1.0})
    assert (rounded.ties, rounded.wins, rounded.losses, rounded.p) == (1, 1, 1, 1.0)
    # Flipping the first three changes no sum: 4 of 16.
    assert compare([0.1, 0.2, -0.3, 0.7], base=0.1).p == float(by_enumeration([Fraction(n) for n in (1, 2, -3, 7)]))
    assert compare([0.01] * 6, base=0.83).p == 2 / 64
    assert compare([0.01] * 5 + [-0.01], base=0.83).p == 14 / 64


def test_equal_scores_give_no_evidence() -> None:
    found = compare([0.0] * 8)
    assert (found.p, found.p_wilcoxon, found.ties, found.mean) == (1.0, 1.0, 8, 0.0)
    assert (found.interval, found.interval_method, found.exact_interval) == (None, None, None)


def test_beyond_sixteen_pairs_random_flips_come_near_the_exact_value() -> None:
    rng = np.random.default_rng(3)
    gains = rng.normal(0.008, 0.01, 18).round(3).tolist()
    # By counting how many flips reach each sum, which needs no enumeration.
    ways = {0: 1}
    for gain in (round(1000 * g) for g in gains):
        ways = {s: ways.get(s - gain, 0) + ways.get(s + gain, 0) for s in {t + d for t in ways for d in (gain, -gain)}}
    observed = abs(sum(round(1000 * g) for g in gains))
    exact = sum(count for total, count in ways.items() if abs(total) >= observed) / 2**18
    found = compare(gains, resamples=10_000)
    assert 0.01 < exact < 0.5
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact / 10_000))
    assert found.smallest_p == 1 / 10_001
    assert compare([0.01] * 17, resamples=500).p >= 1 / 501


def test_the_test_keeps_its_level() -> None:
    rng = np.random.default_rng(0)
    found = [compare(rng.normal(0, 0.02, 7).tolist(), resamples=10).p for _ in range(1500)]
    assert np.mean(np.array(found) < 0.05) == pytest.approx(6 / 128, abs=0.015)


# Properties of pairs


@FEW
@given(PAIRS)
def test_exchanging_baseline_and_method_turns_the_sign(pairs: list[tuple[int, int]]) -> None:
    there, back = of_thousandths(pairs), of_thousandths([(after, before) for before, after in pairs])
    assert back.mean == pytest.approx(-(there.mean or 0))
    assert (back.p, back.p_wilcoxon, back.sd) == (there.p, there.p_wilcoxon, pytest.approx(there.sd))
    assert (back.wins, back.losses) == (there.losses, there.wins)
    for name in ("interval", "exact_interval"):
        first, second = getattr(there, name), getattr(back, name)
        assert (first is None) == (second is None)
        if first is not None:
            assert second == pytest.approx((-first[1], -first[0]), abs=1e-9)


@FEW
@given(PAIRS, st.integers(-5000, 5000))
def test_a_constant_added_to_both_changes_nothing(pairs: list[tuple[int, int]], constant: int) -> None:
    here, moved = of_thousandths(pairs), of_thousandths([(b + constant, a + constant) for b, a in pairs])
    assert (moved.p, moved.p_wilcoxon, moved.wins, moved.ties) == (here.p, here.p_wilcoxon, here.wins, here.ties)
    assert moved.mean == pytest.approx(here.mean, abs=1e-9)
    for name in ("interval", "exact_interval"):
        if getattr(here, name) is not None:
            assert getattr(moved, name) == pytest.approx(getattr(here, name), abs=1e-9)


@FEW
@given(PAIRS)
def test_a_metric_to_be_small_is_the_same_turned_round(pairs: list[tuple[int, int]]) -> None:
    smaller = of_thousandths(pairs, greater_is_better=False)
    assert asdict(smaller) == asdict(of_thousandths([(-before, -after) for before, after in pairs]))


@FEW
@given(PAIRS, st.randoms())
def test_the_order_of_the_seeds_does_not_matter(pairs: list[tuple[int, int]], random: Any) -> None:
    before = {seed: pair[0] / 1000 for seed, pair in enumerate(pairs)}
    after = {seed: pair[1] / 1000 for seed, pair in enumerate(pairs)}
    order = list(before)
    random.shuffle(order)
    shuffled = paired({s: before[s] for s in order}, {s: after[s] for s in reversed(order)}, resamples=200)
    assert shuffled == paired(before, after, resamples=200)


@pytest.mark.parametrize("scale", [1e-200, 1e-6, 1.0, 1e9, 1e200])
def test_the_scale_of_the_metric_does_not_matter(scale: float) -> None:
    gains = [0.1, 0.3, -0.05, 0.2, 0.15, 0.12]
    one, other = compare(gains), compare([scale * gain for gain in gains], base=0.5 * scale)
    assert other.p == one.p
    assert (other.sd or 0) / scale == pytest.approx(one.sd)
    for name in ("interval", "exact_interval"):
        assert np.array(getattr(other, name)) / scale == pytest.approx(np.array(getattr(one, name)))


def test_runs_without_a_score_are_counted_not_compared() -> None:
    found = paired({1: 0.5, 2: None, 3: 0.5, 4: 0.5}, {1: 0.6, 2: 0.6, 3: None, 4: math.nan, 9: 0.9})
    assert found.gains == {1: pytest.approx(0.1)}
    assert (found.n, found.failed_baseline, found.failed_other, found.missing) == (1, 1, 2, 1)


def test_without_a_pair_nothing_is_claimed() -> None:
    found = paired({1: 0.5}, {2: 0.9})
    assert (found.n, found.mean, found.sd, found.median, found.interval, found.exact_interval) == (0, *[None] * 5)
    assert (found.p, found.p_wilcoxon, found.smallest_p) == (1.0, 1.0, 1.0)


def test_the_worst_score_stands_in_for_none() -> None:
    assert with_worst({1: 0.5, 2: None, 3: math.nan}, 0.4) == {1: 0.5, 2: 0.4, 3: 0.4}


# Intervals


def test_the_bootstrap_interval_is_that_of_scipy() -> None:
    rng = np.random.default_rng(5)
    for values in (rng.normal(size=6), rng.exponential(size=8), np.array([0, 0, 0, 0, 0, 1.0]), np.array([1.0, 2, 4])):
        found, method = bootstrap_interval(values, resamples=40_000)
        expected = stats.bootstrap((values,), np.mean, n_resamples=40_000, method="BCa").confidence_interval
        assert method == "BCa"
        assert found == pytest.approx((expected.low, expected.high), abs=0.05 * float(np.std(values)))


def test_the_bootstrap_corrects_bias_and_skew_as_published() -> None:
    # Efron (1987), written out with a jackknife that really leaves one out, on the same resamples.
    values = np.random.default_rng(9).lognormal(0, 1.5, 15)
    means = values[np.random.default_rng(0).integers(0, 15, (20_000, 15))].mean(axis=1)
    bias = stats.norm.ppf((means < values.mean()).mean())
    left = np.array([np.delete(values, i).mean() for i in range(15)])
    skew = ((left.mean() - left) ** 3).sum() / (6 * ((left.mean() - left) ** 2).sum() ** 1.5)
    ends = [bias + z for z in (-1.959964, 1.959964)]
    expected = [np.quantile(means, stats.norm.cdf(bias + end / (1 - skew * end))) for end in ends]
    found, method = bootstrap_interval(values, resamples=20_000)
    assert method == "BCa"
    assert found == pytest.approx(expected, rel=1e-3)  # ours counts ties by half


def test_the_bootstrap_interval_of_many_values_is_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(3, 2, 2000)
    found, _ = bootstrap_interval(values, resamples=4000)
    half = 1.96 * values.std(ddof=1) / math.sqrt(2000)
    assert found == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_two_pairs_have_no_interval_and_equal_gains_one_of_no_width() -> None:
    assert compare([0.1, 0.2]).interval is None
    found = compare([0.25] * 4)
    assert (found.interval, found.interval_method) == ((0.25, 0.25), "percentile")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare([0.25] * 4)


def test_bootstrap_intervals_of_few_seeds_are_as_narrow_as_is_said() -> None:
    rng = np.random.default_rng(2)
    for n, expected in ((6, 0.88), (10, 0.90)):
        ends = [bootstrap_interval(rng.normal(size=n), resamples=400)[0] for _ in range(1500)]
        held = np.mean([low <= 0 <= high for low, high in (end for end in ends if end)])
        assert held == pytest.approx(expected, abs=0.03)


@FEW
@given(PAIRS.filter(lambda pairs: len(pairs) >= 6))
def test_the_exact_interval_is_made_of_the_values_the_test_does_not_reject(pairs: list[tuple[int, int]]) -> None:
    found = of_thousandths(pairs)
    if found.ties == found.n:
        assert found.exact_interval is None
        return
    assert found.exact_interval is not None
    low, high = found.exact_interval
    assert (low > 0 or high < 0) == (found.p <= 0.05)
    gains = [Fraction(after - before, 1000) for before, after in pairs]
    assume(len(set(gains)) > 1)
    width = Fraction(high - low)
    for center, inside in ((low, False), (high, False), ((low + high) / 2, True)):
        for step in (Fraction(0),) if inside else (width / 1000,):
            outward = Fraction(center) + (step if center == high else -step)
            assert (by_enumeration([gain - outward for gain in gains]) > Fraction(5, 100)) == inside


def test_the_exact_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    ends = [compare(rng.normal(0, 0.1, 7).tolist(), resamples=10).exact_interval for _ in range(1500)]
    assert np.mean([low <= 0 <= high for low, high in (end for end in ends if end)]) >= 0.94


def test_five_pairs_have_no_exact_interval() -> None:
    assert compare([0.1, 0.2, 0.3, 0.4, 0.5]).exact_interval is None
    assert compare([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]).exact_interval == pytest.approx((0.1, 0.6))


# Several methods


def test_holm_by_hand() -> None:
    # 4 x 0.005, 3 x 0.01, 2 x 0.03, and 0.04 may not fall below what came before.
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert list(found) == ["a", "b", "c", "d"]
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({"only": 0.04}) == {"only": 0.04}
    assert holm({}) == {}


@FEW
@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=7))
def test_holm_lies_between_no_correction_and_bonferroni_and_keeps_the_order(p_values: dict[str, float]) -> None:
    found = holm(p_values)
    for name, p in p_values.items():
        assert p <= found[name] <= min(1.0, len(p_values) * p)
        assert all(found[name] <= found[other] for other in p_values if p < p_values[other])


@pytest.mark.parametrize("candidates", [1, 2, 3, 4, 6, 7, 20])
def test_the_seeds_needed_are_the_fewest_that_holm_lets_through(candidates: int) -> None:
    n = seeds_needed(candidates)
    for seeds, reaches in ((n, True), (n - 1, False)):
        p_values = {str(i): 1.0 for i in range(candidates)} | {"0": smallest_p(seeds)}
        assert (holm(p_values)["0"] < 0.05) == reaches


# Cells

Scores = dict[str, list[float | None]]
#: Scores of plain training with eight seeds, and gains that nothing but chance of one in 128 explains.
PLAIN = [0.70, 0.72, 0.71, 0.69, 0.73, 0.70, 0.72, 0.71]
GAINS = [0.02, 0.03, 0.025, 0.01, 0.035, 0.02, 0.015, 0.03]
BETTER = [round(score + gain, 4) for score, gain in zip(PLAIN, GAINS, strict=True)]
MIXED = [0.71, 0.71, 0.72, 0.69, 0.72, 0.71, 0.71, 0.72]


def run(candidate: str, seed: int, score: float | None, **changes: Any) -> RunRecord:
    metrics = {"before": {"test": {"accuracy": 0.5, "rows": 100}}}
    if score is not None:
        metrics["after"] = {"test": {"accuracy": score, "rows": 100}}
    content: dict[str, Any] = {
        "key": f"{candidate}-{seed}",
        "candidate": candidate,
        "methods": () if candidate.startswith("none") else tuple(candidate.split("+")),
        "method_settings": {},
        "task": "films",
        "train_size": "500",
        "learning_rate": 1e-4,
        "seed": seed,
        "status": "finished" if score is not None else "diverged",
        "error": None if score is not None else "the loss was not finite",
        "metrics": metrics,
        "training": {"seconds": 10.0, "seconds_per_update": 0.1, "peak_memory_bytes": 1000},
        "environment": {},
    }
    return RunRecord(**content | changes)


def cell(scores: Scores, **changes: Any) -> Cell:
    runs = [run(name, seed, score) for name, all_scores in scores.items() for seed, score in enumerate(all_scores)]
    content: dict[str, Any] = {
        "task": "films",
        "train_size": "500",
        "metric": "accuracy",
        "greater_is_better": True,
        "test_splits": ("test",),
        "chosen_learning_rate": dict.fromkeys(scores, 1e-4),
        "tuning": (),
        "runs": tuple(runs),
    }
    return Cell(**content | changes)


def judged(scores: Scores, **changes: Any) -> tuple[CellStatistics, Verdict]:
    found = compare_cell(cell(scores, **changes))
    return found, verdict(found)


def with_training(found: Cell, **by_candidate: dict[str, Any]) -> Cell:
    return replace(
        found,
        runs=tuple(replace(r, training={**r.training, **by_candidate.get(r.candidate, {})}) for r in found.runs),
    )


def test_a_table_has_a_row_for_each_candidate_plain_first() -> None:
    found, _ = judged({"smart": BETTER, "none": PLAIN, "noisytune": MIXED, "none@3.00x": MIXED})
    assert [(row.candidate, row.kind) for row in found.rows] == [
        ("none", "plain"),
        ("smart", "method"),
        ("noisytune", "method"),
        ("none@3.00x", "longer plain"),
    ]
    smart, longer = found.row("smart"), found.row("none@3.00x")
    assert found.rows[0].against_plain is None
    assert found.rows[0].finding is None
    assert smart.against_plain == paired(dict(enumerate(PLAIN)), dict(enumerate(BETTER)))
    assert smart.holm_p == 2 / 128  # corrected over two methods; training for longer is none
    assert longer.against_plain is not None
    assert longer.holm_p is None
    assert (smart.finding, found.row("noisytune").finding) == ("better", "not distinguishable")


def test_costs_are_medians_of_ratios_at_equal_seeds() -> None:
    small = cell({"none": [0.5, 0.5, 0.5], "smart": [0.6, 0.6, 0.6]})
    # Slow and fast hours hit both runs of a seed; the ratio of the medians would be 2.5.
    seconds = {("none", 0): 1, ("none", 1): 2, ("none", 2): 10, ("smart", 0): 3, ("smart", 1): 5, ("smart", 2): 40}
    timed = replace(
        small,
        runs=tuple(
            replace(r, training={"seconds": seconds[r.candidate, r.seed], "peak_memory_bytes": 0}) for r in small.runs
        ),
    )
    costs = compare_cell(timed).row("smart").costs
    assert (costs.seconds, costs.seconds_per_update, costs.peak_memory) == (3.0, None, None)
    assert compare_cell(timed).rows[0].costs.seconds == 1.0


def test_the_time_of_runs_that_failed_is_no_cost() -> None:
    some = with_training(cell({"none": [0.5, 0.5], "smart": [None, 0.6]}), smart={"seconds": 30.0})
    broken = replace(
        some, runs=tuple(replace(r, training={"seconds": 0.1}) if r.status != "finished" else r for r in some.runs)
    )
    assert compare_cell(broken).row("smart").costs.seconds == 3.0


def test_the_time_of_plain_runs_that_failed_is_no_measure() -> None:
    some = with_training(cell({"none": [0.5, None], "smart": [0.6, 0.6]}), smart={"seconds": 30.0})
    quick = tuple(replace(r, training={"seconds": 0.1}) if r.status != "finished" else r for r in some.runs)
    assert compare_cell(replace(some, runs=quick)).row("smart").costs.seconds == 3.0


def test_a_finding_holds_by_test_and_interval_with_and_without_failed_runs() -> None:
    for scores, word in (({"none": PLAIN, "smart": BETTER}, "better"), ({"none": BETTER, "smart": PLAIN}, "worse")):
        row = judged(scores)[0].row("smart")
        assert row.finding == word
        assert row.against_plain is not None
        around_zero = replace(row.against_plain, interval=(-0.01, 0.05) if word == "better" else (-0.05, 0.01))
        for weaker in (
            {"holm_p": 0.05},
            {"worst_case_holm_p": 0.05},
            {"against_plain": around_zero},
            {"worst_case": around_zero},
        ):
            assert replace(row, **weaker).finding == "not distinguishable"


def test_the_worst_case_is_corrected_on_its_own() -> None:
    found, _ = judged({"none": PLAIN, "smart": [*BETTER[:7], None], "noisytune": BETTER})
    pairs = {row.candidate: row.worst_case for row in found.methods}
    expected = holm({name: pair.p for name, pair in pairs.items() if pair})
    assert {row.candidate: row.worst_case_holm_p for row in found.methods} == expected
    assert found.row("smart").worst_case_holm_p != found.row("smart").holm_p


def test_failed_and_diverged_runs_are_shown_and_count_as_the_worst() -> None:
    scores: Scores = {"none": [*PLAIN, 0.72], "smart": [*BETTER, None]}
    broken = cell(scores)
    broken = replace(
        broken,
        runs=(*broken.runs[:-1], replace(broken.runs[-1], status="failed", error="out of memory")),
    )
    found = compare_cell(broken)
    row = found.row("smart")
    assert (row.failed, row.diverged, row.summary.failed) == (1, 0, 1)
    assert row.errors == ((8, "failed", "out of memory"),)
    assert "smart: 1 failed of 9 runs." in found.notes
    assert row.against_plain is not None
    assert row.worst_case is not None
    assert (row.against_plain.n, row.against_plain.failed_other, row.worst_case.n) == (8, 1, 9)
    assert found.worst_score == 0.5  # the untrained head
    assert row.worst_case.gains[8] == pytest.approx(0.5 - 0.72)


def test_the_worst_score_is_the_worst_of_all_runs_where_that_is_below_chance() -> None:
    found, _ = judged({"none": [0.7, 0.41], "smart": [0.7, None], "noisytune": [0.45, 0.6]})
    assert found.worst_score == 0.41
    error, _ = judged({"none": [0.7, 0.3], "smart": [0.9, None]}, greater_is_better=False)
    assert error.worst_score == 0.9


def test_one_seed_twice_is_refused() -> None:
    twice = cell({"none": [0.5]})
    with pytest.raises(ValueError, match=r"two runs of 'none' with seed 0"):
        compare_cell(replace(twice, runs=twice.runs * 2))


def test_scores_on_the_data_that_tuned_say_so() -> None:
    scores: Scores = {"none": [0.5], "smart": [0.6]}
    tried = tuple(run("smart", 0, 0.6, learning_rate=rate) for rate in (1e-4, 2e-4))
    assert "too good" in compare_cell(cell(scores, tuning=tried), "validation").notes[0]
    assert not compare_cell(cell(scores, tuning=tried), "test").notes
    assert not compare_cell(cell(scores, tuning=tried[:1]), "validation").notes  # nothing was chosen


def test_seeds_of_one_side_only_are_noted() -> None:
    found, _ = judged({"none": PLAIN, "smart": BETTER[:6]})
    assert "smart: 2 seeds were run for it or for plain training only." in found.notes


# Equal compute


def test_a_method_is_compared_with_plain_training_of_its_cost() -> None:
    three: Scores = {"none": PLAIN, "noisytune": MIXED, "smart": BETTER, "none@3.00x": MIXED, "none@7.00x": BETTER}
    found = compare_cell(cell(three), costs={"noisytune": 1.0, "smart": 3.0})
    view = found.row("smart").equal_compute
    assert view is not None
    assert (view.candidate, view.factor) == ("none@3.00x", 3.0)
    assert view.paired == paired(dict(enumerate(MIXED)), dict(enumerate(BETTER)))
    assert view.holm_p == view.paired.p
    # Its equal is plain training itself, which is the first view.
    assert found.row("noisytune").equal_compute is None
    assert found.row("none@3.00x").equal_compute is None


def test_the_cost_is_what_was_declared_or_else_measured() -> None:
    runs = cell({"none": PLAIN, "smart": BETTER, "none@3.00x": MIXED, "none@6.00x": MIXED})

    def equal(found: Cell, **costs: float) -> str | None:
        view = compare_cell(found, costs=costs).row("smart").equal_compute
        return view.candidate if view else None

    measured = with_training(runs, smart={"seconds_per_update": 0.55})
    recorded = with_training(measured, smart={"seconds_per_update": 0.55, "relative_cost": 3.0})
    assert equal(runs) is None  # as fast as plain training
    assert equal(measured) == "none@6.00x"
    assert equal(recorded) == "none@3.00x"
    assert equal(recorded, smart=6.2) == "none@6.00x"


# Verdicts


@pytest.mark.parametrize("seeds", range(1, 6))
def test_fewer_than_six_seeds_show_nothing_whatever_the_scores(seeds: int) -> None:
    _, found = judged({"none": [0.1] * seeds, "smart": [0.99] * seeds})
    assert (found.kind, found.candidate) == ("too few seeds", "smart")
    assert "no p < 0.05 is possible, whatever the scores" in found.sentence
    assert f"{smallest_p(seeds):.2g}" in found.sentence
    _, behind = judged({"none": [0.9] * seeds, "smart": [0.1] * seeds})
    assert (behind.kind, behind.candidate) == ("too few seeds", "none")
    assert "no method is ahead" in behind.sentence


def test_six_seeds_that_lost_a_run_are_five() -> None:
    _, found = judged({"none": PLAIN[:6], "smart": [*BETTER[:5], None]})
    assert found.kind == "too few seeds"
    assert "with 5 paired seeds" in found.sentence
    assert "Runs without a score: smart 1." in found.sentence


def test_a_gain_beyond_chance_is_to_be_used() -> None:
    costly = with_training(cell({"none": PLAIN, "smart": BETTER}), smart={"seconds_per_update": 0.31})
    found = verdict(compare_cell(costly))
    assert (found.kind, found.candidate) == ("use", "smart")
    assert found.sentence == (
        "Use smart: +0.023 accuracy over plain training on test at 3.1 x the time per update "
        "(8 paired seeds, 95% interval +0.015 to +0.03, p = 0.0078)."
    )


def test_of_several_the_largest_mean_gain_is_named_and_the_others_too() -> None:
    more = [round(score + 0.01, 4) for score in BETTER]
    _, found = judged({"none": PLAIN, "smart": BETTER, "rdrop": more})
    assert (found.kind, found.candidate) == ("use", "rdrop")
    assert "p = 0.016 after Holm's correction over 2 methods" in found.sentence
    assert "Also beyond chance: smart (+0.023 accuracy" in found.sentence


def test_noise_keeps_plain() -> None:
    _, found = judged({"none": PLAIN, "smart": MIXED})
    assert (found.kind, found.candidate) == ("keep plain", "none")
    assert "may be chance" in found.sentence


def test_a_worse_method_keeps_plain_and_is_named() -> None:
    _, found = judged({"none": BETTER, "smart": PLAIN})
    assert found.kind == "keep plain"
    assert "no method has a higher mean" in found.sentence
    assert "Worse beyond chance: smart." in found.sentence


def test_equal_scores_keep_plain_and_say_so() -> None:
    found, decided = judged({"none": PLAIN, "smart": PLAIN})
    assert decided.kind == "keep plain"
    assert "exactly the same with every seed" in decided.sentence
    assert "smart: the same score as plain training with every seed." in found.notes


def test_the_best_of_n_plays_no_part() -> None:
    # One run of the method is by far the best of all, the others are worse.
    lucky = [0.99, *(score - 0.01 for score in PLAIN[1:])]
    found, decided = judged({"none": PLAIN, "smart": lucky})
    assert found.row("smart").summary.best == 0.99
    assert decided.kind == "keep plain"
    # And the highest score of plain training does not keep it.
    steady = judged({"none": [0.75, *PLAIN[1:]], "smart": [0.74 + 0.02, *BETTER[1:]]})[1]
    assert steady.kind == "use"


def test_what_does_not_survive_holm_is_only_promising() -> None:
    nearly = [*BETTER[:6], 0.719, 0.709]
    found, decided = judged({"none": PLAIN, "smart": nearly, "noisytune": MIXED, "rdrop": MIXED, "mixout": MIXED})
    row = found.row("smart")
    assert row.against_plain is not None
    assert row.against_plain.p == 8 / 256
    assert row.holm_p == 32 / 256
    assert (decided.kind, decided.candidate) == ("promising", "smart")
    assert "of 4 methods the best is bound to look good (p = 0.12 after Holm)" in decided.sentence


@pytest.mark.parametrize(("methods", "seeds", "needed"), [(1, 5, 6), (2, 6, 7), (3, 6, 7), (4, 7, 8)])
def test_too_few_seeds_are_told_whenever_nothing_can_be_shown_after_holm(
    methods: int, seeds: int, needed: int
) -> None:
    scores: Scores = {"none": PLAIN[:seeds], "smart": BETTER[:seeds]}
    scores |= {f"method{i}": MIXED[:seeds] for i in range(1, methods)}
    found, decided = judged(scores)
    assert (decided.kind, decided.candidate) == ("too few seeds", "smart")
    assert f"at least {needed} seeds" in decided.sentence
    assert f"(the smallest p is {methods * smallest_p(seeds):.2g}" in decided.sentence
    assert (found.row("smart").holm_p or 0) >= 0.05
    more: Scores = {
        name: [*values, *[0.99 if name == "smart" else 0.5] * 3][:needed] for name, values in scores.items()
    }
    assert judged(more)[1].kind != "too few seeds"


def test_a_method_that_diverges_is_not_used_for_the_runs_that_ended_well() -> None:
    plain, smart = [*PLAIN, 0.7, 0.71], [*BETTER, None, None]
    found, decided = judged({"none": plain, "smart": smart})
    assert found.row("smart").holm_p == 2 / 256
    assert found.row("smart").finding == "not distinguishable"
    assert (decided.kind, decided.candidate) == ("promising", "smart")
    assert "failed count as the worst" in decided.sentence
    assert "Runs without a score: smart 2." in decided.sentence


def test_runs_that_fail_without_a_method_are_no_gain_of_the_method() -> None:
    _, found = judged({"none": [*PLAIN[:4], *[None] * 4], "smart": MIXED})
    assert found.kind == "too few seeds"
    _, found = judged({"none": [*PLAIN[:6], None, None], "smart": MIXED})
    assert found.kind == "keep plain"


def test_plain_training_for_longer_that_does_as_well_is_kept() -> None:
    scores: Scores = {"none": PLAIN, "smart": BETTER, "none@3.00x": [score + 0.001 for score in BETTER]}
    found = verdict(compare_cell(cell(scores), costs={"smart": 3.0}))
    assert (found.kind, found.candidate) == ("keep plain", "none")
    assert "but for longer" in found.sentence
    assert "none@3.00x" in found.sentence
    scores["none@3.00x"] = MIXED
    found = verdict(compare_cell(cell(scores), costs={"smart": 3.0}))
    assert found.kind == "use"
    assert "with as much compute (none@3.00x) it gains 0.022 (p = 0.0078)" in found.sentence


def test_losses_are_better_when_smaller() -> None:
    changes = {"metric": "accuracy", "greater_is_better": False}
    _, found = judged({"none": BETTER, "smart": PLAIN}, **changes)
    assert found.kind == "use"
    assert "-0.023 accuracy" in found.sentence
    assert "95% interval -0.03 to -0.015" in found.sentence


@pytest.mark.parametrize("scores", [{"none": PLAIN}, {"smart": BETTER}, {"none": [None] * 8, "smart": BETTER}, {}])
def test_with_nothing_to_compare_nothing_is_claimed(scores: Scores) -> None:
    _, found = judged(scores)
    assert (found.kind, found.candidate) == ("too few seeds", "none")
    assert found.sentence.startswith("Nothing to compare")


@FEW
@given(st.lists(st.tuples(ACCURACY, ACCURACY, ACCURACY), min_size=1, max_size=9))
def test_a_verdict_never_claims_more_than_the_corrected_test(scores: list[tuple[int, int, int]]) -> None:
    names = ("none", "smart", "noisytune")
    found, decided = judged({name: [row[i] / 1000 for row in scores] for i, name in enumerate(names)})
    if decided.kind == "use":
        row = found.row(decided.candidate)
        assert row.holm_p is not None
        assert row.against_plain is not None
        assert row.holm_p < 0.05
        assert (row.against_plain.exact_interval or (0, 0))[0] > 0
    if len(scores) < 6:
        assert decided.kind == "too few seeds"
    assert (decided.candidate == "none") or decided.kind != "keep plain"


def test_three_useless_methods_are_seldom_recommended() -> None:
    rng = np.random.default_rng(7)
    used = 0
    for _ in range(150):
        scores: Scores = {name: rng.normal(0.7, 0.02, 8).tolist() for name in ("none", "smart", "noisytune", "rdrop")}
        used += judged(scores)[1].kind == "use"
    assert used / 150 <= 0.06


def test_one_headline_for_several_cells() -> None:
    use, keep = judged({"none": PLAIN, "smart": BETTER}), judged({"none": PLAIN, "smart": MIXED})
    assert headline([use]) == use[1].sentence
    assert headline([use, keep, keep]) == (
        "Use in 1 of 3 (films with 500 rows: smart); keep plain in 2 of 3 (films with 500 rows, films with 500 rows)."
    )
    assert headline([]) == "Nothing was compared."
