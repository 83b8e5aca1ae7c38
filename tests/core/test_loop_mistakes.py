"""What goes wrong around a stack is told or undone: loops that pass it by, second trainings, failures half-way."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from torch import nn
from transformers import BertConfig, BertForMaskedLM

from steadytune import (
    Stack,
    SteadyTrainer,
    bregman,
    child_tuning,
    freeat,
    freelb,
    freeze,
    gradual_unfreezing,
    layerwise_decay,
    mixout,
    neftune,
    noisytune,
    radam,
    recadam,
    reinit,
    sam,
    slanted_triangular,
    smoothness,
    spectral_norm,
    swa,
)
from steadytune.core.authoring.training import Attachment
from steadytune.errors import CheckpointError, HostError
from steadytune.testing.surroundings import _surface


def sgd(model: nn.Module, lr: float = 0.01) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


# ---------------------------------------------------------------- loops that pass the stack by


@pytest.mark.parametrize("method", [smoothness(), freelb(), sam(), gradual_unfreezing()], ids=lambda m: m.name)
def test_a_loop_without_the_stack_is_told(method: Any) -> None:
    model = tiny.bert()
    with Stack([method]) as stack:
        stack.prepare(model, total_updates=6)
        optimizer = stack.optimizer(sgd(model))
        model(**tiny.batch(4)).loss.backward()
        with pytest.raises(HostError, match=r"never saw the forward pass.*stack\.backward") as error:
            optimizer.step()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", [noisytune(), layerwise_decay(), mixout(), swa(start=0.0)], ids=lambda m: m.name)
def test_a_loop_without_the_stack_is_fine_where_nothing_is_missed(method: Any) -> None:
    model = tiny.bert()
    with Stack([method]) as stack:
        stack.prepare(model, total_updates=6)
        optimizer = stack.optimizer(sgd(model))
        model(**tiny.batch(4)).loss.backward()
        optimizer.step()


class OwnLoss(SteadyTrainer):
    """Forgets to call the mixin's loss."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


@pytest.mark.parametrize("method", [smoothness(), freelb(), sam(), gradual_unfreezing()], ids=lambda m: m.name)
def test_a_trainer_whose_loss_passes_the_stack_by_is_told(method: Any, tmp_path: Path) -> None:
    trainer = OwnLoss(
        model=tiny.bert(),
        args=tiny.arguments(tmp_path),
        train_dataset=tiny.dataset(),
        data_collator=tiny.collate,
        methods=[method],
    )
    with pytest.raises(HostError, match=r"super\(\)\.compute_loss\(\)"):
        trainer.train()


def test_a_finished_stack_takes_no_step() -> None:
    model = tiny.bert()
    stack = Stack([mixout()])
    stack.prepare(model)
    stack.finish()
    with pytest.raises(HostError, match="finished or closed"):
        stack.backward(model, tiny.batch(4))


def test_a_method_that_changes_the_optimizer_must_have_it() -> None:
    model = tiny.bert()
    with Stack([radam()]) as stack:
        with pytest.raises(HostError, match=r"optimizer = stack\.optimizer\(optimizer\)"):
            stack.prepare(model, sgd(model))
        stack.prepare(model)
        with pytest.raises(HostError, match="radam changes the optimizer"):
            stack.backward(model, tiny.batch(4))
        stack.optimizer(sgd(model))
        stack.backward(model, tiny.batch(4))


def test_a_schedule_must_have_its_scheduler() -> None:
    model = tiny.bert()
    with Stack([slanted_triangular()]) as stack:
        stack.prepare(model)
        optimizer = stack.optimizer(sgd(model))
        with pytest.raises(HostError, match="length of the training"):
            stack.scheduler(optimizer)
        stack.prepare(model, total_updates=6)
        optimizer = stack.optimizer(sgd(model))
        with pytest.raises(HostError, match=r"stack\.scheduler\(optimizer\)"):
            stack.backward(model, tiny.batch(4))
        assert stack.scheduler(optimizer) is not None
        stack.backward(model, tiny.batch(4))


# ---------------------------------------------------------------- twice


@pytest.mark.parametrize("method", [radam(), recadam(), layerwise_decay(), child_tuning()], ids=lambda m: m.name)
def test_a_trainer_can_train_twice(method: Any, tmp_path: Path) -> None:
    trainer = SteadyTrainer(
        model=tiny.bert(),
        args=tiny.arguments(tmp_path),
        train_dataset=tiny.dataset(),
        data_collator=tiny.collate,
        methods=[method],
    )
    rates = []
    trainer.create_optimizer()
    for _ in range(2):
        trainer.train()
        assert trainer.optimizer is not None
        rates.append(sorted({group["lr"] for group in trainer.optimizer.param_groups}))
    assert rates[0] == rates[1]
    if method.name == "layerwise_decay":
        assert rates[0] == pytest.approx([1e-2 * 0.95**k for k in (3, 2, 1, 0)])


def test_an_optimizer_of_the_users_is_changed_once(tmp_path: Path) -> None:
    model = tiny.bert()
    trainer = SteadyTrainer(
        model=model,
        args=tiny.arguments(tmp_path),
        train_dataset=tiny.dataset(),
        data_collator=tiny.collate,
        methods=[layerwise_decay()],
        optimizers=(sgd(model), None),
    )
    trainer.train()
    with pytest.raises(HostError, match="make a new Trainer"):
        trainer.train()


@pytest.mark.parametrize("method", [child_tuning(), layerwise_decay()], ids=lambda m: m.name)
def test_an_optimizer_is_not_changed_twice(method: Any) -> None:
    model = tiny.bert()
    with Stack([method]) as stack:
        stack.prepare(model)
        optimizer = stack.optimizer(sgd(model))
        with pytest.raises(HostError, match="would change the optimizer twice"):
            stack.optimizer(optimizer)


# ---------------------------------------------------------------- updates within a batch


def test_freeat_asks_how_to_update_where_the_loop_scales() -> None:
    model = tiny.bert()
    with Stack([freeat()]) as stack:
        stack.prepare(model, total_updates=6)
        optimizer = stack.optimizer(sgd(model))
        with pytest.raises(HostError, match=r"pass update=\.\.\."):
            stack.backward(model, tiny.batch(4), backward=lambda loss: (1024 * loss).backward())
        calls: list[int] = []

        def update() -> None:
            for p in model.parameters():
                if p.grad is not None:
                    p.grad.div_(1024)
            optimizer.step()
            optimizer.zero_grad()
            calls.append(1)

        stack.backward(model, tiny.batch(4), backward=lambda loss: (1024 * loss).backward(), update=update)
        assert calls == [1]
        assert stack.updates == 0


# ---------------------------------------------------------------- failures half-way


@pytest.mark.parametrize("method", [neftune(), freeze(), spectral_norm(), mixout()], ids=lambda m: m.name)
def test_a_checkpoint_of_another_model_leaves_the_model_as_it_came(method: Any, tmp_path: Path) -> None:
    def stack() -> Stack:
        return Stack([method, bregman(early_fraction=0.0)])

    first = stack()
    first.prepare(tiny.bert(intermediate_size=48))
    first.save(tmp_path)
    first.close()
    model = tiny.bert()
    before, second = _surface(model), stack()
    with pytest.raises(CheckpointError, match="of another model"):
        second.prepare(model, resume_from=tmp_path)
    assert _surface(model) == before
    with pytest.raises(HostError, match="no model yet"):
        second.backward(model, tiny.batch(4))


def test_a_finish_that_fails_still_takes_everything_off(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.bert()
    before = _surface(model)
    stack = Stack([mixout(), spectral_norm()])
    stack.prepare(model)

    def broken(self: Attachment) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(Attachment, "finish", broken)
    with pytest.raises(RuntimeError, match="no memory"):
        stack.finish()
    assert _surface(model) == before


def test_sam_puts_the_weights_back_when_its_move_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    pytorch_optimizer = pytest.importorskip("pytorch_optimizer", reason="the extra `optimizers`")
    model = tiny.bert()
    before = tiny.weights(model)
    move = pytorch_optimizer.SAM.first_step

    def half_way(self: Any, *args: Any) -> None:
        move(self, *args)
        raise RuntimeError("no memory")

    monkeypatch.setattr(pytorch_optimizer.SAM, "first_step", half_way)
    stack = Stack([sam(rho=0.5)])
    stack.prepare(model)
    with pytest.raises(RuntimeError, match="no memory"):
        stack.backward(model, tiny.batch(4))
    stack.close()
    assert tiny.differences(tiny.weights(model), before) == []


# ---------------------------------------------------------------- loading into a stack


def batches() -> Iterator[dict[str, torch.Tensor]]:
    return (tiny.batch(4, seed=i) for i in range(3))


def test_a_loaded_child_is_not_chosen_again(tmp_path: Path) -> None:
    model = tiny.bert()
    stack = Stack([child_tuning(variant="D")])
    stack.prepare(model, batches=batches)
    stack.optimizer(sgd(model))
    stack.save(tmp_path)
    stack.close()
    chosen = stack._session.tensors["child_tuning"]
    other = tiny.bert(seed=3)
    again = Stack([child_tuning(variant="D")])
    again.prepare(other, batches=lambda: (tiny.batch(4, seed=i) for i in range(9, 12)))
    again.load(tmp_path)
    again.optimizer(sgd(other))
    again.close()
    loaded = again._session.tensors["child_tuning"]
    assert loaded.keys() == chosen.keys()
    assert all(torch.equal(loaded[name], chosen[name]) for name in chosen)
    fresh = Stack([child_tuning(variant="D")])
    fresh.prepare(other, batches=batches)
    fresh.optimizer(sgd(other))
    fresh.close()
    anew = fresh._session.tensors["child_tuning"]
    assert not all(torch.equal(anew[name], chosen[name]) for name in chosen)


def test_loading_forgets_what_the_checkpoint_does_not_have(tmp_path: Path) -> None:
    model = tiny.bert()
    stack = Stack([swa(start=0.5)])
    stack.prepare(model, total_updates=4)
    optimizer = stack.optimizer(sgd(model))
    stack.save(tmp_path)
    for update in range(3):
        stack.backward(model, tiny.batch(4, seed=update))
        optimizer.step()
        optimizer.zero_grad()
    assert stack._session.tensors["weight_averaging"]
    stack.load(tmp_path)
    assert not stack._session.tensors["weight_averaging"]
    assert stack.updates == 0
    stack.close()


class Endless(torch.utils.data.IterableDataset):
    """Rows without end."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            yield from tiny.dataset()


def test_a_stream_without_end_is_looked_at_as_far_as_it_is_trained_on(tmp_path: Path) -> None:
    trainer = SteadyTrainer(
        model=tiny.bert(),
        args=tiny.arguments(tmp_path, max_steps=2),
        train_dataset=Endless(),
        data_collator=tiny.collate,
        methods=[child_tuning(variant="D")],
    )
    trainer.train()
    assert trainer.state.global_step == 2


# ---------------------------------------------------------------- pairs that would be without sense


def test_layers_drawn_anew_are_not_frozen() -> None:
    model = tiny.bert()
    with pytest.raises(HostError, match="which reinit re-initializes"):
        Stack([reinit(layers=1), freeze(layers=2)]).prepare(model)
    with Stack([reinit(layers=1), freeze(layers=1)]) as stack:
        stack.prepare(model)


def test_layers_drawn_anew_are_no_head() -> None:
    model = tiny.seeded(lambda: BertForMaskedLM(BertConfig(**tiny.sizes())), 0)
    for methods in ([spectral_norm()], [reinit(), spectral_norm()]):
        with pytest.raises(HostError, match="no new head"):
            Stack(methods).prepare(copy.deepcopy(model))


def test_gradients_that_are_left_over_do_not_move_what_is_frozen() -> None:
    model = tiny.bert()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(**tiny.batch(4)).loss.backward()
    before = tiny.weights(model)
    with Stack([freeze(layers=1)]) as stack:
        stack.prepare(model, optimizer)
        stack.backward(model, tiny.batch(4))
        optimizer.step()
    moved = tiny.differences(tiny.weights(model), before)
    assert moved
    assert not [name for name in moved if "embeddings" in name or "layer.0." in name]


def test_a_model_that_moved_is_told() -> None:
    model = tiny.bert()
    stack = Stack([bregman(early_fraction=0.0)])
    stack.prepare(model)
    model.to("meta")
    with pytest.raises(HostError, match="prepared on cpu and is now on meta"):
        stack.backward(model, tiny.batch(4))
    stack.close()
