"""What a comparison consists of: its settings, the candidates, and one plan for every run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from steadytune.errors import SettingsError, did_you_mean
from steadytune.experiments.candidate_names import candidate_label, read_candidate
from steadytune.experiments.published import Published
from steadytune.experiments.records import BASELINE
from steadytune.experiments.scalars import scalar
from steadytune.experiments.settings import METHODS, TrainSettings, as_names, setting

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
        >>> settings.tasks, settings.train_sizes, [c.label for c in candidates(settings)]
        (['movie-reviews'], ['500'], ['none', 'smart', 'noisytune+smart'])
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
        from steadytune.experiments.evaluate import EvaluateOptions

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


@dataclass(frozen=True)
class Candidate:
    """One of the things compared.

    Attributes:
        label: its name in tables, e.g. ``"smart(weight=3)"``.
        names: methods by name; none for plain training.
        set: settings of methods, as `TrainSettings.set`.
        relative_cost: arithmetic of a step by the methods' own account; plain is 1.
        more_updates: factor of the number of updates, for plain training with equal compute.
    """

    label: str
    names: tuple[str, ...] = ()
    set: Mapping[str, Any] = field(default_factory=dict)
    relative_cost: float = 1.0
    more_updates: float = 1.0

    def with_settings(self, more: Mapping[str, Any], memory: str = "full") -> Candidate:
        """The same with other settings, as a search found them, for runs of this ``memory`` setting."""
        from steadytune.methods.registry import build_methods

        values = {**self.set, **more}
        nested = TrainSettings(methods=list(self.names) or [BASELINE], set=values).method_settings()
        return replace(self, set=values, relative_cost=_relative_cost(build_methods(self.names, nested), memory))

    def changes(self, settings: CompareSettings) -> dict[str, Any]:
        """What this candidate changes in a run's settings."""
        values: dict[str, Any] = {"methods": list(self.names) or [BASELINE], "set": dict(self.set)}
        if self.more_updates != 1.0:
            if settings.max_steps > 0:
                values["max_steps"] = max(1, round(settings.max_steps * self.more_updates))
            values["num_train_epochs"] = settings.num_train_epochs * self.more_updates
        return values


@dataclass(frozen=True)
class Place:
    """One task at one training size; ``task`` is ``None`` for the user's own files."""

    task: str | None
    train_size: str | None


@dataclass(frozen=True)
class Plan:
    """One run to make: all that `engine.execute` needs, in values that another process or machine can read.

    Attributes:
        key: hash of what determines the run; name of its folder.
        candidate: label of the candidate.
        settings: of the run; ``output_dir`` is its folder.
        metric: the task's main metric.
        evaluate_test: ``False`` while learning rates are chosen: the test splits are not looked at.
        relative_cost: declared cost of a step, plain is 1.
        retry_failed: make the run again if it failed before.
        fingerprint: digests of code, data and model, for the record.
        each_epoch: also look at the validation split after each epoch.
        evaluate: parts of `steadytune evaluate` to measure once it is trained.
    """

    key: str
    candidate: str
    settings: TrainSettings
    metric: str
    evaluate_test: bool = True
    relative_cost: float = 1.0
    retry_failed: bool = False
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    each_epoch: bool = False
    evaluate: Sequence[str] = ()

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.settings.folder

    @property
    def lock_file(self) -> Path:
        """Held by the process that makes the run."""
        return self.folder.parent.parent / "locks" / f"{self.key}.lock"

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**self.__dict__, "settings": self.settings.model_dump(mode="json")}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Plan:
        """Read what `as_json` made."""
        parts = tuple(content.get("evaluate", ()))
        return cls(**{**content, "settings": TrainSettings(**content["settings"]), "evaluate": parts})


def places(settings: CompareSettings) -> list[Place]:
    """The tasks and training sizes of a comparison."""
    return [Place(t, s) for t in settings.tasks or [None] for s in settings.train_sizes or [None]]


def candidates(settings: CompareSettings) -> list[Candidate]:
    """What is compared, plain training first; each set of methods and settings once.

    Raises:
        SteadytuneError: a method or a setting is unknown, methods conflict, or a setting belongs to no candidate.
    """
    from steadytune.methods.registry import build_methods

    asked = [_read(entry) for entry in settings.methods]
    found: dict[str, Candidate] = {}
    used: set[str] = set()

    def add(names: Sequence[str], values: dict[str, Any], label: str) -> None:
        nested = TrainSettings(methods=list(names) or [BASELINE], set=values).method_settings()
        built = build_methods(names, nested)
        identity = repr(identify(built))
        cost = _relative_cost(built, settings.memory)
        found.setdefault(identity, Candidate(label, tuple(names), values, cost))

    for names, own, label in [((), {}, BASELINE), *asked]:
        known = set(names) | {m.name for m in build_methods(names)}
        common = {key: value for key, value in settings.set.items() if _method_of(key) in known}
        used |= common.keys()
        base = {**common, **own}
        add(names, base, label)
        for key, values in settings.vary.items():
            if _method_of(key) not in known:
                continue
            used.add(key)
            for value in values:
                add(names, {**base, key: value}, candidate_label(names, {**own, key: value}))
    for key in [*settings.set, *settings.vary]:
        if key not in used:
            in_use = sorted({name for names, _, _ in asked for name in names})
            hint = did_you_mean(_method_of(key), in_use)
            raise SettingsError(f"{key}: no candidate has such a method ({', '.join(in_use) or 'none'}).{hint}")
    compared = list(found.values())
    return compared + (list(_with_equal_compute(compared)) if settings.equal_compute else [])


def identify(methods: Sequence[Any]) -> list[dict[str, Any]]:
    """Methods with all their settings, the same for 1 and 1.0.

    >>> from steadytune.methods.registry import build_methods
    >>> identify(build_methods(["smart"])) == identify(build_methods(["smart"], {"smart": {"weight": 1}}))
    True
    """
    return [{"name": m.name, **{k: _as_float(v) for k, v in m.settings().items()}} for m in methods]


def _as_float(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _read(entry: str) -> tuple[tuple[str, ...], dict[str, Any], str]:
    names, own = read_candidate(entry)
    return ((), {}, BASELINE) if names == (BASELINE,) else (names, own, candidate_label(names, own))


def _method_of(key: str) -> str:
    return key.rpartition(".")[0]


def _relative_cost(methods: Sequence[Any], memory: str) -> float:
    from steadytune.core.authoring.cost import PLAIN_STEP
    from steadytune.core.stack.composition import total_cost

    return total_cost(methods, low_memory=memory == "low").units / PLAIN_STEP.units


def _with_equal_compute(compared: Sequence[Candidate]) -> Iterator[Candidate]:
    for cost in sorted({round(c.relative_cost, 2) for c in compared}):
        if cost > 1.005:
            yield Candidate(f"{BASELINE}@{cost:.2f}x", more_updates=cost)
