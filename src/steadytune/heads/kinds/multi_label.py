"""A text or a pair, and any number of labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steadytune.heads.scores.rows import label_scores
from steadytune.heads.texts import TextHead

if TYPE_CHECKING:
    import numpy as np


class MultiLabel(TextHead):
    """Yes or no to each label, for each text or pair."""

    name = "multi_label"
    predicts = "labels"
    metrics = ("f1_micro", "f1_macro", "accuracy")
    chooses = True
    labels_as_floats = True

    def configuration(self, label_names: tuple[str, ...] | None) -> dict[str, Any]:
        """See `TaskHead`."""
        return {**super().configuration(label_names), "problem_type": "multi_label_classification"}

    def row_scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """See `TaskHead`."""
        return label_scores(logits, labels)

    def as_decisions(self, logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each label of each row as a choice between no and yes: the sigmoid as a softmax of two.

        >>> import numpy
        >>> HEAD.as_decisions(numpy.array([[2.0, -1.0]]), numpy.array([[1, 0]]))[0].tolist()
        [[0.0, 2.0], [0.0, -1.0]]
        """
        import numpy as np

        flat = np.asarray(logits, dtype=np.float64).reshape(-1)
        return np.stack([np.zeros_like(flat), flat], axis=1), np.asarray(labels).reshape(-1).astype(np.int64)


HEAD = MultiLabel()
