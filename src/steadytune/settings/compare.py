"""The settings of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, field_validator, model_validator

from steadytune.errors import SettingsError
from steadytune.settings.evaluate import EvaluateOptions
from steadytune.settings.expressions import BASELINE, scalar
from steadytune.settings.fields import METHODS, Facts, all_facts, setting
from steadytune.settings.groups import (
    DataFolderSettings,
    FileSettings,
    GroupingSettings,
    HoldOutSettings,
    LengthSettings,
    LimitSettings,
    MethodSettings,
    ModelSettings,
    OutputSettings,
    PoolingSettings,
    RecipeSettings,
    SmoothingSettings,
    TrainingSettings,
    as_names,
    left_to_the_recipe,
)
from steadytune.settings.published import Published
from steadytune.settings.train import TrainSettings
from steadytune.support.text import safe_name

COMPARISON, RUNNING = "Comparison", "How it is run"

#: Settings that say which runs there are, not what a run is.
_EXTENT = Facts(extent=True)
#: Settings that say where and how runs are made and kept.
_CARRIED_OUT = Facts(determines=False)


def _as_list(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int | float) else value


def _as_values(value: Any) -> Any:
    if isinstance(value, str):
        return [scalar(part) for part in _as_list(value)]
    return value if isinstance(value, list | tuple) else [value]


def _as_texts(value: Any) -> Any:
    values = _as_list(value)
    return [str(v) if isinstance(v, int | float) else v for v in values] if isinstance(values, list) else values


class CompareSettings(
    OutputSettings, SmoothingSettings, RecipeSettings, TrainingSettings, MethodSettings, GroupingSettings,
    LengthSettings, LimitSettings, HoldOutSettings, FileSettings, DataFolderSettings, ModelSettings, PoolingSettings,
):  # fmt: skip
    """Settings of a comparison: what its runs share, and what differs between them.

    ``seed``, ``learning_rate``, ``task`` and ``train_size`` of a run can be given for the first seed and for lists
    of one.

    Example:
        >>> settings = CompareSettings(task="movie-reviews", train_size=500, methods="smart,noisytune+smart", seeds=3)
        >>> settings.tasks, settings.train_sizes, settings.methods
        (['movie-reviews'], ['500'], ['smart', 'noisytune+smart'])
    """

    methods: Annotated[list[str], BeforeValidator(as_names)] = setting(
        [BASELINE, "noisytune", "smart", "noisytune+smart"],
        "What is compared, separated by commas; + joins, brackets hold settings: none,noisytune+smart(weight=3).",
        METHODS,
        _EXTENT,
        first=4,
        metavar="NAME,NAME",
        completes="methods",
        elsewhere=("method",),
    )
    seeds: int = setting(
        8,
        "Runs of each candidate; 1 method needs 6 to show p < 0.05, 2 or 3 need 7, up to 6 need 8.",
        COMPARISON,
        _EXTENT,
        ge=1,
        le=10_000,
        first=6,
        elsewhere=("num_seeds", "n_seeds", "runs", "repeats"),
    )
    first_seed: int = setting(
        42,
        "Seed of the first runs; the others follow it.",
        COMPARISON,
        _EXTENT,
        ge=0,
        le=2**31,
        one="seed",
        elsewhere=("random_seed", "random_state"),
    )
    learning_rates: Annotated[list[float], BeforeValidator(_as_list)] = setting(
        [5e-5, 1e-4, 2e-4],
        "Each candidate takes the one that is best on validation data (else the recipe's three).",
        COMPARISON,
        _EXTENT,
        min_length=1,
        first=7,
        metavar="X,X",
        one="learning_rate",
        elsewhere=("lr", "lrs", "peak_lr", "max_lr"),
    )
    tasks: Annotated[list[str], BeforeValidator(_as_list)] = setting(
        [],
        "Named tasks, separated by commas; see `steadytune tasks`.",
        COMPARISON,
        _EXTENT,
        first=2,
        metavar="NAME,NAME",
        completes="tasks",
        one="task",
        elsewhere=("task_name", "dataset_name", "dataset", "datasets"),
    )
    train_sizes: Annotated[list[str], BeforeValidator(_as_texts)] = setting(
        [],
        "Numbers or shares of training rows to use: 100,500,10%.",
        COMPARISON,
        _EXTENT,
        first=9,
        metavar="N|%,N|%",
        one="train_size",
        elsewhere=("max_train_samples", "num_train_samples", "train_samples", "limit"),
    )
    vary: dict[str, Annotated[list[Any], BeforeValidator(_as_values)]] = setting(
        {},
        "Further candidates with other settings: smart.weight=1,3,5; repeatable.",
        COMPARISON,
        _EXTENT,
        metavar="METHOD.SETTING=VALUES",
        completes="assignments",
        repeated=True,
    )
    equal_compute: bool = setting(
        False, "Also train plainly for as long as each costlier candidate takes.", COMPARISON, _EXTENT
    )
    evaluate_each_epoch: bool = setting(
        False, "Also evaluate on the validation split after each epoch, for the report's curve.", COMPARISON
    )
    search: Annotated[list[str], BeforeValidator(_as_list)] = setting(
        [],
        "Search each candidate's settings on validation data: trials=30, and ranges such as smart.weight=0.5:8.",
        COMPARISON,
        metavar="trials=N",
        repeated=True,
    )
    evaluate: Annotated[list[str], BeforeValidator(_as_list)] = setting(
        [],
        "Also measure each compared model: movement,annotators,smoothness,... (parts of `steadytune evaluate`).",
        COMPARISON,
        _CARRIED_OUT,
        metavar="PART,PART",
        completes="parts",
    )
    published: Published | None = setting(
        None,
        "A paper's table, shown beside the results.",
        COMPARISON,
        _CARRIED_OUT,
        in_file_only=True,
    )
    workers: int = setting(
        1, "Runs at the same time on this machine.", RUNNING, _CARRIED_OUT, ge=1, le=1024, elsewhere=("n_jobs", "jobs")
    )
    engine: Literal["local", "ray"] = setting(
        "local", "What makes the runs: processes here, or a Ray cluster.", RUNNING, _CARRIED_OUT
    )
    ray_address: str | None = setting(
        None, "Address of a Ray cluster (default: one is started here).", RUNNING, _CARRIED_OUT, address=True
    )
    keep_models: Literal["best", "all", "none"] = setting(
        "best",
        "Fine-tuned models to keep: 'best' of each task and size, 'all' or 'none'.",
        RUNNING,
        _CARRIED_OUT,
    )
    retry_failed: bool = setting(False, "Repeat the runs that failed before.", RUNNING, _CARRIED_OUT)
    full_environment: bool = setting(False, "Name hosts and whole paths in the report.", RUNNING, _CARRIED_OUT)

    @model_validator(mode="before")
    @classmethod
    def _lists_of_one(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        for several, known in all_facts(cls).items():
            one = known.one
            value = values.pop(one, None) if one else None
            if value is not None and values.get(several):
                raise SettingsError(f"--{one.replace('_', '-')} and --{several.replace('_', '-')}: give one of them.")
            if value is not None:
                values[several] = value
        trials = values.pop("search_trials", None)
        if trials is not None:
            values["search"] = [*(values.get("search") or []), f"trials={trials}"]
        return values

    @field_validator("learning_rates")
    @classmethod
    def _rates_in_order(cls, rates: list[float]) -> list[float]:
        if any(not 0 < rate <= 10 for rate in rates):
            raise ValueError("must be above 0 and at most 10")
        return sorted(set(rates))

    @field_validator("evaluate")
    @classmethod
    def _known_parts(cls, parts: list[str]) -> list[str]:
        try:
            return list(EvaluateOptions(only=parts).only)
        except SettingsError as error:
            raise SettingsError(str(error).replace("--only", "--evaluate")) from None

    @field_validator("methods", "tasks", "train_sizes")
    @classmethod
    def _once_each(cls, values: list[str]) -> list[str]:
        return list(dict.fromkeys(values))

    @property
    def folder(self) -> Path:
        """Where the comparison is kept."""
        data = "+".join(self.tasks) or Path(self.train_file or "data").stem
        name = safe_name(f"{data}-{Path(self.model).name}")
        return Path(self.output_dir) if self.output_dir is not None else Path("runs") / f"compare-{name}"

    @property
    def all_seeds(self) -> range:
        """The seeds of the compared runs."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def resolved(self) -> dict[str, Any]:
        """All that was decided, as plain values; what the recipe chooses by the rows of each size, the runs say."""
        return self.model_dump(mode="json", exclude=set(left_to_the_recipe(self)))

    def run_settings(self, **values: Any) -> TrainSettings:
        """The settings of one run of the comparison.

        Args:
            values: what differs between the runs: the methods and their settings, task, size, rate and seed.
        """
        shared = CompareSettings.model_fields.keys() & TrainSettings.model_fields.keys() - _OWN_IN_EACH_RUN
        common: dict[str, Any] = {name: getattr(self, name) for name in shared}
        # Nothing is chosen among one learning rate, so no rows are needed for it.
        chosen = len(self.learning_rates) > 1 or bool(self.search)
        common["hold_out"] = self.hold_out or chosen
        return TrainSettings(**common | values)


#: What a comparison and its runs have under the same name with another meaning.
_OWN_IN_EACH_RUN = {"methods", "set", "output_dir"}
