"""What a method that changes the optimizer takes over from the host's: its groups, unless it is too late for that."""

from __future__ import annotations

from typing import Any

import torch

from steadytune.errors import HostError

#: What Adam uses where the host's optimizer (SGD, say) has no such setting.
ADAM_DEFAULTS: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}


def require_unused(optimizer: torch.optim.Optimizer, method: str) -> None:
    """Refuse an optimizer whose groups other objects rely on already.

    Args:
        optimizer: the host's.
        method: the name of the method, for the message.

    Raises:
        HostError: it is wrapped by Accelerate, has a scheduler, or has taken steps.
    """
    what = None
    if isinstance(getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        what = "before accelerator.prepare(optimizer)"
    elif any("initial_lr" in group for group in optimizer.param_groups):
        what = "before a learning-rate scheduler is made for it"
    elif optimizer.state:
        what = "before its first step, and before load_state_dict()"
    if what is not None:
        raise HostError(f"{method} changes the groups of the optimizer: call stack.optimizer(optimizer) {what}.")


def adam_groups(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The host's groups with the settings of Adam: its own lr, betas, eps and weight decay where it has them.

    >>> weight = torch.nn.Parameter(torch.zeros(1))
    >>> (group,) = adam_groups(torch.optim.SGD([weight], lr=0.1, weight_decay=0.01))
    >>> group["lr"], group["betas"], group["weight_decay"]
    (0.1, (0.9, 0.999), 0.01)
    """
    found = []
    for group in optimizer.param_groups:
        own = {name: group.get(name, default) for name, default in ADAM_DEFAULTS.items()}
        if not isinstance(own["betas"], tuple | list) or len(own["betas"]) != 2:
            own["betas"] = ADAM_DEFAULTS["betas"]
        found.append({"params": list(group["params"]), "lr": group["lr"], **own})
    return found
