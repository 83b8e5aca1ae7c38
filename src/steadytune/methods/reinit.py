"""Re-initialize the top layers, because they are the most tied to pretraining (Zhang et al. 2021)."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from steadytune.core.arithmetic.randomness import derive_seed, fresh
from steadytune.core.authoring import WeightMethod, hyperparameter
from steadytune.core.model.layers import layer_lists
from steadytune.core.model.pretrained import pretrained_parameters
from steadytune.errors import HostError

logger = logging.getLogger("steadytune")


@dataclass(frozen=True)
class RenewedTensor:
    """One parameter tensor that was re-initialized.

    Attributes:
        name: the parameter's name.
        size: number of entries.
        rms_before: root mean square of the pretrained entries.
        rms_after: root mean square of the new ones.
    """

    name: str
    size: int
    rms_before: float
    rms_after: float


@dataclass(frozen=True)
class ReinitReport:
    """What was re-initialized; ``str`` gives a summary, ``tensors`` the figures.

    Attributes:
        modules: names of the layers and of the pooler.
        tensors: one entry per parameter of theirs.
    """

    modules: tuple[str, ...]
    tensors: tuple[RenewedTensor, ...]

    def __str__(self) -> str:
        size = sum(t.size for t in self.tensors)
        where = f": {', '.join(self.modules)}" if self.modules else ""
        return f"reinit re-initializes {len(self.tensors)} tensors ({size:,} weights){where}."


@dataclass(frozen=True)
class Reinit(WeightMethod):
    """Draws the top ``layers`` transformer layers, and the pooler, from the model's own initialization.

    Linear weights from a normal distribution with the ``initializer_range`` of the configuration, biases 0, LayerNorm
    1 and 0, or whatever else the model's ``_init_weights`` does. The values depend on the seed and each module's name
    alone and are drawn on the CPU: the same on any device.

    Example:
        >>> model = nn.Sequential(nn.Embedding(3, 2), nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))
        >>> print(Reinit().transform(model, seed=0))
        reinit re-initializes 2 tensors (6 weights): 1.1.
        >>> sorted(Reinit().renewed(model))
        ['1.1.bias', '1.1.weight']
    """

    name: ClassVar[str] = "reinit"
    summary: ClassVar[str] = "re-initializes the top layers before training"
    paper: ClassVar[str] = "Revisiting Few-sample BERT Fine-tuning, Zhang et al., ICLR 2021, section 5"
    off_settings: ClassVar[Mapping[str, Any]] = {"layers": 0, "pooler": False}
    not_applicable: ClassVar[Mapping[str, str]] = {
        "lora": "under PEFT the layers are frozen and their new values would be saved nowhere, so it is refused"
    }

    layers: int = hyperparameter(
        1, "transformer layers to re-initialize, from the top", low=0, high=1000, integer=True
    )
    pooler: bool = hyperparameter(True, "re-initialize the pooler, if there is one", choices=(True, False))

    def renewed(self, model: nn.Module) -> frozenset[str]:
        """Names of the re-initialized parameters.

        Raises:
            HostError: the model has fewer layers, or they are frozen.
        """
        chosen = tuple(f"{name}." for name in self._modules(model))
        return frozenset(name for name, _ in model.named_parameters() if name.startswith(chosen))

    def transform(self, model: nn.Module, seed: int) -> ReinitReport:
        """Re-initialize the weights in place.

        Args:
            model: a model of Transformers, or any module with a list of layers.
            seed: the weights follow from it.

        Returns:
            What was drawn.

        Raises:
            HostError: the model has fewer layers, they are frozen, or it does not say how to initialize them.
        """
        if self.layers > 0 and self.layers == max(len(module) for _, module in layer_lists(model)):
            logger.warning(
                "reinit.layers is %d, all that the model has: nothing of them stays pretrained.", self.layers
            )
        return self._draw(model, seed, apply=True)

    def preview(self, model: nn.Module, seed: int) -> ReinitReport:
        """Return the same report without touching the model."""
        return self._draw(model, seed, apply=False)

    def effect(self) -> str:
        """One line: what the method touches."""
        layers = {0: [], 1: ["the top layer"]}.get(self.layers, [f"the {self.layers} top layers"])
        parts = layers + (["the pooler"] if self.pooler else [])
        return f"re-initializes {' and '.join(parts) or 'nothing'}, once, before training"

    @torch.no_grad()
    def _draw(self, model: nn.Module, seed: int, *, apply: bool) -> ReinitReport:
        modules, tensors = self._modules(model), []
        for name, module in modules.items():
            drawn = _initialized(model, name, module, seed)
            for inner, p in module.named_parameters():
                new = drawn[inner].to(p.dtype)
                tensors.append(RenewedTensor(f"{name}.{inner}", p.numel(), _rms(p), _rms(new)))
                if apply:
                    p.copy_(new)
        return ReinitReport(tuple(modules), tuple(tensors))

    def _modules(self, model: nn.Module) -> dict[str, nn.Module]:
        """The modules to re-initialize, by name."""
        lists = layer_lists(model)
        count = max(len(module) for _, module in lists)
        if self.layers > count:
            raise HostError(f"reinit.layers is {self.layers}, and {type(model).__name__} has {count} layers.")
        found = {f"{name}.{i}": layers[i] for name, layers in lists for i in self._top(len(layers))}
        if self.pooler:
            paths = [name.split(".") for name in sorted(pretrained_parameters(model))]
            inside = [".".join(path[: path.index("pooler") + 1]) for path in paths if "pooler" in path[:-1]]
            found |= {name: model.get_submodule(name) for name in inside}
        if any(not p.requires_grad for module in found.values() for p in module.parameters()):
            raise HostError(
                "reinit would leave random weights that never train: the layers to re-initialize are frozen. "
                "Train them, or under PEFT leave reinit out."
            )
        return found

    def _top(self, length: int) -> range:
        return range(max(length - self.layers, 0), length)


def _initialized(model: nn.Module, name: str, module: nn.Module, seed: int) -> dict[str, Tensor]:
    """New values of a module's parameters, from the initialization that the model has for it."""
    fresh_copy = copy.deepcopy(module).cpu()
    owner = _nearest_initializer(model, name)
    for p in fresh_copy.parameters():
        p.data = torch.full_like(p, torch.nan, dtype=torch.promote_types(p.dtype, torch.float32))
        if hasattr(p, "_is_hf_initialized"):  # Transformers leaves alone what it has loaded
            delattr(p, "_is_hf_initialized")
    # The inner modules first, as Transformers does it: an outer one may have the last word.
    for inner, part in reversed(list(fresh_copy.named_modules(prefix=name))):
        with fresh(derive_seed(seed, "reinit", inner), torch.device("cpu")):
            if owner is not None:
                owner(part)
            elif callable(getattr(part, "reset_parameters", None)):
                part.reset_parameters()  # pyright: ignore[reportCallIssue]
    values = {inner: p.detach() for inner, p in fresh_copy.named_parameters()}
    missing = [f"{name}.{inner}" for inner, p in values.items() if bool(torch.isnan(p).any())]
    if missing:
        raise HostError(f"reinit cannot draw {missing[0]}: {type(model).__name__} does not say how to initialize it.")
    return values


def _nearest_initializer(model: nn.Module, name: str) -> Any:
    """The ``_init_weights`` of the innermost model that holds a module, ``None`` where there is none."""
    parts = name.split(".")
    for length in range(len(parts) - 1, -1, -1):
        holder = model.get_submodule(".".join(parts[:length]))
        if callable(getattr(holder, "_init_weights", None)):
            return holder._init_weights
    return None


def _rms(p: Tensor) -> float:
    return float(p.detach().double().square().mean().sqrt())
