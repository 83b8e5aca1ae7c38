"""Find the model that predictions are asked of: a run's, a comparison's best, or any saved model with a head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from steadytune.comparison.kept_models import best_kept_run, is_comparison
from steadytune.errors import ModelNotFoundError, SettingsError
from steadytune.models.inputs import ModelInputs, read_inputs
from steadytune.models.load import find_model, load_model
from steadytune.prediction.trained_task import trained_task
from steadytune.settings.predict import PredictOptions
from steadytune.settings.resolve import resolve_settings
from steadytune.settings.train import TrainSettings
from steadytune.support.reading import read_json
from steadytune.support.text import one_line
from steadytune.tasks.named.registry import task_record
from steadytune.tasks.task import Task
from steadytune.training.folder import RunFolder

if TYPE_CHECKING:
    from steadytune.prediction.predictors import Predictor


@dataclass(frozen=True)
class TrainedModel:
    """A model on disk, its head, and how its rows are read.

    Attributes:
        name: as the user gave it.
        location: folder or Hub id of the model itself.
        task: head, and names of the outputs.
        inputs: columns and length, as in training.
        batch_size: of the run's evaluation, where it is known.
        note: which of several models it is.
    """

    name: str
    location: str
    task: Task
    inputs: ModelInputs
    batch_size: int | None = None
    note: str = ""


def find_trained_model(model: str) -> TrainedModel:
    """Find a model without loading its weights.

    Args:
        model: folder of a run, of a comparison or of a saved model, a Hub id, or `minilm`.

    Raises:
        SettingsError: the folder holds no model.
        ModelNotFoundError: it is nowhere, or has no trained head.
    """
    folder = Path(model).expanduser()
    note = ""
    if is_comparison(folder):
        folder, note = best_kept_run(folder)
    run = RunFolder(folder)
    settings = _settings_of_run(run, model) if run.config.is_file() else None
    location = str(run.model) if settings is not None else (str(folder) if note else model)
    task, inputs = _described(location, model)
    if settings is not None and inputs.max_length is None:
        inputs = _as_in_settings(inputs, settings)
    if inputs.task is not None:  # knows the measures of its benchmark
        task = replace(task_record(inputs.task), label_names=task.label_names, head=task.head)
    return TrainedModel(model, location, task, inputs, settings and settings.per_device_eval_batch_size, note)


def _settings_of_run(run: RunFolder, name: str) -> TrainSettings | None:
    """The settings of a finished run; ``None`` for a model's folder that has a file of this name."""
    if not run.model.is_dir():
        if (run.path / "config.json").is_file():
            return None
        problem = "its model was not kept" if "after" in run.read_metrics() else "the run is not finished"
        raise SettingsError(
            f"{name}: {problem}, so there is no model to predict with; the same `steadytune train` trains it."
        )
    try:
        return resolve_settings({"trust_remote_code": False}, run.config)
    except SettingsError as error:
        of_tasks = sorted((*run.path.glob("fine-tuned/*/model"), *run.path.glob("tasks/*/model")))
        hint = f" Give the model of one of its tasks: {of_tasks[0]}." if of_tasks else ""
        raise SettingsError(f"{name}: holds no run of `steadytune train` ({error}).{hint}") from error


def _described(location: str, name: str) -> tuple[Task, ModelInputs]:
    try:
        source = find_model(location)
        file = Path(source.location, "config.json")
        if source.found_in == "hub":
            from huggingface_hub import hf_hub_download

            file = Path(hf_hub_download(source.location, "config.json"))
        found = read_inputs(file.parent)
        config = read_json(file)
    except ModelNotFoundError as error:
        raise ModelNotFoundError(_without_option(str(error))) from error
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"{name}: its config.json cannot be read ({one_line(error)}).") from error
    if not isinstance(config, dict):
        raise ModelNotFoundError(f"{name}: its config.json holds no settings.")
    task = trained_task(config, name)
    if found is not None and found.head != task.head:
        raise ModelNotFoundError(
            f"{name}: was trained for {found.head}, and its config.json is that of a model for {task.head}."
        )
    return task, found or ModelInputs.usual(task.head)


def _as_in_settings(inputs: ModelInputs, settings: TrainSettings) -> ModelInputs:
    """Columns and length of a run whose model folder does not say them."""
    record = task_record(settings.task) if settings.task is not None else None
    return replace(
        inputs,
        text_column=settings.text_column or (record and record.text_column) or inputs.text_column,
        text_pair_column=settings.text_pair_column or (record and record.text_pair_column) or inputs.text_pair_column,
        label_column=settings.label_column or (record and record.label_column) or inputs.label_column,
        max_length=settings.max_length,
        task=settings.task,
    )


def _without_option(message: str) -> str:
    return message.removeprefix("--model ")


def load_predictor(found: TrainedModel, options: PredictOptions) -> Predictor:
    """Load weights and tokenizer.

    Raises:
        ModelNotFoundError: they cannot be loaded, or weights of the head are missing.
        SettingsError: this machine cannot do what is asked.
    """
    import torch

    from steadytune.prediction.predictors import Predictor

    try:
        model, tokenizer, _ = load_model(
            found.location, found.task, trust_remote_code=options.trust_remote_code, trained=True
        )
    except ModelNotFoundError as error:
        raise ModelNotFoundError(_without_option(str(error))) from error
    on_gpu = torch.cuda.is_available() and not options.use_cpu
    if options.fp16 and not on_gpu:
        raise SettingsError("--fp16 needs a GPU, and there is none in use here: leave it out, or use --bf16.")
    precision = torch.bfloat16 if options.bf16 else torch.float16 if options.fp16 else None
    return Predictor(
        model,
        tokenizer,
        found.task,
        max_length=options.max_length or found.inputs.max_length,
        device=torch.device("cuda" if on_gpu else "cpu"),
        batch_size=options.per_device_eval_batch_size or found.batch_size or 64,
        precision=precision,
        max_new_tokens=options.max_new_tokens,
    )
