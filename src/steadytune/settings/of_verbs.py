"""Which settings belong to which verb, to reject a file that was written for another verb."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steadytune.settings.fields import Settings

#: The settings of each verb that has an option per setting, imported for the verb that is called.
KINDS = {
    "train": "steadytune.settings.train:TrainSettings",
    "compare": "steadytune.settings.compare:CompareSettings",
    "multitask": "steadytune.settings.multi_task:MultiTaskSettings",
    "hybrid": "steadytune.settings.hybrid:HybridSettings",
}


def kind_of(verb: str) -> type[Settings]:
    """The settings of a verb.

    >>> kind_of("compare").__name__
    'CompareSettings'
    """
    module, name = KINDS[verb].split(":")
    return getattr(importlib.import_module(module), name)


def verbs_with(names: Iterable[str]) -> list[str]:
    """The verbs that have all these settings.

    >>> verbs_with(["seeds"]), verbs_with(["tasks"]), verbs_with(["tasks", "fine_tune"]), verbs_with(["sede"])
    (['compare'], ['compare', 'multitask'], ['multitask'], [])
    """
    wanted = set(names)
    return [verb for verb in KINDS if wanted <= kind_of(verb).model_fields.keys()]


def of_another_verb(unknown: list[str], kind: type[Settings], config: object) -> str:
    """Say whose settings these are and what to do, or nothing where no other verb has them.

    Args:
        unknown: settings of a file that `kind` does not have.
        kind: of the verb that was given the file.
        config: the file.
    """
    verbs = verbs_with(unknown) or verbs_with(unknown[:1])
    if not verbs:
        return ""
    of = " and ".join(f"`steadytune {verb}`" for verb in verbs)
    said = f"{unknown[0]!r} is a setting of {of}: `steadytune {verbs[0]} --config {config}` takes it"
    if kind is kind_of("train"):
        return f"{said}; for one run: `steadytune init FILE --verb train --output train.yaml`."
    return f"{said}."
