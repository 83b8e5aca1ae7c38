"""Facts about rows and model that can be told without torch: lengths in tokens, size, kind."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadytune.heads.columns import ANSWER, PROMPT
from steadytune.heads.registry import head_of
from steadytune.models.load import find_model
from steadytune.support.reading import read_json
from steadytune.tasks.task import TaskData
from steadytune.training.recipe import ModelFacts

if TYPE_CHECKING:
    from datasets import Dataset

#: Rows from which the lengths are estimated.
MEASURED = 5_000
#: Tokens of a word where the model's tokenizer cannot be asked.
TOKENS_PER_WORD = 1.4
#: What a model without a limit of its own is taken to read.
COMMON_LIMIT = 512
#: Files that a sentence encoder has beside its weights.
OF_SENTENCE_ENCODERS = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling")


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


def text_columns(data: TaskData) -> list[str]:
    """The columns of the training rows that hold text."""
    named = (*head_of(data.task.head).input_columns, PROMPT, ANSWER)
    return list(dict.fromkeys(name for name in named if name in data.splits["train"].column_names))


def lengths_in(data: TaskData, model: str) -> Lengths:
    """Measure the training rows.

    Raises:
        ModelNotFoundError: the model, whose tokenizer measures, is nowhere.
    """
    return _lengths(data.splits["train"], text_columns(data), _folder(model))


def facts_of_model(model: str) -> ModelFacts:
    """Size and kind of a model; of one that is only on the Hub nothing is known.

    Raises:
        ModelNotFoundError: it is nowhere.
    """
    folder = _folder(model)
    if folder is None:
        return ModelFacts()
    return ModelFacts(_parameters(folder), any((folder / name).exists() for name in OF_SENTENCE_ENCODERS))


def _folder(model: str) -> Path | None:
    source = find_model(model)
    return None if source.found_in == "hub" else Path(source.location)


def _parameters(folder: Path) -> int | None:
    """Numbers in the weights, of which only the heads of the files are read."""
    from safetensors import SafetensorError, safe_open

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
