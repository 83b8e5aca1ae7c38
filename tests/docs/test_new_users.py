"""What new users met on their first walks (docs/project/walks.md), so that it stays mended."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from transformers import Trainer

from steadytune import Stack, SteadyMixin, SteadyTrainer, neftune, smart
from steadytune.cli.verbs.train import LARGE, told_of_checkpoints
from steadytune.cli.views import console
from steadytune.comparison.statistics.verdict import too_few_seeds
from steadytune.errors import HostError, MethodError
from steadytune.training.folder import RunFolder


def test_a_method_needs_no_list() -> None:
    assert Stack(neftune()).methods == Stack([neftune()]).methods  # pyright: ignore[reportArgumentType]


def test_a_method_that_was_not_called_is_named() -> None:
    with pytest.raises(MethodError, match=r"^smart was not called: write smart\(\)"):
        Stack([smart])  # pyright: ignore[reportArgumentType]


def test_the_mixin_behind_a_trainer_is_refused_with_the_order_that_works() -> None:
    class Mine(Trainer):
        """A Trainer of the reader's."""

    with pytest.raises(HostError, match=r"class Wrong\(SteadyMixin, Mine\)"):

        class Wrong(Mine, SteadyMixin):
            """The wrong way round."""

    class Right(SteadyMixin, Mine):
        """As it should be."""

    class Further(Right):
        """Nor is a class of such a class refused."""

    assert issubclass(Further, SteadyMixin)
    assert issubclass(SteadyTrainer, SteadyMixin)


def test_a_comparison_that_can_show_nothing_says_so_before_it_starts() -> None:
    assert "8 are the least for 4 methods" in too_few_seeds(7, 4)
    assert [too_few_seeds(8, 4), too_few_seeds(6, 1), too_few_seeds(1, 0)] == ["", "", ""]


def test_a_training_in_a_log_says_once_how_long_it_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])

    def lines_of(total: int, seconds: float, done: int = 0, *, quiet: bool = False) -> list[str]:
        log = io.StringIO()
        reporter = console.ConsoleReporter(Console(file=log), quiet)
        reporter.start(total, done)
        for update in range(done + 1, total + 1):
            now[0] += seconds
            reporter.step(update, None)
            reporter.step(update, 0.5)
        reporter.stop()
        return log.getvalue().splitlines()

    assert lines_of(51, 10.0) == ["5 of 51 updates done; about 8 min left"]
    assert lines_of(51, 10.0, done=20) == ["25 of 51 updates done; about 4 min left"]
    assert lines_of(1000, 0.1) == ["100 of 1,000 updates done; about 90 s left"]
    assert lines_of(51, 10.0, quiet=True) == lines_of(51, 0.5) == lines_of(3, 10.0) == []


def test_large_checkpoints_of_a_finished_run_are_told(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert told_of_checkpoints(folder) == ""
    (folder.checkpoints / "checkpoint-1").mkdir(parents=True)
    with (folder.checkpoints / "checkpoint-1" / "optimizer.pt").open("wb") as file:
        file.truncate(LARGE)  # takes no room
    assert told_of_checkpoints(folder) == f"{folder.checkpoints} takes 50 MB and may be deleted: the run is finished."
