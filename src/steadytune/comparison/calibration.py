"""Calibration of runs whose predictions were kept."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steadytune.heads.registry import head_of
from steadytune.training.predictions import read_predictions


def calibration_of(run: Path, splits: Iterable[str]) -> dict[str, Any]:
    """How well the kept predictions of a classifier are calibrated, by split; nothing for other heads.

    Returns:
        For each split with predictions ``rows``, ``ece``, ``brier``, ``nll``, ``bins`` as ``[confidence, accuracy,
        count]`` without the empty ones, and where there are predictions for the validation split ``temperature``,
        fitted on it, and ``ece_scaled`` with that temperature.
    """
    from steadytune.errors import DataError
    from steadytune.evaluation.measures.calibration import calibration, fitted_temperature

    kept = {}
    for split in splits:
        found = read_predictions(run, split)
        if found is not None and head_of(found.head).chooses:
            kept[split] = head_of(found.head).as_decisions(found.logits, found.labels)
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
