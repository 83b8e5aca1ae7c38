"""Several tasks over one encoder: every pass is that of the single-task model, with every method."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers import tiny
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)

from steadytune import Stack
from steadytune.core.model.pretrained import pretrained_parameters
from steadytune.errors import HostError
from steadytune.methods.registry import all_methods, build_methods
from steadytune.models.multi_task import MultiTaskModel, set_head_dropout

TASKS = {"rte": 2, "mnli": 3, "stsb": 1}
UPDATES = 6


def single(outputs: int, *, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> BertForSequenceClassification:
    """The model of one task; all of them have the same encoder, and the head that this number of outputs gets."""
    model = tiny.bert(dropout=dropout, dtype=dtype, num_labels=outputs)
    body = tiny.bert(dropout=dropout, dtype=dtype).bert
    model.bert.load_state_dict(body.state_dict())
    return model


def shared(**settings: Any) -> MultiTaskModel:
    model = MultiTaskModel({task: single(outputs, **settings) for task, outputs in TASKS.items()})
    return model.train()


def batch_for(task: str, *, seed: int = 0) -> dict[str, Tensor]:
    return tiny.batch(labels=TASKS[task], seed=seed)


def named_as_single(model: MultiTaskModel, task: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the parameters that a task uses, under the names of its single-task model."""
    head = f"heads.{task}."
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith("encoder."):
            renamed["bert." + name.removeprefix("encoder.")] = tensor
        elif name.startswith(head):
            renamed[name.removeprefix(head)] = tensor
    return renamed


@pytest.mark.parametrize("task", TASKS)
def test_loss_and_gradient_are_those_of_the_single_task_model(task: str) -> None:
    alone, together = single(TASKS[task], dtype=torch.float64), shared(dtype=torch.float64)
    batch = batch_for(task)
    expected = alone(**batch)
    out = together(task=task, **batch)
    assert torch.equal(out.loss, expected.loss)
    assert torch.equal(out.logits, expected.logits)
    expected.loss.backward()
    out.loss.backward()
    assert tiny.differences(tiny.gradients(alone), named_as_single(together, task, tiny.gradients(together))) == []
    others = [n for n, p in together.named_parameters() if n.startswith("heads.") and f".{task}." not in n]
    assert others
    assert all(dict(together.named_parameters())[name].grad is None for name in others)


def test_the_loss_is_cross_entropy_or_squared_error() -> None:
    model = shared(dtype=torch.float64)
    classes, numbers = batch_for("mnli"), batch_for("stsb")
    out = model(task="mnli", **classes)
    probabilities = out.logits.exp() / out.logits.exp().sum(1, keepdim=True)
    by_hand = -torch.stack([p[y] for p, y in zip(probabilities, classes["labels"], strict=True)]).log().mean()
    assert torch.allclose(out.loss, by_hand, rtol=1e-12)
    out = model(task="stsb", **numbers)
    assert torch.allclose(out.loss, ((out.logits[:, 0] - numbers["labels"]) ** 2).mean(), rtol=1e-12)
    assert (model(task="mnli", **classes).prediction, out.prediction) == ("classification", "regression")


def test_every_weight_is_there_once_and_only_heads_are_new() -> None:
    model = shared()
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(names)) == len(list(model.parameters()))
    assert sorted(model.state_dict()) == sorted(set(model.state_dict()))
    new = set(names) - pretrained_parameters(model)
    assert new == {f"heads.{task}.classifier.{part}" for task in TASKS for part in ("weight", "bias")}
    for task in TASKS:
        assert model.model_of(task).bert is model.encoder
    assert model.get_input_embeddings() is model.encoder.embeddings.word_embeddings


def test_the_weights_given_are_the_weights_kept() -> None:
    models: dict[str, PreTrainedModel] = {task: single(outputs) for task, outputs in TASKS.items()}
    before = {task: tiny.weights(model) for task, model in models.items()}
    together = MultiTaskModel(models)
    for task, weights in before.items():
        assert tiny.differences(weights, tiny.weights(together.model_of(task))) == []


def test_a_tagger_shares_the_encoder_with_its_pooler() -> None:
    tagger = tiny.seeded(lambda: BertForTokenClassification(BertConfig(**tiny.sizes(num_labels=5))), 3)
    model = MultiTaskModel({"ner": tagger, "rte": single(2)}).train()
    batch = tiny.batch()
    tags = torch.where(batch["attention_mask"] == 1, batch["input_ids"] % 5, -100)
    stack = Stack(build_methods(["smart"], {}))
    stack.prepare(model, total_updates=2)
    for task, labels in (("ner", tags), ("rte", batch["labels"])):
        stack.backward(model, {**batch, "labels": labels, "task": task})
    assert all(p.grad is not None for p in model.parameters())
    stack.close()


def test_models_of_different_architecture_cannot_share() -> None:
    distil = DistilBertForSequenceClassification(
        DistilBertConfig(dim=16, n_layers=1, n_heads=2, hidden_dim=16, vocab_size=60)
    )
    with pytest.raises(HostError, match="one architecture; given are BertModel and, for sst2, DistilBertModel"):
        MultiTaskModel({"rte": single(2), "sst2": distil})
    with pytest.raises(HostError, match="at least one task"):
        MultiTaskModel({})
    with pytest.raises(HostError, match=r"no head for the task 'mnl'; it has rte, mnli, stsb\. Did you mean 'mnli'"):
        shared()(task="mnl", **batch_for("mnli"))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("methods", ["smart", "r3f", "r_drop", "vat", "alum", "freelb", "pgd", "sam"])
def test_a_step_with_a_method_is_that_of_the_single_task_model(methods: str, task: str) -> None:
    """In float64, on the second step, when the teacher is no longer the student."""
    felt: dict[str, dict[str, Any]] = {"smart": {"radius": 0.1, "step_size": 0.1, "noise_std": 0.05}}
    settings = felt if methods == "smart" else {}
    dropout = 0.1 if methods == "r_drop" else 0.0

    def gradients(model: nn.Module, extra: dict[str, Any]) -> tuple[float, dict[str, Tensor]]:
        stack = Stack(build_methods([methods], settings), seed=4)
        stack.prepare(model, total_updates=UPDATES)
        optimizer = stack.optimizer(torch.optim.SGD(model.parameters(), lr=0.1))
        for update in range(2):
            torch.manual_seed(update)
            loss = stack.backward(model, {**batch_for(task, seed=update), **extra})
            if update == 0:
                optimizer.step()
                optimizer.zero_grad()
        found = tiny.gradients(model)
        stack.close()
        return float(loss), found

    alone = single(TASKS[task], dropout=dropout, dtype=torch.float64)
    together = shared(dropout=dropout, dtype=torch.float64)
    loss, expected = gradients(alone, {})
    loss_together, found = gradients(together, {"task": task})
    assert loss_together == pytest.approx(loss, rel=1e-12)
    assert tiny.distance(named_as_single(together, task, found), expected) < 1e-12


def test_smart_terms_of_interleaved_tasks_are_symmetric_kl_and_squared_difference() -> None:
    """The value that is logged, against the definition, for a batch of classes and one of numbers."""
    model = shared(dtype=torch.float64)
    perturbed = copy.deepcopy(model)
    embeddings = perturbed.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding)
    with torch.no_grad():
        embeddings.weight.add_(0.01)
    for task in ("mnli", "stsb"):
        batch = batch_for(task)
        stack = Stack(build_methods(["bregman"], {}))
        stack.prepare(model, total_updates=UPDATES)
        for teacher in stack.copies().values():
            teacher.zero_()  # the teacher says the same of everything
        stack.loss(model, {**batch, "task": task})
        logits = model(task=task, **batch).logits.detach()
        if task == "stsb":
            expected = logits.square().mean()
        else:
            p, q = logits.softmax(1), torch.full_like(logits, 1 / 3)
            expected = ((p - q) * (p.log() - q.log())).sum(1).mean()
        assert stack.take_logs()["bregman"] == pytest.approx(float(expected), rel=1e-9)
        stack.close()


@pytest.mark.parametrize("name", sorted(all_methods()))
def test_every_method_trains_it(name: str) -> None:
    model = shared(dropout=0.1)
    before = tiny.weights(model)
    stack = Stack(build_methods([name], {}), seed=1)

    def batches() -> Any:
        return ({**batch_for(task), "task": task} for task in ("rte", "mnli"))

    stack.prepare(model, total_updates=UPDATES, batches=batches)
    optimizer = stack.optimizer(torch.optim.AdamW(model.parameters(), lr=1e-2))
    scheduler = stack.scheduler(optimizer)
    for update in range(UPDATES):
        task = list(TASKS)[update % len(TASKS)]
        stack.backward(model, {**batch_for(task, seed=update), "task": task})
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
    stack.finish()
    after = tiny.weights(model)
    assert list(after) == list(before)
    assert all(bool(torch.isfinite(p).all()) for p in after.values())
    assert tiny.differences(before, after)


def test_a_saved_task_loads_as_any_model(tmp_path: Any) -> None:
    model = shared(dropout=0.0).eval()
    batch = batch_for("mnli")
    model.model_of("mnli").save_pretrained(tmp_path / "mnli")
    loaded = BertForSequenceClassification.from_pretrained(tmp_path / "mnli").eval()
    assert torch.equal(loaded(**batch).logits, model(task="mnli", **batch).logits)
    model.encoder.save_pretrained(tmp_path / "encoder")
    body = BertForSequenceClassification.from_pretrained(tmp_path / "encoder").bert
    assert tiny.differences(tiny.weights(body), tiny.weights(model.encoder)) == []


def test_a_copy_shares_its_own_encoder() -> None:
    model = shared()
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.encoder.embeddings.word_embeddings.weight.zero_()
    assert copied.model_of("rte").bert is copied.encoder
    assert bool(model.encoder.embeddings.word_embeddings.weight.any())


def test_dropout_of_the_heads_is_that_of_the_task(tmp_path: Any) -> None:
    models: dict[str, PreTrainedModel] = {task: single(outputs, dropout=0.1) for task, outputs in TASKS.items()}
    assert set_head_dropout(models["mnli"], 0.3)
    model = MultiTaskModel(models)
    assert model.heads["mnli"]["dropout"].p == 0.3
    assert model.heads["rte"]["dropout"].p == 0.1
    assert {m.p for m in model.encoder.modules() if isinstance(m, nn.Dropout)} == {0.1}
    model.model_of("mnli").save_pretrained(tmp_path)
    assert BertForSequenceClassification.from_pretrained(tmp_path).dropout.p == 0.3
    assert [model.eval().model_of(task).training for task in TASKS] == [False] * 3
    assert [model.train().model_of(task).training for task in TASKS] == [True] * 3


def test_layers_run_again_under_gradient_checkpointing() -> None:
    plain, checkpointed = shared(), shared()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    assert checkpointed.is_gradient_checkpointing
    for model in (plain, checkpointed):
        model(task="rte", **batch_for("rte")).loss.backward()
    assert tiny.distance(tiny.gradients(checkpointed), tiny.gradients(plain)) < 1e-6
