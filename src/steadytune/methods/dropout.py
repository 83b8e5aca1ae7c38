"""What a model drops in training, and what follows for terms that compare two passes."""

from __future__ import annotations

import logging
from typing import ClassVar, Protocol

import torch
from torch import nn

from steadytune.core.authoring import Masks, PerItem, Step

logger = logging.getLogger("steadytune")

#: Below this part of the task loss a term moves the weights by less than 1 % of what training moves them.
FELT = 1e-5
#: From this radius on an adversary alone is felt once the head is trained, whatever the first step says.
FELT_RADIUS = 1e-3
#: Names of a dropout in the configurations of Transformers; the first that a model has is the one to set.
_SETTINGS = ("hidden_dropout_prob", "hidden_dropout", "resid_pdrop", "dropout_rate", "attention_dropout", "dropout")


def has_dropout(model: nn.Module) -> bool:
    """Whether anything in the model is dropped in training: by a dropout layer, or at a rate that a module holds.

    >>> has_dropout(nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.1))), has_dropout(nn.Dropout(0.0))
    (True, False)
    """
    return any(
        isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        for module in model.modules()
        for name, value in vars(module).items()
        if "drop" in name or (name == "p" and "drop" in type(module).__name__.lower())
    )


def dropout_setting(model: nn.Module) -> str:
    """What to set for a dropout in this model, by the name that its configuration has for it.

    >>> dropout_setting(nn.Linear(1, 1))
    'dropout=0.1'
    """
    if hasattr(model, "peft_config"):
        return "lora_dropout=0.1 in LoraConfig"
    config = getattr(model, "config", None)
    return f"{next((name for name in _SETTINGS if hasattr(config, name)), 'dropout')}=0.1"


class Perturbing(Protocol):
    """What is asked of a method that compares a perturbed pass with the clean one."""

    name: ClassVar[str]

    @property
    def weight(self) -> float:
        """Factor of the term in the loss."""
        ...

    @property
    def radius(self) -> float:
        """Radius of the perturbation."""
        ...

    @property
    def masks(self) -> Masks:
        """Dropout masks of the perturbed pass."""
        ...


def warn_if_not_felt(method: Perturbing, values: PerItem, step: Step, *, larger: str) -> None:
    """Tell the user, in the first step, when nothing but a tiny perturbation makes two passes differ.

    Args:
        method: with the radius of its perturbation and the dropout masks of the perturbed pass.
        values: its term, unweighted.
        step: the micro-batch.
        larger: settings that are felt, as they would be written.
    """
    name, weight, radius, masks = method.name, method.weight, method.radius, method.masks
    if name in step.told:
        return
    step.told.add(name)
    rounded = any(seen.precision in (torch.bfloat16, torch.float16) for seen in step.seen.values())
    if weight == 0 or radius >= FELT_RADIUS or rounded:  # a radius lost to rounding is reported elsewhere
        return
    term, task = float(values.reduce().detach()), abs(float(step.task_loss.detach()))
    if not weight * term < FELT * task:
        return
    kind = type(step.plain_model).__name__
    if not has_dropout(step.plain_model):
        why = f"{kind} has no dropout"
    elif masks == "same":
        why = "masks='same' repeats the dropout"
    else:
        why = "no layer drops anything (are some in evaluation mode?)"
    logger.warning(
        "%s: %s, so at a radius of %g the term is %.0e beside a task loss of %.2g and trains nothing. Larger: %s; or "
        "bregman() alone, for 1.33 times a plain step.",
        name,
        why,
        radius,
        term,
        task,
        larger,
    )
