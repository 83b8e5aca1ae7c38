"""The settings of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from steadytune.errors import SettingsError
from steadytune.settings.expressions import BASELINE, scalar
from steadytune.settings.published import Published
from steadytune.settings.train import METHODS, TrainSettings, as_names, setting

COMPARISON, RUNNING = "Comparison", "How it is run"


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


class CompareSettings(TrainSettings):
    """Settings of a comparison: those of a run, and what differs between its runs.

    ``seed``, ``learning_rate``, ``task`` and ``train_size`` of a run stand for the first seed and for lists of one.

    Example:
        >>> settings = CompareSettings(task="movie-reviews", train_size=500, methods="smart,noisytune+smart", seeds=3)
        >>> settings.tasks, settings.train_sizes, settings.seeds
        (['movie-reviews'], ['500'], 3)
    """

    #: A run's own names, each for one value of the setting that is called otherwise here.
    stands_for: ClassVar[Mapping[str, str]] = {
        "seed": "first_seed",
        "learning_rate": "learning_rates",
        "task": "tasks",
        "train_size": "train_sizes",
    }

    #: What a configuration file may say and the command line may not.
    left_out: ClassVar[frozenset[str]] = frozenset({"published"})

    methods: Annotated[list[str], BeforeValidator(as_names)] = setting(
        [BASELINE, "noisytune", "smart", "noisytune+smart"],
        "What is compared, separated by commas; + joins, brackets hold settings: none,noisytune+smart(weight=3).",
        METHODS,
    )
    seeds: int = setting(
        8,
        "Runs of each candidate; 1 method needs 6 to show p < 0.05, 2 or 3 need 7, up to 6 need 8.",
        COMPARISON,
        ge=1,
        le=10_000,
    )
    first_seed: int = setting(42, "Seed of the first runs; the others follow it.", COMPARISON, ge=0, le=2**31)
    learning_rates: Annotated[list[float], BeforeValidator(_as_list)] = setting(
        [5e-5, 1e-4, 2e-4],
        "Each candidate takes the one that is best on validation data.",
        COMPARISON,
        min_length=1,
    )
    tasks: Annotated[list[str], BeforeValidator(_as_list)] = setting([], "Several named tasks.", COMPARISON)
    train_sizes: Annotated[list[str], BeforeValidator(_as_texts)] = setting(
        [], "Several training sizes: 100,500,10%.", COMPARISON
    )
    vary: dict[str, Annotated[list[Any], BeforeValidator(_as_values)]] = setting(
        {}, "Further candidates with other settings: smart.weight=1,3,5; may be given again.", COMPARISON
    )
    equal_compute: bool = setting(
        False, "Also train plainly for as long as each costlier candidate takes.", COMPARISON
    )
    evaluate_each_epoch: bool = setting(
        False, "Also look at the validation split after each epoch, for the report's curve.", COMPARISON
    )
    search: Annotated[list[str], BeforeValidator(_as_list)] = setting(
        [],
        "Search each candidate's settings on validation data: trials=30, and ranges such as smart.weight=0.5:8.",
        COMPARISON,
    )
    evaluate: Annotated[list[str], BeforeValidator(_as_list)] = setting(
        [],
        "Also measure of each compared model: movement,annotators,smoothness,... (parts of `steadytune evaluate`).",
        COMPARISON,
    )
    published: Published | None = Field(None, description="A paper's table, shown beside the results; in a file only.")
    workers: int = setting(1, "Runs at the same time on this machine.", RUNNING, ge=1, le=1024)
    engine: Literal["local", "ray"] = setting("local", "'local' or 'ray'.", RUNNING)
    ray_address: str | None = setting(None, "A Ray cluster (else one is started here).", RUNNING)
    keep_models: Literal["best", "all", "none"] = setting(
        "best", "Which fine-tuned models to keep: 'best' of each task and size, 'all' or 'none'.", RUNNING
    )
    retry_failed: bool = setting(False, "Run again what failed before.", RUNNING)

    @model_validator(mode="before")
    @classmethod
    def _settings_in_brackets(cls, values: Any) -> Any:
        """They belong to one candidate and stay there."""
        return values

    @model_validator(mode="before")
    @classmethod
    def _lists_of_one(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        for one, several in cls.stands_for.items():
            value = values.pop(one, None)
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
        from steadytune.settings.evaluate import EvaluateOptions

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
        name = "".join(c if c.isalnum() or c in "+._-" else "_" for c in f"{data}-{Path(self.model).name}")
        return Path(self.output_dir) if self.output_dir is not None else Path("runs") / f"compare-{name}"

    @property
    def all_seeds(self) -> range:
        """The seeds of the compared runs."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def resolved(self) -> dict[str, Any]:
        """All that was decided, as plain values; a run's own names for the lists are left out."""
        return self.model_dump(mode="json", exclude=_DIFFERS - {"methods", "set", "output_dir"})

    def run_settings(self, **values: Any) -> TrainSettings:
        """The settings of one run of the comparison."""
        names = set(TrainSettings.model_fields) - _DIFFERS
        common: dict[str, Any] = {name: getattr(self, name) for name in names}
        # Nothing is chosen among one learning rate, so no rows are needed for it.
        chosen = len(self.learning_rates) > 1 or bool(self.search)
        common["hold_out"] = self.hold_out or chosen
        return TrainSettings(**common | values)


#: What a run of the comparison has of its own.
_DIFFERS = {"methods", "set", "task", "train_size", "learning_rate", "seed", "output_dir"}
