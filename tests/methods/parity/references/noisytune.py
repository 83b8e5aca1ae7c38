"""A slow float64 transcription of NoisyTune (Wu et al., ACL 2022, short 76), to test against.

Eq. 1 of the paper: W~_i = W_i + U(-lambda/2, lambda/2) * std(W_i), where U is a matrix of the shape of W_i
(footnote 1). The random draws are arguments here, so that nothing in this file is random.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor


def sample_std(values: Tensor) -> float:
    """The unbiased standard deviation (``torch.std`` of the printed snippet), in two passes over float64.

    Not a number for fewer than two values. The values are first shifted by their first entry, which changes
    no standard deviation and makes that of a constant tensor exactly zero.
    """
    flat = values.detach().to(torch.float64).reshape(-1)
    count = flat.numel()
    if count < 2:
        return math.nan
    shifted = flat - flat[0]
    mean = shifted.sum() / count  # first pass
    squares = ((shifted - mean) * (shifted - mean)).sum()  # second pass
    return math.sqrt(squares.item() / (count - 1))


def noise_scale(std: float, intensity: float, noise: str) -> float:
    """The number which multiplies the unit draws of one tensor.

    uniform: U(-1/2, 1/2) times lambda * std is U(-lambda/2, lambda/2) * std, Eq. 1.
    gaussian (Fig. 2 of the paper; its scale is not stated there): N(0, 1) times lambda * std / sqrt(12), of
    the same variance as the uniform noise.
    """
    if noise == "uniform":
        return intensity * std
    if noise == "gaussian":
        return intensity * std / math.sqrt(12.0)
    raise ValueError(noise)


def noisytune(
    weights: dict[str, Tensor],
    unit_noise: dict[str, Tensor],
    intensity: float,
    noise: Literal["uniform", "gaussian"] = "uniform",
    scope: Literal["matrix", "global"] = "matrix",
) -> dict[str, Tensor]:
    """The perturbed weights, in float64: Eq. 1 with the std of each matrix, or with one std for all (Fig. 2).

    ``unit_noise[name]`` has the shape of ``weights[name]`` and holds draws of U(-1/2, 1/2) for ``"uniform"``,
    of N(0, 1) for ``"gaussian"``. With ``scope="global"`` the std is that of all the entries of all the given
    tensors pooled (those of single-element tensors included). A tensor of a single element (or of none) stays
    as it is in either scope, and so does every tensor for which the std to be used is not finite.
    """
    if scope not in ("matrix", "global"):
        raise ValueError(scope)
    pooled_std = math.nan
    if scope == "global":
        entries = [weight.detach().to(torch.float64).reshape(-1) for weight in weights.values()]
        pooled_std = sample_std(torch.cat(entries))
    perturbed: dict[str, Tensor] = {}
    for name, weight in weights.items():
        original = weight.detach().to(torch.float64).clone()
        draws = unit_noise[name].to(torch.float64)
        if draws.shape != original.shape:
            raise ValueError(f"{name}: noise of shape {tuple(draws.shape)} for {tuple(original.shape)}")
        std = pooled_std if scope == "global" else sample_std(original)
        if original.numel() < 2 or not math.isfinite(std):
            perturbed[name] = original
        else:
            perturbed[name] = original + noise_scale(std, intensity, noise) * draws  # Eq. 1
    return perturbed


def expected_moments(weight: Tensor, intensity: float) -> tuple[float, float]:
    """What Eq. 1 promises of the change W~ - W of one matrix: a bound of its size, and its variance.

    U(-lambda/2, lambda/2) * std is at most lambda * std / 2 and has the variance (lambda * std)^2 / 12.
    """
    std = sample_std(weight)
    return intensity * std / 2.0, (intensity * std) ** 2 / 12.0
