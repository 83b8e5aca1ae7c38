"""What we put on a model stays behind when somebody copies or pickles the model in the middle of a training."""

from __future__ import annotations

import copyreg
from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn


class OwnHook:
    """A hook of ours: a copy of the model gets one that does nothing.

    >>> import copy, torch
    >>> layer = nn.Linear(1, 1)
    >>> _ = layer.register_forward_hook(OwnHook(lambda *_: "changed"))
    >>> layer(torch.zeros(1)), type(copy.deepcopy(layer)(torch.zeros(1)))
    ('changed', <class 'torch.Tensor'>)
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Do what the hook does."""
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _nothing, ()


def _nothing() -> Callable[..., None]:
    return nothing


def nothing(*_: Any, **__: Any) -> None:
    """Stand in a copied model where a hook of ours was."""


class PlainWhenCopied(nn.Module):
    """A module whose class we changed in place: a copy of it has the class from before.

    Class variables:
        plain: the class from before.
        own: names of the attributes that we have added.
    """

    plain: ClassVar[type[nn.Module]]
    own: ClassVar[tuple[str, ...]] = ()

    def __reduce_ex__(self, protocol: object) -> Any:
        state = {name: value for name, value in vars(self).items() if name not in self.own}
        # The standard library's own function, so that the pickle can be read where steadytune is not installed.
        return copyreg._reconstructor, (self.plain, object, None), state  # type: ignore[attr-defined]
