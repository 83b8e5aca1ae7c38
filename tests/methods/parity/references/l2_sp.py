"""A slow float64 transcription of L2-SP (Li et al., ICML 2018, arXiv 1802.01483, eq. 2), to test against.

alpha/2 ||w_S - w_S^0||^2 + beta/2 ||w_S'||^2, with w_S the weights that were pretrained, w_S^0 their pretrained
values and w_S' the weights of the new head. The gradients alpha (w - w^0) and beta w are written out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from references.smart import Theta


@dataclass
class Penalty:
    """Value and gradients of the whole penalty, with alpha and beta."""

    value: float
    gradients: Theta


def l2_sp(theta: Theta, anchor: Theta, new: Collection[str], alpha: float, beta: float) -> Penalty:
    """``theta`` holds the trainable weights, ``new`` names those of the head; the others are in ``anchor``."""
    value = 0.0
    gradients: Theta = {}
    for name, weight in theta.items():
        if name in new:
            factor, difference = beta, weight
        else:
            factor, difference = alpha, weight - anchor[name]
        for entry in difference.reshape(-1).tolist():
            value += factor * 0.5 * entry * entry
        gradients[name] = factor * difference
    return Penalty(value, gradients)
