"""Let a language model write its likeliest answers, one token after the other, for several prompts at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from steadytune.prediction.prediction import NOTHING, Prediction

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class _Recorder(LogitsProcessor):
    """Keeps the log-probability of the likeliest token of each step, which greedy decoding takes."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Look at the scores and return them as they are."""
        del input_ids
        self.steps.append(scores.float().log_softmax(-1).amax(-1))
        return scores


def write_answers(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], new_tokens: int
) -> list[Prediction]:
    """Return a text for each prompt, without blanks around it, with the probability of all its tokens and its end.

    Args:
        model: a decoder, or an encoder-decoder whose encoder reads the prompts.
        tokenizer: of the model.
        prompts: token ids.
        new_tokens: most tokens of a text.
    """
    pad: Any = tokenizer.pad_token_id
    width = max(1, *(len(prompt) for prompt in prompts))
    ids = torch.full((len(prompts), width), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # a decoder writes on at the right, so padding is on the left
        place = slice(0, len(prompt)) if model.config.is_encoder_decoder else slice(width - len(prompt), width)
        ids[row, place] = torch.tensor(prompt, dtype=ids.dtype)
        mask[row, place] = 1
    ends = _ends(model, tokenizer)
    recorder = _Recorder()
    written = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        logits_processor=LogitsProcessorList([recorder]),
        max_new_tokens=new_tokens,
        eos_token_id=ends,
        pad_token_id=pad,
        **_GREEDY,
    )
    steps = len(recorder.steps)
    sure = torch.stack(recorder.steps, 1).cpu() if steps else torch.zeros(len(prompts), 0)
    return [_text(tokenizer, row[-steps:].tolist(), logs, ends) for row, logs in zip(written.cpu(), sure, strict=True)]


#: Whatever the model's own settings of generation say.
_GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "max_length": None,
    "min_length": 0,
    "min_new_tokens": 0,
}


def _ends(model: Any, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    own: Any = getattr(model.generation_config, "eos_token_id", None)
    both = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return sorted({token for token in both if isinstance(token, int)})


def _text(tokenizer: PreTrainedTokenizerBase, tokens: list[int], logs: Tensor, ends: Sequence[int]) -> Prediction:
    length = next((i + 1 for i, token in enumerate(tokens) if token in ends), len(tokens))
    probability = math.exp(float(logs[:length].double().sum()))
    if not math.isfinite(probability):
        return NOTHING
    text: Any = tokenizer.decode(tokens[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return Prediction(text.strip(), probability)
