"""Which head a saved model was trained with, told by its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steadytune.errors import ModelNotFoundError
from steadytune.heads.registry import head_of
from steadytune.tasks.task import Head, Task

#: How the class of a model ends, by its head.
_ENDINGS: Mapping[str, Head] = {
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "token_classification",
    "ForQuestionAnswering": "question_answering",
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
    "ForConditionalGeneration": "causal_lm",
}
#: What Transformers leaves out of config.json.
_TWO_NAMELESS = {"0": "LABEL_0", "1": "LABEL_1"}


def trained_task(config: Mapping[str, Any], name: str) -> Task:
    """Return the record of what a saved model predicts: its head and the names of its outputs.

    Args:
        config: the content of its config.json.
        name: of the model, for messages.

    Raises:
        ModelNotFoundError: the model has no head that predicts anything here.

    >>> config = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "bad", "1": "good"}}
    >>> trained_task(config, "mine").label_names
    ('bad', 'good')
    """
    architecture = str((config.get("architectures") or ["unknown"])[0])
    heads: list[Head] = [head for end, head in _ENDINGS.items() if architecture.endswith(end)]
    if not heads:
        raise ModelNotFoundError(
            f"{name}: has no trained head (its class is {architecture}), so it predicts nothing: train it first, "
            f"`steadytune train --model {name} --train-file FILE`, and give the folder of that run."
        )
    names = _names(config, name)
    head: Head = _sequence_head(config, len(names)) if heads[0] == "classification" else heads[0]
    labels = names if head_of(head).chooses else None
    return Task(name, head, "", "", "", None, "", labels, {}, "")


def _names(config: Mapping[str, Any], name: str) -> tuple[str, ...]:
    try:
        found = {int(place): str(label) for place, label in (config.get("id2label") or _TWO_NAMELESS).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelNotFoundError(f"{name}: id2label in its config.json is damaged ({error!r}).") from error
    return tuple(found[place] for place in sorted(found))


def _sequence_head(config: Mapping[str, Any], outputs: int) -> Head:
    kind = config.get("problem_type")
    if kind == "multi_label_classification":
        return "multi_label"
    return "regression" if kind == "regression" or outputs == 1 else "classification"
