"""The recipe: what it chooses, that it never overrules the user, and that runs keep the numbers they began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import tiny_model

from steadytune.comparison.cells import plan_cells, with_rates
from steadytune.errors import SettingsError
from steadytune.settings.compare import CompareSettings
from steadytune.settings.groups import left_to_the_recipe
from steadytune.settings.multi_task import MultiTaskSettings
from steadytune.settings.train import TrainSettings
from steadytune.training.chosen import follow_recipe
from steadytune.training.folder import RunFolder
from steadytune.training.recipe import ModelFacts, RowFacts, learning_rates, recipe
from steadytune.training.rows import load_data

tiny_folder = tiny_model.tiny_folder
OF_THE_RECIPE = left_to_the_recipe(TrainSettings())
SENTENCES = ModelFacts(22_700_000, sentence_encoder=True)


@pytest.fixture
def given(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Rows and a model; all else is left open."""
    monkeypatch.chdir(tmp_path)
    tiny_model.write_csv(tmp_path / "train.csv", tiny_model.rows(40, seed=0))
    return {"train_file": "train.csv", "validation_file": "train.csv", "model": str(tiny_folder), "output_dir": "run"}


@pytest.mark.parametrize("rows", [1, 7, 32, 199, 200, 1_000, 9_999, 10_000, 400_000])
@pytest.mark.parametrize("classes", [1, 2, 77])
def test_few_rows_get_enough_updates_and_many_rows_three_epochs(rows: int, classes: int) -> None:
    found = recipe(RowFacts(rows, classes), SENTENCES)
    assert found.updates == -(-rows // found.per_device_train_batch_size) * found.num_train_epochs
    assert found.num_train_epochs >= 3
    assert found.updates >= 200 or found.num_train_epochs == 100
    assert found.learning_rate in found.learning_rates == tuple(sorted(found.learning_rates))
    assert "updates" in found.reason


def test_the_rate_falls_with_the_size_of_the_model() -> None:
    sizes = (11e6, 22.7e6, 110e6, 335e6, 7e9)
    for kind in (False, True):
        rates = [learning_rates(ModelFacts(int(size), sentence_encoder=kind))[0][1] for size in sizes]
        assert rates == sorted(rates, reverse=True)
        assert rates[0] >= 2e-4
        assert rates[3] in (1e-5, 2e-5, 3e-5)
    assert learning_rates(ModelFacts(None))[0][1] == 3e-5


@pytest.mark.parametrize(
    ("tokens", "limit", "length"), [(9, 512, 128), (200, 512, 200), (201, 512, 208), (900, 256, 256)]
)
def test_the_length_holds_nearly_all_rows_and_no_more_than_the_model_reads(
    tokens: int, limit: int, length: int
) -> None:
    assert recipe(RowFacts(64, 2, tokens, limit), SENTENCES).max_length == length


@pytest.mark.parametrize("name", sorted(OF_THE_RECIPE))
def test_what_the_user_says_is_never_overruled(given: dict[str, Any], name: str) -> None:
    own = {"learning_rate": 7e-4, "num_train_epochs": 2.0, "per_device_train_batch_size": 5, "max_length": 17}[name]
    settings = TrainSettings(**given, **{name: own})
    chosen, said = follow_recipe(settings, [load_data(settings)])
    assert getattr(chosen, name) == own
    assert name not in said
    assert not left_to_the_recipe(chosen)
    for other in OF_THE_RECIPE - {name}:
        assert f"{other} {getattr(chosen, other):g}" in said
    if name != "num_train_epochs":
        per_epoch = -(-40 // chosen.per_device_train_batch_size)
        assert chosen.num_train_epochs == -(-200 // per_epoch), "epochs follow the batch size that was given"


def test_the_recipe_of_transformers_and_updates_that_are_given(given: dict[str, Any]) -> None:
    plain = TrainSettings(**given, recipe="transformers")
    assert follow_recipe(plain, [load_data(plain)]) == (plain, "")
    assert (plain.learning_rate, plain.num_train_epochs, plain.per_device_train_batch_size) == (5e-5, 3.0, 16)
    settings = TrainSettings(**given, max_steps=7)
    chosen, said = follow_recipe(settings, [load_data(settings)])
    assert chosen.max_steps == 7
    assert "num_train_epochs" not in said
    assert not left_to_the_recipe(chosen)
    settings = TrainSettings(**given, gradient_accumulation_steps=4)
    assert follow_recipe(settings, [load_data(settings)])[0].num_train_epochs == 100, "two updates an epoch"


def test_a_run_from_before_the_recipe_keeps_its_numbers(given: dict[str, Any]) -> None:
    settings = TrainSettings(**given)
    folder = RunFolder(settings.folder)
    before = TrainSettings(**given, recipe="transformers")
    folder.claim(before)
    written = yaml.safe_load(folder.config.read_text())
    folder.config.write_text(yaml.safe_dump({k: v for k, v in written.items() if k != "recipe"}))
    folder.check(settings)
    continued = folder.as_begun(settings)
    assert continued.recipe == "transformers"
    assert follow_recipe(continued, [load_data(continued)]) == (continued, "")
    with pytest.raises(SettingsError, match="holds another run"):
        folder.check(follow_recipe(TrainSettings(**given, recipe="steadytune"), [load_data(settings)])[0])


def test_a_run_is_continued_by_the_same_command_and_by_its_configuration(given: dict[str, Any]) -> None:
    settings = TrainSettings(**given)
    chosen, _ = follow_recipe(settings, [load_data(settings)])
    folder = RunFolder(settings.folder)
    folder.claim(chosen)
    folder.check(settings)
    folder.check(chosen)
    written = yaml.safe_load(folder.config.read_text())
    assert (written["recipe"], written["num_train_epochs"]) == ("steadytune", 40.0)
    folder.check(TrainSettings(**written))
    with pytest.raises(SettingsError, match="learning_rate"):
        folder.check(TrainSettings(**given, learning_rate=1e-3))


def test_each_size_of_a_comparison_has_its_own_epochs_and_all_share_the_rates(given: dict[str, Any]) -> None:
    settings = with_rates(CompareSettings(**given, train_sizes=["8", "36"], methods=["none"]))
    assert settings.learning_rates == [1e-4, 2e-4, 5e-4]
    cells = plan_cells(settings)
    assert [cell.settings.num_train_epochs for cell in cells] == [100.0, 40.0]
    assert "num_train_epochs" not in settings.resolved(), "given again, each size would get the epochs of one"
    one = with_rates(CompareSettings(**given, recipe="transformers"))
    assert one.learning_rates == [5e-5, 1e-4, 2e-4]


def test_a_second_phase_leaves_its_numbers_to_its_own_rows() -> None:
    settings = MultiTaskSettings(tasks="rte,mrpc", learning_rate=1e-4)
    second = settings.second_phase("rte", Path("model"), Path("run"))
    assert left_to_the_recipe(second) == OF_THE_RECIPE - {"learning_rate"}
