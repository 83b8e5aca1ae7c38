"""The runs of a comparison, one plan each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steadytune.comparison.kinds import CandidateFacts
from steadytune.settings.compare import CompareSettings
from steadytune.settings.train import TrainSettings


@dataclass(frozen=True)
class CellKey:
    """One task at one training size; ``task`` is ``None`` for the user's own files."""

    task: str | None
    train_size: str | None


@dataclass(frozen=True)
class RunPlan:
    """One run to make: all that `engine.execute` needs, in values that another process or machine can read.

    Attributes:
        key: hash of what determines the run; name of its folder.
        candidate: label of the candidate.
        settings: of the run; ``output_dir`` is its folder.
        metric: the task's main metric.
        evaluate_test: ``False`` while learning rates are chosen: the test splits are not looked at.
        relative_cost: declared cost of a step, plain is 1.
        retry_failed: make the run again if it failed before.
        fingerprint: digests of code, data and model, for the record.
        each_epoch: also look at the validation split after each epoch.
        facts: what the candidate is.
        evaluate: parts of `steadytune evaluate` to measure once it is trained.
    """

    key: str
    candidate: str
    settings: TrainSettings
    metric: str
    evaluate_test: bool = True
    relative_cost: float = 1.0
    retry_failed: bool = False
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    each_epoch: bool = False
    evaluate: Sequence[str] = ()
    facts: CandidateFacts | None = None

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return self.settings.folder

    @property
    def home(self) -> Path:
        """Folder of the comparison."""
        return self.folder.parent.parent

    @property
    def lock_file(self) -> Path:
        """Held by the process that makes the run."""
        return self.home / "locks" / f"{self.key}.lock"

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        facts = None if self.facts is None else dict(vars(self.facts))
        return {**self.__dict__, "settings": self.settings.model_dump(mode="json"), "facts": facts}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunPlan:
        """Read what `as_json` made."""
        parts = tuple(content.get("evaluate", ()))
        facts = CandidateFacts(**content["facts"]) if content.get("facts") else None
        settings = TrainSettings(**content["settings"])
        return cls(**{**content, "settings": settings, "evaluate": parts, "facts": facts})


def places(settings: CompareSettings) -> list[CellKey]:
    """The tasks and training sizes of a comparison."""
    return [CellKey(t, s) for t in settings.tasks or [None] for s in settings.train_sizes or [None]]
