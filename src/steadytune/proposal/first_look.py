"""A first look at rows before anything is trained: lengths, classes, rows that occur twice. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadytune.heads.columns import ANSWER, LABEL, PROMPT
from steadytune.heads.registry import head_of
from steadytune.models.load import find_model
from steadytune.settings.train import TrainSettings
from steadytune.support.reading import read_json
from steadytune.tasks.files.load import training_rows
from steadytune.tasks.task import TaskData
from steadytune.training.rows import load_data

if TYPE_CHECKING:
    from datasets import Dataset

#: So many rows tell the lengths of all.
MEASURED = 5_000
#: Tokens of a word where the model's tokenizer cannot be asked.
TOKENS_PER_WORD = 1.4
#: What a model without a limit of its own is taken to read.
COMMON_LIMIT = 512


@dataclass(frozen=True)
class Lengths:
    """Tokens of a row, special ones included.

    Attributes:
        median: half of the rows are not longer.
        most: 99 % of the rows are not longer.
        longest: of those measured.
        limit: what the model can read.
        measured: how many rows were measured.
        exact: whether by the model's tokenizer; else about, by words.
    """

    median: int
    most: int
    longest: int
    limit: int
    measured: int
    exact: bool


@dataclass(frozen=True)
class Repeats:
    """Rows whose text occurs more than once.

    Attributes:
        agreeing: the rows of each text that always has the same label, counted from 0.
        contradictory: the rows of each text that occurs with several labels.
        in_file: whether the numbers are those of the training file.
    """

    agreeing: tuple[tuple[int, ...], ...]
    contradictory: tuple[tuple[int, ...], ...]
    in_file: bool


@dataclass(frozen=True)
class Look:
    """What was seen.

    Attributes:
        data: the rows.
        lengths: of the training rows.
        classes: for classification, training rows of each class.
        repeats: rows of the training file, or training rows of a named task, that have the text of another.
        parameters: of the model; ``None`` where its weights are not on this machine.
    """

    data: TaskData
    lengths: Lengths
    classes: Mapping[str, int]
    repeats: Repeats
    parameters: int | None = None

    @property
    def rows(self) -> int:
        """Training rows."""
        return len(self.data.splits["train"])

    @property
    def majority(self) -> float:
        """Share of the largest class; 0 where there are no classes."""
        return max(self.classes.values()) / max(1, sum(self.classes.values())) if self.classes else 0.0


def first_look(settings: TrainSettings) -> Look:
    """Read the rows that a run would read, and measure them.

    Raises:
        SettingsError: neither a task nor a file is given, or both.
        DataError: a file cannot be used; the message names file, row and column.
        ModelNotFoundError: the model, whose tokenizer measures, is nowhere.
    """
    data = load_data(settings)
    train = data.splits["train"]
    columns = [name for name in (*head_of(data.task.head).input_columns, PROMPT, ANSWER) if name in train.column_names]
    source = find_model(settings.model)
    folder = None if source.found_in == "hub" else Path(source.location)
    lengths = _lengths(train, list(dict.fromkeys(columns)), folder)
    repeats = _repeats(_whole_file(settings), train, columns)
    return Look(data, lengths, _classes(data), repeats, _parameters(folder))


def _whole_file(settings: TrainSettings) -> Dataset | None:
    """The rows of the training file with their numbers, which those that are trained on no longer have."""
    if settings.train_file is None:
        return None
    return training_rows(
        settings.train_file,
        text_column=settings.text_column,
        text_pair_column=settings.text_pair_column,
        label_column=settings.label_column,
        head=settings.head,
        delimiter=settings.delimiter,
        encoding=settings.encoding,
    )


def _classes(data: TaskData) -> dict[str, int]:
    import numpy as np

    names = data.task.label_names
    if not head_of(data.task.head).one_class_per_row or names is None:
        return {}
    counts = np.bincount(np.asarray(data.splits["train"].with_format("numpy")[LABEL][:]), minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def _repeats(file: Dataset | None, train: Dataset, columns: list[str]) -> Repeats:
    rows = train if file is None else file
    seen: dict[int, list[tuple[int, str]]] = {}  # by the hash of the text, which takes less room
    number = 0
    for batch in rows.select_columns([*columns, *([LABEL] if LABEL in rows.column_names else [])]).iter(10_000):
        of: Any = batch
        labels = of.get(LABEL) or [None] * len(of[columns[0]])
        for *texts, label in zip(*(of[name] for name in columns), labels, strict=True):
            seen.setdefault(hash(str(texts)), []).append((number, str(label)))
            number += 1
    agreeing, contradictory = [], []
    for found in seen.values():
        if len(found) > 1:
            (contradictory if len({label for _, label in found}) > 1 else agreeing).append(
                tuple(row for row, _ in found)
            )
    return Repeats(tuple(agreeing), tuple(contradictory), file is not None)


def _parameters(folder: Path | None) -> int | None:
    """Numbers in the weights, of which only the heads of the files are read."""
    from safetensors import SafetensorError, safe_open

    if folder is None:
        return None
    count = 0
    try:
        for path in folder.glob("*.safetensors"):
            with safe_open(path, framework="numpy") as file:
                count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError):  # training will say what is wrong with it
        return None
    return count or None


def _lengths(rows: Dataset, columns: list[str], folder: Path | None) -> Lengths:
    import numpy as np

    chosen = np.unique(np.linspace(0, len(rows) - 1, min(MEASURED, len(rows))).astype(int))
    some: Any = rows.select(chosen)
    texts = list(zip(*(map(_as_text, some[name][:]) for name in columns), strict=True))
    counted = _counted(folder, texts)
    exact = counted is not None
    if counted is None:
        counted = [round(TOKENS_PER_WORD * sum(len(text.split()) for text in row)) + 2 for row in texts]
    median, most = np.percentile(counted, [50, 99], method="higher")
    return Lengths(int(median), int(most), max(counted), _limit(folder), len(texts), exact)


def _as_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _counted(folder: Path | None, texts: list[tuple[str, ...]]) -> list[int] | None:
    """Tokens of each row by the model's own tokenizer; ``None`` where it has no file of the fast form."""
    from tokenizers import Tokenizer

    if folder is None or not (folder / "tokenizer.json").is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # the library raises this very type
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    rows: list[Any] = [row[0] if len(row) == 1 else row[:2] for row in texts]
    return [len(encoded.ids) for encoded in tokenizer.encode_batch(rows)]


def _limit(folder: Path | None) -> int:
    """Positions of the model, as its configuration names them."""
    if folder is None:
        return COMMON_LIMIT
    try:
        config = read_json(folder / "config.json")
        positions = next(config[name] for name in ("max_position_embeddings", "n_positions") if name in config)
        return int(positions) - (2 if config.get("model_type") in ("roberta", "xlm-roberta", "camembert") else 0)
    except (OSError, ValueError, TypeError, StopIteration, AttributeError):
        return COMMON_LIMIT
