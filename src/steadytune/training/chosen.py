"""The recipe laid over what the user leaves open."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from steadytune.heads.registry import head_of
from steadytune.settings.compare import CompareSettings
from steadytune.settings.groups import left_to_the_recipe
from steadytune.settings.multi_task import MultiTaskSettings
from steadytune.settings.train import TrainSettings
from steadytune.tasks.task import TaskData
from steadytune.training.facts import facts_of_model, lengths_in
from steadytune.training.recipe import Recipe, RowFacts, recipe

#: Layouts whose rows are truncated; words and contexts are split into windows instead.
CUT = ("texts", "prompts")

Settings = TypeVar("Settings", TrainSettings, MultiTaskSettings, CompareSettings)


def follow_recipe(
    settings: Settings, data: Iterable[TaskData], rows: int | None = None, leave: Iterable[str] = ()
) -> tuple[Settings, str]:
    """Choose what the settings leave to the recipe, and say so in a line; it is empty where nothing is left.

    Args:
        settings: of the run.
        data: of its tasks.
        rows: that train, if not all.
        leave: settings that are chosen elsewhere.

    Raises:
        ModelNotFoundError: the model is nowhere.
    """
    open_ones = left_to_the_recipe(settings) - set(leave)
    if not open_ones:
        return settings, ""
    found = recipe_for(settings, list(data), rows)
    values = {name: getattr(found, name) for name in open_ones}
    kept = {name for name, value in values.items() if value is None}
    kept |= {"num_train_epochs"} & open_ones if settings.max_steps > 0 else set()
    values |= {name: getattr(settings, name) for name in kept}  # from now on they are chosen, too
    said = ", ".join(f"{name} {values[name]:g}" for name in sorted(open_ones - kept))
    why = found.reason if "num_train_epochs" in open_ones - kept else found.reason.partition(";")[0]
    line = f"Recipe: {said} ({why}). --recipe transformers takes its defaults." if said else ""
    return settings.model_copy(update=values), line


def recipe_for(
    settings: TrainSettings | MultiTaskSettings | CompareSettings, data: list[TaskData], rows: int | None = None
) -> Recipe:
    """The recipe for these rows and the model of the settings.

    Raises:
        ModelNotFoundError: the model is nowhere.
    """
    cut = [lengths_in(own, settings.model) for own in data if head_of(own.task.head).layout in CUT]
    batch_is_given = "per_device_train_batch_size" in settings.model_fields_set
    facts = RowFacts(
        rows=rows if rows is not None else sum(len(own.splits["train"]) for own in data),
        classes=max(own.task.number_of_outputs or 1 for own in data),
        tokens=max((own.most for own in cut), default=None),
        limit=min((own.limit for own in cut), default=512),
        batch=settings.per_device_train_batch_size if batch_is_given else None,
        batches=settings.gradient_accumulation_steps,
    )
    return recipe(facts, facts_of_model(settings.model))
