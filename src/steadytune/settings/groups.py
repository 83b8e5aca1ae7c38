"""The groups that the settings of the verbs are composed of: model, rows, methods, training, output."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, field_validator, model_validator

from steadytune.errors import SettingsError
from steadytune.heads.registry import FILE_HEADS
from steadytune.settings.expressions import read_candidate, split_outside_brackets
from steadytune.settings.fields import DATA, METHODS, MODEL, MOST, OUTPUT, TRAINING, Facts, Settings, facts_of, setting
from steadytune.support.text import safe_name

if TYPE_CHECKING:
    FileHead = str
else:
    FileHead = Literal[FILE_HEADS]

_TO_TRAINER = Facts(trainer=True)
_FILE = Facts(metavar="FILE", path=True)
_COLUMN = Facts(metavar="COLUMN")


def as_names(value: Any) -> Any:
    """Split names at commas; no name at all is plain training."""
    names = split_outside_brackets(value, ",") if isinstance(value, str) else value
    return ["none"] if names == [] else names


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


class ModelSettings(Settings):
    """Which model is trained."""

    model: str = setting(
        "minilm",
        "'minilm' (embedded), a local folder, or a Hub id.",
        MODEL,
        metavar="NAME",
        min_length=1,
        first=3,
        elsewhere=("model_name_or_path", "model_name", "checkpoint", "base_model", "pretrained_model_name_or_path"),
        path=True,
    )
    dtype: Literal["float32", "auto"] = setting(
        "float32", "Precision of the weights: 'float32', or 'auto' for that of the checkpoint's file.", MODEL
    )
    trust_remote_code: bool = setting(False, "Run code that the model brings along.", MODEL)


class PoolingSettings(Settings):
    """How the states of a text's tokens become one vector."""

    pooling: Literal["auto", "cls", "mean", "max", "first", "last"] = setting(
        "auto",
        "Pool token states: 'auto' as the checkpoint declares, 'cls' by the model's own head.",
        MODEL,
    )


class ProbeSettings(Settings):
    """Whether the encoder is trained at all."""

    probe: bool = setting(
        False, "Keep the encoder frozen and fit a linear model on its vectors: seconds instead of minutes.", METHODS
    )


class TaskSettings(Settings):
    """The rows of one named task."""

    task: str | None = setting(
        None,
        "A named task; see `steadytune tasks`.",
        DATA,
        first=2,
        metavar="NAME",
        completes="tasks",
        elsewhere=("task_name", "dataset_name", "dataset"),
    )


class DataFolderSettings(Settings):
    """Where the data sets of named tasks are."""

    data_dir: str | None = setting(
        None,
        "Folder with the data sets of named tasks (default: $STEADYTUNE_DATA, the Hub's cache, the Hub).",
        DATA,
        metavar="DIR",
        path=True,
    )


class FileSettings(Settings):
    """The user's own rows."""

    train_file: str | None = setting(
        None,
        "Training file: .csv, .tsv, .json, .jsonl, .parquet or .xlsx, also with .gz; tags also .conll.",
        DATA,
        _FILE,
        first=1,
        positional=True,
        elsewhere=("train_data", "data", "data_path", "train_data_file", "train_path", "file", "input"),
    )
    validation_file: str | None = setting(
        None,
        "Rows to tune on and to evaluate after each epoch (default: 10% of the training rows).",
        DATA,
        _FILE,
        elsewhere=("eval_file", "dev_file", "valid_file", "val_file", "eval_data_file"),
    )
    test_file: str | None = setting(None, "Rows to report on, before and after training.", DATA, _FILE)
    text_column: str | None = setting(
        None,
        "Column of text, words, question or prompt (default: its usual name).",
        DATA,
        _COLUMN,
        elsewhere=(
            "text_column_name",
            "text_field",
            "sentence_column",
            "input_column",
            "text_col",
            "dataset_text_field",
        ),
    )
    text_pair_column: str | None = setting(
        None, "Column of the second text of a pair, or of the context of a question.", DATA, _COLUMN
    )
    label_column: str | None = setting(
        None,
        "Column of label, tags or answers (default: its usual name).",
        DATA,
        _COLUMN,
        elsewhere=("label_column_name", "target_column", "label_col", "target", "label_field"),
    )
    delimiter: str | None = setting(
        None,
        "What separates columns: ',', ';', tab or '|' (default: detected).",
        DATA,
        metavar="CHAR",
        elsewhere=("sep", "separator", "delim"),
    )
    encoding: str | None = setting(
        None, "Encoding of text files, such as cp1252 (default: detected).", DATA, metavar="NAME"
    )
    head: FileHead | None = setting(
        None,
        "Task type (default: inferred from the file; multi_label must be given).",
        DATA,
        metavar="NAME",
        elsewhere=("task_type", "problem_type"),
    )


class SizeSettings(Settings):
    """How many rows are used."""

    train_size: Annotated[str | None, BeforeValidator(_as_text)] = setting(
        None,
        "Number or share of training rows to use: 500 or 10%.",
        DATA,
        first=9,
        metavar="N|%",
        elsewhere=("max_train_samples", "num_train_samples", "train_samples", "limit"),
    )


class HoldOutSettings(Settings):
    """What is done where there are no test rows."""

    hold_out: bool = setting(
        False,
        "Without a test set, report on the validation set and tune on 10% of the training rows.",
        DATA,
    )


class LimitSettings(Settings):
    """How many rows are evaluated."""

    max_eval_samples: int | None = setting(
        None, "Evaluate at most N rows of each split.", DATA, ge=1, le=MOST, elsewhere=("eval_samples",)
    )


class LengthSettings(Settings):
    """How long texts are."""

    max_length: int = setting(
        128,
        "Truncate texts to N tokens; tagging and QA inputs are split into overlapping windows instead.",
        DATA,
        ge=4,
        le=1_000_000,
        elsewhere=("max_len", "max_seq_length", "max_seq_len", "block_size", "model_max_length", "sequence_length"),
        by_recipe=True,
    )


class GroupingSettings(Settings):
    """In which order rows come."""

    group_by_length: bool = setting(True, "Batch texts of similar length together, for less padding.", DATA)


class MethodSettings(Settings):
    """How a step is changed."""

    memory: Literal["full", "low"] = setting(
        "full", "'low': the same gradient with one graph at a time; less memory, a little more time.", METHODS
    )
    set: dict[str, Any] = setting(
        {},
        "A method's setting, e.g. smart.weight=3; repeatable.",
        METHODS,
        first=5,
        metavar="METHOD.SETTING=VALUE",
        completes="assignments",
        repeated=True,
    )

    @field_validator("set", mode="before")
    @classmethod
    def _flatten(cls, value: Any) -> Any:
        """Accept ``{smart.weight: 3}`` and ``{smart: {weight: 3}}`` alike."""
        return flattened(value)

    def method_settings(self) -> dict[str, dict[str, Any]]:
        """Settings by method: ``{"smart.weight": 3}`` becomes ``{"smart": {"weight": 3}}``.

        Raises:
            SettingsError: a key is not of the form ``method.setting``.
        """
        return nested(self.set)


class MethodsOfARun(MethodSettings):
    """The methods that take part in a run."""

    methods: Annotated[list[str], BeforeValidator(as_names)] = setting(
        ["none"],
        "Methods by name, separated by commas; see `steadytune methods`.",
        METHODS,
        first=4,
        metavar="NAME,NAME",
        completes="methods",
        elsewhere=("method",),
    )

    @model_validator(mode="before")
    @classmethod
    def _settings_in_brackets(cls, values: Any) -> Any:
        """Take ``smart(weight=3)`` for ``smart`` and its setting; what ``set`` says goes before."""
        names = as_names(values.get("methods")) if isinstance(values, Mapping) else None
        if not isinstance(names, list) or not any("(" in str(name) for name in names):
            return values
        read = [read_candidate(str(name)) for name in names]
        written = {key: value for _, settings in read for key, value in settings.items()}
        given = flattened(values.get("set") or {})
        if not isinstance(given, Mapping):
            return values
        return {**values, "methods": [name for found, _ in read for name in found], "set": {**written, **given}}


class RateSettings(Settings):
    """The learning rate of one run."""

    learning_rate: float = setting(
        5e-5,
        "Peak learning rate.",
        TRAINING,
        _TO_TRAINER,
        gt=0,
        le=10,
        first=7,
        elsewhere=("lr", "peak_lr", "max_lr"),
        by_recipe=True,
    )


class SeedSettings(Settings):
    """The seed of one run."""

    seed: int = setting(
        42,
        "Seed of the head, the data order, dropout and all noise.",
        TRAINING,
        _TO_TRAINER,
        ge=0,
        le=2**32 - 1,
        first=6,
        elsewhere=("random_seed", "random_state", "data_seed"),
    )


class SmoothingSettings(Settings):
    """Smoothing of the labels, which not every loss has."""

    label_smoothing_factor: float = setting(
        0.0, "Label smoothing.", TRAINING, _TO_TRAINER, ge=0, lt=1, elsewhere=("label_smoothing",)
    )


class RecipeSettings(Settings):
    """What chooses the settings that are not given."""

    recipe: Literal["steadytune", "transformers"] = setting(
        "steadytune",
        "What chooses rate, epochs, batch size and length where they are not given: 'steadytune' looks at rows and "
        "model, 'transformers' takes its defaults.",
        TRAINING,
    )


#: What a configuration means that was written before there was such a setting.
_BEFORE = {"recipe": "transformers", "pooling": "cls"}
Given = TypeVar("Given", bound=Settings)


def written_before(kind: type[Settings]) -> dict[str, Any]:
    """What the oldest configurations mean by the settings that they lack."""
    return {name: value for name, value in _BEFORE.items() if name in kind.model_fields}


def as_written(settings: Given, held: Mapping[str, Any], leave: Collection[str] = ()) -> Given:
    """Return the settings with recipe and pooling of a kept configuration, where none are given.

    Args:
        settings: as they are asked for.
        held: the kept configuration.
        leave: settings that stay as they are.

    >>> from steadytune.settings.train import TrainSettings
    >>> as_written(TrainSettings(), {}).pooling, as_written(TrainSettings(pooling="mean"), {}).pooling
    ('cls', 'mean')
    """
    given = {*settings.model_fields_set, *leave}
    begun = {name: held.get(name, old) for name, old in written_before(type(settings)).items() if name not in given}
    return settings.model_copy(update=begun)


def left_to_the_recipe(settings: Settings) -> frozenset[str]:
    """The settings that the recipe is to choose, because nobody has.

    >>> from steadytune.settings.train import TrainSettings
    >>> sorted(left_to_the_recipe(TrainSettings(learning_rate=1e-4, max_length=64)))
    ['num_train_epochs', 'per_device_train_batch_size']
    >>> left_to_the_recipe(TrainSettings(recipe="transformers"))
    frozenset()
    """
    if not isinstance(settings, RecipeSettings) or settings.recipe != "steadytune":
        return frozenset()
    chosen = {name for name, field in type(settings).model_fields.items() if facts_of(field).by_recipe}
    return frozenset(chosen - settings.model_fields_set)


class TrainingSettings(Settings):
    """How training goes; these carry the names of `TrainingArguments`."""

    num_train_epochs: float = setting(
        3.0,
        "Passes over the training rows.",
        TRAINING,
        _TO_TRAINER,
        gt=0,
        le=100_000,
        first=8,
        elsewhere=("epochs", "num_epochs", "max_epochs", "n_epochs", "epoch"),
        by_recipe=True,
    )
    max_steps: int = setting(
        -1,
        "Number of updates; overrides the epochs if positive.",
        TRAINING,
        _TO_TRAINER,
        ge=-1,
        le=MOST,
        elsewhere=("steps", "num_steps", "max_iters", "num_train_steps", "max_train_steps", "total_steps"),
    )
    per_device_train_batch_size: int = setting(
        16,
        "Rows per micro-batch.",
        TRAINING,
        _TO_TRAINER,
        ge=1,
        le=MOST,
        elsewhere=("batch_size", "train_batch_size", "bs", "bsz", "micro_batch_size", "mini_batch_size"),
        by_recipe=True,
    )
    per_device_eval_batch_size: int = setting(
        64, "Rows per batch in evaluation.", TRAINING, _TO_TRAINER, ge=1, le=MOST, elsewhere=("eval_batch_size",)
    )
    gradient_accumulation_steps: int = setting(
        1,
        "Micro-batches per update.",
        TRAINING,
        _TO_TRAINER,
        ge=1,
        le=MOST,
        elsewhere=("accumulate_grad_batches", "grad_accum", "accumulation_steps", "grad_accum_steps"),
    )
    weight_decay: float = setting(
        0.0, "Decoupled weight decay.", TRAINING, _TO_TRAINER, ge=0, le=10, elsewhere=("wd",)
    )
    warmup_steps: float = setting(
        0.1,
        "Updates of warm-up; below 1, a fraction of all updates.",
        TRAINING,
        _TO_TRAINER,
        ge=0,
        elsewhere=("warmup_ratio", "warmup", "num_warmup_steps", "warmup_proportion", "warmup_fraction"),
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = setting(
        "linear",
        "Schedule of the learning rate.",
        TRAINING,
        _TO_TRAINER,
        metavar="NAME",
        elsewhere=("scheduler", "lr_scheduler", "schedule", "lr_schedule"),
    )
    max_grad_norm: float = setting(
        1.0,
        "Clip gradients to this norm; 0 does not clip.",
        TRAINING,
        _TO_TRAINER,
        ge=0,
        elsewhere=("gradient_clip_val", "clip_grad_norm", "grad_clip", "gradient_clipping", "clip_norm"),
    )
    bf16: bool = setting(False, "Mixed precision in bfloat16.", TRAINING, _TO_TRAINER, elsewhere=("bfloat16",))
    fp16: bool = setting(
        False, "Mixed precision in float16 (GPU).", TRAINING, _TO_TRAINER, elsewhere=("float16", "half", "amp")
    )
    gradient_checkpointing: bool = setting(
        False, "Less memory, more time.", TRAINING, elsewhere=("activation_checkpointing",)
    )
    use_cpu: bool = setting(False, "Do not use a GPU.", TRAINING, _TO_TRAINER, elsewhere=("no_cuda", "cpu"))


class OutputSettings(Settings):
    """Where a run is kept, and how often it reports; none of it makes another run."""

    logging_steps: int = setting(
        10,
        "Write a line of the training log every N updates.",
        OUTPUT,
        _TO_TRAINER,
        determines=False,
        ge=1,
        le=MOST,
        elsewhere=("log_every", "log_every_n_steps", "log_interval"),
    )
    save_steps: int | None = setting(
        None,
        "Save a checkpoint every N updates (default: each epoch).",
        OUTPUT,
        determines=False,
        ge=1,
        le=MOST,
        elsewhere=("save_every", "checkpoint_every"),
    )
    save_total_limit: int | None = setting(
        2,
        "Keep at most N checkpoints.",
        OUTPUT,
        _TO_TRAINER,
        determines=False,
        ge=1,
        le=MOST,
        elsewhere=("keep_checkpoint_max", "save_top_k"),
    )
    output_dir: str | None = setting(
        None,
        "Folder of the run (default: runs/TASK-MODEL-METHODS-SEED).",
        OUTPUT,
        determines=False,
        metavar="DIR",
        first=10,
        elsewhere=("out_dir", "save_dir", "output", "output_path", "run_dir", "default_root_dir"),
        path=True,
    )


class KeepingSettings(Settings):
    """What a finished run keeps besides its model and its scores; a comparison keeps no checkpoints."""

    keep_checkpoints: bool = setting(
        False,
        "Keep the checkpoints of a finished run.",
        OUTPUT,
        determines=False,
    )


class RunSettings(
    KeepingSettings, OutputSettings, TrainingSettings, SeedSettings, RateSettings, MethodsOfARun, LengthSettings,
    SizeSettings, DataFolderSettings, ModelSettings,
):  # fmt: skip
    """What every run has, whichever its rows are. Fields come in the order of the bases, the last one first."""

    @property
    def label(self) -> str:
        """A short name of the run, safe as a folder name."""
        return self.label_for("run")

    def label_for(self, data: str) -> str:
        """A short name of a run on this data, safe as a folder name."""
        parts = (data, Path(self.model).name, "+".join(self.methods) or "none", str(self.seed))
        return "-".join(map(safe_name, parts))

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return Path(self.output_dir) if self.output_dir is not None else Path("runs") / self.label


def flattened(value: Any) -> Any:
    """``{smart: {weight: 3}}`` as ``{smart.weight: 3}``; other values stay as they are.

    >>> flattened({"smart": {"weight": 3}, "r_drop.weight": 1})
    {'smart.weight': 3, 'r_drop.weight': 1}
    """
    if not isinstance(value, Mapping):
        return value
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, Mapping):
            flat |= {f"{key}.{name}": v for name, v in entry.items()}
        else:
            flat[str(key)] = entry
    return flat


def nested(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """``{"smart.weight": 3}`` as ``{"smart": {"weight": 3}}``.

    Raises:
        SettingsError: a key is not of the form ``method.setting``.

    >>> nested({"smart.weight": 3})
    {'smart': {'weight': 3}}
    """
    found: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        method, dot, name = key.rpartition(".")
        if not dot or not method or not name:
            raise SettingsError(f"--set {key}={value}: write it as method.setting=value, e.g. smart.weight=3.")
        found.setdefault(method, {})[name] = value
    return found
