"""What is given to a stack by mistake, refused in one line before anything has changed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import nn

from steadytune.core.model.sharding import is_sharded_model
from steadytune.errors import HostError, MethodError


def whole_seed(seed: Any) -> int:
    """The seed as a plain whole number.

    Raises:
        MethodError: it is none; the error for a second method says where methods belong.

    >>> whole_seed(7)
    7
    """
    if isinstance(seed, Integral) and not isinstance(seed, bool):
        return int(seed)
    if isinstance(seed, str | float | bool) or seed is None:
        raise MethodError(f"The seed of a Stack must be a whole number; got {seed!r}.")
    raise MethodError(
        "The second argument of Stack is its seed, a whole number. Several methods go in one list: "
        "Stack([noisytune(), smart()])."
    )


def require_total_updates(total: Any) -> None:
    """Refuse a length of the training that is no number of updates.

    Raises:
        HostError: it is neither ``None`` nor a whole number from 1 on.
    """
    if total is None or (isinstance(total, Integral) and not isinstance(total, bool) and int(total) >= 1):
        return
    raise HostError(
        "total_updates must be a whole number of at least 1, the optimizer updates of the whole training; got "
        f"{total!r}."
    )


def require_model(model: Any) -> None:
    """Refuse what `Stack.prepare` cannot train.

    Raises:
        HostError: it is an optimizer, a class, a name, or anything else that is no model.
    """
    if isinstance(model, nn.Module):
        return
    if inspect.isclass(model) and issubclass(model, nn.Module):
        name = model.__name__
        raise HostError(f"{name} is a class, not a model: write model = {name}.from_pretrained(...) or {name}(...).")
    if isinstance(model, torch.optim.Optimizer):
        raise HostError("stack.prepare takes the model first, then the optimizer: stack.prepare(model, optimizer).")
    if isinstance(model, str):
        raise HostError(f"stack.prepare takes a model, not its name: load {model!r} with from_pretrained first.")
    raise HostError(f"stack.prepare takes a model (nn.Module); got {_kind(model)}.")


def require_optimizer(optimizer: Any, model: nn.Module) -> None:
    """Refuse an optimizer whose steps move nothing of the model.

    Raises:
        HostError: it is no optimizer, or has none of the model's parameters.
    """
    if isinstance(optimizer, int | float):
        raise HostError(f"{optimizer!r} stands where the optimizer goes: write total_updates={optimizer!r}.")
    groups = getattr(optimizer, "param_groups", None)
    if not isinstance(groups, list) or not hasattr(optimizer, "step"):
        raise HostError(f"The stack takes an optimizer (torch.optim); got {_kind(optimizer)}.")
    if is_sharded_model(model):  # FSDP2 has put new parameters in place of those that the optimizer may have
        return
    own = {id(p) for p in model.parameters()}
    held = [id(p) for group in groups for p in group["params"]]
    if held and own and own.isdisjoint(held):
        raise HostError(
            f"This {type(optimizer).__name__} has none of the parameters of the {type(model).__name__} that the stack "
            "was prepared with: make it from model.parameters() of the same model."
        )


def require_batch(model: Any, batch: Any) -> None:
    """Refuse what a step of `Stack.backward` or `Stack.loss` cannot run.

    Raises:
        HostError: the model is none, or the batch is not the model's keyword arguments.
    """
    if not callable(model):
        raise HostError(f"The model comes first, then the batch: stack.backward(model, batch); got {_kind(model)}.")
    if not isinstance(batch, Mapping):
        raise HostError(
            "The batch must be the keyword arguments of the model, as in {'input_ids': ids, 'labels': labels}; got "
            f"{_kind(batch)}."
        )
    empty = next(
        (name for name, v in batch.items() if isinstance(v, torch.Tensor) and v.dim() > 0 and not len(v)), None
    )
    if empty is not None:
        raise HostError(f"The batch has no rows (its {empty!r} is empty): leave empty batches out.")


def require_gradients() -> None:
    """Refuse to train where gradients are switched off.

    Raises:
        HostError: they are, by ``torch.no_grad()`` or ``torch.inference_mode()``.
    """
    if not torch.is_grad_enabled():
        where = "inference_mode" if torch.is_inference_mode_enabled() else "no_grad"
        raise HostError(
            f"stack.backward() was called inside torch.{where}(), where nothing can train: call it outside."
        )


def require_training_mode(model: nn.Module) -> None:
    """Refuse to train in evaluation mode, in which methods silently do nothing.

    Mixout, NEFTune, R-Drop and dropout act in training mode alone, and ``from_pretrained`` leaves a model in
    evaluation mode. It is refused with any method, so that all methods of a comparison train alike; who means to
    train without dropout sets its rates to 0. What counts is the model itself, and under PEFT the model inside: a
    part that is put into evaluation mode on purpose may stay so, and a pass without gradients, which only measures,
    is not asked.

    Raises:
        HostError: the model is in evaluation mode, and gradients are wanted.
    """
    if not torch.is_grad_enabled():
        return
    base = getattr(model, "get_base_model", None)  # PEFT's wrapper is in training mode whatever is inside
    inner = base() if callable(base) else model
    if not model.training or (isinstance(inner, nn.Module) and not inner.training):
        raise HostError(
            "The model is in evaluation mode, as from_pretrained returns it: dropout is off, and methods such as "
            "mixout, neftune and r_drop would do nothing. Call model.train() first; to train without dropout, load "
            "the model with rates of 0."
        )


def _kind(value: Any) -> str:
    """A word for a value whose own text may be pages long.

    >>> _kind((1, 2)), _kind(None), _kind(nn.Linear)
    ('a tuple', 'None', 'the class Linear')
    """
    if value is None:
        return "None"
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
