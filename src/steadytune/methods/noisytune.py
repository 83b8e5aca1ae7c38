"""NoisyTune: a little noise on the pretrained weights before fine-tuning (Wu et al., ACL 2022)."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import isfinite
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from steadytune.core.authoring import INITIAL_WEIGHTS, WeightMethod, hyperparameter
from steadytune.core.model.pretrained import is_multilingual, pretrained_parameters
from steadytune.core.model.tap import word_embedding
from steadytune.errors import MethodError
from steadytune.methods.weight_noise import (
    Noise,
    Spread,
    UnitNoise,
    change_of,
    move,
    parts,
    spread_of,
    sum_of_squares,
)

Scope = Literal["matrix", "global"]


@dataclass(frozen=True)
class TensorMovement:
    """How far one parameter tensor moved.

    Attributes:
        name: the parameter's name.
        size: number of entries.
        standard_deviation: of the tensor before the noise; NaN for one entry.
        moved_by: root mean square of the change.
        reason: why it stayed, or an empty string.
    """

    name: str
    size: int
    standard_deviation: float
    moved_by: float
    reason: str


@dataclass(frozen=True)
class WeightNoiseReport:
    """How far every tensor moved; ``str`` gives a summary, ``tensors`` the figures."""

    tensors: tuple[TensorMovement, ...]

    def table(self) -> str:
        """One line per tensor: its name, entries, standard deviation, and how far it moved or why it stays."""
        width = max((len(t.name) for t in self.tensors), default=0)
        lines = [f"{'tensor':<{width}} {'entries':>12} {'std':>10}  moved by"]
        for t in self.tensors:
            outcome = f"stays ({t.reason})" if t.reason else f"{t.moved_by:.3g}"
            lines.append(f"{t.name:<{width}} {t.size:>12,} {t.standard_deviation:>10.3g}  {outcome}")
        return "\n".join(lines)

    def __str__(self) -> str:
        moved = [t for t in self.tensors if not t.reason]
        stayed: dict[str, int] = {}
        for t in self.tensors:
            if t.reason:
                stayed[t.reason] = stayed.get(t.reason, 0) + 1
        size = sum(t.size for t in moved)
        square = sum(t.size * t.moved_by**2 for t in moved)
        lines = [
            f"noisytune moves {len(moved)} tensors ({size:,} weights), each by a random amount of root mean square "
            f"{(square / max(size, 1)) ** 0.5:.3g} on average; {len(self.tensors) - len(moved)} stay."
        ]
        lines += [f"  stays: {count} ({reason})" for reason, count in stayed.items()]
        farthest = sorted(moved, key=lambda t: -t.moved_by)[:5]
        lines += [f"  {t.name}: std {t.standard_deviation:.3g}, moved by {t.moved_by:.3g}" for t in farthest]
        return "\n".join(lines)


def unit_noise(name: str, shape: torch.Size, seed: int, noise: Noise = "uniform") -> Tensor:
    """The random matrix of one parameter: U(-1/2, 1/2), or a normal with the same variance, 1/12.

    It depends on the seed and the parameter's name alone, and is drawn on the CPU: the same in every process and
    for every device.

    >>> torch.equal(unit_noise("w", torch.Size([2, 2]), 0), unit_noise("w", torch.Size([2, 2]), 0))
    True
    """
    noises = UnitNoise(name, seed, noise)
    drawn = [noises.draw(part).clone() for part in parts(shape.numel())]
    return torch.cat(drawn).view(shape) if drawn else torch.zeros(shape)


@dataclass(frozen=True)
class NoisyTune(WeightMethod):
    """W + U(-intensity/2, intensity/2) * std(W) for each parameter tensor W (equation 1).

    Biases and LayerNorm weights are perturbed as the matrices are ("parameter matrices (or scalars/vectors)").
    These stay as they are: the new head; tensors of one entry or without a finite, positive standard deviation; the
    rows of the padding token, of words and of positions; frozen parameters; word embeddings of multilingual models.

    The paper does not say at which scale it drew the Gaussian and global noise of its figure 2; here every kind has
    the same variance: (intensity * std)^2 / 12.

    Example:
        >>> NoisyTune(intensity=0.1, skip="*.bias").changed_settings()
        {'intensity': 0.1, 'skip': ['*.bias']}

    Raises:
        MethodError: a setting is out of range, or nothing of the model would move.
    """

    name: ClassVar[str] = "noisytune"
    summary: ClassVar[str] = "noise on the pretrained weights, once, before training"
    paper: ClassVar[str] = "Wu et al., ACL 2022, eq. 1"
    claims: ClassVar[frozenset[str]] = frozenset({INITIAL_WEIGHTS})
    off_settings: ClassVar[Mapping[str, Any]] = {"intensity": 0.0}
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({"noise": "gaussian", "scope": "global"},)
    not_applicable: ClassVar[Mapping[str, str]] = {
        "lora": "under PEFT the noise would be saved nowhere, so it is refused with a way out"
    }

    intensity: float = hyperparameter(0.15, "lambda, noise relative to each tensor's std", low=0, high=1)
    noise: Noise = hyperparameter("uniform", "distribution of the noise", choices=("uniform", "gaussian"))
    scope: Scope = hyperparameter("matrix", "std of each tensor, or of all together", choices=("matrix", "global"))
    word_embeddings: Literal["auto", "perturb", "keep"] = hyperparameter(
        "auto", "auto keeps them for multilingual models", choices=("auto", "perturb", "keep")
    )
    head: bool = hyperparameter(False, "perturb the new head as well", choices=(False, True))
    skip: tuple[str, ...] = hyperparameter((), "name patterns of parameters to leave alone, e.g. *.bias")
    seed: int | None = hyperparameter(None, "seed of the noise; none takes the stack's")

    def __post_init__(self) -> None:
        given = (self.skip,) if isinstance(self.skip, str) else self.skip
        if not isinstance(given, list | tuple) or not all(isinstance(pattern, str) for pattern in given):
            raise MethodError(f"noisytune.skip must be name patterns such as *.bias; got {self.skip!r}.")
        patterns = tuple(given)
        object.__setattr__(self, "skip", patterns)
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int)):
            raise MethodError(f"noisytune.seed must be a whole number or none; got {self.seed!r}.")
        super().__post_init__()

    def effect(self) -> str:
        """One line: what the method touches."""
        return f"moves each pretrained tensor once, before training, by {self.noise} noise of its own scale"

    def transform(self, model: nn.Module, seed: int) -> WeightNoiseReport:
        """Perturb the model in place.

        Args:
            model: a model of Transformers, or any module.
            seed: used unless the method has a seed of its own.

        Returns:
            How far each tensor moved.

        Raises:
            MethodError: no parameter would move, for example because all of them are frozen.
        """
        with torch.no_grad():
            return WeightNoiseReport(tuple(self._movements(model, seed, apply=True)))

    def preview(self, model: nn.Module, seed: int) -> WeightNoiseReport:
        """Return the same report without touching the model."""
        with torch.no_grad():
            return WeightNoiseReport(tuple(self._movements(model, seed, apply=False)))

    def _movements(self, model: nn.Module, seed: int, *, apply: bool) -> Iterator[TensorMovement]:
        parameters = dict(model.named_parameters())
        spreads = {name: _spread(p) for name, p in parameters.items()}
        scales = {name: spreads[name].standard_deviation(p.dtype) for name, p in parameters.items()}
        why = self.reasons_to_stay(model)
        reasons = {name: why(name, p, scales[name]) for name, p in parameters.items()}
        if parameters and all(reasons.values()):
            raise MethodError(nothing_moves(model, set(reasons.values())))
        if self.scope == "global":
            moving = [name for name in parameters if not reasons[name]]
            scales |= dict.fromkeys(moving, pooled(spreads[name] for name in moving))
        still = padding_rows(model)
        for name, p in parameters.items():
            moved_by = 0.0
            if not reasons[name]:
                noises = self.unit_noise(name, seed, still.get(p))
                moved_by = self._move(p, noises, scales[name], apply=apply)
            yield TensorMovement(name, p.numel(), scales[name], moved_by, reasons[name])

    def unit_noise(self, name: str, seed: int, still: range | None) -> UnitNoise:
        """The random matrix of a parameter.

        Args:
            name: the parameter's name.
            seed: used unless the method has a seed of its own.
            still: places that get none.
        """
        return UnitNoise(name, seed if self.seed is None else self.seed, self.noise, still)

    def _move(self, p: nn.Parameter, noises: UnitNoise, scale: float, *, apply: bool) -> float:
        """Add the noise where ``apply`` says so, and return the root mean square of the change."""
        # Computed on the CPU in a fixed order, so that no device or thread count changes a bit.
        flat = p.detach().cpu().reshape(-1)
        squares = 0.0
        for part in parts(p.numel()):
            change = change_of(noises.draw(part), self.intensity * scale, p.dtype)
            squares += sum_of_squares(change)
            if apply and self.intensity > 0:  # adding 0 would turn -0.0 into 0.0
                move(flat[part], change)
        if apply and flat.data_ptr() != p.data_ptr():
            p.copy_(flat.view(p.shape))
        return (squares / p.numel()) ** 0.5

    def reasons_to_stay(self, model: nn.Module) -> Callable[[str, nn.Parameter, float], str]:
        """What tells why a parameter stays, given its name, itself and its standard deviation; "" where it moves."""
        pretrained = pretrained_parameters(model)
        head = self.head and not hasattr(model, "peft_config")  # what PEFT adds is an adapter, not a head
        words: set[int] = set()
        if self.word_embeddings == "keep" or (self.word_embeddings == "auto" and is_multilingual(model)):
            words = {id(p) for p in word_embedding(model).parameters()}

        def reason(name: str, p: nn.Parameter, scale: float) -> str:
            checks = {
                "frozen": not p.requires_grad,
                "new head": name not in pretrained and not head,
                "word embeddings": id(p) in words,
                "skipped by name": any(fnmatch.fnmatchcase(name, pattern) for pattern in self.skip),
                "a single entry": p.numel() < 2,
                "std not finite": not isfinite(scale),
                "constant": scale == 0 and self.scope == "matrix",
            }
            return next((text for text, stays in checks.items() if stays), "")

        return reason


def perturb_weights(model: nn.Module, intensity: float = 0.15, *, seed: int = 0, **settings: Any) -> WeightNoiseReport:
    """NoisyTune as a function: perturb a model in place and return how far each tensor moved.

    Args:
        model: the pretrained model.
        intensity: lambda, 0 to 1.
        seed: seed of the noise.
        settings: the other settings of `NoisyTune`.

    >>> report = perturb_weights(nn.Linear(8, 8), intensity=0.15)
    >>> [t.name for t in report.tensors if not t.reason]
    ['weight', 'bias']
    """
    return NoisyTune(intensity=intensity, **settings).transform(model, seed)


def _spread(p: Tensor) -> Spread:
    if not p.is_floating_point():
        return Spread()
    flat = p.detach().cpu().reshape(-1)
    return spread_of(flat[part] for part in parts(p.numel()))


def pooled(spreads: Iterable[Spread]) -> float:
    """The standard deviation of several tensors together, for ``scope="global"``."""
    return reduce(Spread.__add__, spreads, Spread()).standard_deviation(torch.float64)


def padding_rows(model: nn.Module) -> dict[Tensor, range]:
    """Each table with a row for padding, of words or of positions (RoBERTa), and the places of that row."""
    found: dict[Tensor, range] = {}
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            start = module.padding_idx * module.embedding_dim
            found[module.weight] = range(start, start + module.embedding_dim)
    return found


def nothing_moves(model: nn.Module, reasons: set[str]) -> str:
    """The message for a model of which every parameter stays."""
    if hasattr(model, "peft_config"):
        return (
            "noisytune would have no effect: under PEFT the pretrained weights are frozen. Call "
            "steadytune.perturb_weights(base_model) before get_peft_model, and save that base model with the adapter."
        )
    why = ", ".join(sorted(reasons))
    return f"noisytune would have no effect on {type(model).__name__}: every parameter stays ({why})."
