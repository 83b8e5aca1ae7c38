"""The contract of a method: frozen hyper-parameters, facts on the class, and one of five roles.

A method is a frozen dataclass. Its fields are its hyper-parameters, each declared with `hyperparameter`, so that
range checks, help texts and tables all come from one place. What it *does* depends on its role:

- `WeightMethod` changes the initial weights once, before the optimizer exists (NoisyTune).
- `LossMethod` adds a term to the loss of every step (the smoothness regularizer, R-Drop).
- `StepMethod` runs the backward passes of a step itself (FreeLB, SAM).
- `OptimizerMethod` builds the optimizer, its groups or its schedule (RecAdam, layer-wise decay).
- `ModelMethod` makes the model different while it trains, or at the end (Mixout, weight averaging).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from steadytune.core.authoring.cost import CLEAN_PASS, PLAIN_STEP, Cost
from steadytune.core.authoring.hyperparameters import allowed_values, hyperparameter, is_allowed
from steadytune.errors import HostError, MethodError, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from typing_extensions import Self

    from steadytune.core.authoring.passes import Passes
    from steadytune.core.authoring.per_item import PerItem
    from steadytune.core.authoring.step import Step
    from steadytune.core.authoring.training import Attachment, Training
    from steadytune.core.state.teacher import Teacher

#: What at most one method of a stack may own; the words complete "both own the ...".
INITIAL_WEIGHTS = "initial weights"
BACKWARD = "backward passes of a step"
ADVERSARY = "adversarial perturbation of the word embeddings"
TASK_EMBEDDINGS = "noise on the word embeddings of the task's own pass"
TASK_LOSS = "pass that the task loss is computed on"
OPTIMIZER = "optimizer"
SCHEDULE = "learning-rate schedule"
TRAINABLE = "choice of the weights that train"


@dataclass(frozen=True)
class Method(ABC):
    """Base of all methods: hyper-parameters as fields, facts as class variables.

    Class variables:
        name: how the method is called in configurations, logs and tables.
        paper: the source, as ``authors, venue year, equation``.
        role: one word for the tables.
        summary: a few words for the tables; by default the first line of the docstring.
        claims: things of which a stack may hold only one owner, for example ``"initial weights"``.
        keeps_pretrained: whether the method compares with the pretrained weights, which are then kept.
        off_settings: settings under which training is plain bit for bit, for the contract.
        strong_settings: settings that change the training of a tiny random model, for the contract.
        variants: further settings, over the strong ones, that the contract is checked with.
        not_applicable: properties of the contract that the method cannot have, each with its reason.
        not_sharded: why the method cannot work on weights that FSDP2 has cut, with a way out; empty where it can.

    Raises:
        MethodError: a hyper-parameter is outside its allowed range.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    role: ClassVar[str]
    summary: ClassVar[str] = ""
    claims: ClassVar[frozenset[str]] = frozenset()
    keeps_pretrained: ClassVar[bool] = False
    off_settings: ClassVar[Mapping[str, Any]] = {}
    strong_settings: ClassVar[Mapping[str, Any]] = {}
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ()
    not_applicable: ClassVar[Mapping[str, str]] = {}
    not_sharded: ClassVar[str] = ""

    def __new__(cls, *_: Any, **settings: Any) -> Self:
        """Name the setting that the method does not have, where Python would say ``__init__`` and nothing else."""
        taken = signature(cls.__init__).parameters
        if not any(p.kind is Parameter.VAR_KEYWORD for p in taken.values()):
            refuse_unknown_settings(cls.name, settings, [name for name in taken if name != "self"])
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if "choices" in f.metadata and not is_allowed(value, f.metadata):
                raise MethodError(f"{self.name}.{f.name} must be {allowed_values(f.metadata)}; got {value!r}.")

    @property
    def label(self) -> str:
        """The name for messages: the preset's, as it was written, before the method's own.

        >>> from steadytune import ema, weight_averaging
        >>> weight_averaging().label, ema().label
        ('weight_averaging', 'ema (weight_averaging)')
        """
        preset = vars(self).get("_preset")
        return self.name if preset is None else f"{preset} ({self.name})"

    def made_by(self, preset: str) -> Self:
        """Note which preset has made the method, for messages; the method stays equal to one made without it."""
        object.__setattr__(self, "_preset", preset)
        return self

    def settings(self) -> dict[str, Any]:
        """All hyper-parameters as plain values; ``type(method)(**method.settings())`` builds the method again."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def changed_settings(self) -> dict[str, Any]:
        """The hyper-parameters that differ from their defaults."""
        defaults = {f.name: f.default for f in fields(self) if f.default is not MISSING}
        return {name: v for name, v in self.settings().items() if getattr(self, name) != defaults.get(name)}

    def cost(self) -> Cost:
        """What the method adds to one training step; nothing unless it says otherwise."""
        return Cost()

    @abstractmethod
    def effect(self) -> str:
        """One line: what the method touches, for `explain`."""

    def check_model(self, training: Training) -> None:  # noqa: B027 - most have nothing to check
        """Raise, before anything is changed, when the model lacks what the method needs or would not feel it.

        Args:
            training: the model and what is known about it.
        """

    def check_host(self, *, total_updates: int | None, precision: torch.dtype) -> None:  # noqa: B027
        """Raise or warn, in the first step, when the training loop cannot give what the method needs.

        Args:
            total_updates: optimizer updates of the whole training, ``None`` where the host does not know.
            precision: the type that the forward pass computes in.
        """


def refuse_unknown_settings(name: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Refuse a setting that a method, or a preset of several, does not have.

    Args:
        name: of the method or the preset, as it is written.
        given: names of the settings that it was called with.
        known: names of those that it has.

    Raises:
        MethodError: one is unknown; with the nearest name and with all of them.
    """
    for setting in given:
        if setting not in known:
            raise MethodError(
                f"{name} has no setting {setting!r}.{did_you_mean(setting, known)} Its settings: {', '.join(known)}."
            )


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

    def renewed(self, model: nn.Module) -> frozenset[str]:  # noqa: ARG002 - base signature
        """Names of the parameters that the method re-initializes, which no longer count as pretrained."""
        return frozenset()


@dataclass(frozen=True)
class LossMethod(Method):
    """A method that adds ``weight`` times a term to the loss of every step; the order of terms does not matter."""

    role: ClassVar[str] = "loss"
    off_settings: ClassVar[Mapping[str, Any]] = {"weight": 0.0}

    weight: float = hyperparameter(
        1.0, "factor of the term in the loss; 0 measures it without acting", low=0, high=1000
    )

    @abstractmethod
    def term(self, step: Step) -> PerItem:
        """Compute the unweighted, unreduced values of the term for one micro-batch."""

    def task_change(self, step: Step) -> Tensor | None:  # noqa: ARG002 - base signature
        """What to add to the task loss itself, scaled as the host scales it; only R-Drop has such a part."""
        return None

    def teachers(self) -> tuple[Teacher, ...]:
        """The weight averages that `term` asks the step for."""
        return ()

    def site(self) -> int:
        """Where the term perturbs: 0 for the word embeddings, ``k`` for the output of transformer layer ``k``."""
        return 0


@dataclass(frozen=True)
class StepMethod(Method):
    """A method that runs the forward and backward passes of each micro-batch itself; at most one in a stack."""

    role: ClassVar[str] = "step"
    claims: ClassVar[frozenset[str]] = frozenset({BACKWARD})
    #: Whether the method needs the whole batch of an update at once, so that accumulation is refused.
    whole_batch: ClassVar[bool] = False
    #: Whether the method asks for optimizer steps in the middle of a batch.
    updates_within: ClassVar[bool] = False

    @abstractmethod
    def run(self, passes: Passes) -> Tensor:
        """Leave the gradients of one micro-batch in ``p.grad`` and return its loss, detached."""

    @abstractmethod
    def total(self, terms: Cost) -> Cost:
        """Cost of one micro-batch, the plain step included, in which the loss terms alone cost ``terms``."""

    def cost(self) -> Cost:
        """What the method adds to a plain step."""
        return self.total(Cost()) - PLAIN_STEP


def on_a_clean_pass(terms: Cost) -> Cost:
    """Cost of terms that get a clean pass of their own because the task's pass is perturbed; nothing without terms."""
    return terms if terms == Cost() else CLEAN_PASS + terms


@dataclass(frozen=True)
class OptimizerMethod(Method):
    """A method that builds the optimizer, changes its parameter groups or hooks it, or sets its schedule."""

    role: ClassVar[str] = "optimizer"

    def build(self, optimizer: torch.optim.Optimizer, training: Training) -> torch.optim.Optimizer:  # noqa: ARG002
        """Return the optimizer to use, made from the host's, which has taken no step yet."""
        return optimizer

    def schedule(self, total_updates: int) -> Callable[[int], float] | None:  # noqa: ARG002 - base signature
        """Factor of the learning rate by the number of updates done, or ``None`` for the host's own schedule."""
        return None


@dataclass(frozen=True)
class ModelMethod(Method):
    """A method that makes the model different while it trains, or changes the weights at the end."""

    role: ClassVar[str] = "model"
    #: Whether the weights at the end are not those of the last update.
    changes_final_weights: ClassVar[bool] = False
    #: Whether some weights get no gradient in some updates, which DDP must be told.
    leaves_weights_out: ClassVar[bool] = False
    #: Order at the end of training, low first: averages, then interpolation, then what is folded into the weights.
    finishes: ClassVar[int] = 0

    @abstractmethod
    def attach(self, training: Training) -> Attachment:
        """Change the model in place and return what follows the training and undoes the change."""


def refusal_when_sharded(method: Method) -> HostError:
    """The error for a method that says that it cannot work on weights that FSDP2 has cut."""
    return HostError(f"{method.name} does not work under FSDP2: {method.not_sharded}.")
