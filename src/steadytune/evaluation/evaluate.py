"""Evaluate the model of a finished run, part by part, into one JSON file that keeps what was measured before."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from steadytune.errors import SettingsError, SteadytuneError
from steadytune.settings.evaluate import MEASURES, NAMES, EvaluateOptions
from steadytune.settings.resolve import resolve_settings
from steadytune.settings.train import TrainSettings
from steadytune.support.atomic_files import write_json
from steadytune.support.reading import read_json
from steadytune.support.text import duration
from steadytune.training.folder import RunFolder
from steadytune.training.rows import DATA_FOLDER, load_data
from steadytune.version import __version__

FORMAT = 1
FILE_NAME = "evaluation.json"


def check_run(path: str | Path, *, trust_remote_code: bool = False) -> TrainSettings:
    """Return the settings of a finished run, but for whether code of the model may run, which the caller says.

    Raises:
        SettingsError: the folder holds none, or one without its model.
    """
    folder = RunFolder(Path(path).expanduser())
    if folder.path.is_file():
        raise SettingsError(f"{path}: is a file; give the folder of a run of `steadytune train`.")
    if not folder.path.is_dir():
        raise SettingsError(f"{path}: there is no such folder; give the folder of a run of `steadytune train`.")
    if not folder.config.is_file():
        raise SettingsError(f"{path}: holds no run (no config.yaml); give the folder of a run of `steadytune train`.")
    try:
        settings = resolve_settings({"trust_remote_code": trust_remote_code}, folder.config)
    except SettingsError as error:
        alone = sorted(folder.path.glob("fine-tuned/*/config.yaml"))
        hint = f" Evaluate one of its tasks: {alone[0].parent}." if alone else ""
        raise SettingsError(f"{path}: holds no run of `steadytune train` ({error}).{hint}") from error
    if not folder.model.is_dir():
        finished = "after" in folder.read_metrics()
        problem = "its model was not kept" if finished else "it is not finished"
        raise SettingsError(
            f"{path}: {problem}, so there is no model to evaluate; "
            f"`steadytune train --config {folder.config}` with an --output-dir trains it."
        )
    return settings


def evaluate(
    path: str | Path,
    options: EvaluateOptions | None = None,
    output: str | Path | None = None,
    tell: Callable[[str], None] = lambda _line: None,
) -> dict[str, Any]:
    """Measure what is asked for and not yet measured of a run's model, and return the whole file.

    The file is written after every part; an interrupted evaluation resumes where it stopped.

    Args:
        path: folder of the run.
        options: what to measure.
        output: the file; ``evaluation.json`` in the run's folder by default.
        tell: is given one line for whatever takes long, and for what the user must know.

    Raises:
        SteadytuneError: run, data or file cannot be used.
    """
    options = options or EvaluateOptions()
    if options.retrieval_alone:
        return _evaluate_retrieval(path, options, output, tell)
    settings = check_run(path, trust_remote_code=options.trust_remote_code)
    folder = RunFolder(Path(path).expanduser())
    file = _file(output) or folder.path / FILE_NAME
    data_dir = options.data_dir or settings.data_dir or os.environ.get(DATA_FOLDER)
    limit = options.max_eval_samples or settings.max_eval_samples
    settings = settings.model_copy(update={"data_dir": data_dir, "train_size": None})
    header = _header(str(folder.model), settings)
    content = _kept(file, header, tell)
    data = load_data(settings)
    for note in data.notes:
        tell(note)

    from steadytune.evaluation.held_out import HeldOut
    from steadytune.evaluation.measures.sentences import checked_layer
    from steadytune.evaluation.model import EvaluatedModel
    from steadytune.evaluation.parts import PARTS, Evaluation

    held_out = HeldOut(data, data_dir, limit)
    model = EvaluatedModel(str(folder.model), data.task, settings)
    content["task"] = {"name": data.task.name, "head": data.task.head, "metric": data.task.metric}
    evaluation = Evaluation(model, held_out, settings, options, tell)
    checked_layer(model.model, options.layer)
    for name in options.only or NAMES:
        _measure(name, PARTS[name], evaluation, content)
        write_json(file, _in_order(content))
    for note in held_out.notes:
        tell(note)
    return _in_order(content)


def is_run(path: str | Path) -> bool:
    """Whether a folder is that of a run; else it may be a model's."""
    return RunFolder(Path(path).expanduser()).config.is_file()


def _evaluate_retrieval(
    path: str | Path, options: EvaluateOptions, output: str | Path | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Measure sentence retrieval alone, of a run's model or of any other, and return the whole file.

    Of a model that is no run's nothing is written unless an output is named.
    """
    from steadytune.evaluation.retrieval_alone import RetrievalAlone

    if is_run(path):
        settings = check_run(path, trust_remote_code=options.trust_remote_code)
        folder = RunFolder(Path(path).expanduser())
        location, file = str(folder.model), _file(output) or folder.path / FILE_NAME
    else:
        settings = TrainSettings(model=str(path), task="tatoeba", trust_remote_code=options.trust_remote_code)
        location, file = str(path), _file(output)
    work = RetrievalAlone(location, settings, options, tell)
    header = _header(location, settings)
    content = header | {"settings": {}, "not_done": {}} if file is None else _kept(file, header, tell)
    _measure("retrieval", RetrievalAlone.work, work, content)
    if file is None:
        tell("Nothing is kept of a model that is no run; --output FILE keeps it.")
    else:
        write_json(file, _in_order(content))
    return _in_order(content)


def _file(output: str | Path | None) -> Path | None:
    if output is None:
        return None
    file = Path(output).expanduser()
    if file.is_dir():
        raise SettingsError(f"--output {file}: is a folder; give a file.")
    return file


def _measure(name: str, part: Callable[[Any], Any], evaluation: Any, content: dict[str, Any]) -> None:
    """Put a part's result, or why there is none, into the content."""
    try:
        found = _result(name, part, evaluation, content)
    except SteadytuneError as error:  # what one part cannot do, the next may
        found = str(error)
    if found is None:
        return
    for place in (content, content["settings"], content["not_done"]):
        place.pop(name, None)
    if isinstance(found, str):
        content["not_done"][name] = found
        evaluation.tell(f"{name}: not done: {found}")
    else:
        content["settings"][name], content[name] = found


def _result(
    name: str, part: Callable[[Any], Any], evaluation: Any, content: Mapping[str, Any]
) -> tuple[Any, Any] | str | None:
    """Settings and result of a part, why it cannot be done, or ``None`` where the content holds it already."""
    from steadytune.evaluation.parts import plain

    work = part(evaluation)
    if isinstance(work, str):
        return work
    settings = plain(work.settings)
    if name in content and content["settings"].get(name) == settings:
        evaluation.tell(f"{name}: measured before")
        return None
    evaluation.tell(f"{name}: {MEASURES[name]} ...")
    began = time.monotonic()
    measured = plain(work.measure())
    evaluation.tell(f"{name}: took {duration(time.monotonic() - began)}")
    return settings, measured


def _header(location: str, settings: TrainSettings) -> dict[str, Any]:
    from steadytune.models.digest import model_digest

    return {
        "format": FORMAT,
        "steadytune": __version__,
        "model": {
            "digest": model_digest(location),
            "pretrained": settings.model,
            "methods": settings.methods,
            "seed": settings.seed,
        },
    }


def _kept(file: Path, header: dict[str, Any], tell: Callable[[str], None]) -> dict[str, Any]:
    """What the file holds of this very model; nothing of another one or of another version."""
    empty = header | {"settings": {}, "not_done": {}}
    if not file.exists():
        return empty
    try:
        content = read_json(file)
        same = all(content[key] == value for key, value in header.items())
        whole = isinstance(content["settings"], dict) and isinstance(content["not_done"], dict)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{file}: is no evaluation ({type(error).__name__}); delete it or give another --output."
        ) from error
    if not (same and whole):
        tell(f"{file} is of another model or version; everything is measured again.")
        return empty
    return content


def _in_order(content: Mapping[str, Any]) -> dict[str, Any]:
    order = ("format", "steadytune", "model", "task", "settings", "not_done", *NAMES)
    return {key: content[key] for key in order if key in content}
