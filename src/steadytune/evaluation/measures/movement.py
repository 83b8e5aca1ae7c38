"""How far a model has moved from the pretrained one: layer by layer, in its weights and in what it represents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steadytune.core.model.layers import depths
from steadytune.core.model.outputs import is_encoder_decoder, question
from steadytune.core.model.pretrained import pretrained_parameters
from steadytune.evaluation.measures.passes import Batch, at_rest


@dataclass(frozen=True)
class Distance:
    """Distance of weights w from pretrained ones: ``||w - w0|| / ||w0||`` in the L2 and in the L1 norm.

    The L1 form is what figure 5 of the NoisyTune paper (Wu et al., ACL 2022) shows.
    """

    relative_l2: float
    relative_l1: float


@dataclass(frozen=True)
class Layer:
    """One depth of the model.

    Attributes:
        depth: 0 for the embeddings, 1 to n for the layers from the bottom up, n + 1 for what lies above.
        name: the same in words.
        weights: how many numbers were compared.
        distance: how far they moved.
        cka: similarity of what comes out of it, 0 to 1; ``None`` where nothing comes out or it was not asked for.
    """

    depth: int
    name: str
    weights: int
    distance: Distance
    cka: float | None


@dataclass(frozen=True)
class Movement:
    """How far a model moved, by depth and in all; `left_out` names weights that the pretrained model has not."""

    layers: tuple[Layer, ...]
    total: Distance
    left_out: tuple[str, ...]


def movement(
    model: nn.Module,
    pretrained: nn.Module,
    batches: Iterable[Batch] | None = None,
) -> Movement:
    """Compare a fine-tuned model with the one it started from.

    Args:
        model: the fine-tuned one.
        pretrained: the pretrained one of the same architecture; its head may be any.
        batches: held-out text, for the similarity of the representations; gone through once.

    Raises:
        HostError: the model has no list of layers.
    """
    before = dict(pretrained.named_parameters())
    comparable = pretrained_parameters(model) & pretrained_parameters(pretrained)
    where = depths(model)
    parts: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    left_out = []
    for name, weight in model.named_parameters():
        if name in comparable and before[name].shape == weight.shape:
            parts[where[name]].append((weight.detach(), before[name].detach()))
        else:
            left_out.append(name)
    similar = representation_similarity(model, pretrained, batches) if batches is not None else []
    last = max(where.values())
    layers = tuple(
        Layer(
            depth,
            _name(depth, last),
            sum(w.numel() for w, _ in parts[depth]),
            _distance(parts[depth]),
            similar[depth] if depth < min(len(similar), last) else None,
        )
        for depth in sorted(parts)
    )
    return Movement(layers, _distance([pair for part in parts.values() for pair in part]), tuple(left_out))


def representation_similarity(model: nn.Module, other: nn.Module, batches: Iterable[Batch]) -> list[float]:
    """Linear centered kernel alignment of two models' hidden states, one value per depth from the embeddings up.

    Kornblith et al., "Similarity of neural network representations revisited", ICML 2019. Every real token is one
    item; the sums are kept in float64, so that any number of them takes the same memory. 1 means the same up to
    rotation and scale.
    """
    sums: list[_Moments] = []
    with at_rest(model), at_rest(other), torch.no_grad():
        for batch in batches:
            inputs = question(model, batch)
            states = [_hidden_states(m, inputs) for m in (model, other)]
            sums = sums or [_Moments() for _ in states[0]]
            mask = _real_tokens(inputs, states[0][0])
            for moments, a, b in zip(sums, *states, strict=True):
                moments.add(a[mask].double(), b[mask].double())
    return [moments.cka() for moments in sums]


class _Moments:
    """Running sums of two sets of features, enough for their alignment.

    >>> moments = _Moments()
    >>> moments.add(torch.eye(2, dtype=torch.float64), 3 * torch.eye(2, dtype=torch.float64))
    >>> round(moments.cka(), 12)
    1.0
    """

    def __init__(self) -> None:
        self.count = 0
        self.means: list[Tensor] = []
        self.products: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        if len(x) == 0:
            return
        pairs = ((x, y), (x, x), (y, y))
        means = [x.mean(0), y.mean(0)]
        centered = {id(t): t - t.mean(0) for t in (x, y)}
        found = [centered[id(a)].T @ centered[id(b)] for a, b in pairs]
        if self.count:  # the parallel form of Chan et al.: differences of large sums would lose digits
            total = self.count + len(x)
            moved = [new - old for new, old in zip(means, self.means, strict=True)]
            factor = self.count * len(x) / total
            outer = [moved[i].outer(moved[j]) * factor for i, j in ((0, 1), (0, 0), (1, 1))]
            found = [f + o + old for f, o, old in zip(found, outer, self.products, strict=True)]
            means = [old + m * (len(x) / total) for old, m in zip(self.means, moved, strict=True)]
        self.count += len(x)
        self.means, self.products = means, found

    def cka(self) -> float:
        cross, first, second = (float(p.norm()) for p in self.products)
        return cross**2 / (first * second) if first * second > 0 else float("nan")


def _distance(pairs: list[tuple[Tensor, Tensor]]) -> Distance:
    moved, size = [0.0, 0.0], [0.0, 0.0]
    for weight, start in pairs:
        start = start.double()  # noqa: PLW2901 - in float64 from here on
        difference = weight.to(start.device).double() - start
        for i, norm in enumerate((lambda t: t.square().sum(), lambda t: t.abs().sum())):
            moved[i] += float(norm(difference))
            size[i] += float(norm(start))
    return Distance((moved[0] / size[0]) ** 0.5 if size[0] else 0.0, moved[1] / size[1] if size[1] else 0.0)


def _hidden_states(model: nn.Module, inputs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    outputs = model(**inputs, output_hidden_states=True)
    return outputs.encoder_hidden_states if is_encoder_decoder(model) else outputs.hidden_states


def _real_tokens(inputs: Mapping[str, Any], states: Tensor) -> Tensor:
    mask = inputs.get("attention_mask")
    return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device) if mask is None else mask.bool()


def _name(depth: int, last: int) -> str:
    return "embeddings" if depth == 0 else "above the layers" if depth == last else f"layer {depth}"
