"""Sentence retrieval across languages (Tatoeba and BUCC, as XTREME has them) by a model's sentence vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from steadytune.errors import DataError
from steadytune.evaluation.measures.sentences import checked_layer, number_of_layers, sentence_vectors
from steadytune.heads.columns import TEXT, TEXT_PAIR
from steadytune.heads.scores.retrieval import mining_scores, retrieval_accuracy
from steadytune.models.load import longest_input
from steadytune.tasks.digest import LENGTH, data_digest
from steadytune.tasks.named.loading import INSTEAD, place_of
from steadytune.tasks.named.registry import load_task, task_record
from steadytune.tasks.subset import take_subset
from steadytune.tasks.task import TaskData

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TASKS = ("tatoeba", "bucc")
#: Tokens of a sentence, as in XTREME.
MAX_LENGTH = 512


@dataclass(frozen=True)
class SentenceEncoder:
    """A model with its tokenizer, and which of its layers is read.

    Attributes:
        layer: 0 for the embeddings, 1 for the first layer.
        batch_size: sentences at a time.

    Raises:
        SettingsError: the model has no such layer.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layer: int
    batch_size: int

    @classmethod
    def of(cls, model: Any, tokenizer: Any, layer: int | None, batch_size: int) -> SentenceEncoder:
        """Take the layer that is asked for, or the middle one."""
        return cls(model, tokenizer, checked_layer(model, layer), batch_size)

    @property
    def max_length(self) -> int:
        """Tokens of a sentence."""
        return min(longest_input(self.model, self.tokenizer), MAX_LENGTH)

    @property
    def settings(self) -> dict[str, Any]:
        """What determines the vectors, besides the model."""
        return {"layer": self.layer, "layers": number_of_layers(self.model), "max_length": self.max_length}

    def vectors(self, rows: Dataset, column: str) -> np.ndarray:
        """One vector for each row, ``(rows, width)``."""
        plain = rows.with_format(None)
        return sentence_vectors(
            self.model,
            self.tokenizer,
            lambda start, stop: plain[start:stop][column],
            len(rows),
            layer=self.layer,
            max_length=self.max_length,
            batch_size=self.batch_size,
        )


@dataclass(frozen=True)
class Sentences:
    """The pairs of sentences that were found: by task and by split, and what was not found, a sentence each."""

    splits: dict[str, dict[str, Dataset]]
    notes: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """How many pairs there are, and their digest."""
        digest = hashlib.sha256()
        rows: dict[str, int] = {}
        for name, splits in self.splits.items():
            digest.update(data_digest(TaskData(task_record(name), splits, (), {})).encode())
            rows[name] = sum(map(len, splits.values()))
        return {"rows": rows, "data": digest.hexdigest()[:LENGTH]}


def find_sentences(data_dir: str | None, limit: int | None, *, ask_hub: bool) -> Sentences:
    """Load what there is of Tatoeba and BUCC: from the data folder, the Hub's cache and, if wanted, the Hub.

    Args:
        data_dir: folder with the data sets of named tasks.
        limit: pairs of each split at most, the same for every model.
        ask_hub: whether to ask the Hub for what neither has.
    """
    splits: dict[str, dict[str, Dataset]] = {}
    notes = []
    for name in TASKS:
        if not ask_hub and place_of(task_record(name), data_dir) not in ("folder", "cache"):
            notes.append(f"neither the data folder nor the Hub's cache has {name}.")
            continue
        try:
            data = load_task(name, data_dir)
        except DataError as error:
            notes.append(str(error).replace(INSTEAD, ""))
            continue
        notes += [f"{name}: {note}" for note in data.notes]
        kept = dict(data.splits) if name != "bucc" else _with_both(data.splits)
        if len(kept) < len(data.splits):
            left_out = ", ".join(sorted(set(data.splits) - set(kept)))
            notes.append(
                f"{name}: {left_out} not used: a language needs validation rows (for the threshold) and test rows."
            )
        for split, rows in kept.items():
            few = limit is not None and limit < len(rows)
            splits.setdefault(name, {})[split] = take_subset(rows, limit or 1, 0, None) if few else rows
    return Sentences(splits, tuple(notes))


def _with_both(splits: dict[str, Dataset]) -> dict[str, Dataset]:
    """The splits of the languages that have a validation and a test split."""
    languages = [{split.partition("_")[2] for split in splits if split.startswith(k)} for k in ("validation", "test")]
    return {split: rows for split, rows in splits.items() if split.partition("_")[2] in set.intersection(*languages)}


def retrieval_work(
    encoder: SentenceEncoder, data_dir: str | None, limit: int | None, *, ask_hub: bool, tell: Callable[[str], None]
) -> tuple[dict[str, Any], Callable[[], Any]] | str:
    """What determines the scores and what measures them, or why there are no sentences."""
    sentences = find_sentences(data_dir, limit, ask_hub=ask_hub)
    if not sentences.splits:
        return " ".join(sentences.notes)
    for note in sentences.notes:
        tell(note)
    return encoder.settings | sentences.settings(), lambda: retrieval_scores(encoder, sentences, tell)


def retrieval_scores(
    encoder: SentenceEncoder, sentences: Sentences, tell: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Score every language of every task, and give the means over the languages.

    Returns:
        By task, ``languages`` (by code; ``rows`` is the number of pairs) and their ``mean``. Tatoeba has ``accuracy``,
        of the sentence nearest to each English one, as XTREME counts, and ``accuracy_to_english``, the other way.
        BUCC has ``f1``, ``precision`` and ``recall`` on the test pairs, and the ``threshold`` that was best on the
        validation pairs.
    """
    found = {}
    for name, splits in sentences.splits.items():
        languages = (_accuracies if name == "tatoeba" else _mining)(name, splits, encoder, tell)
        keys = [key for key in next(iter(languages.values())) if key not in ("rows", "threshold")]
        means = {key: float(np.mean([scores[key] for scores in languages.values()])) for key in keys}
        found[name] = {"languages": languages, "mean": means}
    return found


def _accuracies(
    name: str, splits: dict[str, Dataset], encoder: SentenceEncoder, tell: Callable[[str], None]
) -> dict[str, Any]:
    found = {}
    for split, rows in splits.items():
        language = task_record(name).language_of(split) or split
        tell(f"retrieval: {name}, {language} ({len(rows):,} pairs)")
        theirs, english = (encoder.vectors(rows, column) for column in (TEXT, TEXT_PAIR))
        found[language] = {
            "rows": len(rows),
            "accuracy": retrieval_accuracy(english, theirs),
            "accuracy_to_english": retrieval_accuracy(theirs, english),
        }
    return found


def _mining(
    name: str, splits: dict[str, Dataset], encoder: SentenceEncoder, tell: Callable[[str], None]
) -> dict[str, Any]:
    found = {}
    for split, rows in splits.items():
        if not split.startswith("test"):
            continue
        tuning = splits[split.replace("test", "validation", 1)]
        language = task_record(name).language_of(split) or split
        tell(f"retrieval: {name}, {language} ({len(tuning):,} and {len(rows):,} pairs)")
        tuned, tested = ([encoder.vectors(part, column) for column in (TEXT, TEXT_PAIR)] for part in (tuning, rows))
        scores = mining_scores((tuned[0], tuned[1]), tested[0], tested[1])
        found[language] = {"rows": len(rows), **{key: scores[key] for key in ("f1", "precision", "recall")}}
        found[language]["threshold"] = scores["threshold"]
    return found
