"""Which parameter of a model each tensor of its checkpoint becomes, without loading a weight."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steadytune.errors import CheckpointError, SettingsError, did_you_mean
from steadytune.heads.registry import FILE_HEADS, head_of
from steadytune.models.checkpoint.files import StoredTensor
from steadytune.models.pooled.choice import POOLED
from steadytune.support.text import brief


@dataclass
class Named:
    """A model without weights, and the tensors of its checkpoint by parameter.

    Attributes:
        model: its parameters have shapes and no content.
        tensors: for each parameter, by the name that `named_parameters` gives it, the tensors that become it: several
            where tied weights are stored more than once.
    """

    model: nn.Module
    tensors: dict[str, list[StoredTensor]] = field(default_factory=dict)


def empty_model(folder: Path, head: str | None) -> nn.Module:
    """The model of a folder without weights.

    Args:
        folder: holds config.json.
        head: as it is trained with this head; ``None`` for the class that the checkpoint was saved from.

    Raises:
        CheckpointError: Transformers does not know the architecture.
        SettingsError: there is no such head.
    """
    import transformers

    if head is not None and head not in FILE_HEADS:
        raise SettingsError(f"--head {head}: is none of {', '.join(FILE_HEADS)}.{did_you_mean(head, FILE_HEADS)}")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            if head is not None:
                name = head_of(head).auto_class(is_encoder_decoder=getattr(config, "is_encoder_decoder", False))
                model = getattr(transformers, name).from_config(config)
            else:
                model = _saved_class(config)(config)
        model.tie_weights()
    except Exception as error:  # Transformers raises many types here; each becomes one line
        reason = brief(error)
        raise CheckpointError(
            f"{folder}: is no model that Transformers can build ({type(error).__name__}: {reason})."
        ) from error
    return model


def _saved_class(config: Any) -> Any:
    import transformers

    from steadytune.models.pooled.modeling import PooledForSequenceClassification

    if config.model_type == POOLED:
        return PooledForSequenceClassification
    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, str(name), None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    return transformers.AutoModel.from_config


def named(model: nn.Module, stored: Iterable[StoredTensor], folder: Path) -> Named:
    """Find the parameter of every stored tensor; what becomes none is left out.

    Raises:
        CheckpointError: Transformers would not load a tensor as it is stored, or no tensor is of this model.
    """
    rename = _Renaming(model)
    own = dict(model.named_parameters(remove_duplicate=False))
    first = {id(p): name for name, p in reversed(own.items())}
    found = Named(model)
    for tensor in stored:
        name = rename(tensor.name)
        if name not in own:
            continue
        if tuple(own[name].shape) != tensor.shape:
            raise CheckpointError(
                f"{tensor.file}: {tensor.name} has the shape {list(tensor.shape)}, and config.json makes it "
                f"{list(own[name].shape)}: the configuration is not that of these weights."
            )
        found.tensors.setdefault(first[id(own[name])], []).append(tensor)
    if not found.tensors:
        raise CheckpointError(f"{folder}: no tensor of its files is a parameter of {type(model).__name__}.")
    return found


class _Renaming:
    """The names that Transformers gives to the tensors of a checkpoint when it loads them."""

    def __init__(self, model: Any) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        conversions = get_model_conversion_mapping(model)
        self._renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
        self._converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
        self._prefix, self._state = model.base_model_prefix, model.state_dict()

    def __call__(self, name: str) -> str:
        from transformers.core_model_loading import rename_source_key

        new, merged = rename_source_key(name, self._renamings, self._converters, self._prefix, self._state)
        if new not in self._state and name in self._state:
            new, merged = rename_source_key(name, [], [], self._prefix, self._state)
        if merged is not None and new in self._state:
            raise CheckpointError(
                f"{name} is merged with other tensors into {new} when Transformers loads it, so its noise cannot be "
                "drawn tensor by tensor. Load the model, call steadytune.perturb_weights(model), and save it."
            )
        return new


def untie(model: nn.Module, name: str) -> None:
    """Give a tied parameter a content of its own, as Transformers does where the stored ones differ."""
    parent, _, last = name.rpartition(".")
    old = model.get_parameter(name)
    setattr(model.get_submodule(parent), last, nn.Parameter(torch.empty_like(old), requires_grad=old.requires_grad))
