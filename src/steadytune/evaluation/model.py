"""A run's model at rest: rows in, batches, outputs and scores out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction

from steadytune.core.model import outputs as model_outputs
from steadytune.heads.encoded import Encoded
from steadytune.heads.features import encode
from steadytune.heads.head import IGNORED
from steadytune.heads.registry import head_of
from steadytune.models.load import load_model, longest_input
from steadytune.settings.train import TrainSettings
from steadytune.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset


class EvaluatedModel:
    """The model of a run, in evaluation mode, and how rows of its task become what it takes.

    Args:
        location: the folder of the saved model.
        task: of the run.
        settings: of the run: length of the input, size of the batches, device.

    Raises:
        ModelNotFoundError: the folder holds no model of this head.
    """

    def __init__(self, location: str, task: Task, settings: TrainSettings) -> None:
        self.task, self.settings, self.head = task, settings, head_of(task.head)
        self.model, self.tokenizer, _ = load_model(location, task, trust_remote_code=settings.trust_remote_code)
        on_gpu = torch.cuda.is_available() and not settings.use_cpu
        self.device = torch.device("cuda" if on_gpu else "cpu")
        network: Any = self.model
        self.network: torch.nn.Module = network.to(self.device).eval()
        self.max_length = min(settings.max_length, longest_input(self.model, self.tokenizer))
        self._collate = self.head.collator(self.model, self.tokenizer)
        self._taken = set(inspect.signature(self.model.forward).parameters) | set(model_outputs.LABELS)

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether an encoder reads and a decoder writes."""
        return bool(self.model.config.is_encoder_decoder)

    def encoded(self, rows: Dataset, split: str = "validation") -> Encoded:
        """The rows as features, the longest first."""
        encoded = encode(
            rows, self.task, self.tokenizer, self.max_length, name=split, is_encoder_decoder=self.is_encoder_decoder
        )
        return encoded.longest_first()

    def batches(self, rows: Dataset | Encoded, size: int | None = None) -> Iterator[dict[str, Tensor]]:
        """Batches with labels, on the model's device, the longest first."""
        features = (rows if isinstance(rows, Encoded) else self.encoded(rows)).features
        features = features.select_columns([c for c in features.column_names if c in self._taken])
        size = size or self.settings.per_device_eval_batch_size
        for start in range(0, len(features), size):
            part: Any = features.select(range(start, min(start + size, len(features))))
            batch = self._collate(list(part))
            yield {name: tensor.to(self.device) for name, tensor in batch.items()}

    def outputs(self, rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Outputs, ``(rows, outputs)`` in float64, and labels of texts or pairs, in the order of the rows."""
        encoded = self.encoded(rows)
        back = np.argsort(np.asarray(encoded.features.with_format("numpy")["row"][:]), kind="stable")
        found = [(self._ask(batch)[0].double(), batch["labels"]) for batch in self.batches(encoded)]
        logits, labels = (np.concatenate([part[i].cpu().numpy() for part in found]) for i in (0, 1))
        return logits[back], labels[back]

    def decisions(self, rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Outputs, ``(words, tags)`` in float64, and tags of all words, in no particular order."""
        logits, labels = [], []
        for batch in self.batches(rows):
            counted = batch["labels"] != IGNORED
            logits.append(self._ask(batch)[0][counted].double().cpu().numpy())
            labels.append(batch["labels"][counted].cpu().numpy())
        return np.concatenate(logits), np.concatenate(labels)

    def scores(self, rows: Dataset, split: str) -> dict[str, float]:
        """The scores of the task, as training reports them.

        Args:
            rows: in the columns of the task's head.
            split: its name, which tells its language.
        """
        encoded = self.encoded(rows, split)
        select = self.head.selector(is_encoder_decoder=self.is_encoder_decoder)
        found: list[tuple[np.ndarray, ...]] = []
        labels: list[np.ndarray] = []
        for batch in self.batches(encoded):
            selected = select(self._ask(batch), batch.get("labels"))
            parts = selected if isinstance(selected, tuple) else (selected,)
            found.append(tuple(_as_array(part) for part in parts))
            if "labels" in batch:
                labels.append(batch["labels"].cpu().numpy())
        joined = [_joined(list(column)) for column in zip(*found, strict=True)]
        predictions: Any = tuple(joined) if len(joined) > 1 else joined[0]
        label_ids: Any = _joined(labels) if labels else ()
        predicted = EvalPrediction(predictions, label_ids)
        return self.head.scorer(self.task, encoded, split)(predicted)

    @torch.no_grad()
    def _ask(self, batch: dict[str, Tensor]) -> tuple[Any, ...]:
        outputs: Any = self.network(**model_outputs.question(self.network, batch))
        return tuple(outputs.to_tuple())


def _as_array(tensor: Tensor) -> np.ndarray:
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Put arrays of different widths under each other, filled up as the Trainer does."""
    if parts[0].ndim == 1:
        return np.concatenate(parts)
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=IGNORED) for p in parts])
