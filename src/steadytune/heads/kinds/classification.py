"""A text or a pair, and its class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steadytune.heads.scores.rows import class_scores
from steadytune.heads.texts import TextHead

if TYPE_CHECKING:
    import numpy as np


class Classification(TextHead):
    """One class for each text or pair."""

    name = "classification"
    predicts = "class"
    metrics = ("accuracy",)
    one_class_per_row = True
    chooses = True
    smooths_labels = True

    def configuration(self, label_names: tuple[str, ...] | None) -> dict[str, Any]:
        """See `TaskHead`."""
        return {**super().configuration(label_names), "problem_type": "single_label_classification"}

    def row_scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """See `TaskHead`."""
        return class_scores(logits, labels)


HEAD = Classification()
