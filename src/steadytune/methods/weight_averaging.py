"""Averages of the weights along the training: exponential (EMA) and equal (SWA, Izmailov et al., UAI 2018)."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from steadytune.core.authoring import Attachment, Cost, ModelMethod, Training, hyperparameter
from steadytune.core.state.teacher import copied, trainable
from steadytune.errors import CheckpointError, HostError

logger = logging.getLogger("steadytune")
#: Name of the number of averaged updates in the saved state; no parameter can be called so.
COUNT = "updates averaged"


@dataclass(frozen=True)
class WeightAveraging(ModelMethod):
    """Training is unchanged; when it ends, the weights become an average of those along the way.

    - ``"ema"``: after each update t ``average = d * average + (1 - d) * weights``, from the initial weights on, with
      ``d = decay``, at first less: ``min(decay, (1 + t) / (10 + t))``. Without that warm-up an average over a few
      hundred updates would be little else than the initial weights and the untrained head.
    - ``"swa"``: the equal average of the weights after every ``every``-th update from ``start`` of the training on
      (algorithm 1).

    Only weights that train are averaged, in float32 at least; there is no second model.

    Example:
        >>> WeightAveraging(kind="swa", start=0.5).is_due(5, 10), WeightAveraging(kind="swa", start=0.5).is_due(4, 10)
        (True, False)
    """

    name: ClassVar[str] = "weight_averaging"
    summary: ClassVar[str] = "ends at an average of the weights over steps"
    paper: ClassVar[str] = "SWA, Izmailov et al., UAI 2018, algorithm 1; EMA, Polyak & Juditsky 1992"
    changes_final_weights: ClassVar[bool] = True
    off_settings: ClassVar[Mapping[str, Any]] = {"kind": "ema", "decay": 0.0}
    strong_settings: ClassVar[Mapping[str, Any]] = {"decay": 0.5}
    variants: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"warmup": False},
        {"kind": "swa", "start": 0.0},
        {"kind": "swa", "start": 0.2, "every": 2},
    )

    kind: Literal["ema", "swa"] = hyperparameter("ema", "exponential or equal average", choices=("ema", "swa"))
    decay: float = hyperparameter(0.999, "ema: decay per update", low=0, high=0.999999)
    warmup: bool = hyperparameter(True, "ema: smaller decays at first", choices=(True, False))
    start: float = hyperparameter(0.75, "swa: the update that completes this share counts first", low=0, high=0.999999)
    every: int = hyperparameter(1, "swa: updates between two that count", low=1, high=100_000, integer=True)

    def is_due(self, update: int, total_updates: int | None) -> bool:
        """Whether the weights after this update (from 1) enter the average."""
        if self.kind == "ema":
            return True
        first = self._first(total_updates)
        return update >= first and (update - first) % self.every == 0

    def _first(self, total_updates: int | None) -> int:
        """The first update of an equal average."""
        if self.start == 0:
            return 1
        if total_updates is None:
            raise HostError(
                f"weight_averaging averages from {self.start:.0%} of the updates on: pass total_updates to "
                "stack.prepare(), or set start=0."
            )
        return max(1, math.ceil(self.start * total_updates - 1e-9))  # 0.07 * 100 is a little above 7

    def decay_after(self, update: int) -> float:
        """The decay of an exponential average after this update (from 1).

        >>> [round(WeightAveraging().decay_after(t), 3) for t in (1, 100, 10_000)]
        [0.182, 0.918, 0.999]
        """
        return min(self.decay, (1 + update) / (10 + update)) if self.warmup else self.decay

    def check_host(self, *, total_updates: int | None, precision: torch.dtype) -> None:  # noqa: ARG002 - base signature
        """Refuse an equal average of the end of a training whose length is unknown."""
        self.is_due(1, total_updates)

    def attach(self, training: Training) -> Attachment:
        """Nothing changes until training ends.

        Raises:
            CheckpointError: the run resumes and its checkpoint holds the average of another model.
        """
        return _Average(training, self)

    def cost(self) -> Cost:
        """Nothing per step; one copy of the trainable weights."""
        return Cost(weight_copies=1)

    def effect(self) -> str:
        """One line: what the method touches."""
        if self.kind == "ema":
            return f"ends at a moving average of the weights with decay {self.decay:g}"
        return f"ends at the equal average of the weights from {self.start:.0%} of the training on"


class _Average(Attachment):
    def __init__(self, training: Training, method: WeightAveraging) -> None:
        self._training, self._method, self._average = training, method, training.tensors
        weights = trainable(training.model)
        self._names = list(weights)
        known = self._average.keys() - {COUNT}
        if training.resumed and known and known != weights.keys():
            raise CheckpointError("The checkpoint holds the average of other weights than train now: start a new run.")
        if method.kind == "ema" and not training.resumed:
            self._average |= copied(weights)

    def after_update(self, update: int, total_updates: int | None) -> None:
        """Move the average."""
        if not self._method.is_due(update, total_updates):
            return
        parameters = self._training.parameters()
        weights = {name: parameters[name].detach() for name in self._names}
        if self._method.kind == "ema":
            self._lerp(get_ema_multi_avg_fn(self._method.decay_after(update)), weights, 0)
            return
        count = int(self._average.get(COUNT, torch.zeros((), dtype=torch.long)))
        if count == 0:
            self._average |= copied(weights)
        else:
            self._lerp(get_swa_multi_avg_fn(), weights, count)
        self._average[COUNT] = torch.tensor(count + 1)  # on the CPU: to read it there is no need to wait for a device

    def _lerp(self, move: Any, weights: Mapping[str, torch.Tensor], count: int) -> None:
        averages = [self._average[name] for name in self._names]
        move(averages, [weights[n].to(a.dtype) for n, a in zip(self._names, averages, strict=True)], count)

    @torch.no_grad()
    def finish(self) -> None:
        """Put the average into the model."""
        if not self._average:
            logger.warning("weight_averaging: training ended before the first update that counts; the weights stay.")
            return
        parameters = self._training.parameters()
        for name in self._names:
            parameters[name].copy_(self._average[name])
