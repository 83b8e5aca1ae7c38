"""The Trainer of a run: the order of its rows, its batches, and the scores of the split that it evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import Sampler

from steadytune.core.arithmetic.randomness import RandomState, replayed
from steadytune.errors import DivergedError
from steadytune.heads.encoded import lengths_of
from steadytune.heads.head import Scorer
from steadytune.integrations.transformers.trainer import SteadyTrainer
from steadytune.training.sampling import GroupedByLength


class RunTrainer(SteadyTrainer):
    """Evaluates on random numbers of its own, and ends when the loss is no longer a number.

    A checkpoint may be written before or after the evaluation that falls on the same update; training that continues
    from it draws the same numbers either way.

    Args:
        scorers: by name of the split, which `evaluate` is given as ``metric_key_prefix`` (else it is validation).
        group_by_length: train on rows of about the same length together.
    """

    #: In float16 a loss may overflow now and then until the scale of the gradients has come down.
    bad_losses = 0

    def __init__(self, *args: Any, scorers: Mapping[str, Scorer], group_by_length: bool = True, **kwargs: Any) -> None:
        self.scorers = scorers
        self.group_by_length = group_by_length
        super().__init__(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the Trainer's.

        Raises:
            DivergedError: the loss is not finite.
        """
        loss = super().training_step(*args, **kwargs)
        self.bad_losses = 0 if bool(torch.isfinite(loss).all()) else self.bad_losses + 1
        if self.bad_losses > (20 if self.args.fp16 else 0):
            first = self.stack.first_not_finite()
            raise DivergedError(
                f"training diverged: the loss of update {self.state.global_step + 1} is {float(loss)}"
                f"{f' (first not finite: {first})' if first else ''}. A smaller --learning-rate may help."
            )
        return loss

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """As the Trainer's, with the scores of the split."""
        self.compute_metrics = self.scorers["validation" if metric_key_prefix == "eval" else metric_key_prefix]
        with replayed(RandomState.capture(self.args.device)):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        if not self.group_by_length:
            return super()._get_train_sampler(rows)
        per_update = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return GroupedByLength(lengths_of(rows), per_update, self.args.seed)
