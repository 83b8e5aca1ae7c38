"""Child-Tuning: each step trains a child network, a part of the weights (Xu et al., EMNLP 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn, optim

from steadytune.core.arithmetic import randomness
from steadytune.core.authoring import OptimizerMethod, Training, hyperparameter
from steadytune.core.model.layers import depths, layer_lists
from steadytune.core.model.sharding import laid_like
from steadytune.errors import CheckpointError, HostError
from steadytune.methods.fisher import fisher_information, largest

#: Name of the number of steps in the saved state; no parameter can be called so.
STEPS = "steps taken"
#: Optimizers that add weight decay to the gradient unless a group says `decoupled_weight_decay`.
DECAY_IN_GRADIENT = (
    optim.SGD,
    optim.Adam,
    optim.Adamax,
    optim.ASGD,
    optim.RMSprop,
    optim.Adagrad,
    optim.Adadelta,
    optim.NAdam,
    optim.RAdam,
    optim.Rprop,
)


@dataclass(frozen=True)
class ChildTuning(OptimizerMethod):
    """Only the gradients of a child network reach the optimizer.

    - ``"F"``: a new child for each step; every entry of every weight is in it with probability ``share``, and its
      gradient is divided by ``share`` (equation 4).
    - ``"D"``: one child for the whole training, the ``share`` of the entries of all transformer layers that has the
      largest Fisher information, the mean over the batches of the squared gradient (equation 5). Everything outside
      the layers trains.

    Weight decay acts on the child alone.

    Example:
        >>> from steadytune.core.stack.stack import Stack
        >>> model = nn.Linear(4, 4, bias=False)
        >>> stack = Stack([ChildTuning(share=0.5)])
        >>> stack.prepare(model)
        >>> optimizer = stack.optimizer(torch.optim.SGD(model.parameters(), lr=1.0))
        >>> model.weight.grad = torch.ones(4, 4)
        >>> optimizer.step()
        >>> sorted(set(model.weight.grad.flatten().tolist()))
        [0.0, 2.0]
    """

    name: ClassVar[str] = "child_tuning"
    summary: ClassVar[str] = "updates a part of the weights: random or most informative"
    paper: ClassVar[str] = "Child-Tuning, Xu et al., EMNLP 2021, algorithm 1"
    off_settings: ClassVar[Mapping[str, Any]] = {"share": 1.0}
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({"variant": "D"},)

    variant: Literal["F", "D"] = hyperparameter(
        "F", "F: random child in each step; D: by the task's Fisher information", choices=("F", "D")
    )
    share: float = hyperparameter(0.3, "p, share of the entries that are in the child", low=0, high=1, low_open=True)

    def check_model(self, training: Training) -> None:
        """Refuse variant D without data to look at, or without layers."""
        if self.variant != "D" or self.share == 1:
            return
        layer_lists(training.model)
        if training.batches is None and not training.resumed:
            raise HostError(
                "child_tuning(variant='D') looks at the training data first: "
                "pass it, `stack.prepare(model, ..., batches=loader)`."
            )

    def build(self, optimizer: torch.optim.Optimizer, training: Training) -> torch.optim.Optimizer:
        """Hook the host's optimizer; with variant D choose the child first, unless the run resumes.

        Raises:
            HostError: there is no batch, or none that gives the layers a gradient.
            CheckpointError: the run resumes and its checkpoint has no child.
        """
        if self.share == 1:  # every weight is in the child
            return optimizer
        if self.variant == "D":
            if training.resumed and not training.tensors:
                raise CheckpointError("The checkpoint holds no child network of child_tuning: start a new run.")
            if not training.resumed:
                training.tensors |= largest(fisher_information(training, _in_layers(training), self.name), self.share)
        inner: Any = getattr(optimizer, "optimizer", None)  # Accelerate's wrapper takes no hooks
        target = inner if isinstance(inner, torch.optim.Optimizer) else optimizer
        child = _Child(self, training)
        before = target.register_step_pre_hook(child.before_step)
        after = target.register_step_post_hook(child.after_step)
        training.cleanup += [child.restore_decay, before.remove, after.remove]
        return optimizer

    def effect(self) -> str:
        """One line: what the method touches."""
        if self.variant == "F":
            return f"lets a random {self.share:.0%} of all weights train in each step"
        return f"lets the {self.share:.0%} of the layers' weights train that matter most for the task"


class _Child:
    """Masks the gradients before each step of the optimizer, and decays what is in the child by hand."""

    def __init__(self, method: ChildTuning, training: Training) -> None:
        self._method, self._training = method, training
        self._decays: list[tuple[dict[str, Any], Any]] = []

    @torch.no_grad()
    def before_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Mask the gradients and take the weight decay over from the optimizer."""
        if kwargs.get("closure", args[1] if len(args) > 1 else None) is not None:
            raise HostError("child_tuning masks gradients before optimizer.step(), which a closure recomputes.")
        self.restore_decay()  # a step that failed has not
        step = self._count()
        for group in optimizer.param_groups:
            decay = group.get("weight_decay", 0)
            self._decays.append((group, decay))
            for p in group["params"]:
                if p.grad is None:
                    continue
                mask = self._mask(p, step)
                if mask is not None:
                    p.grad.masked_fill_(~mask, 0)
                    if self._method.variant == "F":
                        p.grad.div_(self._method.share)
                if decay != 0:
                    _decay(optimizer, group, p, mask)
            if decay != 0:
                group["weight_decay"] = 0.0

    def after_step(self, *_: object) -> None:
        """Give the weight decay back."""
        self.restore_decay()

    def restore_decay(self) -> None:
        """Put every group's weight decay back."""
        for group, decay in self._decays:
            if "weight_decay" in group:
                group["weight_decay"] = decay
        self._decays.clear()

    def _count(self) -> int:
        """Steps done before this one."""
        if self._method.variant == "D":
            return 0
        done = int(self._training.tensors.get(STEPS, torch.zeros((), dtype=torch.long)))
        self._training.tensors[STEPS] = torch.tensor(done + 1)  # on the CPU: to read it no device is waited for
        return done

    def _mask(self, p: nn.Parameter, step: int) -> Tensor | None:
        name = self._training.name_of(p)
        if name is None or self._method.variant == "D":
            return None if name is None else self._training.tensors.get(name)
        return laid_like(draw_mask(name, p.shape, self._method.share, self._training.seed, step, p.device), p)


def draw_mask(  # noqa: PLR0917 - short, and all of them matter
    name: str, shape: torch.Size, share: float, seed: int, update: int, device: torch.device | str
) -> Tensor:
    """The entries of one weight that are in the child of one update, true with probability ``share`` (variant F).

    The same on every process, whatever else is drawn.

    Args:
        name: the parameter's name.
        shape: its shape.
        share: p.
        seed: the stack's seed.
        update: steps of the optimizer done before.
        device: where to draw.
    """
    seed = randomness.derive_seed(seed, "child_tuning", update, name)
    generator = torch.Generator(device).manual_seed(seed)
    return torch.rand(shape, generator=generator, device=device) < share


def _in_layers(training: Training) -> list[str]:
    """Names of the parameters of the transformer layers that train."""
    above = max(len(module) for _, module in layer_lists(training.model)) + 1
    by_name = depths(training.model)
    return [n for n, p in training.parameters().items() if 0 < by_name[n] < above and p.requires_grad]


def _decay(optimizer: torch.optim.Optimizer, group: dict[str, Any], p: nn.Parameter, mask: Tensor | None) -> None:
    """The weight decay of one parameter, on the entries in the child, as the optimizer would do it."""
    decoupled = isinstance(optimizer, optim.AdamW) or group.get("decoupled_weight_decay", False)
    # A GradScaler hands gradients that are still scaled to optimizers that unscale them, and tells of overflows.
    scale, overflow = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
    if isinstance(optimizer, DECAY_IN_GRADIENT) and not decoupled:
        assert p.grad is not None  # the caller has looked
        decay = group["weight_decay"]
        moved = p.grad.add(p, alpha=decay) if scale is None else p.grad + p * (decay * scale)
        p.grad.copy_(moved if mask is None else torch.where(mask, moved, p.grad))
        return
    moved = p * (1 - group["lr"] * group["weight_decay"])
    if overflow is not None:
        mask = overflow == 0 if mask is None else mask & (overflow == 0)
    p.copy_(moved if mask is None else torch.where(mask, moved, p))
