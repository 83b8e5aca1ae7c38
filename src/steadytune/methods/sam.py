"""SAM and ASAM: the gradient at the worst weights nearby (Foret et al., ICLR 2021; Kwon et al., ICML 2021)."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from steadytune.core.authoring import PLAIN_STEP, Cost, Masks, Passes, StepMethod, Training, hyperparameter
from steadytune.errors import HostError

logger = logging.getLogger("steadytune")


@dataclass(frozen=True)
class SAM(StepMethod):
    """Sharpness-aware minimization: the gradient that the optimizer gets is taken at ``theta + e``.

    ``e = rho * g / ||g||_2`` with ``g`` the gradient of the whole loss, terms included, and the norm over all weights
    that train (equation 2); ``adaptive`` gives ASAM, ``e = rho * theta^2 g / ||theta g||_2`` (Kwon et al., eq. 9).
    The weights are restored bit for bit before the host's optimizer steps, so optimizer, moments, gradient scaler and
    clipping are the host's own. The perturbation itself is computed by the library ``pytorch-optimizer``.

    Example:
        >>> SAM(rho=0.1).total(Cost()).units / PLAIN_STEP.units
        2.0

    Raises:
        MethodError: a setting is out of range.
        HostError: ``pytorch-optimizer`` is not installed.
    """

    name: ClassVar[str] = "sam"
    summary: ClassVar[str] = "gradients from the worst weights nearby"
    paper: ClassVar[str] = "Foret et al., ICLR 2021, eq. 2; adaptive: Kwon et al., ICML 2021, eq. 9"
    whole_batch: ClassVar[bool] = True
    off_settings: ClassVar[Mapping[str, Any]] = {"rho": 0.0}
    strong_settings: ClassVar[Mapping[str, Any]] = {"rho": 0.5}
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({"adaptive": True}, {"masks": "same"})
    not_applicable: ClassVar[Mapping[str, str]] = {
        "accumulation": "the perturbation of the weights is that of the whole batch of an update, so it needs all of "
        "it at once; accumulation is refused"
    }

    rho: float = hyperparameter(0.05, "radius, L2 norm of the perturbation of all weights together", low=0, high=10)
    adaptive: bool = hyperparameter(False, "ASAM: weights move by their square times g", choices=(False, True))
    masks: Masks = hyperparameter("fresh", "dropout masks of the second pass", choices=("fresh", "same"))

    def check_model(self, training: Training) -> None:
        """Refuse where the library is missing; warn where the weights are too coarse to be moved a little.

        Raises:
            HostError: ``pytorch-optimizer`` is not installed.
        """
        _library()
        weights = [p for name, p in training.parameters().items() if name in training.trainable]
        if self.rho > 0 and _is_lost_to_rounding(weights, self.rho, self.adaptive):
            logger.warning(
                "sam: rho=%g over all weights together moves most of them by less than the rounding of their 16-bit "
                "type; keep them in float32 and compute in 16 bits by autocast (bf16=True in the Trainer).",
                self.rho,
            )

    def run(self, passes: Passes) -> Tensor:
        """The gradient at the weights, and with it the gradient at the worst weights nearby."""
        if self.rho == 0:
            return passes.forward_backward()
        weights = passes.trainable()
        before = [p.grad for p in weights]
        for p in weights:
            p.grad = None
        loss = passes.forward_backward()
        _drop_if_not_finite(weights)
        mover: Any = _library().SAM(weights, _NoStep, rho=self.rho, adaptive=self.adaptive)
        try:
            mover.first_step()
            for p, gradient in zip(weights, before, strict=True):
                p.grad = gradient
            passes.forward_backward(masks=self.masks)
        finally:
            mover.second_step()
        return loss

    def total(self, terms: Cost) -> Cost:
        """Everything twice, and a copy of the weights; nothing more at ``rho=0``."""
        if self.rho == 0:
            return PLAIN_STEP + terms
        return (PLAIN_STEP + terms).times(2) + Cost(weight_copies=1)

    def effect(self) -> str:
        """One line: what the method touches."""
        kind = "in proportion to their size, " if self.adaptive else ""
        return f"takes the gradient at weights moved by rho={self.rho:g} {kind}in the worst direction"


class _NoStep:
    """Stands where the library expects an optimizer of its own: the host's steps the weights.

    It is no ``torch.optim.Optimizer``, because every step of such a one counts as an update in the hooks of torch.
    """

    def __init__(self, groups: list[dict[str, Any]], **_: object) -> None:
        self.param_groups = groups
        self.state: dict[Tensor, dict[str, Any]] = defaultdict(dict)

    def step(self) -> None:
        """Nothing."""


def _drop_if_not_finite(weights: Sequence[nn.Parameter]) -> None:
    """Set all gradients to zero if one of them is not finite: the weights then stay where they are."""
    gradients = [p.grad for p in weights if p.grad is not None]
    home = gradients[0].device
    finite = torch.stack([torch.isfinite(g).all().to(home) for g in gradients]).all()
    for g in gradients:
        g.masked_fill_(~finite.to(g.device), 0.0)


def _is_lost_to_rounding(weights: Sequence[nn.Parameter], rho: float, adaptive: bool) -> bool:
    """Whether the mean move of a weight, ``rho / sqrt(n)``, is below half a unit in the last place of a usual one."""
    coarse = [p.detach() for p in weights if p.dtype in (torch.bfloat16, torch.float16)]
    if not coarse:
        return False
    count = sum(p.numel() for p in coarse)
    typical = 1.0 if adaptive else (sum(float(p.float().square().sum()) for p in coarse) / count) ** 0.5
    rounding = max(torch.finfo(p.dtype).eps for p in weights) / 2
    return rho / count**0.5 < rounding * typical


def _library() -> Any:
    try:
        import pytorch_optimizer
    except ImportError:
        raise HostError("sam needs the package pytorch-optimizer: pip install 'steadytune[optimizers]'.") from None
    return pytorch_optimizer
