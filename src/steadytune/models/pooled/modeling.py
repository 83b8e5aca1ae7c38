"""A linear classifier over the pooled token states of any encoder of Transformers."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from steadytune.models.pooled.configuration import PooledConfig
from steadytune.models.pooled.pooling import pooled

#: What a class says of the kinds of attention that it can do.
_SUPPORTS = ("_supports_sdpa", "_supports_flash_attn", "_supports_flex_attn", "_supports_attention_backend")
#: What configurations call the dropout before the classifier, the most specific first.
_DROPOUTS = ("classifier_dropout", "seq_classif_dropout", "hidden_dropout_prob", "hidden_dropout")


class PooledForSequenceClassification(PreTrainedModel):
    """An encoder, the pooling that it was pretrained for, and a linear layer.

    The encoder is kept under the name that its own classes use (``bert``, ``distilbert``, ...), so the encoder of a
    saved folder loads as ``BertModel.from_pretrained(folder)``. After ``import steadytune`` the folder loads with
    ``AutoModelForSequenceClassification`` and ``pipeline``.
    """

    config_class = PooledConfig
    supports_gradient_checkpointing = True

    def __init__(self, config: PooledConfig) -> None:
        own = config.encoder()
        kind: Any = AutoModel._model_mapping[type(own)]
        for name in _SUPPORTS:  # asked for when the configuration's attention is chosen
            setattr(self, name, getattr(kind, name, False))
        super().__init__(config)
        own._attn_implementation = config._attn_implementation
        encoder = _made(kind, own)
        self.base_model_prefix = encoder.base_model_prefix
        self._no_split_modules = encoder._no_split_modules
        setattr(self, self.base_model_prefix, encoder)
        self.num_labels = int(config.num_labels or 2)
        self.dropout = nn.Dropout(_dropout(config))
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    def features(self, **inputs: Any) -> Tensor:
        """Return the vector of each row, ``(rows, hidden)``, that the classifier reads."""
        outputs = self.base_model(**inputs, return_dict=True)
        return self._pooled(outputs.last_hidden_state, inputs.get("attention_mask"))

    def forward(  # noqa: PLR0917 - the order of Transformers
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **further: Any,
    ) -> SequenceClassifierOutput | tuple[Tensor, ...]:
        """Return the loss, if there are labels, and the logits ``(rows, num_labels)``."""
        named = {"token_type_ids": token_type_ids, "position_ids": position_ids, "inputs_embeds": inputs_embeds}
        given = {name: value for name, value in named.items() if value is not None}
        outputs = self.base_model(
            input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **given, **further
        )
        logits = self.classifier(self.dropout(self._pooled(outputs.last_hidden_state, attention_mask)))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def _pooled(self, states: Tensor, mask: Tensor | None) -> Tensor:
        mask = torch.ones(states.shape[:2], device=states.device) if mask is None else mask
        return pooled(states, mask, self.config.pooling, normalize=self.config.normalize)

    def _init_weights(self, module: nn.Module) -> None:
        """Draw a new classifier as the encoder draws its layers."""
        encoder: Any = self.base_model
        encoder._init_weights(module)


def _made(kind: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """Make the encoder without a pooler: nothing reads it, so it would never get a gradient."""
    has_pooler = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    return kind(config, add_pooling_layer=False) if has_pooler else kind(config)


def _dropout(config: PreTrainedConfig) -> float:
    found = (getattr(config, name, None) for name in _DROPOUTS)
    return float(next((share for share in found if share is not None), 0.0))
