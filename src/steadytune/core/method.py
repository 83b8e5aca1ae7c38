"""The contract of a method: frozen hyper-parameters, facts on the class, and one of a few roles.

A method is a frozen dataclass. Its fields are its hyper-parameters, each declared with `hyperparameter`, so that
range checks, help texts and tables all come from one place. What it *does* depends on its role:

- `WeightMethod` changes the initial weights once, before the optimizer exists (NoisyTune).
- `LossMethod` adds a term to the loss of every step (the smoothness regularizer, the Bregman proximal term).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

from steadytune.core.errors import MethodError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from steadytune.core.scaling import PerItem
    from steadytune.core.shadow import Teacher
    from steadytune.core.step import Step


@dataclass(frozen=True)
class Cost:
    """What a method adds to one training step.

    Passes are counted over the whole model. In units of one forward pass, a backward pass to the weights counts 2
    and one to the input embeddings alone counts 1; a plain step is `PLAIN_STEP`, 3 units.

    Attributes:
        forwards: forward passes that keep an autograd graph.
        forwards_without_graph: forward passes under ``no_grad``.
        backwards: backward passes that reach the weights.
        backwards_to_embeddings: backward passes that stop at the embeddings.
        weight_copies: extra copies of the trainable weights held in memory.
        activation_sets: extra sets of saved activations alive at the same time as the clean pass's.
    """

    forwards: int = 0
    forwards_without_graph: int = 0
    backwards: int = 0
    backwards_to_embeddings: int = 0
    weight_copies: int = 0
    activation_sets: int = 0

    @property
    def units(self) -> int:
        """Arithmetic in units of one forward pass.

        >>> PLAIN_STEP.units
        3
        """
        passes = self.forwards + self.forwards_without_graph
        return passes + 2 * self.backwards + self.backwards_to_embeddings

    def __add__(self, other: Cost) -> Cost:
        return Cost(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)})


PLAIN_STEP = Cost(forwards=1, backwards=1)


def hyperparameter(
    default: Any,
    doc: str,
    *,
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
    choices: Sequence[Any] | None = None,
    integer: bool = False,
) -> Any:
    """Declare a field of a method: its default, what it means, and the values it may take.

    Args:
        default: the default value, the paper's wherever the paper gives one.
        doc: one line for tables and help.
        low: smallest value allowed; with ``low_open`` the value must be above it.
        high: largest value allowed.
        low_open: exclude ``low`` itself.
        choices: the only values allowed.
        integer: require a whole number.
    """
    limits = {"low": low, "high": high, "low_open": low_open, "choices": choices, "integer": integer}
    return field(default=default, metadata={"doc": doc, **limits})


def allowed_values(metadata: Any) -> str:
    """Describe the values that a hyper-parameter may take, for messages and tables.

    >>> allowed_values(NO_LIMITS | {"low": 0, "high": 1})
    'between 0 and 1'
    """
    if metadata["choices"] is not None:
        return "one of " + ", ".join(map(str, metadata["choices"]))
    low, high = metadata["low"], metadata["high"]
    kind = "a whole number " if metadata["integer"] else ""
    if low is None and high is None:
        return kind.strip() or "any value"
    if high is None:
        return f"{kind}{'above' if metadata['low_open'] else 'at least'} {low:g}"
    if metadata["low_open"]:
        return f"{kind}above {low:g} and at most {high:g}"
    return f"{kind}between {low:g} and {high:g}"


NO_LIMITS: dict[str, Any] = {"low": None, "high": None, "low_open": False, "choices": None, "integer": False}


def _is_allowed(value: Any, metadata: Any) -> bool:
    if metadata["choices"] is not None:
        # `True == 1`, so identity of type is part of the comparison.
        return any(value == choice and type(value) is type(choice) for choice in metadata["choices"])
    low, high = metadata["low"], metadata["high"]
    if low is None and high is None and not metadata["integer"]:
        return True
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    if metadata["integer"] and not isinstance(value, int):
        return False
    if low is not None and (value <= low if metadata["low_open"] else value < low):
        return False
    return high is None or value <= high


@dataclass(frozen=True)
class Method(ABC):
    """Base of all methods: hyper-parameters as fields, facts as class variables.

    Class variables:
        name: how the method is called in configurations, logs and tables.
        paper: the source, as ``authors, venue year, equation``.
        role: one word for the tables.
        claims: things of which a stack may hold only one owner, for example ``"initial weights"``.

    Raises:
        MethodError: a hyper-parameter is outside its allowed range.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    role: ClassVar[str]
    claims: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if "choices" in f.metadata and not _is_allowed(value, f.metadata):
                raise MethodError(f"{self.name}.{f.name} must be {allowed_values(f.metadata)}; got {value!r}.")

    def settings(self) -> dict[str, Any]:
        """All hyper-parameters as plain values; ``type(method)(**method.settings())`` builds the method again."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def changed_settings(self) -> dict[str, Any]:
        """The hyper-parameters that differ from their defaults."""
        defaults = {f.name: f.default for f in fields(self) if f.default is not MISSING}
        return {name: v for name, v in self.settings().items() if getattr(self, name) != defaults.get(name)}

    @abstractmethod
    def cost(self) -> Cost:
        """What the method adds to one training step."""

    @abstractmethod
    def effect(self) -> str:
        """One line: what the method touches, for `explain`."""


@dataclass(frozen=True)
class WeightMethod(Method):
    """A method that changes the initial weights, once: before the optimizer is built, never on resume."""

    role: ClassVar[str] = "weights"

    @abstractmethod
    def transform(self, model: nn.Module, seed: int) -> Any:
        """Change the model's weights in place and return a report of what moved."""

    @abstractmethod
    def preview(self, model: nn.Module, seed: int) -> Any:
        """Return the report that `transform` would return, without changing the model."""

    def cost(self) -> Cost:
        """Nothing per step: the weights change once, before training."""
        return Cost()


@dataclass(frozen=True)
class LossMethod(Method):
    """A method that adds ``weight`` times a term to the loss of every step; the order of terms does not matter."""

    role: ClassVar[str] = "loss"

    weight: float = hyperparameter(
        1.0, "factor of the term in the loss; 0 measures it without acting", low=0, high=1000
    )

    @abstractmethod
    def term(self, step: Step) -> PerItem:
        """Compute the unweighted, unreduced values of the term for one micro-batch."""

    def teachers(self) -> tuple[Teacher, ...]:
        """The weight averages that `term` asks the step for."""
        return ()

    def check_host(self, *, total_updates: int | None, precision: torch.dtype) -> None:
        """Raise or warn when the training loop cannot give what the method needs.

        Args:
            total_updates: optimizer updates of the whole training, ``None`` where the host does not know.
            precision: the type that the forward pass computes in.
        """
