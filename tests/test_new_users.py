"""What new users met on their first walks (docs/walks.md), so that it stays mended."""

from __future__ import annotations

import pytest
from transformers import Trainer

from steadytune import Stack, SteadyMixin, SteadyTrainer, neftune, smart
from steadytune.core.errors import HostError, MethodError
from steadytune.experiments.verdict import too_few_seeds


def test_a_method_needs_no_list() -> None:
    assert Stack(neftune()).methods == Stack([neftune()]).methods  # pyright: ignore[reportArgumentType]


def test_a_method_that_was_not_called_is_named() -> None:
    with pytest.raises(MethodError, match=r"^smart is not a method: pass methods such as"):
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
