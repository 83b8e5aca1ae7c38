"""The search: what it may change, that it never asks for more than it should, and that a kill loses nothing."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_model

pytest.importorskip("optuna")

from steadytune.comparison.compare import compare
from steadytune.comparison.engines.engine import RunListener
from steadytune.comparison.engines.execute import execute
from steadytune.comparison.kept_record import kept_record
from steadytune.comparison.plan import RunPlan
from steadytune.comparison.records import RunRecord
from steadytune.comparison.reporter import SilentComparison
from steadytune.comparison.search.search import Outcome, Proposal, Search, run_search
from steadytune.comparison.search.space import REACH, Dimension, Space, parse_ranges, parse_search, search_space
from steadytune.errors import MethodError, SettingsError
from steadytune.methods.registry import all_methods, build_methods
from steadytune.settings.compare import CompareSettings

tiny_folder = tiny_model.tiny_folder

RATES = (5e-5, 1e-4, 2e-4)
DECAY = "bregman.beta"


def dimension(space: Space, name: str) -> Dimension:
    return next(d for d in space if d.name == name)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Search]]:
    """Opens searches in one folder, and closes them."""
    searches = []

    def open_search(methods: Sequence[str] = ("noisytune",), trials: int = 8, **changes) -> Search:
        space = search_space(methods, {}, RATES)
        options = {"trials": trials, "learning_rates": RATES, "methods": methods, **changes}
        searches.append(Search(tmp_path, "key", options.pop("space", space), **options))
        return searches[-1]

    yield open_search
    for search in searches:
        search.close()


def hump(proposal: Proposal) -> float:
    """Best at a learning rate of 1e-4 and an intensity of 0.05."""
    intensity = proposal.settings.get("noisytune.intensity", 0.15)
    return 1 - abs((proposal.learning_rate or 0) - 1e-4) * 1e3 - abs(intensity - 0.05)


def run_all(search: Search, score: Callable[[Proposal], float | None] = hump) -> list[Proposal]:
    found = []
    while (proposal := search.propose()) is not None:
        found.append(proposal)
        search.tell(proposal, score(proposal))
    return found


class TestSpace:
    @pytest.mark.parametrize("name", list(all_methods()))
    def test_both_ends_of_every_range_can_be_trained_or_are_refused_by_the_method_alone(self, name: str) -> None:
        refused = []
        for d in search_space([name], {}, RATES):
            if d.name == "learning_rate":
                continue
            assert d.low < d.default < d.high or (d.integer and d.low <= d.default < d.high), d
            for end in (d.low, d.high, d.value(d.drawn(d.low)), d.value(d.drawn(d.high))):
                try:
                    build_methods([name], {name: {d.name.rpartition(".")[2]: end}})
                except MethodError as error:
                    refused.append(str(error))
        assert all("noise_std" in line and "must be at most" in line for line in refused)  # two bind each other

    def test_ranges_are_around_the_default_in_its_own_scale(self) -> None:
        space = search_space(["smart"], {}, RATES)
        weight, beta = dimension(space, "smart.weight"), dimension(space, "smart.beta")
        assert (weight.low, weight.high, weight.scale) == (1 / REACH, REACH, "log")
        assert (beta.low, beta.high, beta.scale) == (0.99, 0.9999, "from_one")
        assert beta.value(beta.drawn(0.999)) == 0.999

    def test_what_costs_passes_is_not_searched_unless_it_is_asked_for(self) -> None:
        assert "smart.ascent_steps" not in [d.name for d in search_space(["smart"], {}, RATES)]
        asked = search_space(["smart"], {}, RATES, parse_ranges(["smart.ascent_steps=1:3"]))
        assert [(d.name, d.low, d.high, d.integer) for d in asked[1:]] == [("smart.ascent_steps", 1, 3, True)]

    @pytest.mark.parametrize("fixed", [{"smart": {"beta": 0.9}}, {"bregman": {"beta": 0.9}}])
    def test_what_the_user_fixed_stays_fixed_under_either_name(self, fixed: dict) -> None:
        names = [d.name for d in search_space(["smart"], fixed, RATES)]
        assert "smart.beta" not in names
        assert "smart.weight" in names

    def test_one_learning_rate_is_not_searched(self) -> None:
        assert search_space(["none"], {}, [1e-4]) == ()

    @pytest.mark.parametrize(
        ("entry", "said"),
        [
            ("smart.wieght=1:2", "Did you mean 'weight'?"),
            ("smart.weight=-1:2", "between 0 and 1000"),
            ("smart.weight=2:1", "smaller than the second"),
            ("smart.weight=a:b", "must be numbers"),
            ("smart.weight=3", "write trials=30"),
            ("smart.masks=fresh|other", "one of fresh, same"),
        ],
    )
    def test_a_range_that_cannot_be_is_refused_in_one_line(self, entry: str, said: str) -> None:
        with pytest.raises(SettingsError, match="--search") as caught:
            search_space(["smart"], {}, RATES, parse_ranges([entry]))
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("entries", [[], ["trials=0"], ["trials=x"], ["trials=3", "trials=4"], ["30"]])
    def test_the_number_of_trials_is_needed(self, entries: list[str]) -> None:
        with pytest.raises(SettingsError, match="how many trials"):
            parse_search(entries)


class TestTrials:
    def test_the_grid_comes_first_with_the_candidates_own_settings(self, opened) -> None:
        found = run_all(opened(trials=5))
        assert [(p.learning_rate, p.settings) for p in found[:3]] == [(rate, {}) for rate in RATES]
        assert len(found) == 5
        assert all("noisytune.intensity" in p.settings for p in found[3:])

    def test_finds_better_than_the_grid(self, opened) -> None:
        search = opened(trials=40)
        found = run_all(search)
        best = search.best()
        assert best is not None
        assert hump(best) > max(map(hump, found[:3])) + 0.05
        assert hump(best) == max(map(hump, found))

    def test_the_smaller_the_better_where_it_is_an_error(self, opened) -> None:
        search = opened(trials=6, greater_is_better=False)
        found = run_all(search)
        assert search.best() == min(found, key=hump)

    def test_the_first_of_equal_ones_is_the_best(self, opened) -> None:
        search = opened(trials=6)
        run_all(search, lambda _: 0.5)
        best = search.best()
        assert best is not None
        assert best.number == 0

    def test_failed_and_diverged_trials_count_and_are_never_the_best(self, opened) -> None:
        search = opened(trials=6)
        for index in range(6):
            proposal = search.propose()
            assert proposal is not None
            search.tell(proposal, [None, float("nan"), 0.3, 0.9, None, 0.2][index], diverged=index in {3, 4})
        assert search.propose() is None
        best = search.best()
        assert best is not None
        assert best.number == 2

    def test_without_any_score_there_is_no_best(self, opened) -> None:
        search = opened(trials=3)
        run_all(search, lambda _: None)
        assert search.best() is None

    def test_a_draw_that_the_methods_refuse_is_replaced(self, opened) -> None:
        found = run_all(opened(["smart"], trials=12, seed=1))
        assert len(found) == 12
        for proposal in found:
            values = {key.partition(".")[2]: value for key, value in proposal.settings.items()}
            build_methods(["smart"], {"smart": values})  # noise_std must stay within radius

    def test_a_space_that_is_refused_everywhere_ends_with_a_line(self, opened) -> None:
        space = (Dimension("smart.noise_std", 1.0, 2.0, "log", default=1e-5),)
        with pytest.raises(SettingsError, match=r"refuse what is drawn.*smoothness.noise_std"):
            opened(["smart"], space=space).propose()

    def test_failed_trials_are_handed_out_again_once_they_are_asked_for(self, opened) -> None:
        search = opened(trials=4)
        first = run_all(search, lambda p: None if p.number in (1, 3) else hump(p))
        assert search.propose() is None
        assert search.retry_failed() == 2
        again = run_all(search)
        assert [(p.learning_rate, p.settings) for p in again] == [
            (first[i].learning_rate, first[i].settings) for i in (1, 3)
        ]
        assert search.retry_failed() == 0
        assert search.told == 4


class TestContinuing:
    def test_more_trials_continue_the_same_search(self, opened) -> None:
        whole = run_all(opened(trials=9))
        other = opened(trials=9, seed=7)  # another search: nothing is shared
        assert len(run_all(other)) == 9
        assert run_all(opened(trials=9)) == []
        assert opened(trials=9).told == 9
        assert [p.number for p in run_all(opened(trials=11))] == [9, 10]
        assert [p.number for p in whole] == list(range(9))

    def test_another_range_is_another_search(self, opened) -> None:
        run_all(opened(trials=4))
        ranges = parse_ranges(["noisytune.intensity=0.1:0.2"])
        other = opened(trials=4, space=search_space(["noisytune"], {}, RATES, ranges))
        assert other.told == 0

    def test_a_search_that_was_left_in_the_middle_tries_what_an_undisturbed_one_tries(self, opened, tmp_path) -> None:
        space = search_space(["noisytune"], {}, RATES)
        with Search(tmp_path / "whole", "key", space, trials=14, learning_rates=RATES, methods=["noisytune"]) as whole:
            expected = run_all(whole)
        found = []
        for stop in (2, 6, 13):
            search = opened(trials=14)
            while len(found) < stop:
                proposal = search.propose()
                assert proposal is not None
                found.append(proposal)
                search.tell(proposal, hump(proposal))
            search.propose()  # and its process ends before it tells
            search.close()
        found += run_all(opened(trials=14))
        assert found == expected

    def test_two_that_tell_one_trial_at_the_same_time_agree_that_the_first_has_won(self, opened, monkeypatch) -> None:
        first, second = opened(trials=1), opened(trials=1)
        proposal = first.propose()
        told = threading.Thread(target=second.tell, args=(proposal, 0.5))
        written = first._study._storage.set_trial_state_values

        def meanwhile(*values: Any) -> bool:
            told.start()
            told.join(timeout=0.5)
            return written(*values)

        monkeypatch.setattr(first._study._storage, "set_trial_state_values", meanwhile)
        first.tell(proposal, 0.25)
        told.join()
        assert [trial.value for search in (first, second) for trial in search._counted()] == [0.25, 0.25]

    def test_half_a_line_left_by_a_kill_is_cut_off(self, opened, tmp_path) -> None:
        search = opened(trials=6)
        proposal = search.propose()
        assert proposal is not None
        journal = next(tmp_path.glob("*.journal"))
        with journal.open("a") as file:
            file.write('{"op_code":6,"worker_i')  # while this process goes on
        search.tell(proposal, 0.5)
        with journal.open("a") as file:
            file.write('{"op_co')  # and before the next one starts
        search.close()
        again = opened(trials=6)
        assert again.told == 1
        assert len(run_all(again)) == 5

    @pytest.mark.parametrize("most", [math.inf, 0.2], ids=["taken", "refused"])
    def test_a_search_that_was_killed_at_any_moment_tries_what_it_would_have_tried(
        self, opened, tmp_path, monkeypatch, most: float
    ) -> None:
        def refusal(_search: Search, settings: Mapping[str, Any]) -> str | None:
            return None if settings.get("noisytune.intensity", 0) <= most else "too much"

        monkeypatch.setattr(Search, "_refusal", refusal)
        undisturbed = opened(trials=8)
        run_all(undisturbed)
        expected = [(p.learning_rate, p.settings) for p in undisturbed.ended()]
        journal = next(tmp_path.glob("*.journal"))
        lines = journal.read_bytes().splitlines(keepends=True)
        assert ("too much" in journal.read_text()) == (most < 1)
        for kept in range(1, len(lines)):
            part = tmp_path / str(kept)
            part.mkdir()
            (part / journal.name).write_bytes(b"".join(lines[:kept]))
            space = search_space(["noisytune"], {}, RATES)
            with Search(part, "key", space, trials=8, learning_rates=RATES, methods=["noisytune"]) as search:
                run_all(search)
                found = [(p.learning_rate, p.settings) for p in search.ended()]
            assert found == expected, f"killed after line {kept}: {lines[kept]!r}"
            assert not list(part.glob("*.alive"))

    def test_no_room_is_one_line(self, tmp_path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(SettingsError, match="cannot be kept in"):
            Search(tmp_path / "file", "key", search_space(["none"], {}, RATES), trials=1)


PROCESS = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from steadytune.comparison.search.search import Outcome, Search, run_search
    from steadytune.comparison.search.space import search_space

    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    rates = (5e-5, 1e-4, 2e-4)
    space = search_space(["noisytune"], {}, rates)

    def run(batch):
        for p in batch:
            record = folder / f"record{p.number}"  # a run that is made is only read
            if not record.exists():
                with (folder / "runs").open("a") as file:
                    file.write(f"{p.number}\\n")
                time.sleep(seconds)
                record.touch()
            yield Outcome(p, p.settings.get("noisytune.intensity", 0.15))

    with Search(folder, "key", space, trials=10, learning_rates=rates, methods=["noisytune"]) as search:
        (folder / f"ready{len(list(folder.glob('ready*')))}").touch()
        best = run_search(search, run, workers=2)
        print(best.number)
""")


def start(folder: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def numbers(folder: Path) -> list[int]:
    path = folder / "runs"
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.long
class TestSeveralProcesses:
    def test_they_share_the_trials_and_find_the_same(self, tmp_path) -> None:
        processes = [start(tmp_path, 0.1) for _ in range(2)]
        said = [process.communicate(timeout=60)[0].strip() for process in processes]
        assert said[0] == said[1] != ""
        # Each trial once, but for those at the end on which one waits for the other.
        assert sorted(set(numbers(tmp_path))) == list(range(10))
        assert len(numbers(tmp_path)) <= 10 + 2

    def test_a_killed_process_leaves_its_trials_to_the_next(self, tmp_path) -> None:
        killed = start(tmp_path, 60)
        deadline = time.monotonic() + 30
        while not numbers(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
        killed.kill()
        killed.wait()
        assert numbers(tmp_path) == [0]
        process = start(tmp_path, 0)
        assert process.communicate(timeout=60)[0].strip()
        assert process.returncode == 0
        assert sorted(numbers(tmp_path)) == [0, *range(10)]
        assert not list(tmp_path.glob("*.alive"))


def test_a_batch_is_as_large_as_there_are_workers(opened) -> None:
    sizes = []

    def run(batch: Sequence[Proposal]) -> Iterator[Outcome]:
        sizes.append(len(batch))
        return iter([Outcome(p, hump(p)) for p in batch])

    assert run_search(opened(trials=8), run, workers=3) is not None
    assert sizes == [3, 3, 2]


@pytest.mark.long
class TestInComparison:
    @pytest.fixture
    def settings(self, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        monkeypatch.chdir(tmp_path)
        for name, seed in (("train", 0), ("validation", 1), ("test", 2)):
            tiny_model.write_csv(tmp_path / f"{name}.csv", tiny_model.rows(24, seed=seed))
        values: dict[str, Any] = {
            "model": str(tiny_folder),
            "train_file": "train.csv",
            "validation_file": "validation.csv",
            "test_file": "test.csv",
            "methods": "none,noisytune",
            "max_length": 16,
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "learning_rates": [1e-4, 1e-2],
            "search": ["trials=4"],
            "seeds": 2,
            "output_dir": "compared",
        }
        return lambda **changes: CompareSettings(**values | changes)

    def test_the_test_split_is_not_looked_at_while_searching(self, settings) -> None:
        engine = Here()
        found = compare(settings(), engine=engine)
        (cell,) = found.cells
        assert len(cell.tuning) == 8
        assert len(engine.searched) == 8
        assert all(set(record.metrics["after"]) == {"validation"} for record in engine.searched)
        assert [plan.evaluate_test for plan in engine.plans] == sorted(plan.evaluate_test for plan in engine.plans)
        for candidate in ("none", "noisytune"):
            tried = [record for record in cell.tuning if record.candidate == candidate]
            best = max(tried, key=lambda r: (r.score("validation", "accuracy"), -(r.score("validation", "loss") or 0)))
            assert {(r.learning_rate, repr(r.method_settings)) for r in cell.of(candidate)} == {
                (best.learning_rate, repr(best.method_settings))
            }
            assert set(cell.scores(candidate, "test")) == {42, 43}
            assert None not in cell.scores(candidate, "test").values()
        assert {r.learning_rate for r in cell.tuning if r.candidate == "none"} >= {1e-4, 1e-2}
        models = list(Path("compared/runs").glob("*/model"))
        assert len(models) <= 2, "of what was tried only the best is kept"

    def test_the_same_command_again_makes_nothing_and_says_the_same(self, settings) -> None:
        begun, once = Begun(), Here()
        (first,) = compare(settings(), begun, engine=once).cells
        again = Here()
        (same,) = compare(settings(), begun, engine=again).cells
        assert (once.probes, again.probes, again.made) == (1, 0, 0)
        assert [(runs, missing) for runs, missing, _ in begun.told] == [(12, 12), (12, 0)], "8 trials and 4 runs"
        assert begun.told[0][2] > begun.told[1][2] == 0
        assert (same.runs, same.chosen_learning_rate) == (first.runs, first.chosen_learning_rate)
        assert [record.key for record in same.tuning] == [record.key for record in first.tuning]

    def test_a_range_for_a_method_that_is_not_compared_is_refused(self, settings) -> None:
        with pytest.raises(SettingsError, match=r"--search smart\.weight: no candidate has it"):
            compare(settings(search=["trials=2", "smart.weight=1:2"]), engine=Here())

    def test_trials_that_ended_before_are_not_estimated_again(self, settings) -> None:
        begun = Begun()
        compare(settings(seeds=1), engine=Here())
        compare(settings(seeds=1, search=["trials=6"]), begun, engine=Here())
        [(runs, missing, seconds)] = begun.told
        assert runs == 2 * 6 + 2
        assert 2 * 2 <= missing <= 2 * 2 + 2, "two more trials of each, and the runs of those that may win"
        assert seconds > 0

    def test_what_has_nothing_to_search_counts_no_trials(self, settings) -> None:
        begun = Begun()
        compare(settings(learning_rates=[1e-3], seeds=1), begun, engine=Here())
        assert begun.told[0][:2] == (4 + 2, 4 + 2), "plain training with one learning rate has nothing to try"


class Begun(SilentComparison):
    """Remembers what is told at the beginning."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int, float]] = []

    def begin(self, runs: int, missing: int, seconds: float | None) -> None:
        self.told.append((runs, missing, -1 if seconds is None else seconds))


class Here:
    """An engine that makes runs in this process, and remembers them."""

    def __init__(self) -> None:
        self.plans: list[RunPlan] = []
        self.searched: list[RunRecord] = []
        self.made = self.probes = 0

    def run(self, plans: Sequence[RunPlan], watch: RunListener) -> Iterator[RunRecord]:
        for plan in plans:
            new = kept_record(plan) is None
            record = execute(plan)
            self.probes += plan.key == "probe"
            if plan.key != "probe":
                self.made += new
                self.plans.append(plan)
                self.searched += [] if plan.evaluate_test else [record]
            yield record

    def close(self) -> None:
        pass
