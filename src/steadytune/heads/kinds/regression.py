"""A text or a pair, and a number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steadytune.heads.scores.rows import number_scores
from steadytune.heads.texts import TextHead

if TYPE_CHECKING:
    import numpy as np


class Regression(TextHead):
    """One number for each text or pair."""

    name = "regression"
    predicts = "number"
    metrics = ("pearson", "spearman")

    def number_of_outputs(self, label_names: tuple[str, ...] | None) -> int:
        """See `TaskHead`."""
        return 1

    def configuration(self, label_names: tuple[str, ...] | None) -> dict[str, Any]:
        """See `TaskHead`."""
        return {"num_labels": 1, "problem_type": "regression"}

    def row_scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """See `TaskHead`."""
        return number_scores(logits, labels)


HEAD = Regression()
