"""What a method may know of the training that it takes part in, and how it follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

Batches = Iterable[Mapping[str, Any]]


@dataclass
class Training:
    """One method's view of a training, made by the stack when it prepares a model.

    Attributes:
        model: the model, without the host's wrapper.
        seed: the stack's seed.
        trainable: names of the parameters that train.
        pretrained: names of the parameters that are neither part of a new head nor re-initialized.
        anchor: the pretrained weights from before any weight noise, of the parameters that are both; only for
            methods that declare ``keeps_pretrained``.
        tensors: the method's own state, by any names; it is saved in checkpoints, and filled when a run resumes.
        batches: gives training batches as keyword arguments of the model, where the host has them.
        resumed: the weights and ``tensors`` come from a checkpoint.
        cleanup: called when training ends or is abandoned, perhaps twice. What changes the model when it attaches puts
            its `Attachment.detach` here first, in case that is interrupted half-way.
    """

    model: nn.Module
    seed: int
    trainable: frozenset[str]
    pretrained: frozenset[str]
    anchor: Mapping[str, Tensor] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    batches: Callable[[], Batches] | None = None
    resumed: bool = False
    cleanup: list[Callable[[], None]] = field(default_factory=list)
    _names: dict[nn.Parameter, str] = field(default_factory=dict, repr=False)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters by name."""
        return dict(self.model.named_parameters())

    def name_of(self, p: nn.Parameter) -> str | None:
        """The name of a parameter, ``None`` for one that is not of the model; FSDP2 makes new ones when it wraps."""
        if p not in self._names:
            self._names = {own: name for name, own in self.parameters().items()}
        return self._names.get(p)


class Attachment:
    """Follows a training on behalf of a `ModelMethod`; what is not overridden does nothing."""

    #: Whether training is wrong when `before_update` is not called before every update.
    steers_updates: bool = False

    def before_update(self, update: int, total_updates: int | None) -> None:
        """Before the first pass of an update; ``update`` counts those done."""

    def after_update(self, update: int, total_updates: int | None) -> None:
        """After the optimizer's step; ``update`` counts it."""

    def finish(self) -> None:
        """Training has ended: put the final weights into the model. `detach` follows."""

    def detach(self) -> None:
        """Leave the model as it came, whether or not training has ended; safe to call twice."""
