"""What a model's head predicts: the outputs that terms compare, and which of them are supervised.

Every head is brought into one form, ``(batch, ..., outputs)``: a classifier's logits, one row per example; a tagger's
or language model's, one row per position; a question answerer's start and end logits as two rows per example, whose
classes are the positions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from steadytune.errors import HostError

#: How two predictions are compared: as distributions over classes, as numbers, as independent yes/no answers.
Prediction = Literal["classification", "regression", "multi_label"]

#: What models call the things to predict; they are no part of the question.
LABELS = ("labels", "start_positions", "end_positions", "shift_labels")

#: The label that Transformers ignores in every loss.
IGNORED = -100

# Language models whose logits are for the label at their own position, by the name of their class: masked ones, and
# decoders cut out of an encoder-decoder, whose loss leaves the shift to the user.
_OWN_POSITION = re.compile(
    "MaskedLM|WithLMHeadModel"
    "|(Bart|Blenderbot|BlenderbotSmall|CpmAnt|Marian|Mvp|Pegasus|ProphetNet|TrOCR|Whisper)ForCausalLM"
)

# No probability is left to such a logit, and differences of two of them are still finite.
_NEVER = -1e4


def logits_of(outputs: Any, inputs: Mapping[str, Any]) -> Tensor:
    """The outputs that terms compare, ``(batch, ..., outputs)``.

    Start and end logits become ``(batch, 2, length)``, without the padding: no probability is left there.

    Raises:
        HostError: there are none.
    """
    start, end = _field(outputs, "start_logits"), _field(outputs, "end_logits")
    if isinstance(start, Tensor) and isinstance(end, Tensor) and start.dim() == 2:
        both = torch.stack((start, end), dim=1)
        attention = inputs.get("attention_mask")
        if attention is None or attention.shape != start.shape:
            return both
        return both.masked_fill(attention.to(both.device).unsqueeze(1) == 0, _NEVER)
    logits = _field(outputs, "logits")
    if not isinstance(logits, Tensor):
        raise HostError(
            f"The model returned {type(outputs).__name__} without a tensor named 'logits': terms of the loss compare "
            "logits (or start_logits and end_logits), so they cannot be used with this head."
        )
    if isinstance(_field(outputs, "mc_logits"), Tensor):
        raise HostError(
            f"The model returned {type(outputs).__name__}, two heads at once: terms of the loss need a model with one."
        )
    return logits


def loss_of(outputs: Any) -> Tensor:
    """The task loss that a model has computed.

    Raises:
        HostError: there is none.
    """
    loss = _field(outputs, "loss")
    if isinstance(loss, Tensor):
        return loss
    if isinstance(outputs, tuple):
        raise HostError(
            "The model returned a tuple: set model.config.return_dict = True, so that the loss has a name."
        )
    raise HostError(
        f"The model returned {type(outputs).__name__} without a loss: give the batch the labels, or compute the loss "
        "yourself and use stack.clean_pass() and stack.add_terms()."
    )


def question(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of another pass: the batch without its labels, and what a decoder reads in their place.

    A language model whose decoder's inputs cannot be had from outside keeps its labels and makes the inputs from them.

    Args:
        model: the model, without the host's wrapper.
        inputs: the batch, with labels.
    """
    asked = {k: v for k, v in inputs.items() if k not in LABELS and k != "num_items_in_batch"}
    labels, shift = inputs.get("labels"), getattr(model, "prepare_decoder_input_ids_from_labels", None)
    has_decoder_inputs = any(asked.get(k) is not None for k in ("decoder_input_ids", "decoder_inputs_embeds"))
    if labels is None or has_decoder_inputs or not is_encoder_decoder(model):
        return asked
    # A pair of models in one makes the decoder's attention mask, too, where it makes the inputs, and only there.
    if callable(shift) and getattr(model.config, "model_type", None) != "encoder-decoder":
        asked["decoder_input_ids"] = shift(labels=labels)
    elif has_output_embeddings(model):
        asked["labels"] = labels
    return asked


def prediction_of(model: nn.Module, outputs: Any, logits: Tensor, labels: Tensor | None) -> Prediction:
    """Tell how outputs are compared, by the rules of Transformers (``config.problem_type``, else labels and width).

    A model with several heads says it itself, in a field ``prediction`` of its output.

    Raises:
        HostError: it says something unknown.
    """
    said = _field(outputs, "prediction")
    if said is not None:
        if said not in get_args(Prediction):
            raise HostError(
                f"The model's output has prediction={said!r}; known are {', '.join(get_args(Prediction))}."
            )
        return said
    if isinstance(_field(outputs, "start_logits"), Tensor) or logits.dim() > 2:
        return "classification"
    problem = getattr(getattr(model, "config", None), "problem_type", None)
    has_numbers = labels is not None and labels.is_floating_point()
    if problem == "regression" or (problem is None and logits.shape[-1] == 1):
        return "regression"
    if problem == "multi_label_classification" or (problem is None and has_numbers):
        return "multi_label"
    return "classification"


def supervised_items(model: nn.Module, logits: Tensor, inputs: Mapping[str, Any]) -> Tensor | None:
    """Which predictions the labels are for, ``(batch, ...)`` as ``logits`` without the last dimension.

    ``None`` where every prediction counts. A decoder's labels are shifted: position ``t`` predicts label ``t + 1``.

    Raises:
        HostError: there is one prediction per position, and no label for it.
    """
    start, end = inputs.get("start_positions"), inputs.get("end_positions")
    if isinstance(start, Tensor) and isinstance(end, Tensor):
        positions = torch.stack((start.reshape(-1), end.reshape(-1)), dim=1).to(logits.device)
        return (positions >= 0) & (positions < logits.shape[-1])
    labels, items = inputs.get("labels"), logits.shape[:-1]
    if logits.dim() == 2:
        is_index = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.shape == items
        return (labels != IGNORED).to(logits.device) if is_index else None  # pyright: ignore[reportOptionalMemberAccess]
    shifted = inputs.get("shift_labels")
    if isinstance(shifted, Tensor) and shifted.shape == items:
        return (shifted != IGNORED).to(logits.device)
    if not isinstance(labels, Tensor) or labels.shape != items:
        raise HostError(
            f"{type(model).__name__} gives logits of shape {tuple(logits.shape)}, one prediction per position, "
            "without one label per position: terms of the loss cannot tell which of them count."
        )
    counts = (labels != IGNORED).to(logits.device)
    if predicts_next_token(model):
        counts = torch.cat((counts[:, 1:], counts.new_zeros(len(counts), 1)), dim=1)
    return counts


def predicts_next_token(model: nn.Module) -> bool:
    """Whether the logits at a position are for the label after it.

    Raises:
        HostError: the labels of this language model are neither for their own position nor for the one before.
    """
    if not has_output_embeddings(model) or is_encoder_decoder(model):
        return False
    kinds = [kind.__name__ for kind in type(_innermost(model)).__mro__]
    if any(kind.startswith("XLNet") for kind in kinds):
        raise HostError(
            "XLNet's language model predicts in an order of its own, which terms of the loss do not follow."
        )
    return not any(_OWN_POSITION.search(kind) for kind in kinds)


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether an encoder reads the words and a decoder writes.

    >>> is_encoder_decoder(nn.Linear(1, 1))
    False
    """
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def has_output_embeddings(model: nn.Module) -> bool:
    """Whether the model ends in a language-model head, which is pretrained.

    >>> has_output_embeddings(nn.Linear(1, 1))
    False
    """
    get_output = getattr(model, "get_output_embeddings", None)
    return callable(get_output) and isinstance(get_output(), nn.Module)


def _innermost(model: nn.Module) -> nn.Module:
    """The model inside an adapter's wrapper."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model  # pyright: ignore[reportReturnType]


def _field(outputs: Any, name: str) -> Any:
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
