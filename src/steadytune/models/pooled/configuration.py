"""The configuration of a pooled classifier: that of its encoder, and how its token states become one vector."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from steadytune.models.pooled.choice import POOLED

#: Ours alone; the encoder's configuration does not have them.
_OWN = ("encoder_type", "pooling", "normalize")
#: What configurations of other architectures call otherwise, and methods look for.
_COMMON = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings")


class PooledConfig(PreTrainedConfig):
    """All of an encoder's configuration, flat, so that ``BertModel.from_pretrained(folder)`` reads it as its own.

    Attributes:
        encoder_type: the ``model_type`` of the encoder.
        pooling: how token states become one vector, see `pooling.POOLINGS`.
        normalize: scale each vector to the length sqrt(hidden_size).
    """

    model_type = POOLED
    encoder_type: str = "bert"
    pooling: str = "mean"
    normalize: bool = False

    @classmethod
    def over(cls, encoder: PreTrainedConfig, pooling: str, *, normalize: bool = False) -> PooledConfig:
        """Return the configuration of a pooled classifier over an encoder.

        >>> from transformers import DistilBertConfig
        >>> found = PooledConfig.over(DistilBertConfig(dim=8, n_layers=3, n_heads=2), "mean")
        >>> found.hidden_size, found.num_hidden_layers, found.encoder().dim
        (8, 3, 8)
        """
        values = {k: v for k, v in encoder.to_dict().items() if k not in ("model_type", "architectures")}
        values |= {name: getattr(encoder, name) for name in _COMMON if getattr(encoder, name, None) is not None}
        return cls(encoder_type=encoder.model_type, pooling=pooling, normalize=normalize, **values)

    def encoder(self) -> PreTrainedConfig:
        """Return the configuration of the encoder alone."""
        left_out = (*_OWN, "model_type", "architectures", "transformers_version")
        values: dict[str, Any] = {k: v for k, v in self.to_dict().items() if k not in left_out}
        found = AutoConfig.for_model(self.encoder_type)
        names = set(found.to_dict()) | set(found.attribute_map)
        return AutoConfig.for_model(self.encoder_type, **{k: v for k, v in values.items() if k in names})
