"""A model's tokenizer, set up for a head: words that begin words, masks, a padding token, a row for each token."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from steadytune.errors import ModelNotFoundError
from steadytune.heads.head import TaskHead

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: Outputs of a row alone and in a padded batch are the same up to rounding; a share of the largest of them.
TOLERANCE, TOLERANCE_IN_16_BITS = 1e-3, 5e-2


def load_tokenizer(location: str, head: TaskHead, options: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """Load a tokenizer, and let the words of a list begin words where the head reads lists."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(location, **options)
    if head.layout == "words" and tokenizer.is_fast and glues_words(tokenizer):
        _begin_words(tokenizer)
    tokenizer("a \u2603")  # a vocabulary that lacks the token for unknown words fails only where it needs it
    return tokenizer


def glues_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the words of a list become other tokens than the same words in a text."""
    words = ["the", "film", "is", "good"]
    try:
        listed = tokenizer(words, is_split_into_words=True, add_special_tokens=False)["input_ids"]
    except (AssertionError, ValueError):  # some classes refuse lists unless add_prefix_space is set
        return True
    texts = [" ".join(words), " " + " ".join(words)]
    return listed not in [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def _begin_words(tokenizer: PreTrainedTokenizerBase) -> None:
    """Tell the backend that each piece of text begins a word, where byte-level and SentencePiece rules say so."""
    from tokenizers import Tokenizer

    fast: Any = tokenizer
    before = fast._tokenizer
    content = json.loads(before.to_str())
    for rule in _rules(content.get("pre_tokenizer")):
        if rule["type"] == "ByteLevel":
            rule["add_prefix_space"] = True
        elif rule["type"] == "Metaspace":
            rule["prepend_scheme"] = "always"
    fast._tokenizer = Tokenizer.from_str(json.dumps(content))
    fast.add_prefix_space = True
    if glues_words(tokenizer):
        fast._tokenizer, fast.add_prefix_space = before, False
    else:
        fast.init_kwargs["add_prefix_space"] = True


def _rules(rule: Any) -> Iterator[dict[str, Any]]:
    """Yield a rule of a tokenizer's backend, or those that it is a sequence of."""
    if rule is not None:
        yield rule
        for inner in rule.get("pretokenizers", ()):
            yield from _rules(inner)


def fit_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, *, resize: bool) -> str | None:
    """Give tokens that were added to the tokenizer a row in the word embeddings; say so.

    Args:
        model: changed where ``resize``.
        tokenizer: of the model.
        name: of the model, for messages.
        resize: draw new rows; else tokens without one are refused.

    Raises:
        ModelNotFoundError: tokens have no row that were not added, or may not be given one.
    """
    rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    if rows is None:
        return None
    known: Any = tokenizer  # the base class, which has the type, does not say that all have a vocabulary
    added: dict[str, int] = {token: n for token, n in known.get_added_vocab().items() if n >= rows}
    beyond = max([len(tokenizer), *(number + 1 for number in added.values())])
    if beyond <= rows:
        return None
    token = min(added, key=lambda name: added[name], default=None)
    if token is None or not resize or len(tokenizer) - len(added) > rows:
        what = f"the token {token!r}" if token is not None else "some tokens"
        raise ModelNotFoundError(
            f"--model {name}: {what} of its tokenizer would need word embeddings up to {beyond - 1}, and they end at "
            f"{rows - 1}: the tokenizer is not that of the model. Save both again with save_pretrained(), after "
            "resize_token_embeddings() if the token is new."
        )
    model.resize_token_embeddings(beyond, mean_resizing=False)
    return f"{len(added)} added tokens ({token!r} for one) had no word embedding: new ones are drawn."


def give_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, head: TaskHead) -> str | None:
    """Let outputs depend on the row alone: give padding a token, a mask and a side; say so where none will do.

    A row must have the same outputs alone and in a batch with longer ones. Models tell by their outputs which side of
    padding that takes: absolute positions move with padding on the left, XLNet classifies by the last token, and
    decoders classify by the last one that is not the padding token of their configuration.
    """
    if tokenizer.pad_token is None:
        tokenizer.pad_token = _padding_token(model, tokenizer)
    text_config = model.config.get_text_config()
    if text_config.pad_token_id is None:
        text_config.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    if "attention_mask" not in tokenizer.model_input_names:
        tokenizer.model_input_names = [*tokenizer.model_input_names, "attention_mask"]
    configured = text_config.pad_token_id
    sides = ("right",) if head.layout == "questions" else ("right", "left")  # an answer's places count from the left
    for side in sides:
        for number in dict.fromkeys((configured, tokenizer.pad_token_id)):
            tokenizer.padding_side = side
            text_config.pad_token_id = model.config.pad_token_id = number
            if _is_same_in_a_batch(model, tokenizer):
                return None
    tokenizer.padding_side = "right"
    text_config.pad_token_id = model.config.pad_token_id = configured
    return "The outputs of this model depend on the padding of a batch; only --per-device-eval-batch-size 1 has none."


def _padding_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    known = model.config.get_text_config().pad_token_id
    named: Any = tokenizer.convert_ids_to_tokens(known) if known is not None and known >= 0 else None
    found = (named, tokenizer.eos_token, tokenizer.sep_token, tokenizer.unk_token)
    token = next((token for token in found if isinstance(token, str)), None)
    return token if token is not None else str(tokenizer.convert_ids_to_tokens(0))


def _is_same_in_a_batch(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a row has the same outputs alone and beside a longer one."""
    rows = [tokenizer("the film"), tokenizer("the film is good and the book is bad")]
    length = len(rows[0]["input_ids"])
    names = [name for name in rows[0] if name in tokenizer.model_input_names]
    if length == len(rows[1]["input_ids"]) or not length:
        return True
    found = []
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        for batch in (rows[:1], rows):
            padded: Any = tokenizer.pad([{name: row[name] for name in names} for row in batch], return_tensors="pt")
            with torch.no_grad():
                outputs: Any = model(**_taken(model, {name: value.to(device) for name, value in padded.items()}))
            found.append(outputs[0][0].float())
    finally:
        model.train(was_training)
    if found[0].dim() and found[0].shape[0] == length:  # an output for each token
        places = slice(0, length) if tokenizer.padding_side == "right" else slice(-length, None)
        found[1] = found[1][places]
    if found[0].shape != found[1].shape:
        return False
    tolerance = TOLERANCE if model.dtype == torch.float32 else TOLERANCE_IN_16_BITS
    return float((found[0] - found[1]).abs().max()) <= tolerance * max(float(found[0].abs().max()), 1e-6)


def _taken(model: PreTrainedModel, batch: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the model does not take, and give an encoder-decoder something to decode."""
    import inspect

    taken = inspect.signature(model.forward).parameters
    inputs = {name: value for name, value in batch.items() if name in taken}
    if model.config.is_encoder_decoder and hasattr(model, "prepare_decoder_input_ids_from_labels"):
        inputs["decoder_input_ids"] = torch.full_like(batch["input_ids"][:, :1], 0)
    return inputs
