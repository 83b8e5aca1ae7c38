"""WiSE-FT: at the end, a point between the pretrained and the fine-tuned weights (Wortsman et al., CVPR 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from steadytune.core.authoring import Attachment, Cost, ModelMethod, Training, hyperparameter


@dataclass(frozen=True)
class WiseFT(ModelMethod):
    """Training is unchanged; when it ends, ``w <- (1 - alpha) * w0 + alpha * w`` for every pretrained weight.

    ``w0`` is the pretrained value. The new head and re-initialized layers have none and keep their weights.

    Example:
        >>> from steadytune.core.stack.stack import Stack
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> start = model.weight.detach().clone()
        >>> with Stack([WiseFT(alpha=0.5)]) as stack:
        ...     stack.prepare(model)
        ...     _ = model.weight.data.add_(1.0)
        >>> bool(torch.isclose(model.weight, start + 0.5))
        True
    """

    name: ClassVar[str] = "wise_ft"
    summary: ClassVar[str] = "ends between the pretrained and the fine-tuned weights"
    paper: ClassVar[str] = "WiSE-FT, Wortsman et al., CVPR 2022, eq. 1"
    keeps_pretrained: ClassVar[bool] = True
    changes_final_weights: ClassVar[bool] = True
    finishes: ClassVar[int] = 1
    off_settings: ClassVar[Mapping[str, Any]] = {"alpha": 1.0}
    not_applicable: ClassVar[Mapping[str, str]] = {
        "lora": "under PEFT no pretrained weight trains, so it is refused",
    }

    alpha: float = hyperparameter(0.5, "share of the fine-tuned weights, the rest is pretrained", low=0, high=1)

    def attach(self, training: Training) -> Attachment:
        """Nothing changes until training ends."""
        return _Interpolation(training, self.alpha)

    def cost(self) -> Cost:
        """Nothing per step; a copy of the pretrained weights."""
        return Cost(weight_copies=1)

    def effect(self) -> str:
        """One line: what the method touches."""
        return f"ends at {self.alpha:g} of the way from the pretrained to the fine-tuned weights"


class _Interpolation(Attachment):
    def __init__(self, training: Training, alpha: float) -> None:
        self._training, self._alpha = training, alpha

    @torch.no_grad()
    def finish(self) -> None:
        """Move every pretrained weight back; one that did not train stays, bit for bit."""
        parameters = self._training.parameters()
        for name, pretrained in self._training.anchor.items():
            p = parameters[name]
            p.copy_(pretrained.to(p.device).lerp(p.to(pretrained.dtype), self._alpha))
