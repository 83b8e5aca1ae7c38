"""A probe: the encoder stays frozen, and a linear model is fitted on its pooled vectors.

It takes seconds where fine-tuning takes minutes, and on a few hundred rows it is often as good. What comes out is an
ordinary run and an ordinary model folder.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steadytune.errors import SettingsError
from steadytune.heads.registry import head_of
from steadytune.models.pooled.choice import is_poolable
from steadytune.settings.train import TrainSettings
from steadytune.support.atomic_files import write_json
from steadytune.training.probe.linear import Linear, fit_classes, fit_labels, fit_numbers

#: Settings that a probe does not have, so that the recipe need not choose them.
OF_TRAINING = ("learning_rate", "num_train_epochs", "per_device_train_batch_size")

#: Settings that would do nothing.
IDLE = ("learning_rate", "num_train_epochs", "max_steps", "weight_decay", "gradient_accumulation_steps")


def refuse_what_a_probe_ignores(settings: TrainSettings, head: str) -> None:
    """Refuse settings that would do nothing, and heads that are not linear in one vector for each row.

    Raises:
        SettingsError: the message names the setting or the head.
    """
    if settings.methods not in ([], ["none"]):
        raise SettingsError(f"--probe trains no weights, so methods do nothing: leave out {settings.methods[0]}.")
    for name in IDLE:
        if name in settings.model_fields_set and getattr(settings, name) != type(settings).model_fields[name].default:
            raise SettingsError(f"--{name.replace('_', '-')} does nothing with --probe, which fits a linear model.")
    if settings.pooling == "cls":
        raise SettingsError("--pooling cls does not go with --probe, which needs one vector for each text: use mean.")
    if not is_poolable(head_of(head)):
        raise SettingsError(f"--probe is for classes, several labels and numbers, not for {head}.")


@torch.no_grad()
def vectors_of(trainer: Any, features: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors ``(rows, hidden)`` that the head would read, without dropout, and the labels.

    Args:
        trainer: its model is a pooled classifier.
        features: a split as the model takes it.
    """
    model = trainer.model.eval()
    vectors, labels = [], []
    for batch in trainer.get_eval_dataloader(features):
        inputs = {name: value.to(model.device) for name, value in batch.items() if isinstance(value, Tensor)}
        labels.append(inputs.pop("labels").cpu().numpy())
        vectors.append(model.features(**inputs).float().cpu().numpy())
    return np.concatenate(vectors), np.concatenate(labels)


def fit_head(model: Any, vectors: np.ndarray, labels: np.ndarray) -> Linear:
    """Fit the linear model of the head's kind, and write it into the classifier."""
    kind = model.config.problem_type
    if kind == "regression":
        found = fit_numbers(vectors, labels.astype(np.float64))
    elif kind == "multi_label_classification":
        found = fit_labels(vectors, labels)
    else:
        found = fit_classes(vectors, labels, model.config.num_labels)
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(found.weight))
        model.classifier.bias.copy_(torch.from_numpy(found.bias))
    return found


def finish_probe(run: Any, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Measure, fit, measure again, save; return what ``metrics.json`` holds.

    Args:
        run: a run of one task whose model is a pooled classifier.
        metrics: of an earlier start, if any.
    """
    if not run.was_measured(metrics):
        metrics = run.evaluate({}, "before")
    began = time.perf_counter()
    trainer = run.training.trainer
    vectors, labels = vectors_of(trainer, run.splits["train"].features)
    fitted = fit_head(run.model, vectors, labels)
    seconds = time.perf_counter() - began
    found = run.evaluate(metrics, "after")
    found["training"] = {
        "updates": 0,
        "epochs": 0.0,
        **run.training.meter.summary(0),
        "seconds": round(seconds, 3),
        "seconds_in_last_session": round(seconds, 3),
        "strength": list(fitted.strength),
        **run.facts_of_training(),
    }
    found["methods"] = []
    run.save()
    write_json(run.folder.metrics, found)
    return found
