"""A prompt and its answer, for decoders and encoder-decoders."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steadytune.errors import ModelNotFoundError
from steadytune.heads.columns import PROMPT
from steadytune.heads.encoded import Encoded
from steadytune.heads.head import IGNORED, Encoder, Scorer, Selector, TaskHead, TaskRecord, first
from steadytune.heads.texts import is_cut

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class CausalLM(TaskHead):
    """The answer to a prompt, written by a language model."""

    name = "causal_lm"
    predicts = "text"
    layout = "prompts"
    input_columns = (PROMPT,)
    metrics = ("perplexity", "token_accuracy")
    model_class = "AutoModelForCausalLM"
    smooths_labels = True

    def auto_class(self, *, is_encoder_decoder: bool) -> str:
        """See `TaskHead`."""
        return "AutoModelForSeq2SeqLM" if is_encoder_decoder else self.model_class

    def configuration(self, label_names: tuple[str, ...] | None) -> dict[str, Any]:
        """See `TaskHead`."""
        return {}

    def _encoder(self, tokenizer: PreTrainedTokenizerBase, max_length: int, is_encoder_decoder: bool) -> Encoder:
        return (Seq2SeqEncoder if is_encoder_decoder else PromptEncoder)(tokenizer, max_length)

    def collator(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Any:
        """See `TaskHead`."""
        from transformers import DataCollatorForSeq2Seq, DataCollatorForTokenClassification

        if model.config.is_encoder_decoder:
            return DataCollatorForSeq2Seq(tokenizer, model=model)
        return DataCollatorForTokenClassification(tokenizer)

    def selector(self, *, is_encoder_decoder: bool = False) -> Selector:
        """Keep three sums for each answer, because collecting the logits themselves would take gigabytes.

        They are the negative log-likelihood of its tokens, how many of them are the likeliest, and their number.
        """
        shift = 0 if is_encoder_decoder else 1
        return lambda outputs, labels: _likelihoods(first(outputs), labels, shift)

    def scorer(self, task: TaskRecord, encoded: Encoded, split: str) -> Scorer:
        """See `TaskHead`."""
        return lambda predicted: language_model_scores(predicted.predictions)  # pyright: ignore[reportArgumentType]

    def check_model(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, missing: Iterable[str], name: str
    ) -> None:
        """Raise unless the model has a pretrained language-model head and no token sees those after it."""
        absent = sorted(missing)
        if absent:
            raise ModelNotFoundError(
                f"--model {name}: holds no whole language model, {absent[0]} is not in its weights: prompts and "
                "answers (--head causal_lm) need a checkpoint that was trained to write."
            )
        if tokenizer.eos_token_id is None:
            raise ModelNotFoundError(
                f"--model {name}: its tokenizer has no end-of-sequence token to end an answer with."
            )
        if not model.config.is_encoder_decoder and _sees_later_tokens(model):
            raise ModelNotFoundError(
                f"--model {name}: is an encoder, whose tokens see those after them: it would read the answers it is "
                "to write. Prompts and answers (--head causal_lm) need a decoder or an encoder-decoder."
            )


@dataclass(frozen=True)
class PromptEncoder:
    """A prompt and its answer as one text, joined exactly as they are written; only the answer and its end count.

    Where both are too long together, the prompt loses its beginning; an answer that is too long alone loses its end.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    def __call__(self, rows: dict[str, list[Any]], indices: list[int]) -> dict[str, Any]:
        """Return one feature per row."""
        prompts = self.tokenizer(rows["prompt"], add_special_tokens=False)["input_ids"]
        answers = self.tokenizer(rows["answer"], add_special_tokens=False)["input_ids"]
        begin, end = self._beginning(), [self.tokenizer.eos_token_id]
        columns: dict[str, list[Any]] = {"input_ids": [], "attention_mask": [], "labels": [], "cut": []}
        for prompt, answer in zip(prompts, answers, strict=True):
            target = (answer + end)[: self.max_length - len(begin)]
            room = self.max_length - len(begin) - len(target)
            kept = prompt[max(0, len(prompt) - room) :]
            ids = [*begin, *kept, *target]
            columns["input_ids"].append(ids)
            columns["attention_mask"].append([1] * len(ids))
            columns["labels"].append([IGNORED] * (len(ids) - len(target)) + target)
            columns["cut"].append(int(len(kept) < len(prompt) or len(target) <= len(answer)))
        return {**columns, "row": indices}

    def _beginning(self) -> list[int]:
        """Return the token that begins every text, where the tokenizer puts one there."""
        begin: Any = self.tokenizer.bos_token_id
        return [begin] if begin is not None and self.tokenizer("a")["input_ids"][:1] == [begin] else []


@dataclass(frozen=True)
class Seq2SeqEncoder:
    """A prompt for the encoder and its answer for the decoder, each cut at its end."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int

    def __call__(self, rows: dict[str, list[Any]], indices: list[int]) -> dict[str, Any]:
        """Return one feature per row."""
        encoded = self.tokenizer(rows["prompt"], truncation=True, max_length=self.max_length)
        targets = self.tokenizer(text_target=rows["answer"], truncation=True, max_length=self.max_length)
        cut = [max(pair) for pair in zip(is_cut(encoded), is_cut(targets), strict=True)]
        return {**encoded, "labels": targets["input_ids"], "row": indices, "cut": cut}


def _likelihoods(logits: Any, labels: Any, shift: int) -> Any:
    logits, labels = logits[:, : logits.shape[1] - shift], labels[:, shift:]
    counted = labels != IGNORED
    kept = logits[counted].float()  # only the answer's tokens: a batch of all would be large
    wanted = labels[counted]
    found = kept.new_zeros(3, *labels.shape)
    found[0, counted] = kept.logsumexp(-1) - kept.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
    found[1, counted] = (kept.argmax(-1) == wanted).float()
    found[2] = counted.float()
    return found.sum(-1).T


def language_model_scores(sums: np.ndarray) -> dict[str, float]:
    """Return the scores of answers, from ``(rows, 3)``: see `CausalLM.selector`.

    ``perplexity`` is the exponential of the mean negative log-likelihood of all answer tokens, in nats, the end of the
    answer among them; left out where it is no finite number. ``token_accuracy`` is the share of the tokens that are
    the likeliest, given those before. ``exact_match`` is the share of the answers of which that is true of every
    token: exactly those that greedy decoding would write.

    >>> import numpy as np
    >>> language_model_scores(np.array([[0.0, 2.0, 2.0], [math.log(2) * 4, 1.0, 2.0]]))
    {'token_accuracy': 0.75, 'exact_match': 0.5, 'perplexity': 2.0}
    """
    import numpy as np

    total, right, count = np.asarray(sums, dtype=np.float64).T
    tokens = max(float(count.sum()), 1.0)
    scores = {
        "token_accuracy": float(right.sum() / tokens),
        "exact_match": float(((right == count) & (count > 0)).mean()),
    }
    mean = float(total.sum() / tokens)
    return {**scores, "perplexity": math.exp(mean)} if mean < 700 else scores  # false for NaN too


def _sees_later_tokens(model: PreTrainedModel) -> bool:
    """Whether an output changes with the token after it: asked of the model, for configurations do not tell."""
    import torch

    was_training = model.training
    device = next(model.parameters()).device
    texts = torch.tensor([[3, 4, 5, 6], [3, 4, 5, 7]], device=device)
    with torch.no_grad():
        first, second = model.eval()(input_ids=texts, attention_mask=torch.ones_like(texts)).logits[:, :3]
    model.train(was_training)
    return not torch.allclose(first, second, atol=1e-4, rtol=1e-3)


HEAD = CausalLM()
