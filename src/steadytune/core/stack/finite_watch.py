"""Notices numbers that are not finite before an update is made of them, and says where they came from.

What decides is the gradient: an update is not made of one that is not finite. What was seen in the losses before only
explains it, because in float16 a gradient scaler may skip a step, after which all is well again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steadytune.core.model.sharding import is_sharded, own_part
from steadytune.errors import DivergedError, HostError

#: Entries of a parameter that is looked at in each update. A gradient that is not finite reaches the biases and norms
#: of every layer below it, and those together are a thousandth of a transformer.
SMALL = 1 << 14
#: Losses that are remembered for an explanation.
REMEMBERED = 256


@dataclass(frozen=True)
class _Seen:
    """A loss or a term of one micro-batch.

    Attributes:
        name: ``"smoothness"``, ``"task_loss"``, ``"output"``.
        update: counted from 1.
        micro_batch: counted from 1 within the update.
        rows: ``(batch,)``, true for the examples that are not finite; one entry where examples are not told apart.
    """

    name: str
    update: int
    micro_batch: int
    rows: Tensor


@dataclass(frozen=True)
class _Asked:
    """A question to a GPU whose answer is awaited one update later."""

    update: int
    is_finite: Tensor
    event: Any


class FiniteWatch:
    """Watches the losses and gradients of one training.

    On a CPU an update of a gradient that is not finite is refused before the weights move. On a GPU the host does not
    wait for the answer: it is there one update later, and before anything is logged, evaluated or saved.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> layer(torch.tensor([[float("inf")]])).sum().backward()
        >>> watch = FiniteWatch(layer)
        >>> watch.see("task_loss", torch.tensor([1.0, float("nan")]), update=1, micro_batch=1)
        tensor(1)
        >>> watch.before_step(update=1)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        steadytune.errors.DivergedError: training diverged in update 1; not a finite number: ...
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._small: list[nn.Parameter] | None = None
        self._seen: list[_Seen] = []
        self._asked: _Asked | None = None

    @torch.no_grad()
    def see(self, name: str, values: Tensor, *, update: int, micro_batch: int) -> Tensor:
        """Note which examples of a loss or a term are not finite, without waiting for a device.

        Args:
            name: how messages call it.
            values: ``(batch, ...)``, or one number.
            update: of which it is a part, counted from 1.
            micro_batch: within the update, counted from 1.

        Returns:
            Their number, on the device.
        """
        bad = ~values.detach().isfinite()
        rows = bad.flatten(1).any(1) if bad.dim() > 1 else bad.reshape(-1)
        self._seen.append(_Seen(name, update, micro_batch, rows))
        del self._seen[:-REMEMBERED]
        return rows.sum()

    @torch.no_grad()
    def before_step(self, update: int, *, scaled: bool = False) -> None:
        """Look at the gradient that an update is about to be made of.

        Args:
            update: counted from 1.
            scaled: the optimizer itself leaves out what a gradient scaler has found not finite.

        Raises:
            DivergedError: it is not finite, or the one before was not.
        """
        self.wait()
        extremes = [] if scaled else [torch.stack(torch.aminmax(values)) for values in self._gradients()]
        if not extremes:
            return
        home = extremes[0].device
        is_finite = torch.stack([pair.to(home).float() for pair in extremes]).isfinite().all()
        if home.type == "cuda":
            answer = torch.ones((), dtype=torch.bool, pin_memory=True)
            answer.copy_(is_finite, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self._asked = _Asked(update, answer, event)
        elif not bool(is_finite):
            raise DivergedError(self._explained(update, is_made=False))
        self._seen = [seen for seen in self._seen if seen.update >= update]

    def wait(self) -> None:
        """Wait for the answer about the last gradient, if one is awaited.

        Raises:
            DivergedError: the gradient was not finite.
        """
        asked, self._asked = self._asked, None
        if asked is None:
            return
        asked.event.synchronize()
        if not bool(asked.is_finite):
            raise DivergedError(self._explained(asked.update, is_made=True))

    def _gradients(self) -> Iterable[Tensor]:
        """The gradients to look at, those on one device and of one type together."""
        if self._small is None:
            self._small = [p for p in self._model.parameters() if p.numel() <= SMALL]
        found = _gradients_of(self._small) or _gradients_of(self._model.parameters())
        groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for gradient in found:
            groups.setdefault((gradient.device, gradient.dtype), []).append(gradient)
        return [torch.cat(group) for group in groups.values()]

    def first_not_finite(self, update: int) -> str | None:
        """Say which loss or term of an update was the first that is not finite, and of which examples."""
        bad = next((seen for seen in self._seen if seen.update == update and bool(seen.rows.any())), None)
        if bad is None:
            return None
        places = (bad.rows.nonzero().flatten() + 1).tolist()
        of = f" of example {places[0]} in micro-batch {bad.micro_batch}" if len(bad.rows) > 1 else ""
        more = f" and of {len(places) - 1} more" if len(places) > 1 else ""
        return f"{bad.name}{of}{more}"

    def _explained(self, update: int, *, is_made: bool) -> str:
        what = self.first_not_finite(update)
        if what is None:
            name = next((n for n, p in self._model.named_parameters() if _is_bad(p.grad)), None)
            what = "all losses are finite, but not the gradient" + (f" of {name}" if name else "")
        else:
            what = f"not a finite number: {what}"
        end = (
            "The weights are lost: go back to the last checkpoint."
            if is_made
            else f"The update was not made; the weights are those after update {update - 1}."
        )
        return f"training diverged in update {update}; {what}. {end} A smaller learning rate may help."


def _gradients_of(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    found = (own_part(p.grad) for p in parameters if p.grad is not None)
    dense = (g._values() if g.is_sparse else g for g in found)
    return [g.detach().flatten() for g in dense if g.numel() > 0]


def _is_bad(tensor: Tensor | None) -> bool:
    return tensor is not None and not bool(torch.isfinite(own_part(tensor)).all())


@torch.no_grad()
def non_finite_weight(model: nn.Module) -> str | None:
    """Name a parameter that holds NaN or an infinity; ``None`` where all are finite, or not on this process.

    One pass over the weights, and one answer of the device.

    >>> layer = nn.Linear(1, 1)
    >>> _ = nn.init.constant_(layer.bias, float("nan"))
    >>> non_finite_weight(layer)
    'bias'
    """
    names, extremes = [], []
    for name, p in model.named_parameters():
        # What is cut over processes is not looked at: an error on one of them would leave the others waiting.
        if not is_sharded(p) and p.is_floating_point() and p.numel() > 0 and p.device.type != "meta":
            names.append(name)
            extremes.append(torch.stack(torch.aminmax(p)).float())
    if not names:
        return None
    home = extremes[0].device
    finite = torch.stack([pair.to(home) for pair in extremes]).isfinite().all(1).tolist()
    return next((name for name, is_finite in zip(names, finite, strict=True) if not is_finite), None)


def require_finite_start(model: nn.Module) -> None:
    """Refuse to train a model that is broken before it begins.

    Raises:
        HostError: a weight is not finite.
    """
    name = non_finite_weight(model)
    if name is not None:
        raise HostError(
            f"The weight {name} of {type(model).__name__} is not finite before training: load the pretrained weights "
            "again, or name another checkpoint."
        )


def require_finite_weights(model: nn.Module, update: int) -> None:
    """Refuse to keep or to score a model that is no longer one.

    Args:
        model: as it is after ``update`` updates.
        update: for the message.

    Raises:
        DivergedError: a weight is not finite.
    """
    name = non_finite_weight(model)
    if name is not None:
        raise DivergedError(
            f"training diverged: after update {update} the weight {name} is not finite. A smaller learning rate may "
            "help."
        )
