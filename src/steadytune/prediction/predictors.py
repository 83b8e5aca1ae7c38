"""From features and a model's outputs to predictions, one function for each kind of head."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from steadytune.core.model import outputs as heads
from steadytune.heads.answer_spans import best_span
from steadytune.heads.head import IGNORED
from steadytune.heads.kinds.token_classification import NO_TAG
from steadytune.heads.registry import head_of
from steadytune.models.load import longest_input
from steadytune.prediction.generation import write_answers
from steadytune.prediction.prediction import NOTHING, Prediction

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from steadytune.tasks.task import Task

#: The default of new tokens of a written answer.
NEW_TOKENS = 64
#: The length in tokens where neither the training nor the model says one.
LONGEST = 512

Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Found:
    """What was found for some rows.

    Attributes:
        predictions: one for each row.
        outputs: ``(rows, outputs)``, of heads with one vector of outputs for each row.
    """

    predictions: list[Prediction]
    outputs: np.ndarray | None = None


class Predictor:
    """A trained model at rest, and how rows without labels become predictions.

    Args:
        model: with its trained head.
        tokenizer: of the model.
        task: head and names of the outputs.
        max_length: longest input in tokens, as in training; ``None`` for what the model takes, at most 512.
        device: where the model runs.
        batch_size: rows that the model is asked at once.
        precision: of autocast; ``None`` for that of the weights.
        max_new_tokens: longest text that is written.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        *,
        max_length: int | None,
        device: torch.device,
        batch_size: int,
        precision: torch.dtype | None = None,
        max_new_tokens: int | None = None,
    ) -> None:
        self.task, self.tokenizer, self.device, self.batch_size = task, tokenizer, device, batch_size
        network: Any = model
        self.model: Any = network.to(device).eval()
        self.max_length = min(max_length or LONGEST, longest_input(model, tokenizer))
        self.is_encoder_decoder = bool(model.config.is_encoder_decoder)
        room = self.max_length if self.is_encoder_decoder else self.max_length // 2
        self.new_tokens = max_new_tokens or max(1, min(NEW_TOKENS, room))
        self._precision = precision
        self._head = head_of(task.head)
        self._collate = self._head.collator(model, tokenizer)
        self._taken = set(inspect.signature(model.forward).parameters) - set(heads.LABELS)
        self._encode = self._head.encoder(tokenizer, self.max_length, is_encoder_decoder=self.is_encoder_decoder)

    def predict(self, rows: Columns, *, all_probabilities: bool = False) -> Found:
        """Predict some rows.

        Args:
            rows: the text columns of the head, see `tasks.TaskData`, without labels.
            all_probabilities: also those of the classes that are not predicted.
        """
        if not next(iter(rows.values())):
            return Found([])
        predicts = self._head.predicts
        if predicts == "text":
            return Found(self._texts(rows))
        features = self._encode(rows | self._no_labels(rows), list(range(len(next(iter(rows.values()))))))
        if predicts == "tags":
            return Found(self._tags(features, rows["tokens"], all_probabilities))
        if predicts == "answer":
            return Found(self._answers(features, rows["context"]))
        outputs = np.stack([parts[0] for parts in self._outputs(features)])
        return Found(self._of_rows(outputs, all_probabilities), outputs)

    def likelihoods(self, rows: Columns) -> np.ndarray:
        """What the given answers of prompts are worth to a language model, see `CausalLM.selector`."""
        features = self._encode(rows, list(range(len(rows["prompt"]))))
        select = self._head.selector(is_encoder_decoder=self.is_encoder_decoder)
        found = np.zeros((len(rows["prompt"]), 3))
        for places, batch in self._batches(features, with_labels=True):
            found[places] = select(self._ask(batch), batch["labels"]).double().cpu().numpy()
        return found

    # ------------------------------------------------------------ the model

    def _no_labels(self, rows: Columns) -> Columns:
        """Stand-ins for the labels that encoders look at; no model sees them."""
        count = len(next(iter(rows.values())))
        if self._head.predicts == "tags":
            return {"label": [[0] * len(words) for words in rows["tokens"]]}
        if self._head.predicts == "answer":
            return {"answers": [{"text": [], "answer_start": []}] * count}
        return {"label": [[]] * count if self._head.predicts == "labels" else [0] * count}

    def _batches(
        self, features: Mapping[str, Any], *, with_labels: bool = False
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Yield batches, the longest features first, with the places of their features."""
        names = [name for name in features if name in self._taken or (with_labels and name == "labels")]
        order = sorted(range(len(features["input_ids"])), key=lambda i: -len(features["input_ids"][i]))
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            batch = self._collate([{name: features[name][i] for name in names} for i in places])
            yield places, {name: tensor.to(self.device) for name, tensor in batch.items()}

    def _outputs(self, features: Mapping[str, Any]) -> list[tuple[np.ndarray, ...]]:
        """The first two outputs for each feature, in the order of the features, in float32, without padding."""
        found: list[tuple[np.ndarray, ...]] = [()] * len(features["input_ids"])
        for places, batch in self._batches(features):
            parts = [part.float().cpu().numpy() for part in self._ask(batch)[:2] if isinstance(part, Tensor)]
            for i, place in enumerate(places):
                found[place] = tuple(
                    self._without_padding(part[i], len(features["input_ids"][place])) for part in parts
                )
        return found

    def _without_padding(self, outputs: np.ndarray, length: int) -> np.ndarray:
        """The outputs of a feature's own tokens, for heads with outputs for each token."""
        if self._head.one_output_per_row:
            return outputs
        return outputs[-length:] if self.tokenizer.padding_side == "left" else outputs[:length]

    @torch.no_grad()
    def _ask(self, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        with self._autocast():
            outputs: Any = self.model(**heads.question(self.model, batch))
        return tuple(outputs.to_tuple())

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._precision is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self._precision)

    # ------------------------------------------------------------ one vector of outputs for each row

    def _of_rows(self, outputs: np.ndarray, all_probabilities: bool) -> list[Prediction]:
        make = {"number": self._number, "labels": self._labels}.get(self._head.predicts, self._class)
        return [make(row, all_probabilities) if np.isfinite(row).all() else NOTHING for row in outputs.astype(float)]

    def _number(self, row: np.ndarray, _all: bool) -> Prediction:
        return Prediction(float(row[0]))

    def _class(self, row: np.ndarray, all_probabilities: bool) -> Prediction:
        probabilities, best = softmax(row), int(row.argmax())
        return Prediction(
            self._names[best],
            float(probabilities[best]),
            self._by_name(probabilities) if all_probabilities else {},
        )

    def _labels(self, row: np.ndarray, all_probabilities: bool) -> Prediction:
        probabilities, holds = 1 / (1 + np.exp(-row)), row > 0
        return Prediction(
            tuple(name for name, yes in zip(self._names, holds, strict=True) if yes),
            float(np.where(holds, probabilities, 1 - probabilities).prod()),
            self._by_name(probabilities) if all_probabilities else {},
        )

    @property
    def _names(self) -> tuple[str, ...]:
        return self.task.label_names or ()

    def _by_name(self, values: np.ndarray) -> dict[str, float | tuple[float | None, ...]]:
        return {name: float(value) for name, value in zip(self._names, values, strict=True)}

    # ------------------------------------------------------------ words, questions, prompts

    def _tags(self, features: Mapping[str, Any], rows: Sequence[Sequence[str]], all_: bool) -> list[Prediction]:
        """The tag of each word's first token; a word without any token is outside of everything."""
        found: list[list[np.ndarray | None]] = [[None] * len(words) for words in rows]
        for i, (logits, *_) in enumerate(self._outputs(features)):
            labels = np.asarray(features["labels"][i])
            for word, row in zip(features["words"][i], logits[: len(labels)][labels != IGNORED], strict=True):
                found[features["row"][i]][word] = softmax(row.astype(float)) if np.isfinite(row).all() else None
        predictions = []
        for words in found:
            best = [None if word is None else int(word.argmax()) for word in words]
            tags = tuple(NO_TAG if place is None else self._names[place] for place in best)
            sure = tuple(None if word is None else float(word.max()) for word in words)
            each = {
                name: tuple(None if word is None else float(word[i]) for word in words)
                for i, name in enumerate(self._names if all_ else ())
            }
            predictions.append(Prediction(tags, sure, each))
        return predictions

    def _answers(self, features: Mapping[str, Any], contexts: list[str]) -> list[Prediction]:
        """The span of the highest start and end logits over all windows of a row, as `heads.best_answers` finds it."""
        best: list[tuple[float, str]] = [(-np.inf, "")] * len(contexts)
        totals = np.full((len(contexts), 2), -np.inf)
        for i, (starts, ends, *_) in enumerate(self._outputs(features)):
            row = features["row"][i]
            begins, finishes = np.asarray(features["offset_start"][i]), np.asarray(features["offset_end"][i])
            inside, both = begins >= 0, (starts[: len(begins)], ends[: len(begins)])
            found = best_span(*both, inside)
            for k, logits in enumerate(both):
                counted = logits[inside & np.isfinite(logits)].astype(float)
                totals[row, k] = np.logaddexp.reduce([totals[row, k], *counted])
            if found is not None and found[0] > best[row][0]:
                score, first, last = found
                best[row] = (score, contexts[row][int(begins[first]) : int(finishes[last])])
        return [
            Prediction(answer, float(np.exp(score - totals[row].sum()))) if np.isfinite(score) else NOTHING
            for row, (score, answer) in enumerate(best)
        ]

    def _texts(self, rows: Columns) -> list[Prediction]:
        prompts = rows | {"answer": [""] * len(rows["prompt"])}
        # The encoders end every answer, here an empty one; of a decoder's input that end is taken off again.
        room = self.max_length if self.is_encoder_decoder else max(2, self.max_length - self.new_tokens + 1)
        encoder = self._head.encoder(self.tokenizer, room, is_encoder_decoder=self.is_encoder_decoder)
        ids = encoder(prompts, list(range(len(rows["prompt"]))))["input_ids"]
        if not self.is_encoder_decoder:
            ids = [one[:-1] for one in ids]
        predictions = [NOTHING] * len(ids)
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            with torch.no_grad(), self._autocast():
                written = write_answers(self.model, self.tokenizer, [ids[i] for i in places], self.new_tokens)
            for place, one in zip(places, written, strict=True):
                predictions[place] = one
        return predictions


def softmax(row: np.ndarray) -> np.ndarray:
    """Probabilities of logits.

    >>> softmax(np.array([0.0, 0.0]))
    array([0.5, 0.5])
    """
    shifted = np.exp(row - row.max())
    return shifted / shifted.sum()
