"""Whether the head that a checkpoint brings is that of the task, and a new one where it is not."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steadytune.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MOST_NAMED = 4


def other_outputs(config: Any, task: Task) -> str | None:
    """Say what a checkpoint's outputs are where their names tell that they are not those of the task.

    The names count with their order: outputs in another order would be taken for each other. Names that Transformers
    gives to nameless outputs (``LABEL_0``) tell nothing.

    >>> from transformers import BertConfig
    >>> from steadytune.tasks.named.registry import task_record
    >>> other_outputs(BertConfig(id2label={0: "negative", 1: "positive"}), task_record("rte"))
    'negative, positive'
    >>> other_outputs(BertConfig(num_labels=2), task_record("rte"))
    """
    named: Mapping[int, str] = getattr(config, "id2label", None) or {}
    names = tuple(str(named[i]) for i in sorted(named))
    nameless = all(re.fullmatch(r"LABEL_\d+", name) for name in names)
    if task.label_names is None or nameless or names == task.label_names:
        return None
    return in_short(names)


def in_short(names: Sequence[str]) -> str:
    """Name the first few.

    >>> in_short(["a", "b", "c", "d", "e"])
    'a, b, c, d and 1 more'
    """
    rest = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def is_of_the_head(model: PreTrainedModel, key: str) -> bool:
    """Whether a parameter stands outside the body of a model of Transformers."""
    return model.base_model is not model and not key.startswith(f"{model.base_model_prefix}.")


def draw_head(model: PreTrainedModel) -> None:
    """Draw all outside the body as the model itself initializes it, in place; from torch's global generator."""
    import torch

    body = {id(module) for module in model.base_model.modules()}
    with torch.no_grad():
        for module in model.modules():
            if id(module) in body or module is model:
                continue
            for parameter in module.parameters(recurse=False):
                if hasattr(parameter, "_is_hf_initialized"):  # Transformers leaves alone what it has loaded
                    delattr(parameter, "_is_hf_initialized")
            model._init_weights(module)
