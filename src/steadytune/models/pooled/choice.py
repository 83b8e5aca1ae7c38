"""Which pooling a model is loaded with: the one that was asked for, or the one that its checkpoint declares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from steadytune.errors import ModelNotFoundError, SettingsError
from steadytune.heads.head import TaskHead
from steadytune.models.pooled.declared import Declared, declared_pooling

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

#: ``auto``: as the checkpoint declares; ``cls``: the architecture's own head; ``pooled``: as declared, else the mean;
#: the others pool the last layer.
Pooling = Literal["auto", "cls", "pooled", "mean", "max", "first", "last"]
#: The type in the configuration of a pooled classifier.
POOLED = "steadytune_pooled"
#: The class of the heads that can be pooled.
SEQUENCE = "AutoModelForSequenceClassification"
_FILES = ("modules.json", "1_Pooling/config.json")


def choose_pooling(
    location: str, head: TaskHead, config: PreTrainedConfig, pooling: Pooling, *, from_hub: bool = False
) -> Declared | None:
    """Return the pooling to load a model with; ``None`` for the architecture's own head.

    Args:
        location: a folder, or a Hub id.
        head: of the task.
        config: of the checkpoint.
        pooling: as asked for.
        from_hub: whether the files are fetched.

    Raises:
        SettingsError: the head or the model cannot be pooled.
        ModelNotFoundError: the model was trained with another pooling.
    """
    trained = pooling_of(config)
    if trained != "cls":
        if pooling not in ("auto", "pooled", trained):
            raise ModelNotFoundError(
                f"--pooling {pooling}: this model was trained with --pooling {trained}; leave --pooling out."
            )
        return None
    if pooling == "cls":
        return None
    encoder_decoder = bool(getattr(config, "is_encoder_decoder", False))
    if pooling == "auto":
        trained_head = any("ForSequenceClassification" in name for name in config.architectures or ())
        fits = is_poolable(head) and not encoder_decoder and not trained_head
        return _declared(location, from_hub=from_hub) if fits else None
    declared = _declared(location, from_hub=from_hub)
    if pooling == "pooled":
        pooling = "mean" if declared is None else declared.pooling
    if not is_poolable(head):
        raise SettingsError(
            f"--pooling {pooling}: only classes, several labels and numbers are pooled, not {head.name}."
        )
    if encoder_decoder:
        raise SettingsError(
            f"--pooling {pooling}: {config.model_type} is an encoder-decoder; only encoders are pooled."
        )
    return Declared(pooling, declared is not None and declared.normalize)


def pooling_of(config: PreTrainedConfig) -> Pooling:
    """Return the pooling that a model has."""
    return getattr(config, "pooling", "mean") if config.model_type == POOLED else "cls"


def is_poolable(head: TaskHead) -> bool:
    """Whether a head reads one vector for each row."""
    return head.auto_class(is_encoder_decoder=False) == SEQUENCE


def _declared(location: str, *, from_hub: bool) -> Declared | None:
    """Read what the files of sentence-transformers declare; those of a Hub model are fetched first."""
    if not from_hub:
        return declared_pooling(Path(location))
    from transformers.utils.hub import cached_file

    places = [cached_file(location, name, _raise_exceptions_for_missing_entries=False) for name in _FILES]
    return declared_pooling(Path(places[0]).parent) if places[0] else None
