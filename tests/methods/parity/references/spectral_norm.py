"""The last matrix of the head divided by its largest singular value (R4F: Aghajanyan et al. 2021), in float64.

While it trains the model uses W~ = W / (u^T W v). u and v are constants to the gradient, so with G the gradient
with respect to W~ the one with respect to W is (G - sum(G * W~) u v^T) / sigma. Here u and v are the exact singular
vectors: the limit of many power iterations in each forward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .adamw import Settings, Update, Weights, adamw_step, copied, gradients, next_moments, no_moments


def unit(vector: list[float]) -> list[float]:
    length = math.sqrt(sum(entry * entry for entry in vector))
    return [entry / length for entry in vector]


def power_iterations(weight: Tensor, u: Sequence[float], count: int) -> tuple[float, list[float], list[float]]:
    """sigma, u and v after ``count`` times v <- unit(W^T u), u <- unit(W v); then sigma = u^T W v."""
    if count < 1:
        raise ValueError(count)
    matrix: list[list[float]] = weight.detach().to(torch.float64).tolist()
    height, width = len(matrix), len(matrix[0])
    left, right = unit(list(u)), [0.0] * width
    for _ in range(count):
        right = unit([sum(matrix[r][c] * left[r] for r in range(height)) for c in range(width)])
        left = unit([sum(matrix[r][c] * right[c] for c in range(width)) for r in range(height)])
    sigma = sum(left[r] * matrix[r][c] * right[c] for r in range(height) for c in range(width))
    return sigma, left, right


def largest(weight: Tensor) -> tuple[float, Tensor, Tensor]:
    """The largest singular value of a matrix and its two vectors, exactly."""
    left, values, right = torch.linalg.svd(weight.detach().to(torch.float64), full_matrices=False)
    return float(values[0]), left[:, 0], right[0]


def normalized(weight: Tensor) -> Tensor:
    """W / sigma_max(W)."""
    return weight.detach().to(torch.float64) / largest(weight)[0]


def through_division(gradient: Tensor, weight: Tensor, sigma: float, u: Tensor, v: Tensor) -> Tensor:
    """The gradient with respect to W, given that with respect to W / sigma, entry by entry."""
    used = weight / sigma
    along = 0.0
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            along += float(gradient[row, column]) * float(used[row, column])
    changed = torch.zeros_like(weight)
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            changed[row, column] = (gradient[row, column] - along * u[row] * v[column]) / sigma
    return changed


def spectral_norm_gradients(model: nn.Module, weights: Mapping[str, Tensor], name: str, update: Update) -> Weights:
    """Gradients of the loss of the model that uses W / sigma_max(W), with respect to W and all other weights."""
    sigma, u, v = largest(weights[name])
    used = copied(weights)
    used[name] = weights[name] / sigma
    grads = gradients(model, used, update)
    grads[name] = through_division(grads[name], weights[name], sigma, u, v)
    return grads


def spectral_norm(
    model: nn.Module, start: Mapping[str, Tensor], name: str, updates: Sequence[Update], settings: Settings
) -> list[Weights]:
    """The undivided weights after each update of AdamW; ``name`` is the matrix that is used divided."""
    weights, moments, after = copied(start), no_moments(copied(start)), []
    for update in updates:
        grads = spectral_norm_gradients(model, weights, name, update)
        for each in weights:
            setting = settings[each]
            moments[each] = next_moments(moments[each], grads[each], setting)
            weights[each] = adamw_step(weights[each], moments[each], setting, setting.lr)
        after.append(copied(weights))
    return after
