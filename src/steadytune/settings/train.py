"""All settings of a run, in one place: the command line's options and the configuration file are made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from steadytune.errors import SettingsError
from steadytune.heads.registry import FILE_HEADS
from steadytune.settings.expressions import read_candidate, split_outside_brackets
from steadytune.support.secrets import refuse_secret_url


def setting(default: Any, description: str, panel: str, **limits: Any) -> Any:
    """Declare a setting: its default, its help text, the panel of the help page it is shown in, and its limits."""
    return Field(default, description=description, json_schema_extra={"panel": panel}, **limits)


def or_listed(names: Sequence[str]) -> str:
    """List names for a choice.

    >>> or_listed(["a", "b", "c"])
    "'a', 'b' or 'c'"
    """
    quoted = [f"'{name}'" for name in names]
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def as_names(value: Any) -> Any:
    """Split names at commas; no name at all is plain training."""
    names = split_outside_brackets(value, ",") if isinstance(value, str) else value
    return ["none"] if names == [] else names


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


MODEL, DATA, METHODS, TRAINING = "Model", "Data", "Methods", "Training (names of TrainingArguments)"
OUTPUT = "Output"


#: The settings that say where the rows of a run are and what is predicted, for verbs that know both already.
ROWS_AND_HEAD = frozenset(
    {
        "task",
        "train_file",
        "validation_file",
        "test_file",
        "text_column",
        "text_pair_column",
        "label_column",
        "delimiter",
        "encoding",
        "head",
    }
)


if TYPE_CHECKING:
    FileHead = str
else:
    FileHead = Literal[FILE_HEADS]

#: Rows, updates and the like: what torch counts in 64 bits with room to multiply.
MOST = 10**9
#: Settings that say where something lies, which may be a URL.
PLACES = frozenset(
    {"model", "train_file", "validation_file", "test_file", "data_dir", "output_dir", "ray_address", "published"}
)


class TrainSettings(BaseModel):
    """Settings of one training run.

    Example:
        >>> TrainSettings(task="movie-reviews", methods="noisytune,smart").methods
        ['noisytune', 'smart']
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False, protected_namespaces=())

    model: str = setting("minilm", "'minilm' (embedded), a local folder, or a Hub id.", MODEL, min_length=1)
    trust_remote_code: bool = setting(False, "Run code that the model brings along.", MODEL)

    task: str | None = setting(None, "A named task; see `steadytune tasks`.", DATA)
    data_dir: str | None = setting(
        None, "Folder with the data sets of named tasks (else $STEADYTUNE_DATA, the Hub's cache, the Hub).", DATA
    )
    train_file: str | None = setting(
        None, "Training file: .csv, .tsv, .json, .jsonl, .parquet or .xlsx, also with .gz; tags also .conll.", DATA
    )
    validation_file: str | None = setting(
        None, "Rows to evaluate after each epoch (else 10% of the train file).", DATA
    )
    test_file: str | None = setting(None, "Rows to evaluate before and after.", DATA)
    text_column: str | None = setting(None, "Column of text, words, question or prompt (else its usual name).", DATA)
    text_pair_column: str | None = setting(None, "Column of the second text, for pairs, or of the context.", DATA)
    label_column: str | None = setting(None, "Column of label, tags or answers (else its usual name).", DATA)
    delimiter: str | None = setting(None, "What separates columns: ',', ';', tab or '|' (default: detected).", DATA)
    encoding: str | None = setting(None, "Encoding of text files, such as cp1252 (default: detected).", DATA)
    head: FileHead | None = setting(
        None, f"{or_listed(FILE_HEADS)} (inferred from the file by default; multi_label must be given).", DATA
    )
    train_size: Annotated[str | None, BeforeValidator(_as_text)] = setting(
        None, "Use so many training rows, or so many per cent: 500, 10%.", DATA
    )
    hold_out: bool = setting(
        False,
        "Where there are no test rows: score on the validation rows as test, choose on a tenth of the training rows.",
        DATA,
    )
    max_eval_samples: int | None = setting(None, "Evaluate at most so many rows of a split.", DATA, ge=1, le=MOST)
    max_length: int = setting(
        128, "Cut texts after so many tokens; words and contexts go on in another window.", DATA, ge=4, le=1_000_000
    )
    group_by_length: bool = setting(True, "Train on rows of about the same length together: less padding.", DATA)

    methods: Annotated[list[str], BeforeValidator(as_names)] = setting(
        ["none"], "Methods by name, separated by commas; see `steadytune methods`.", METHODS
    )
    memory: Literal["full", "low"] = setting(
        "full", "'low': the same gradient with one graph at a time; less memory, a little more time.", METHODS
    )
    set: dict[str, Any] = setting({}, "A method's setting, e.g. smart.weight=3; may be given again.", METHODS)

    learning_rate: float = setting(5e-5, "Peak learning rate.", TRAINING, gt=0, le=10)
    num_train_epochs: float = setting(3.0, "Passes over the training rows.", TRAINING, gt=0, le=100_000)
    max_steps: int = setting(-1, "Updates in all; overrides the epochs if positive.", TRAINING, ge=-1, le=MOST)
    per_device_train_batch_size: int = setting(16, "Rows per micro-batch.", TRAINING, ge=1, le=MOST)
    per_device_eval_batch_size: int = setting(64, "Rows per batch in evaluation.", TRAINING, ge=1, le=MOST)
    gradient_accumulation_steps: int = setting(1, "Micro-batches per update.", TRAINING, ge=1, le=MOST)
    weight_decay: float = setting(0.0, "Decoupled weight decay.", TRAINING, ge=0, le=10)
    warmup_steps: float = setting(0.1, "Updates of warm-up; below 1 a fraction of all.", TRAINING, ge=0)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = setting(
        "linear", "Course of the learning rate.", TRAINING
    )
    max_grad_norm: float = setting(1.0, "Clip gradients to this norm; 0 does not clip.", TRAINING, ge=0)
    label_smoothing_factor: float = setting(0.0, "Label smoothing.", TRAINING, ge=0, lt=1)
    bf16: bool = setting(False, "Mixed precision in bfloat16.", TRAINING)
    fp16: bool = setting(False, "Mixed precision in float16 (GPU).", TRAINING)
    gradient_checkpointing: bool = setting(False, "Less memory, more time.", TRAINING)
    use_cpu: bool = setting(False, "Do not use a GPU.", TRAINING)
    seed: int = setting(42, "Seed of the head, the data order, dropout and all noise.", TRAINING, ge=0, le=2**32 - 1)
    logging_steps: int = setting(10, "Write a training log line every so many updates.", OUTPUT, ge=1, le=MOST)
    save_steps: int | None = setting(
        None, "Save a checkpoint every so many updates (else each epoch).", OUTPUT, ge=1, le=MOST
    )
    save_total_limit: int | None = setting(2, "Keep so many checkpoints.", OUTPUT, ge=1, le=MOST)
    output_dir: str | None = setting(None, "Folder of the run (else runs/TASK-MODEL-METHODS-SEED).", OUTPUT)

    @model_validator(mode="before")
    @classmethod
    def _settings_in_brackets(cls, values: Any) -> Any:
        """Take ``smart(weight=3)`` for ``smart`` and its setting; what ``set`` says goes before."""
        names = as_names(values.get("methods")) if isinstance(values, Mapping) else None
        if not isinstance(names, list) or not any("(" in str(name) for name in names):
            return values
        read = [read_candidate(str(name)) for name in names]
        written = {key: value for _, settings in read for key, value in settings.items()}
        given = cls._flatten(values.get("set") or {})
        if not isinstance(given, Mapping):
            return values
        return {**values, "methods": [name for found, _ in read for name in found], "set": {**written, **given}}

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
        if isinstance(value, str) and info.field_name in PLACES:
            refuse_secret_url(f"--{info.field_name.replace('_', '-')}", value)
        return value

    @field_validator("set", mode="before")
    @classmethod
    def _flatten(cls, value: Any) -> Any:
        """Accept ``{smart.weight: 3}`` and ``{smart: {weight: 3}}`` alike."""
        if not isinstance(value, Mapping):
            return value
        flat: dict[str, Any] = {}
        for key, entry in value.items():
            if isinstance(entry, Mapping):
                flat |= {f"{key}.{name}": v for name, v in entry.items()}
            else:
                flat[str(key)] = entry
        return flat

    def method_settings(self) -> dict[str, dict[str, Any]]:
        """Settings by method: ``{"smart.weight": 3}`` becomes ``{"smart": {"weight": 3}}``.

        Raises:
            SettingsError: a key is not of the form ``method.setting``.
        """
        nested: dict[str, dict[str, Any]] = {}
        for key, value in self.set.items():
            method, dot, name = key.rpartition(".")
            if not dot or not method or not name:
                raise SettingsError(f"--set {key}={value}: write it as method.setting=value, e.g. smart.weight=3.")
            nested.setdefault(method, {})[name] = value
        return nested

    @property
    def label(self) -> str:
        """A short name of the run, safe as a folder name."""
        data = self.task or Path(self.train_file or "data").stem
        parts = (data, Path(self.model).name, "+".join(self.methods) or "none", str(self.seed))
        return "-".join("".join(c if c.isalnum() or c in "+._-" else "_" for c in part) for part in parts)

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return Path(self.output_dir) if self.output_dir is not None else Path("runs") / self.label
