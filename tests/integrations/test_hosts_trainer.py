"""The Trainer of Transformers with every head, and beside its own options that touch what methods touch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import (
    BertConfig,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    Trainer,
)

from steadytune import SteadyTrainer, bregman, freelb, l2_sp, neftune, smart, smoothness
from steadytune.errors import HostError

LARGE: dict[str, Any] = {"radius": 1e-2, "noise_std": 1e-2}
Row = dict[str, Tensor]


@pytest.fixture(autouse=True)
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_get_train_sampler", lambda self, *_: SequentialSampler(self.train_dataset))


def padded(rows: list[Row]) -> Row:
    """A batch whose labels per token are padded with -100."""
    batch = tiny.batch_of([row["input_ids"] for row in rows], [0] * len(rows))
    del batch["labels"]
    for name in rows[0].keys() - {"input_ids"}:
        values = [row[name] for row in rows]
        per_token = all(row[name].shape == row["input_ids"].shape for row in rows)
        batch[name] = tiny.batch_of(values, [0], pad=-100)["input_ids"] if per_token else torch.stack(values)
    return batch


def tokens(count: int) -> list[Row]:
    """Every other token is labeled, in the last sentences none but one."""
    found = []
    for i, ids in enumerate(tiny.sentences(count, seed=4)):
        labels = ids % 3
        labels[(1 if i < count - 2 else 0) :: 2] = -100
        if i >= count - 2:
            labels[1:] = -100
            labels[0] = 1
        found.append({"input_ids": ids, "labels": labels})
    return found


def spans(count: int) -> list[Row]:
    """Of one length: Transformers' loss takes padding for places where an answer may be."""
    first, second = torch.tensor(0), torch.tensor(2)
    sentences = tiny.sentences(count, low=6, high=7)
    return [{"input_ids": ids, "start_positions": first, "end_positions": second} for ids in sentences]


def labeled(count: int, label: Callable[[int], Tensor]) -> list[Row]:
    return [{"input_ids": ids, "labels": label(i)} for i, ids in enumerate(tiny.sentences(count))]


def choices(count: int) -> list[Row]:
    generator = torch.Generator().manual_seed(3)
    return [
        {"input_ids": torch.randint(5, 60, (3, 6), generator=generator), "labels": torch.tensor(i % 3)}
        for i in range(count)
    ]


HEADS: dict[str, tuple[type[nn.Module], dict[str, Any], Callable[[int], list[Row]]]] = {
    "tokens": (BertForTokenClassification, {"num_labels": 3}, tokens),
    "question": (BertForQuestionAnswering, {}, spans),
    "yes/no labels": (
        BertForSequenceClassification,
        {"num_labels": 2, "problem_type": "multi_label_classification"},
        lambda n: labeled(n, lambda i: torch.tensor([i % 2, i % 3 == 0], dtype=torch.float64)),
    ),
    "number": (
        BertForSequenceClassification,
        {"num_labels": 1, "problem_type": "regression"},
        lambda n: labeled(n, lambda i: torch.tensor(i / 4, dtype=torch.float64)),
    ),
    "choice": (BertForMultipleChoice, {}, choices),
}
STACKS: dict[str, Callable[[], list[Any]]] = {
    "plain": lambda: [],
    "smart": lambda: [smart(5.0, **LARGE)],
    "bregman+l2_sp": lambda: [bregman(momentum=False, inner_steps=2), l2_sp()],
}


def collate_choices(rows: list[Row]) -> Row:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


@pytest.mark.parametrize(
    ("head", "stack"),
    [(head, "bregman+l2_sp") for head in HEADS] + [(next(iter(HEADS)), stack) for stack in ("plain", "smart")],
)
def test_accumulation_does_not_matter_to_any_head(head: str, stack: str, tmp_path: Path) -> None:
    kind, settings, rows = HEADS[head]
    data, found = rows(24), {}
    for accumulation in (1, 2, 4):
        model = tiny.seeded(lambda: kind(BertConfig(**tiny.sizes(**settings))), 0, torch.float64)
        SteadyTrainer(
            model=model,
            args=tiny.arguments(
                tmp_path,
                optim="sgd",
                learning_rate=0.1,
                per_device_train_batch_size=8 // accumulation,
                gradient_accumulation_steps=accumulation,
                label_names=["start_positions", "end_positions"] if head == "question" else None,
            ),
            train_dataset=data,
            data_collator=collate_choices if head == "choice" else padded,
            methods=STACKS[stack](),
        ).train()
        found[accumulation] = tiny.weights(model)
    start = tiny.seeded(lambda: kind(BertConfig(**tiny.sizes(**settings))), 0, torch.float64)
    assert tiny.distance(found[1], tiny.weights(start)) > 1e-4
    for accumulation in (2, 4):
        assert tiny.distance(found[accumulation], found[1]) < 1e-10


# ---------------------------------------------------------------- options of the Trainer


def trainer_of(folder: Path, methods: list[Any], *, dropout: float = 0.0, **settings: Any) -> SteadyTrainer:
    return SteadyTrainer(
        model=tiny.bert(dropout=dropout),
        args=tiny.arguments(folder, **settings),
        train_dataset=tiny.dataset(),
        data_collator=tiny.collate,
        methods=methods,
    )


def test_the_trainer_s_own_neftune_beside_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"neftune_noise_alpha=5 and neftune would both put noise") as error:
        trainer_of(tmp_path, [neftune()], neftune_noise_alpha=5.0).train()
    assert "\n" not in str(error.value)
    trainer_of(tmp_path, [neftune()]).train()
    trainer_of(tmp_path, [smoothness(**LARGE)], neftune_noise_alpha=5.0).train()


@pytest.mark.long
def test_a_compiled_model_gives_the_same_weights(tmp_path: Path) -> None:
    """The path through the Trainer; compilation itself is tested in test_compile.py."""
    found = []
    for settings in ({}, {"torch_compile": True, "torch_compile_backend": "eager"}):
        torch._dynamo.reset()
        trainer = trainer_of(tmp_path, [smoothness(**LARGE)], optim="sgd", max_steps=2, **settings)
        trainer.train()
        found.append(tiny.weights(trainer.accelerator.unwrap_model(trainer.model)))
    assert tiny.distance(found[1], found[0]) < 1e-6


def test_what_the_methods_need_is_asked_of_the_model_once(tmp_path: Path) -> None:
    """Without terms the Trainer's loss is computed as the Trainer computes it: no outputs are asked for."""
    asked: list[bool] = []

    original = Trainer.compute_loss

    def watched(self: Trainer, *args: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        asked.append(return_outputs)
        return original(self, *args, return_outputs=return_outputs, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "compute_loss", watched)
        for methods, expected in (([], False), ([freelb()], False), ([smart(**LARGE)], True)):
            asked.clear()
            trainer_of(tmp_path, methods).train()
            assert asked[-1] is expected
