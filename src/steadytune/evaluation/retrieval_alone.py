"""Sentence retrieval of one model, without rows of a run and without a head: a run's or a pretrained one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from steadytune.errors import DataError, ModelNotFoundError
from steadytune.evaluation.retrieval import SentenceEncoder, retrieval_work
from steadytune.evaluation.work import Measurement
from steadytune.models.load import load_model
from steadytune.settings.train import TrainSettings
from steadytune.tasks.named.registry import task_record
from steadytune.training.rows import DATA_FOLDER

if TYPE_CHECKING:
    from steadytune.settings.evaluate import EvaluateOptions


class RetrievalAlone:
    """The sentences that are there, and the model.

    Args:
        location: a folder, an embedded model or a Hub id.
        settings: of the run; the default ones for a pretrained model.
        options: what the user asked for.
        tell: is given a line for whatever takes long.

    Raises:
        ModelNotFoundError: there is no such model.
        SettingsError: it has no such layer.
        DataError: there are no sentences.
    """

    def __init__(
        self, location: str, settings: TrainSettings, options: EvaluateOptions, tell: Callable[[str], None]
    ) -> None:
        self.tell = tell
        try:
            model, tokenizer, _ = load_model(
                location, task_record("tatoeba"), trust_remote_code=settings.trust_remote_code
            )
        except ModelNotFoundError as error:
            raise ModelNotFoundError(str(error).removeprefix("--model ")) from error
        network: Any = model
        network.to("cuda" if torch.cuda.is_available() and not settings.use_cpu else "cpu")
        encoder = SentenceEncoder.of(model, tokenizer, options.layer, settings.per_device_eval_batch_size)
        data_dir = options.data_dir or settings.data_dir or os.environ.get(DATA_FOLDER)
        limit = options.max_eval_samples or settings.max_eval_samples
        found = retrieval_work(encoder, data_dir, limit, ask_hub=True, tell=tell)
        if isinstance(found, str):
            raise DataError(found)
        self._found = found

    def work(self) -> Measurement:
        """Settings and measurement, as a part of an evaluation."""
        return Measurement(*self._found)
