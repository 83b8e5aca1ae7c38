"""What a run predicted for each row of a split, kept beside its scores: calibration needs no second pass."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zipfile import BadZipFile

import numpy as np

from steadytune.support.atomic_files import replaced_when_whole
from steadytune.tasks.task import Head

if TYPE_CHECKING:
    from transformers import EvalPrediction

    from steadytune.heads.features import Encoded
    from steadytune.heads.scoring import Scorer

FOLDER = "predictions"
#: Heads with one row of outputs for each row of data.
KEPT: tuple[Head, ...] = ("classification", "multi_label", "regression")
#: Above, a file would be larger than many a model.
MOST_VALUES = 20_000_000


class Predictions(NamedTuple):
    """Of one split: ``(rows, outputs)`` in float32, what is true, and the head of the task."""

    logits: np.ndarray
    labels: np.ndarray
    head: str


def keeping(scorer: Scorer, head: Head, encoded: Encoded, file: Path) -> Scorer:
    """Return a scorer that also writes what it is given, in the order of the rows; heads of other shapes keep nothing.

    Args:
        scorer: gives the scores.
        head: of the task.
        encoded: the split, in the order in which it is evaluated.
        file: ``logits`` (rows, outputs) in float32, ``labels`` and ``head``, replaced by each evaluation.
    """
    if head not in KEPT:
        return scorer

    def score(predicted: EvalPrediction) -> dict[str, float]:
        logits, labels = np.asarray(predicted.predictions), np.asarray(predicted.label_ids)
        rows = np.asarray(encoded.features.with_format("numpy")["row"][:])
        if logits.size <= MOST_VALUES and len(rows) == len(logits) == len(np.unique(rows)):
            order = np.argsort(rows)
            file.parent.mkdir(parents=True, exist_ok=True)
            with replaced_when_whole(file) as unfinished, unfinished.open("wb") as content:
                np.savez_compressed(content, logits=logits[order].astype(np.float32), labels=labels[order], head=head)
        return scorer(predicted)

    return score


def read_predictions(run: Path, split: str) -> Predictions | None:
    """What was predicted for a split; ``None`` where nothing was kept, or the file is damaged."""
    try:
        with np.load(run / FOLDER / f"{split}.npz", allow_pickle=False) as content:
            return Predictions(content["logits"], content["labels"], str(content["head"]))
    except (OSError, ValueError, KeyError, BadZipFile):
        return None
