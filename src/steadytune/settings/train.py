"""The settings of one training run; the command line's options and the configuration file are made of them."""

from __future__ import annotations

from pathlib import Path

from steadytune.settings.groups import (
    FileSettings,
    GroupingSettings,
    HoldOutSettings,
    LimitSettings,
    PoolingSettings,
    ProbeSettings,
    RecipeSettings,
    RunSettings,
    SmoothingSettings,
    TaskSettings,
)


class TrainSettings(
    SmoothingSettings,
    RecipeSettings,
    RunSettings,
    GroupingSettings,
    LimitSettings,
    HoldOutSettings,
    FileSettings,
    TaskSettings,
    PoolingSettings,
    ProbeSettings,
):
    """Settings of one training run.

    Example:
        >>> TrainSettings(task="movie-reviews", methods="noisytune,smart").methods
        ['noisytune', 'smart']
    """

    @property
    def label(self) -> str:
        """A short name of the run, safe as a folder name."""
        return self.label_for(self.task or Path(self.train_file or "data").stem)
