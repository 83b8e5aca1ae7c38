"""Settings of the hybrid network on WNLI: those of a run, and the weights of its loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import model_validator

from steadytune.errors import SettingsError
from steadytune.settings.train import ROWS_AND_HEAD, TrainSettings, setting

HYBRID = "Hybrid network"
TASK = "wnli"


class HybridSettings(TrainSettings):
    """Settings of a run of the hybrid network; there is one task, so none is named.

    Example:
        >>> HybridSettings(model="bert-base-uncased").margin
        0.5
    """

    #: Of a run's settings, those that make no sense here.
    left_out: ClassVar[frozenset[str]] = ROWS_AND_HEAD | {
        "max_eval_samples",
        "group_by_length",
        "label_smoothing_factor",
    }

    ranking_weight: float = setting(
        10.0, "Weight of the ranking of the language model's scores.", HYBRID, ge=0, le=1e6
    )
    margin: float = setting(0.5, "By how much the right candidate is to be ahead.", HYBRID, ge=0, le=100)
    sharpness: float = setting(1.0, "Factor of the scores in the loss.", HYBRID, gt=0, le=1e6)

    @model_validator(mode="before")
    @classmethod
    def _only_wnli(cls, values: Any) -> Any:
        given = values if isinstance(values, Mapping) else {}
        for name in sorted(cls.left_out):
            if given.get(name) is not None:
                raise SettingsError(f"--{name.replace('_', '-')}: the hybrid network is for {TASK} only, without it.")
        return values

    def for_data(self) -> TrainSettings:
        """The settings that find the rows."""
        names = ("data_dir", "train_size", "seed")
        return TrainSettings(task=TASK, **{name: getattr(self, name) for name in names})

    @property
    def label(self) -> str:
        """A short name of the run, safe as a folder name."""
        own = {name: getattr(self, name) for name in ("model", "methods", "seed")}
        return TrainSettings(task=f"{TASK}-hybrid", **own).label
