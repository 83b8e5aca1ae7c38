"""What a run predicted for each row of a split, kept beside its scores: calibration needs no second pass."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
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


def calibration_of(run: Path, splits: Iterable[str]) -> dict[str, Any]:
    """How well the kept predictions of a classifier are calibrated, by split; nothing for other heads.

    Returns:
        For each split with predictions ``rows``, ``ece``, ``brier``, ``nll``, ``bins`` as ``[confidence, accuracy,
        count]`` without the empty ones, and where there are predictions for the validation split ``temperature``,
        fitted on it, and ``ece_scaled`` with that temperature.
    """
    from steadytune.errors import DataError
    from steadytune.evaluation.measures.calibration import as_decisions, calibration, fitted_temperature

    kept = {}
    for split in splits:
        found = read_predictions(run, split)
        if found is not None and found.head == "multi_label":
            kept[split] = as_decisions(found.logits, found.labels)
        elif found is not None and found.head == "classification":
            kept[split] = found.logits, found.labels
    measured = {}
    try:
        temperature = fitted_temperature(*kept["validation"]) if "validation" in kept else None
        for split, (logits, labels) in kept.items():
            found = calibration(logits, labels)
            measured[split] = {
                "rows": found.rows,
                "ece": found.ece,
                "brier": found.brier,
                "nll": found.nll,
                "bins": [[b.confidence, b.accuracy, b.count] for b in found.bins if b.count],
            }
            if temperature is not None:
                scaled = calibration(logits, labels, temperature=temperature)
                measured[split] |= {"temperature": temperature, "ece_scaled": scaled.ece}
    except DataError:  # outputs that are not finite have no calibration; the scores tell of them
        return {}
    return measured
