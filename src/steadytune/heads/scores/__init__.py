"""Scores of predictions."""

from steadytune.heads.scores.metrics import compute_metrics

__all__ = ["compute_metrics"]
