"""A first look at rows before anything is trained: lengths, classes, rows that occur twice. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadytune.experiments.data import load_data
from steadytune.experiments.models import find_model
from steadytune.experiments.settings import TrainSettings
from steadytune.tasks.task import ANSWER, INPUT_COLUMNS, LABEL, PROMPT, TaskData

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
class Look:
    """What was seen.

    Attributes:
        data: the rows.
        lengths: of the training rows.
        classes: for classification, training rows of each class.
        twice: training rows whose text another training row has as well.
        contradictory: of these, rows whose text also occurs with another label.
    """

    data: TaskData
    lengths: Lengths
    classes: Mapping[str, int]
    twice: int
    contradictory: int

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
    columns = [name for name in (*INPUT_COLUMNS[data.task.head], PROMPT, ANSWER) if name in train.column_names]
    twice, contradictory = _twice(train, columns)
    lengths = _lengths(train, list(dict.fromkeys(columns)), settings.model)
    return Look(data, lengths, _classes(data), twice, contradictory)


def _classes(data: TaskData) -> dict[str, int]:
    import numpy as np

    names = data.task.label_names
    if data.task.head != "classification" or names is None:
        return {}
    counts = np.bincount(np.asarray(data.splits["train"].with_format("numpy")[LABEL][:]), minlength=len(names))
    return {name: int(count) for name, count in zip(names, counts, strict=True)}


def _twice(rows: Dataset, columns: list[str]) -> tuple[int, int]:
    """Count rows whose text occurs again, and those of them whose text occurs with several labels."""
    seen: dict[int, list[Any]] = {}  # by the hash of the text, which takes less room
    for batch in rows.select_columns([*columns, *([LABEL] if LABEL in rows.column_names else [])]).iter(10_000):
        of: Any = batch
        labels = of.get(LABEL) or [None] * len(of[columns[0]])
        for *texts, label in zip(*(of[name] for name in columns), labels, strict=True):
            seen.setdefault(hash(str(texts)), []).append(str(label))
    again = [labels for labels in seen.values() if len(labels) > 1]
    return sum(map(len, again)), sum(len(labels) for labels in again if len(set(labels)) > 1)


def _lengths(rows: Dataset, columns: list[str], model: str) -> Lengths:
    import numpy as np

    chosen = np.unique(np.linspace(0, len(rows) - 1, min(MEASURED, len(rows))).astype(int))
    some: Any = rows.select(chosen)
    texts = list(zip(*(map(_as_text, some[name][:]) for name in columns), strict=True))
    source = find_model(model)
    folder = None if source.found_in == "hub" else Path(source.location)
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
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        positions = next(config[name] for name in ("max_position_embeddings", "n_positions") if name in config)
        return int(positions) - (2 if config.get("model_type") in ("roberta", "xlm-roberta", "camembert") else 0)
    except (OSError, ValueError, TypeError, StopIteration, AttributeError):
        return COMMON_LIMIT
