"""A setting and what is true of it: each fact is written once, on the field that it is true of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from steadytune.errors import SettingsError, did_you_mean
from steadytune.support.secrets import refuse_secret_url
from steadytune.support.text import excerpt

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

#: The panels of a help page.
MODEL, DATA, METHODS, TRAINING = "Model", "Data", "Methods", "Training (names of TrainingArguments)"
OUTPUT = "Output"

#: Rows, updates and the like: what torch counts in 64 bits with room to multiply.
MOST = 10**9

_KEY = "steadytune"


@dataclass(frozen=True)
class Facts:
    """What is true of a setting.

    Attributes:
        panel: the group of the help page that it is shown in.
        determines: whether another value makes another run (or, of a comparison, other runs).
        extent: whether it says which runs a comparison has, not what a run is.
        trainer: whether it goes to the Trainer as the argument of the same name.
        first: its place in the first group of the help page, with what matters most; 0 if it is not there.
        metavar: what stands for its value in the help; made of its type if empty.
        one: the name under which a single value can be given where the setting is a list.
        elsewhere: what other tools call it, so that their name is answered with ours.
        completes: which names complete its value in a shell; see `cli.suggestions`.
        positional: whether it can be given by its place on the command line.
        required: whether it must be given.
        repeated: whether its option can be given again.
        short: its one-letter option, such as ``-q``.
        option: its option where it is not the name with hyphens.
        path: whether it names a file or a folder, whose relative path counts from the folder of a configuration.
        address: whether it names what may lie under a URL, as a path may; such a URL must hold no secret.
        by_recipe: whether the recipe chooses it where it is not given.
        in_file_only: whether a configuration file may say it and the command line may not.
    """

    panel: str = OUTPUT
    determines: bool = True
    extent: bool = False
    trainer: bool = False
    first: int = 0
    metavar: str = ""
    one: str = ""
    elsewhere: tuple[str, ...] = ()
    completes: str = ""
    positional: bool = False
    required: bool = False
    repeated: bool = False
    short: str = ""
    option: str = ""
    path: bool = False
    address: bool = False
    by_recipe: bool = False
    in_file_only: bool = False


def setting(default: Any, description: str, panel: str, facts: Facts | None = None, **given: Any) -> Any:
    """Declare a setting.

    Args:
        default: its default.
        description: its help text.
        panel: the group of the help page that it is shown in.
        facts: what is true of it, where several settings share that.
        given: facts by name, and limits such as ``ge=1``.
    """
    own = {name: given.pop(name) for name in list(given) if name in Facts.__dataclass_fields__}
    known = Facts(**{**(vars(facts) if facts is not None else {}), **own, "panel": panel})
    return Field(default, description=description, json_schema_extra={_KEY: known}, **given)  # pyright: ignore


def facts_of(field: FieldInfo) -> Facts:
    """What is true of a setting.

    >>> from steadytune.settings.train import TrainSettings
    >>> facts_of(TrainSettings.model_fields["save_steps"]).determines
    False
    """
    extra = field.json_schema_extra
    found = extra.get(_KEY) if isinstance(extra, dict) else None
    return found if isinstance(found, Facts) else Facts()


class Settings(BaseModel):
    """Base of all settings: unknown names are refused, defaults are checked, and numbers are finite.

    Raises:
        SettingsError: a name is unknown or a value is out of range; the message names it.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=())

    if not TYPE_CHECKING:  # checkers make the signature of the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise SettingsError(in_words(error, type(self))) from error

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse ``yes`` where a number is needed: it would count as 1."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        kinds = {annotation, *get_args(annotation)}
        given = value if isinstance(value, list) else [value]
        if any(isinstance(entry, bool) for entry in given) and kinds & {int, float, list[float]}:
            raise ValueError("must be a number, not yes or no")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _no_secrets(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a URL with a password or a token: settings are written into the results."""
        name = info.field_name or ""
        known = facts_of(cls.model_fields[name])
        if isinstance(value, str) and (known.path or known.address):
            refuse_secret_url(f"--{name.replace('_', '-')}", value)
        return value


def all_facts(kind: type[Settings]) -> dict[str, Facts]:
    """The facts of all settings, by name."""
    return {name: facts_of(field) for name, field in kind.model_fields.items()}


def known_names(kind: type[Settings]) -> list[str]:
    """All names that can be given, those for a single value of a list included."""
    return [*kind.model_fields, *(known.one for known in all_facts(kind).values() if known.one)]


def determining(kind: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a run's values that make it the run that it is: two runs are the same if they agree in all of these.

    What says where a run is kept, how often it reports or how it is carried out does not count. Names that the
    settings do not have stay, so that a folder of another kind of run is recognized.

    Args:
        kind: the settings that the values are of.
        values: plain values by name.

    >>> from steadytune.settings.train import TrainSettings
    >>> determining(TrainSettings, {"seed": 3, "save_steps": 50, "output_dir": "runs/a"})
    {'seed': 3}
    """
    known = all_facts(kind)
    return {name: value for name, value in values.items() if name not in known or known[name].determines}


def with_fact(kind: type[Settings], fact: str) -> frozenset[str]:
    """The names of the settings of which a fact is true.

    >>> from steadytune.settings.train import TrainSettings
    >>> sorted(with_fact(TrainSettings, "trainer"))[:2]
    ['bf16', 'fp16']
    """
    return frozenset(name for name, known in all_facts(kind).items() if getattr(known, fact))


def answered_with(kind: type[Settings], name: str) -> str:
    """Our name of a setting that other tools call otherwise, or an empty string.

    >>> from steadytune.settings.train import TrainSettings
    >>> answered_with(TrainSettings, "lr"), answered_with(TrainSettings, "nonsense")
    ('learning_rate', '')
    """
    wanted = name.lower().replace("-", "_")
    return next((ours for ours, known in all_facts(kind).items() if wanted in known.elsewhere), "")


#: What pydantic finds wrong, in our words; what is not here keeps its own.
_PROBLEMS = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be text",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "missing": "is needed",
}


def in_words(error: ValidationError, kind: type[Settings]) -> str:
    """One line on the first thing that is wrong with given settings."""
    first = error.errors()[0]
    facts = first.get("ctx", {})
    cause = facts.get("error")
    if isinstance(cause, SettingsError):  # a check of ours has said it all
        return str(cause)
    name = str(first["loc"][0]) if first["loc"] else "settings"
    if first["type"] == "extra_forbidden":
        return f"there is no setting {name!r}.{hint_on(name, kind)}"
    problem, near = str(cause or first["msg"]), ""
    problem = problem[:1].lower() + problem[1:]
    given = first["input"]
    if first["type"] == "literal_error":
        allowed = str(facts.get("expected", "")).replace(" or ", ", ")
        problem = f"must be one of {allowed}"
        near = did_you_mean(str(given), allowed.replace("'", "").split(", "))
    elif first["type"] in _PROBLEMS:
        problem = _PROBLEMS[first["type"]].format(**{key: _short(value) for key, value in facts.items()})
    shown = excerpt(given) if isinstance(given, str) else str(given)[:80]
    return f"--{name.replace('_', '-')}: {problem}; got {shown}.{near}"


def hint_on(name: str, kind: type[Settings]) -> str:
    """``" Did you mean 'learning_rate'?"`` for what another tool calls so, or for the nearest name; empty for none."""
    ours = answered_with(kind, name)
    return f" Did you mean {ours!r}?" if ours else did_you_mean(name, known_names(kind))


def _short(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, float) else value
