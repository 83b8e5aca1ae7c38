"""One encoder for several tasks (MT-DNN): single-task models that share their body and keep their own heads.

Liu et al., ACL 2019, Multi-Task Deep Neural Networks for Natural Language Understanding; the dropout of the heads is
that of SMART (Jiang et al., ACL 2020, section 4.2).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from steadytune.errors import HostError, did_you_mean

#: How configurations of Transformers name the dropout of a classification head.
_HEAD_DROPOUT = (
    "classifier_dropout",
    "classifier_dropout_prob",
    "cls_dropout",
    "seq_classif_dropout",
    "summary_last_dropout",
)
_PREDICTIONS = {
    "regression": "regression",
    "multi_label_classification": "multi_label",
    "single_label_classification": "classification",
}


@dataclass
class TaskOutput(ModelOutput):
    """What the model of one task returned, and how its outputs are compared.

    Attributes:
        loss: mean over the batch: cross-entropy of classes, squared error of numbers.
        logits: ``(batch, ..., outputs)``.
        start_logits: ``(batch, length)``, of a question answerer.
        end_logits: ``(batch, length)``, of a question answerer.
        prediction: ``"classification"``, ``"regression"`` or ``"multi_label"``; ``None`` where the logits tell it.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    prediction: str | None = None


class MultiTaskModel(PreTrainedModel):
    """Several models of one architecture that share their encoder; a batch is of one task, named in the call.

    The models given are changed: all of them use the encoder of the one that has most of it (a tagger's has no
    pooler). A forward pass is exactly the one of the single-task model, so loss and gradients are too.

    Args:
        models: a model with a head per task; the order is that of the tasks.

    Raises:
        HostError: no models, or encoders of different architecture.

    Example:
        >>> import torch
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
        >>> of = lambda n: BertForSequenceClassification(BertConfig(**sizes, num_labels=n))
        >>> model = MultiTaskModel({"rte": of(2), "stsb": of(1)})
        >>> out = model(task="stsb", input_ids=torch.tensor([[1, 2]]), labels=torch.tensor([0.5]))
        >>> out.prediction, out.logits.shape
        ('regression', torch.Size([1, 1]))
    """

    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    #: The loss is a mean over the micro-batch, whatever number of items the Trainer counts.
    accepts_loss_kwargs = False
    # Whatever the encoder runs with, it has checked itself.
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, models: Mapping[str, PreTrainedModel]) -> None:
        if not models:
            raise HostError("A multi-task model needs at least one task.")
        first = next(iter(models))
        encoder = _encoder(first, models[first])
        super().__init__(copy.deepcopy(encoder.config))
        # Each head has its own.
        self.config.problem_type, self.config.id2label = None, {0: "LABEL_0", 1: "LABEL_1"}
        self.config.label2id = {name: i for i, name in self.config.id2label.items()}
        self.encoder = encoder
        self.heads = nn.ModuleDict()
        # Not registered: the parts of these models are, once each, as the encoder and as heads.
        self._models: dict[str, PreTrainedModel] = {}
        for task, model in models.items():
            self.add(task, model)
        self.post_init()

    def add(self, task: str, model: PreTrainedModel) -> None:
        """Take in one more task; the model given loses its encoder, or all others lose theirs if its has more parts.

        Raises:
            HostError: its encoder is of another architecture.
        """
        encoder = _encoder(task, model)
        if type(encoder) is not type(self.encoder):
            names = f"{type(self.encoder).__name__} and, for {task}, {type(encoder).__name__}"
            raise HostError(f"Tasks can share one encoder only if it is of one architecture; given are {names}.")
        self._models[task] = model
        parts = {name: part for name, part in model.named_children() if part is not encoder}
        self.heads[task.replace(".", "_")] = nn.ModuleDict(parts)
        if _size(encoder) > _size(self.encoder):
            self.encoder = encoder
        for each in self._models.values():
            setattr(each, each.base_model_prefix, self.encoder)
        self.train(self.encoder.training)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(self._models)

    def forward(self, task: str, labels: Tensor | None = None, **inputs: Any) -> TaskOutput:
        """Run the model of one task.

        Args:
            task: name of the task that all rows of the batch are of.
            labels: as that task's own model takes them.
            inputs: ``input_ids``, ``attention_mask`` and what else that model takes.

        Raises:
            HostError: there is no such task.
        """
        model = self.model_of(task)
        outputs = model(**inputs) if labels is None else model(**inputs, labels=labels)
        return TaskOutput(
            loss=outputs.get("loss"),
            logits=outputs.get("logits"),
            start_logits=outputs.get("start_logits"),
            end_logits=outputs.get("end_logits"),
            prediction=_prediction(model, outputs.get("logits")),
        )

    def model_of(self, task: str) -> PreTrainedModel:
        """The model of one task, which shares its encoder with the others; it saves and loads as any other.

        Raises:
            HostError: there is no such task.
        """
        if task not in self._models:
            raise HostError(
                f"The model has no head for the task {task!r}; it has {', '.join(self._models)}."
                f"{did_you_mean(task, self._models)}"
            )
        return self._models[task]

    def train(self, mode: bool = True) -> MultiTaskModel:
        """Switch dropout on or off, in the models of all tasks."""
        for model in self.__dict__.get("_models", {}).values():
            model.training = mode
        return super().train(mode)

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings of the shared encoder."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings of the shared encoder."""
        self.encoder.set_input_embeddings(value)

    def get_encoder(self, *args: Any, **kwargs: Any) -> Any:
        """The encoder of an encoder-decoder, else the shared body."""
        return self.encoder.get_encoder(*args, **kwargs) if self.config.is_encoder_decoder else self.encoder


def set_head_dropout(model: PreTrainedModel, probability: float) -> bool:
    """Set the dropout of everything outside the encoder, in the model and, for when it is loaded, its configuration.

    Args:
        model: a model with a head.
        probability: 0 to 1 (1 excluded).

    Returns:
        Whether the head has any dropout to set.
    """
    body = {id(module) for module in _encoder("the task", model).modules()}
    found = [m for m in model.modules() if isinstance(m, nn.Dropout) and id(m) not in body]
    for dropout in found:
        dropout.p = probability
    for name in _HEAD_DROPOUT:
        if found and hasattr(model.config, name):
            setattr(model.config, name, probability)
    return bool(found)


def _encoder(task: str, model: PreTrainedModel) -> PreTrainedModel:
    encoder = model.base_model
    if encoder is model or not isinstance(encoder, PreTrainedModel):
        raise HostError(f"The model of {task} ({type(model).__name__}) has no encoder apart from its head to share.")
    if dict(model.named_parameters(recurse=False)):
        raise HostError(f"{type(model).__name__} has weights beside its encoder and its head, which cannot be kept.")
    return encoder


def _size(encoder: PreTrainedModel) -> int:
    return sum(p.numel() for p in encoder.parameters())


def _prediction(model: PreTrainedModel, logits: Tensor | None) -> str | None:
    if logits is None or logits.dim() > 2:
        return None  # one prediction per position: its labels tell the rest
    if model.config.problem_type is None:
        return "regression" if logits.shape[-1] == 1 else "classification"
    return _PREDICTIONS.get(model.config.problem_type)
