"""What a comparison consists of: its settings, the candidates, and one plan for every run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from steadytune.comparison.kinds import CandidateFacts
from steadytune.errors import SettingsError, did_you_mean
from steadytune.settings.compare import CompareSettings
from steadytune.settings.expressions import BASELINE, candidate_label, read_candidate
from steadytune.settings.train import TrainSettings


@dataclass(frozen=True)
class Candidate:
    """One of the things compared.

    Attributes:
        label: its name in tables, e.g. ``"smart(weight=3)"``.
        names: methods by name; none for plain training.
        set: settings of methods, as `TrainSettings.set`.
        relative_cost: arithmetic of a step by the methods' own account; plain is 1.
        more_updates: factor of the number of updates, for plain training with equal compute.
        varied: settings that the comparison varies, with the values of this candidate.
        varied_from: label of the candidate that these vary.
    """

    label: str
    names: tuple[str, ...] = ()
    set: Mapping[str, Any] = field(default_factory=dict)
    relative_cost: float = 1.0
    more_updates: float = 1.0
    varied: Mapping[str, Any] = field(default_factory=dict)
    varied_from: str | None = None

    @property
    def facts(self) -> CandidateFacts:
        """What it is, for the records of its runs."""
        kind = "method" if self.names else "plain" if self.more_updates == 1.0 else "longer plain"
        return CandidateFacts(kind, self.more_updates, self.varied, self.varied_from)

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


def candidates(settings: CompareSettings) -> list[Candidate]:
    """What is compared, plain training first; each set of methods and settings once.

    Raises:
        SteadytuneError: a method or a setting is unknown, methods conflict, or a setting belongs to no candidate.
    """
    from steadytune.methods.registry import build_methods

    asked = [_read(entry) for entry in settings.methods]
    found: dict[str, Candidate] = {}
    used: set[str] = set()

    def add(
        names: Sequence[str],
        values: dict[str, Any],
        label: str,
        key: str | None = None,
        varied_from: str | None = None,
    ) -> None:
        nested = TrainSettings(methods=list(names) or [BASELINE], set=values).method_settings()
        built = build_methods(names, nested)
        identity = repr(identify(built))
        cost = _relative_cost(built, settings.memory)
        candidate = found.setdefault(identity, Candidate(label, tuple(names), values, cost))
        if key is not None:
            found[identity] = replace(
                candidate,
                varied={**candidate.varied, key: values[key]},
                varied_from=candidate.varied_from or varied_from,
            )

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
                add(names, {**base, key: value}, candidate_label(names, {**own, key: value}), key, label)
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
