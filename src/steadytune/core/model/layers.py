"""The layers of a transformer: which there are, and how deep each parameter lies."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from steadytune.core.model.pretrained import pretrained_parameters
from steadytune.errors import HostError


def layer_lists(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """The lists of equal layers with their names: one for an encoder or a decoder, two for an encoder-decoder.

    Raises:
        HostError: the model has no list of layers.
    """
    lists = [
        (name, module)
        for name, module in _outermost_lists(model)
        if len(module) > 0 and any(True for _ in module.parameters())
    ]
    longest = max((len(module) for _, module in lists), default=0)
    # Short lists beside the long ones hold other things (ALBERT's inner groups, feature projections).
    found = [(name, module) for name, module in lists if 2 * len(module) >= longest]
    if not found:
        raise HostError(f"{type(model).__name__} has no list of transformer layers (nn.ModuleList) to count.")
    return found


def transformer_layers(model: nn.Module) -> tuple[nn.Module, ...]:
    """The layers from the bottom up; of an encoder-decoder, those of the encoder.

    >>> len(transformer_layers(nn.Sequential(nn.Embedding(3, 2), nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))))
    2
    """
    return tuple(layer_lists(model)[0][1])


def depths(model: nn.Module) -> dict[str, int]:
    """The depth of every parameter: 0 for embeddings, 1 to n for the layers from the bottom up, n + 1 above.

    Above the layers lie the pooler, a final norm and the head. In an encoder-decoder both halves count from their
    own bottom, and the shorter one ends at the same n.
    """
    lists = layer_lists(model)
    count = max(len(module) for _, module in lists)
    pretrained = pretrained_parameters(model)
    found: dict[str, int] = {}
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    first = {prefix: min(i for i, name in enumerate(names) if name.startswith(f"{prefix}.")) for prefix, _ in lists}
    for i, name in enumerate(names):
        inside = next(((p, module) for p, module in lists if name.startswith(f"{p}.")), None)
        if inside is not None:
            prefix, module = inside
            index = int(name.removeprefix(f"{prefix}.").split(".")[0])
            found[name] = index + 1 + count - len(module)
        elif "lora_" not in name and ("embed" in name or (name in pretrained and i < min(first.values()))):
            found[name] = 0
        else:
            found[name] = count + 1
    return found


def _outermost_lists(model: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    taken: list[str] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in taken):
            taken.append(name)
            yield name, module
