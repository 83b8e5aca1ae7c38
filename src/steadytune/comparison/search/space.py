"""What a search may change: the learning rate, and the hyper-parameters of the methods around their defaults."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any, Literal

from steadytune.core.authoring.hyperparameters import allowed_values, is_allowed
from steadytune.core.authoring.method import Method
from steadytune.core.stack.composition import total_cost
from steadytune.errors import MethodError, SettingsError, did_you_mean
from steadytune.methods.entry import Entry
from steadytune.methods.registry import all_methods

LEARNING_RATE = "learning_rate"

#: How far from its default a hyper-parameter is searched, as a factor.
REACH = 10.0


@dataclass(frozen=True)
class Dimension:
    """One value that a search chooses.

    Attributes:
        name: ``learning_rate``, or ``method.setting``.
        low: smallest value.
        high: largest value.
        scale: ``log`` is even over the orders of magnitude; ``from_one`` over those of the distance to 1, for decays
            such as 0.999.
        integer: whole numbers only.
        choices: the only values, instead of a range.
        default: the value without a search; ``None`` if there is none.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    scale: Literal["linear", "log", "from_one"] = "linear"
    integer: bool = False
    choices: tuple[Any, ...] = ()
    default: Any = None

    @property
    def label(self) -> str:
        """Name of what is drawn; the distance to 1 is another quantity than the value."""
        return f"1-{self.name}" if self.scale == "from_one" else self.name

    @property
    def bounds(self) -> tuple[float, float]:
        """The range of what is drawn."""
        return (1.0 - self.high, 1.0 - self.low) if self.scale == "from_one" else (self.low, self.high)

    def value(self, drawn: Any) -> Any:
        """The setting for what was drawn, with as many digits as a person would write.

        >>> Dimension("bregman.beta", 0.99, 0.9999, "from_one").value(0.00123456)
        0.998765
        """
        if self.choices or self.integer:
            return drawn
        if self.scale == "from_one":
            return _rounded(1.0 - float(f"{drawn:.4g}"), self.low, self.high, digits=12)
        return _rounded(drawn, self.low, self.high, digits=4)

    def drawn(self, value: Any) -> Any:
        """What has to be drawn for a value; one outside of the range is moved to its end."""
        if self.choices:
            return value if value in self.choices else self.choices[0]
        low, high = self.bounds
        return min(max(1.0 - value if self.scale == "from_one" else value, low), high)


def _rounded(value: float, low: float, high: float, *, digits: int) -> float:
    return min(max(float(f"{value:.{digits}g}"), low), high)


Space = tuple[Dimension, ...]


def search_space(
    methods: Sequence[str],
    fixed: Mapping[str, Mapping[str, Any]],
    learning_rates: Sequence[float],
    ranges: Mapping[str, Dimension] | None = None,
) -> Space:
    """What is searched for one candidate.

    The learning rate within the grid; and of each method the numbers whose default is positive: within a factor of ten
    of the default and within what the method allows, on a logarithmic scale. What makes a step dearer is left out, and
    what the user fixed stays fixed. Once a method is named in ``ranges``, only what is named is searched of it.

    Args:
        methods: the candidate's methods by name; none for plain training.
        fixed: settings of the candidate, by method.
        learning_rates: the grid.
        ranges: what the user wants searched, by ``method.setting``; see `parse_ranges`.

    Raises:
        SettingsError: a range names a setting that the method does not have, or values it does not allow.

    Example:
        >>> [d.name for d in search_space(["noisytune"], {}, [5e-5, 2e-4])]
        ['learning_rate', 'noisytune.intensity']
    """
    known = all_methods()
    found: list[Dimension] = []
    if min(learning_rates) < max(learning_rates):
        found.append(Dimension(LEARNING_RATE, min(learning_rates), max(learning_rates), "log"))
    for name in (n for n in methods if n != "none"):
        available = _settings(known[name])
        asked = {key.rpartition(".")[2]: d for key, d in (ranges or {}).items() if key.rpartition(".")[0] == name}
        for setting, dimension in asked.items():
            checked = _checked(name, setting, dimension, available)
            if not available[setting].among(name, setting, fixed):
                found.append(checked)
        if not asked:
            free = {s: v for s, v in available.items() if not v.costly and not v.among(name, s, fixed)}
            found += [d for s, v in free.items() if (d := _around_default(f"{name}.{s}", v)) is not None]
    return tuple(found)


@dataclass(frozen=True)
class _Setting:
    """A setting of an entry: where it starts and what it may be."""

    default: Any
    limits: Mapping[str, Any]
    costly: bool
    method: str
    field: str

    def among(self, entry: str, name: str, given: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether it is given, by the entry's name for it or by the method's own."""
        return name in given.get(entry, {}) or self.field in given.get(self.method, {})


def _settings(entry: Entry) -> dict[str, _Setting]:
    """The settings of an entry whose meaning is known: each is the field of a method that changes with it."""
    plain = _built(entry.build)
    found = {}
    for name in entry.settings():
        default = _default(entry, name)
        for other in _others(default):
            try:
                changed = _built(entry.build, **{name: other})
            except MethodError:
                continue
            different = _changed_fields(plain, changed)
            if len(different) == 1 and different[0][1].metadata:
                method, field = different[0]
                costly = total_cost(changed) != total_cost(plain)
                found[name] = _Setting(default, field.metadata, costly, method, field.name)
                break
    return found


def _built(build: Callable[..., Any], **settings: Any) -> list[Method]:
    built = build(**settings)
    return [built] if isinstance(built, Method) else list(built)


def _default(entry: Entry, setting: str) -> Any:
    parameter = inspect.signature(entry.build).parameters.get(setting)
    if parameter is not None and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
        return parameter.default
    return next((f.default for f in fields(entry.open_settings) if f.name == setting), MISSING)  # type: ignore[arg-type]


def _others(default: Any) -> tuple[Any, ...]:
    """Values near a default, of which a method allows at least one if it has anything to choose."""
    if isinstance(default, bool):
        return (not default,)
    if isinstance(default, int):
        return (default + 1, default - 1)
    if isinstance(default, float):
        return (default * 0.875, default * 1.125) if default else (0.125, 1e-3)
    if isinstance(default, str):
        return ("same", "fresh", "uniform", "gaussian", "normal")
    return ()


def _changed_fields(before: Sequence[Method], after: Sequence[Method]) -> list[tuple[str, Field[Any]]]:
    return [
        (one.name, field)
        for one, other in zip(before, after, strict=False)
        for field in fields(one)
        if getattr(one, field.name) != getattr(other, field.name)
    ]


def _around_default(name: str, setting: _Setting) -> Dimension | None:
    """The range around a default; ``None`` unless the default is a positive number."""
    default, limits = setting.default, setting.limits
    if limits["choices"] is not None or isinstance(default, bool) or not isinstance(default, int | float):
        return None
    if default <= 0:
        return None
    low = -math.inf if limits["low"] is None else limits["low"]
    high = math.inf if limits["high"] is None else limits["high"]
    if isinstance(default, int):
        first, last = int(max(low, 1, default // 2)), int(min(high, default * 4))
        return Dimension(name, first, last, integer=True, default=default) if first < last else None
    if high <= 1 and default > 0.9:
        near, far = round(1 - (1 - default) / REACH, 12), round(1 - (1 - default) * REACH, 12)
        return Dimension(name, max(low, far), min(high, near), "from_one", default=default)
    scale = "linear" if high <= 1 and default >= 0.5 else "log"
    first, last = float(f"{default / REACH:.6g}"), float(f"{default * REACH:.6g}")
    return Dimension(name, max(low, first), min(high, last), scale, default=default)


@dataclass(frozen=True)
class SearchSettings:
    """What ``--search`` asks for.

    Attributes:
        trials: how many settings are tried for each candidate, plain training included.
        ranges: what is searched instead of the ranges around the defaults, by ``method.setting``.
    """

    trials: int
    ranges: Mapping[str, Dimension] = field(default_factory=dict)


def parse_search(entries: Sequence[str]) -> SearchSettings:
    """Read ``["trials=30", "smart.weight=0.5:8"]``.

    Raises:
        SettingsError: the number of trials is missing, or an entry cannot be read.

    >>> parse_search(["trials=30"])
    SearchSettings(trials=30, ranges={})
    """
    given = [entry.partition("=")[2].strip() for entry in entries if entry.partition("=")[0].strip() == "trials"]
    if len(given) != 1 or not given[0].isascii() or not given[0].isdigit() or int(given[0]) < 1:
        raise SettingsError(f"--search: say how many trials, e.g. --search trials=30; got {' '.join(entries)!r}.")
    rest = [entry for entry in entries if entry.partition("=")[0].strip() != "trials"]
    return SearchSettings(int(given[0]), parse_ranges(rest))


def parse_ranges(entries: Sequence[str]) -> dict[str, Dimension]:
    """Read ``["smart.weight=0.5:8", "smart.masks=fresh|same"]``.

    Raises:
        SettingsError: an entry is neither a range nor a choice.

    >>> parse_ranges(["smart.weight=0.5:8"])["smart.weight"]
    Dimension(name='smart.weight', low=0.5, high=8.0, scale='log', integer=False, choices=(), default=None)
    >>> parse_ranges(["smart.masks=fresh|same"])["smart.masks"].choices
    ('fresh', 'same')
    """
    from steadytune.settings.resolve import parse_assignments

    found = {}
    for entry in entries:
        key, _, text = (part.strip() for part in entry.partition("="))
        low, colon, high = text.partition(":")
        if not key.rpartition(".")[0] or not (colon or "|" in text):
            raise SettingsError(
                f"--search {entry}: write trials=30, a range like smart.weight=0.5:8, or choices like "
                "smart.masks=fresh|same."
            )
        if not colon:
            choices = [parse_assignments([f"x={part}"])["x"] for part in text.split("|") if part.strip()]
            found[key] = Dimension(key, choices=tuple(choices))
            continue
        try:
            first, last = float(low), float(high)
        except ValueError:
            raise SettingsError(f"--search {entry}: {low!r} and {high!r} must be numbers.") from None
        if not (math.isfinite(first) and math.isfinite(last) and first < last):
            raise SettingsError(f"--search {entry}: the first number must be smaller than the second.")
        scale = "log" if first > 0 else "linear"
        found[key] = Dimension(key, first, last, scale)
    return found


def _checked(method: str, name: str, asked: Dimension, available: Mapping[str, _Setting]) -> Dimension:
    """A range of the user with what is known of its setting."""
    if name not in available:
        known = ", ".join(available) or "none"
        raise SettingsError(
            f"--search {asked.name}: {method} has no setting {name!r} to search."
            f"{did_you_mean(name, available)} Its settings: {known}."
        )
    setting = available[name]
    if isinstance(setting.default, int) and not isinstance(setting.default, bool) and not asked.choices:
        low, high = round(asked.low), round(asked.high)
        asked = replace(asked, low=low, high=high, scale="linear", integer=True)
    for value in asked.choices or (asked.low, asked.high):
        if not is_allowed(value, setting.limits):
            raise SettingsError(f"--search {asked.name}: {value!r} must be {allowed_values(setting.limits)}.")
    return replace(asked, default=setting.default)
