"""Numbers that are not finite: seen, counted and named before an update is made of them, and never kept as a model."""

from __future__ import annotations

import json
import math
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import comparisons, tiny, tiny_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import EarlyStoppingCallback

from steadytune import Stack, SteadyTrainer, bregman, freelb, noisytune, r_drop, sam, smart, smoothness
from steadytune.core.authoring.step import Step
from steadytune.core.stack.finite_watch import FiniteWatch, non_finite_weight
from steadytune.errors import DivergedError, HostError, ModelNotFoundError
from steadytune.models.load import load_model
from steadytune.tasks.task import Task

ROOT = Path(__file__).parents[2]
tiny_folder = tiny_model.tiny_folder
NAN, INF = float("nan"), float("inf")


class _BadGradient(torch.autograd.Function):
    """The identity, whose gradient for one example is no number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, row: int, value: float) -> Tensor:
        ctx.row, ctx.value = row, value
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        gradient = gradient.clone()
        gradient[ctx.row] = ctx.value
        return gradient, None, None


def bad_logits(model: nn.Module, value: float, *, row: int = 1, gradient: bool = False) -> Any:
    """From now on the output for one example, or its gradient, is no number."""

    def change(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        if gradient:
            return _BadGradient.apply(output, row, value)
        rows = torch.zeros(len(output), dtype=torch.bool).index_fill(0, torch.tensor(row), value=True)
        return torch.where(rows.unsqueeze(-1), output * value, output)

    return model.classifier.register_forward_hook(change)  # pyright: ignore[reportAttributeAccessIssue]


METHODS: dict[str, Callable[[], list[Any]]] = {
    "plain": list,
    "smart": lambda: [smart()],
    "freelb": lambda: [freelb()],
    "sam": lambda: [sam()],
    "several": lambda: [noisytune(), smoothness(), bregman(early_fraction=0.0), r_drop()],
}


def trained(methods: list[Any], spoil: Callable[[nn.Module], Any], *, parts: int = 1) -> tuple[nn.Module, Any, Any]:
    """Two good updates, then one that is spoilt; returns the model, its weights before that one, and the stack."""
    model = tiny.bert(dropout=0.1)
    stack = Stack(methods)
    stack.prepare(model, total_updates=4)
    optimizer = stack.optimizer(torch.optim.AdamW(model.parameters(), lr=1e-2))
    before: dict[str, Tensor] = {}
    try:
        for update in range(3):
            if update == 2:
                before = tiny.weights(model)
            for part in range(parts):
                handle = spoil(model) if (update, part) == (2, parts - 1) else None
                stack.backward(model, tiny.batch(4, seed=update), scale=1 / parts)
                if handle is not None:
                    handle.remove()
            optimizer.step()
            optimizer.zero_grad()
    except DivergedError as error:
        stack.close()
        return model, before, error
    stack.close()
    return model, before, None


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("methods", METHODS.values(), ids=METHODS)
def test_no_update_is_made_of_a_loss_that_is_no_number(methods: Callable[[], list[Any]], value: float) -> None:
    model, before, error = trained(methods(), lambda model: bad_logits(model, value))
    assert error is not None
    assert "diverged in update 3" in str(error)
    assert "the weights are those after update 2" in str(error)
    assert "\n" not in str(error)
    assert tiny.differences(tiny.weights(model), before) == []


def test_the_example_and_the_micro_batch_are_named() -> None:
    _, _, error = trained([smoothness()], lambda model: bad_logits(model, NAN, row=2), parts=2)
    assert "output of example 3 in micro-batch 2" in str(error)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("methods", METHODS.values(), ids=METHODS)
def test_the_gradient_of_one_example_is_seen_though_all_losses_are_finite(
    methods: Callable[[], list[Any]], value: float
) -> None:
    model, before, error = trained(methods(), lambda model: bad_logits(model, value, gradient=True))
    if error is None:  # SAM leaves out its move where the first gradient is not finite; the second one still counts
        pytest.fail("the update was made")
    assert "update 3; all losses are finite, but not the gradient of" in str(error)
    assert tiny.differences(tiny.weights(model), before) == []


def test_a_term_is_named_by_its_example(monkeypatch: pytest.MonkeyPatch) -> None:
    divergence = Step.divergence

    def spoilt(self: Step, p: Tensor, q: Tensor) -> Tensor:
        values = divergence(self, p, q)
        row = torch.arange(len(values)) == 3
        return torch.where(row, values * NAN, values) if self.owner == "bregman" else values

    monkeypatch.setattr(Step, "divergence", spoilt)
    model = tiny.bert()
    stack = Stack([smoothness(), bregman(early_fraction=0.0)])
    stack.prepare(model)
    optimizer = stack.optimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    stack.backward(model, tiny.batch(4))
    assert stack.first_not_finite() == "bregman of example 4 in micro-batch 1"
    counts = {k: v for k, v in stack.take_logs().items() if k.startswith("non_finite")}
    assert counts == {"non_finite_bregman": 1.0}
    with pytest.raises(DivergedError, match="update 1; not a finite number: bregman of example 4"):
        optimizer.step()
    stack.close()


def test_a_label_is_named() -> None:
    model = tiny.bert(num_labels=1)
    given = tiny.batch(4, labels=1)
    given["labels"] = given["labels"].float().index_fill(0, torch.tensor(2), NAN)
    stack = Stack([smoothness()])
    stack.prepare(model)
    optimizer = stack.optimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    stack.backward(model, given)
    with pytest.raises(DivergedError, match="label of example 3"):
        optimizer.step()
    stack.close()


def test_a_loop_may_leave_the_batch_out_and_go_on() -> None:
    model = tiny.bert()
    with Stack([smart()]) as stack:
        stack.prepare(model, total_updates=3)
        optimizer = stack.optimizer(torch.optim.AdamW(model.parameters(), lr=1e-2))
        for update in range(3):
            handle = bad_logits(model, NAN) if update == 1 else None
            stack.backward(model, tiny.batch(4, seed=update))
            try:
                optimizer.step()
            except DivergedError:
                assert handle is not None
                handle.remove()
            optimizer.zero_grad()
        assert stack.updates == 2
    assert non_finite_weight(model) is None


def test_what_a_gradient_scaler_skips_is_counted_and_training_goes_on() -> None:
    model = tiny.bert()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)  # pyright: ignore[reportPrivateImportUsage]
    with Stack([smoothness()]) as stack:
        stack.prepare(model, total_updates=3)
        optimizer = stack.optimizer(torch.optim.AdamW(model.parameters(), lr=1e-2))
        for update in range(3):
            handle = bad_logits(model, INF) if update == 1 else None
            stack.backward(model, tiny.batch(4, seed=update), backward=lambda loss: scaler.scale(loss).backward())
            if handle is not None:
                handle.remove()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        assert stack.updates == 2
        assert stack.take_logs()["non_finite_output"] == 1
    assert scaler.get_scale() == 2.0
    assert non_finite_weight(model) is None


def test_where_there_are_only_large_weights_they_are_looked_at() -> None:
    table = nn.Linear(200, 200, bias=False)
    table(torch.full((1, 200), INF)).sum().backward()
    with pytest.raises(DivergedError, match="gradient of weight"):
        FiniteWatch(table).before_step(1)


def test_broken_weights_are_told_before_training(tiny_folder: Path, tmp_path: Path) -> None:
    model = tiny.bert()
    torch.nn.init.constant_(model.bert.encoder.layer[1].output.dense.bias, NAN)
    with pytest.raises(HostError, match=r"encoder\.layer\.1\.output\.dense\.bias .* not finite before training"):
        Stack([noisytune()]).prepare(model)
    weights = load_file(tiny_folder / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    weights[name][3, 3] = INF
    for file in tiny_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    task = Task("own", "classification", "", "", "text", None, "label", ("no", "yes"), {}, "accuracy")
    with pytest.raises(ModelNotFoundError, match=rf"its weight bert\.{name} holds NaN or an infinity"):
        load_model(str(tmp_path), task)


# ---------------------------------------------------------------- nothing that is no number is kept, or chosen


def test_a_checkpoint_is_not_written_of_what_is_no_model(tmp_path: Path) -> None:
    model = tiny.bert()
    stack = Stack([bregman(early_fraction=0.0)])
    stack.prepare(model)
    torch.nn.init.constant_(model.classifier.bias, NAN)
    for write in (lambda: stack.save(tmp_path / "state"), stack.state_dict, stack.finish):
        with pytest.raises(DivergedError, match=r"after update 0 the weight classifier\.bias is not finite"):
            write()
    assert not (tmp_path / "state").exists()


class Breaks(SteadyTrainer):
    """Breaks a weight right after an update, as an overflow in the optimizer would."""

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        if self.state.global_step == 4 and self.model is not None:
            nn.init.constant_(self.model.classifier.bias, NAN)  # pyright: ignore[reportArgumentType]
        return super().training_step(*args, **kwargs)


@pytest.mark.parametrize("methods", [[], [smart()]], ids=["plain", "smart"])
def test_a_trainer_keeps_no_broken_model_as_its_best(methods: list[Any], tmp_path: Path) -> None:
    trainer = Breaks(
        model=tiny.bert(),
        args=tiny.arguments(
            tmp_path,
            max_steps=6,
            save_strategy="steps",
            save_steps=2,
            eval_strategy="steps",
            eval_steps=2,
            load_best_model_at_end=True,
            logging_strategy="steps",
            logging_steps=1,
        ),
        train_dataset=tiny.dataset(),
        eval_dataset=tiny.dataset(8, seed=1),
        data_collator=tiny.collate,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=5)],
        methods=methods,
    )
    with pytest.raises(DivergedError, match="update 5"):
        trainer.train()
    kept = sorted(folder.name for folder in tmp_path.glob("checkpoint-*"))
    assert kept == ["checkpoint-2", "checkpoint-4"]
    for folder in kept:
        weights = load_file(tmp_path / folder / "model.safetensors")
        assert all(bool(tensor.isfinite().all()) for tensor in weights.values())
    assert trainer.state.best_metric is not None
    assert math.isfinite(trainer.state.best_metric)
    logged = [json.dumps(line) for line in trainer.state.log_history]
    assert not [line for line in logged if "NaN" in line]


def test_a_weight_that_breaks_in_the_last_update_is_no_result(tmp_path: Path) -> None:
    class BreaksAtTheEnd(SteadyTrainer):
        def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            if "train_runtime" in logs and self.model is not None:
                nn.init.constant_(self.model.classifier.bias, NAN)  # pyright: ignore[reportArgumentType]
            super().log(logs, *args, **kwargs)

    for methods in ([], [smart()]):
        trainer = BreaksAtTheEnd(
            model=tiny.bert(),
            args=tiny.arguments(tmp_path, max_steps=1),
            train_dataset=tiny.dataset(),
            data_collator=tiny.collate,
            methods=methods,
        )
        with pytest.raises(DivergedError, match="after update 1 the weight classifier"):
            trainer.train()


@pytest.fixture
def lightning_example() -> Any:
    pytest.importorskip("lightning", reason="the extra `lightning`")
    return runpy.run_path(str(ROOT / "examples" / "lightning_module.py"))["SteadyClassifier"]


@pytest.mark.filterwarnings("ignore")
def test_lightning_makes_no_update_of_it(lightning_example: Any, tmp_path: Path) -> None:
    import lightning
    from torch.utils.data import DataLoader

    for methods in ([smart()], [sam()]):
        module = lightning_example(tiny.bert(), 1e-2, methods=methods)
        bad_logits(module.model, NAN, gradient=True)
        before = tiny.weights(module.model)
        loader = DataLoader(tiny.dataset(4), batch_size=2, collate_fn=tiny.collate)  # pyright: ignore[reportArgumentType]
        trainer = lightning.Trainer(
            default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False, max_steps=2,
            enable_model_summary=False, enable_checkpointing=False,
        )  # fmt: skip
        with pytest.raises(DivergedError, match="update 1; all losses are finite"):
            trainer.fit(module.train(), loader)
        assert tiny.differences(tiny.weights(module.model), before) == []


def test_a_score_with_outputs_that_are_no_numbers_is_none() -> None:
    run = comparisons.run("smart", 1, 0.9)
    assert run.score("test", "accuracy") == 0.9
    after = {**run.metrics["after"], "test": {**run.metrics["after"]["test"], "non_finite": 3.0}}
    spoilt = replace(run, metrics={**run.metrics, "after": after})
    assert spoilt.score("test", "accuracy") is None
    assert spoilt.score("validation", "accuracy") == 0.9
