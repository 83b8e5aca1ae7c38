"""Sentence vectors of a pretrained or fine-tuned encoder: the mean of a layer's hidden states over the tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from steadytune.errors import SettingsError
from steadytune.evaluation.measures.passes import at_rest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Sentences that are tokenized and sorted by length together; no more of them are Python objects at a time.
ROWS_AT_ONCE = 4096


def number_of_layers(model: PreTrainedModel) -> int:
    """How many layers stand above the word embeddings of the model, or of its encoder where it has a decoder."""
    config = model.config.get_text_config()
    encoder_layers = getattr(config, "encoder_layers", None) if model.config.is_encoder_decoder else None
    return int(encoder_layers or config.num_hidden_layers)


def middle_layer(layers: int) -> int:
    """The layer that XTREME reads sentence vectors from: the 8th of 12, the 14th of 24 (Hu et al., 2020).

    Its scripts name these two (``specific_layer`` 7 and 13 behind the embeddings, counted from 0); half of the layers
    and two more gives both, and is taken for other depths.

    >>> [middle_layer(layers) for layers in (1, 6, 12, 24)]
    [1, 5, 8, 14]
    """
    return min(layers // 2 + 2, layers)


def checked_layer(model: PreTrainedModel, layer: int | None) -> int:
    """The layer that is asked for, 0 for the embeddings and 1 for the first; the middle one for ``None``.

    Raises:
        SettingsError: the model has no such layer.
    """
    layers = number_of_layers(model)
    if layer is None:
        return middle_layer(layers)
    if not 0 <= layer <= layers:
        raise SettingsError(f"--layer {layer}: the model has the layers 0 (embeddings) to {layers}.")
    return layer


def sentence_vectors(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Callable[[int, int], Sequence[str]],
    rows: int,
    *,
    layer: int,
    max_length: int,
    batch_size: int = 64,
) -> np.ndarray:
    """Return the mean over each sentence's tokens, special ones among them, of a layer's hidden states.

    No dropout, and padding is left out; the means are taken in float32 at least. Longer texts are truncated. For an
    encoder-decoder the encoder is read. Memory does not grow with the rows, but for the vectors.

    Args:
        model: with or without a head; afterwards as it was.
        tokenizer: its own, which can pad.
        texts: gives the sentences from one row up to another.
        rows: how many there are.
        layer: 0 for the embeddings, 1 for the output of the first layer; see `checked_layer`.
        max_length: tokens of a sentence.
        batch_size: sentences that are read together, those of about the same length.

    Returns:
        ``(rows, width)``, float32 (float64 for a model in float64).
    """
    pad: Any = tokenizer.pad_token_id
    body: Any = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    device = next(model.parameters()).device
    found: np.ndarray | None = None
    with at_rest(model), torch.no_grad():
        for start in range(0, rows, ROWS_AT_ONCE):
            block = list(texts(start, min(start + ROWS_AT_ONCE, rows)))
            ids = tokenizer(block, truncation=True, max_length=max_length)["input_ids"]
            order = np.argsort([-len(sentence) for sentence in ids], kind="stable")
            for first in range(0, len(order), batch_size):
                chosen = order[first : first + batch_size]
                means = _means(body, [ids[i] for i in chosen], pad or 0, layer, device)
                if found is None:
                    found = np.empty((rows, means.shape[1]), dtype=means.dtype)
                found[start + chosen] = means
    return np.empty((0, 0), dtype=np.float32) if found is None else found


def _means(body: nn.Module, sentences: list[list[int]], pad: int, layer: int, device: torch.device) -> np.ndarray:
    """The mean of the states of each sentence: padded on the right, so that every position counts from 0."""
    padded = nn.utils.rnn.pad_sequence([torch.tensor(s, dtype=torch.long) for s in sentences], True, pad)
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    mask = (torch.arange(padded.shape[1]) < lengths[:, None]).to(device)
    outputs = body(input_ids=padded.to(device), attention_mask=mask.long(), output_hidden_states=True)
    states: Tensor = outputs.hidden_states[layer]
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    total = torch.where(mask.unsqueeze(-1), states, states.new_zeros(())).sum(1)
    return (total / mask.sum(1, keepdim=True)).cpu().numpy()
