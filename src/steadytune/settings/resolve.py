"""Configuration files and options laid over defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from steadytune.errors import SettingsError, did_you_mean
from steadytune.settings.expressions import scalar
from steadytune.settings.fields import Settings, hint_on, with_fact
from steadytune.settings.groups import flattened
from steadytune.settings.of_verbs import of_another_verb, verbs_with
from steadytune.settings.train import TrainSettings
from steadytune.support.plain_yaml import read_yaml
from steadytune.support.reading import SETTINGS, read_text
from steadytune.support.secrets import refuse_secret_url
from steadytune.support.text import is_url


def parse_assignments(assignments: list[str], option: str = "--set") -> dict[str, Any]:
    """Read ``["smart.weight=3"]``, values as in YAML.

    Raises:
        SettingsError: an entry has no ``=`` or its value cannot be read.

    >>> parse_assignments(["smart.weight=3", "smoothness.radius=1e-4", "smart.masks=same"])
    {'smart.weight': 3, 'smoothness.radius': 0.0001, 'smart.masks': 'same'}
    """
    values: dict[str, Any] = {}
    for entry in assignments:
        key, equals, text = entry.partition("=")
        if not equals or not key.strip() or not text.strip():
            raise SettingsError(f"{option} {entry}: write it as method.setting=value, e.g. smart.weight=3.")
        values[key.strip()] = scalar(text.strip(), option)
    return values


def read_config(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of settings; hyphens and underscores in names are the same.

    Raises:
        SettingsError: the file is missing, is not YAML, or is not a mapping.
    """
    path, place = Path(path), f"--config {path}"
    try:
        text = read_text(path, SETTINGS, encoding="utf-8-sig", pipe=True)
    except FileNotFoundError:
        raise SettingsError(f"{place}: there is no such file.") from None
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the path
        raise SettingsError(f"{place}: cannot be read ({error}).") from error
    content = read_yaml(text, place)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(f"{place}: expected `name: value` lines, found {type(content).__name__}.")
    named = {str(key).replace("-", "_"): value for key, value in content.items()}
    if len(named) < len(content):
        names = [str(key).replace("-", "_") for key in content]
        twice = next(name for name in names if names.count(name) > 1)
        raise SettingsError(f"{place}: {twice!r} is there twice, with hyphens and with underscores; keep one of them.")
    return named


def at_scale(values: dict[str, Any], scale: str | None, config: str | Path | None) -> dict[str, Any]:
    """Lay the settings of one of a file's ``scales`` over its others.

    Raises:
        SettingsError: there is no such scale.

    >>> at_scale({"model": "bert", "scales": {"small": {"model": "minilm"}}}, "small", "suite.yaml")
    {'model': 'minilm'}
    """
    values = dict(values)
    scales = values.pop("scales", None) or {}
    if not isinstance(scales, Mapping) or not all(isinstance(v, Mapping) for v in scales.values()):
        raise SettingsError(f"--config {config}: write scales as `scales: {{small: {{model: minilm}}}}`.")
    if scale is None:
        return values
    if scale not in scales:
        known = ", ".join(map(str, scales)) or "none"
        raise SettingsError(f"--scale {scale}: {config} has {known}.{did_you_mean(scale, list(map(str, scales)))}")
    chosen = {str(key).replace("-", "_"): value for key, value in scales[scale].items()}
    return {**values, **chosen}


#: Settings that name a file or a folder.
PATHS = with_fact(TrainSettings, "path")


def from_its_folder(values: Mapping[str, Any], config: str | Path) -> dict[str, Any]:
    """Count the relative paths of a configuration from the folder that it is in.

    A model is a name unless that folder holds it. The configuration that a run keeps in its output folder counts from
    where the run was started, as the command did.

    >>> from_its_folder({"train_file": "rows.csv", "model": "minilm"}, "suites/first.yaml")
    {'train_file': 'suites/rows.csv', 'model': 'minilm'}
    """
    folder, found = Path(config).expanduser().parent, dict(values)
    output = values.get("output_dir")
    is_kept = isinstance(output, str) and not is_url(output) and _same_folder(Path(output), folder)
    if is_kept or _same_folder(folder, Path()):
        return found
    for name in PATHS:
        path = values.get(name)
        if not isinstance(path, str) or not path or path.startswith("~") or is_url(path) or "\0" in path:
            continue
        if name != "model" or (folder / path).is_dir():
            found[name] = os.path.normpath(folder / path)
    return found


def _same_folder(one: Path, other: Path) -> bool:
    try:
        return one.expanduser().resolve() == other.resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a NUL
        return False


Kind = TypeVar("Kind", bound=Settings)


def resolve_settings(
    options: Mapping[str, Any], config: str | Path | None = None, scale: str | None = None
) -> TrainSettings:
    """Put together the settings of a run; see `resolve`."""
    return resolve(TrainSettings, options, config, scale)


def resolve(
    kind: type[Kind], options: Mapping[str, Any], config: str | Path | None = None, scale: str | None = None
) -> Kind:
    """Put together defaults, configuration file and options; the later one wins.

    Args:
        kind: the settings of a verb.
        options: given on the command line; ``None`` values count as not given.
        config: a YAML file.
        scale: which of the file's ``scales`` to take; its settings win over the file's others.

    Raises:
        SettingsError: a name is unknown or a value is out of range; the message names it.
    """
    if scale is not None and config is None:
        raise SettingsError(f"--scale {scale}: scales are in a configuration file; give one with --config.")
    values = from_its_folder(at_scale(read_config(config), scale, config), config) if config is not None else {}
    values = {name: value for name, value in values.items() if value is not None or _has(kind, name)}
    if values.get("trust_remote_code") and options.get("trust_remote_code") is None:
        raise SettingsError(
            f"--config {config}: trust_remote_code runs code that the model brings along, which a file cannot allow: "
            "give --trust-remote-code on the command line."
        )
    if options.get("output_dir") is None:
        _refuse_url_of_file(values.get("output_dir"), config)
    values = _merged(values, {name: value for name, value in options.items() if value is not None})
    try:
        return kind(**values)
    except SettingsError as error:
        raise SettingsError(_with_file(error, kind, config)) from None


#: URLs, separated by spaces, below which a configuration file may keep results.
ALLOWED_URLS = "STEADYTUNE_OUTPUT_URLS"


def _refuse_url_of_file(output_dir: Any, config: str | Path | None) -> None:
    """Refuse a store that only a file names: what lies there is fetched, and the file may be a stranger's.

    Raises:
        SettingsError: it is not below a URL that the environment allows.
    """
    if not isinstance(output_dir, str) or not is_url(output_dir):
        return
    refuse_secret_url("output_dir", output_dir)
    allowed = [url.rstrip("/") for url in os.environ.get(ALLOWED_URLS, "").split()]
    inside = any(f"{output_dir}/".startswith(f"{url}/") for url in allowed)
    if not inside or ".." in output_dir.split("/"):
        raise SettingsError(
            f"--config {config}: output_dir is the URL {output_dir}, which a file cannot choose: give --output-dir on "
            f"the command line, or name URLs that you trust in {ALLOWED_URLS}."
        )


def _has(kind: type[Settings], name: str) -> bool:
    """Whether these settings have a name, or none have: what another verb has and a file leaves open is not given."""
    return name in kind.model_fields or not verbs_with([name])


def _merged(values: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Options laid over a file's values; settings of methods one by one."""
    given, in_file = options.get("set"), values.get("set")
    merged = values | options
    if in_file is not None:
        merged["set"] = {**flattened(in_file), **given} if given and isinstance(in_file, Mapping) else in_file
    return merged


def _with_file(error: SettingsError, kind: type[Settings], config: str | Path | None) -> str:
    """What is wrong, with the file that says it where a name is unknown, and the verb that has the name."""
    cause = error.__cause__
    found = cause.errors() if isinstance(cause, ValidationError) else []
    unknown = [str(e["loc"][0]) for e in found if e["type"] == "extra_forbidden"]
    if config is None or not unknown or found[0]["type"] != "extra_forbidden":
        return str(error)
    elsewhere = of_another_verb(unknown, kind, config)
    return f"--config {config}: " + (elsewhere or f"there is no setting {unknown[0]!r}.{hint_on(unknown[0], kind)}")
