"""Settings of multi-task training: those of a run, several tasks, and what follows for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, field_validator, model_validator

from steadytune.errors import SettingsError, did_you_mean
from steadytune.heads.registry import HEADS
from steadytune.settings.fields import DATA, MODEL, setting
from steadytune.settings.groups import (
    GroupingSettings,
    HoldOutSettings,
    LimitSettings,
    RecipeSettings,
    RunSettings,
    SmoothingSettings,
    as_names,
    left_to_the_recipe,
)
from steadytune.settings.train import TrainSettings
from steadytune.tasks.named.registry import task_record

FINE_TUNING = "Second phase"

#: Dropout of the heads in SMART (Jiang et al., 2020, section 4.2); what is not named gets the first.
PAPER_DROPOUT = 0.1
PAPER_DROPOUT_OF_TASK = {"mnli": 0.3, "cola": 0.05}

#: Heads whose batches carry one tensor of labels.
HEADS_TOGETHER = tuple(name for name, head in HEADS.items() if head.one_label_each)


class MultiTaskSettings(
    SmoothingSettings, RecipeSettings, RunSettings, GroupingSettings, LimitSettings, HoldOutSettings
):
    """Settings of multi-task training.

    Example:
        >>> settings = MultiTaskSettings(tasks="rte,mnli,stsb", train_size="mnli=10%")
        >>> settings.tasks, settings.for_task("mnli").train_size, settings.for_task("rte").train_size
        (['rte', 'mnli', 'stsb'], '10%', None)
        >>> [settings.dropout_of(task) for task in settings.tasks]
        [0.1, 0.3, 0.1]
    """

    tasks: Annotated[list[str], BeforeValidator(as_names)] = setting(
        [],
        "Named tasks, separated by commas; see `steadytune tasks`.",
        DATA,
        min_length=1,
        first=2,
        metavar="NAME,NAME",
        completes="tasks",
    )
    task_dropout: str | None = setting(
        None, "Dropout of the heads: 0.1, or mnli=0.3,cola=0.05 (default: as in the SMART paper).", MODEL
    )
    fine_tune: bool = setting(
        False,
        "Then fine-tune for each task, from the shared encoder and that task's head.",
        FINE_TUNING,
        determines=False,
    )
    fine_tune_methods: Annotated[list[str] | None, BeforeValidator(as_names)] = setting(
        None, "Methods of the second phase (default: those of the first).", FINE_TUNING, determines=False
    )
    fine_tune_epochs: float | None = setting(
        None,
        "Passes over the training rows in the second phase (default: as in the first).",
        FINE_TUNING,
        determines=False,
        gt=0,
    )
    fine_tune_learning_rate: float | None = setting(
        None,
        "Peak learning rate of the second phase (default: that of the first).",
        FINE_TUNING,
        determines=False,
        gt=0,
        le=10,
    )

    @field_validator("tasks")
    @classmethod
    def _known_once(cls, tasks: list[str]) -> list[str]:
        if tasks == ["none"]:
            raise SettingsError("--tasks: name the tasks that train together, such as --tasks rte,mrpc.")
        if len(set(tasks)) < len(tasks):
            raise SettingsError("--tasks: a task is named twice; it has one head.")
        for task in tasks:
            record = task_record(task)
            if record.evaluation_only or record.head not in HEADS_TOGETHER:
                reason = "for evaluation only" if record.evaluation_only else f"of the kind {record.head}"
                raise SettingsError(
                    f"--tasks: {task} is {reason}; tasks that train together are {', '.join(HEADS_TOGETHER)}."
                )
        return tasks

    @model_validator(mode="after")
    def _per_task_settings_are_for_these_tasks(self) -> MultiTaskSettings:
        per_task("--train-size", self.train_size, self.tasks)
        for task in self.tasks:
            self.dropout_of(task)
        return self

    def dropout_of(self, task: str) -> float:
        """Dropout of a task's head.

        Raises:
            SettingsError: ``task_dropout`` holds no number from 0 to 1 for it.
        """
        given = per_task("--task-dropout", self.task_dropout, self.tasks)
        if task not in given:
            return PAPER_DROPOUT_OF_TASK.get(task, PAPER_DROPOUT)
        try:
            value = float(given[task])
        except ValueError:
            value = -1.0
        if not 0 <= value < 1:
            raise SettingsError(f"--task-dropout {given[task]}: must be a number from 0 to 1 (1 excluded).")
        return value

    def for_task(self, task: str, **changes: Any) -> TrainSettings:
        """The settings of a run of one of the tasks alone."""
        shared = MultiTaskSettings.model_fields.keys() & TrainSettings.model_fields.keys()
        shared -= left_to_the_recipe(self)  # which looks at the rows of the one task, then
        own: dict[str, Any] = {name: getattr(self, name) for name in shared}
        own |= {"task": task, "train_size": per_task("--train-size", self.train_size, self.tasks).get(task)}
        return TrainSettings(**own | changes)

    def second_phase(self, task: str, model: Path, folder: Path) -> TrainSettings:
        """The settings of fine-tuning for one task.

        Args:
            task: its name.
            model: folder of the model that the first phase has left for the task.
            folder: of the run.
        """
        changes = {
            "methods": self.fine_tune_methods,
            "num_train_epochs": self.fine_tune_epochs,
            "learning_rate": self.fine_tune_learning_rate,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        return self.for_task(task, model=str(model), output_dir=str(folder), **given)

    @property
    def label(self) -> str:
        """A short name of the run, safe as a folder name."""
        return self.label_for(f"multitask-{'+'.join(self.tasks)}")


def per_task(option: str, text: str | None, tasks: Sequence[str]) -> dict[str, str]:
    """Read ``500`` for every task or ``rte=500,mnli=10%`` for some.

    Args:
        option: for the message.
        text: what was given; ``None`` gives nothing to any task.
        tasks: the known ones.

    Raises:
        SettingsError: a task is not among them, or the form is neither.

    >>> per_task("--train-size", "rte=500, mnli=10%", ["rte", "mnli", "cola"])
    {'rte': '500', 'mnli': '10%'}
    >>> per_task("--train-size", "500", ["rte", "mnli"])
    {'rte': '500', 'mnli': '500'}
    """
    if text is None:
        return {}
    if "=" not in text:
        return dict.fromkeys(tasks, text.strip())
    found: dict[str, str] = {}
    for entry in text.split(","):
        task, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or not value:
            raise SettingsError(f"{option} {text}: write it as one value, or as task=value,task=value.")
        if task not in tasks:
            raise SettingsError(f"{option} {text}: {task!r} is none of --tasks.{did_you_mean(task, tasks)}")
        found[task] = value
    return found
