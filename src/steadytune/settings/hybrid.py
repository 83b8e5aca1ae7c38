"""Settings of the hybrid network on WNLI: those of any run, and the weights of its loss."""

from __future__ import annotations

from steadytune.settings.fields import setting
from steadytune.settings.groups import RunSettings
from steadytune.settings.train import TrainSettings

HYBRID = "Hybrid network"
TASK = "wnli"


class HybridSettings(RunSettings):
    """Settings of a run of the hybrid network; there is one task, so none is named.

    Example:
        >>> HybridSettings(model="bert-base-uncased").margin
        0.5
    """

    ranking_weight: float = setting(
        10.0, "Weight of the ranking of the language model's scores.", HYBRID, ge=0, le=1e6
    )
    margin: float = setting(0.5, "By how much the right candidate should be ahead.", HYBRID, ge=0, le=100)
    sharpness: float = setting(1.0, "Factor of the scores in the loss.", HYBRID, gt=0, le=1e6)

    def for_data(self) -> TrainSettings:
        """The settings that find the rows."""
        names = ("data_dir", "train_size", "seed")
        return TrainSettings(task=TASK, **{name: getattr(self, name) for name in names})

    @property
    def label(self) -> str:
        """A short name of the run, safe as a folder name."""
        return self.label_for(f"{TASK}-hybrid")
