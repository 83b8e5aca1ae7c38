"""Lightning as a host: its accumulation, clipping, checkpoints and logs with methods."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from torch import nn
from torch.optim import optimizer as torch_optimizer
from torch.utils.data import DataLoader

from steadytune import (
    Stack,
    bregman,
    ema,
    freeat,
    freelb,
    mixout,
    noisytune,
    sam,
    slanted_triangular,
    smart,
    smoothness,
    swa,
)
from steadytune.core.stack.session import Session
from steadytune.errors import CheckpointError, HostError
from steadytune.integrations.lightning import STATE, SteadyModuleMixin
from steadytune.testing.surroundings import _surface

lightning = pytest.importorskip("lightning", reason="the extra `lightning`")

EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "lightning_module.py"))
Classifier, SteadyClassifier = EXAMPLE["Classifier"], EXAMPLE["SteadyClassifier"]
LARGE: dict[str, Any] = {"radius": 1e-2, "noise_std": 1e-2}
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}

pytestmark = pytest.mark.filterwarnings("ignore")


def rows(count: int = 12) -> DataLoader:
    return DataLoader(tiny.dataset(count), batch_size=2, collate_fn=tiny.collate)


def fit(module: Any, folder: Path, *, resume: str | None = None, checkpoints: bool = False, **settings: Any) -> Any:
    trainer = lightning.Trainer(
        default_root_dir=folder, enable_checkpointing=checkpoints, **QUIET | {"max_epochs": 3} | settings
    )
    trainer.fit(module.train(), rows(), ckpt_path=resume)
    return trainer


def stateful() -> list[Any]:
    return [noisytune(), smoothness(**LARGE), bregman(early_fraction=0.0, beta=0.8), mixout(), swa(start=0.2)]


@pytest.mark.parametrize(
    "methods",
    [lambda: [], lambda: [smart(5.0, **LARGE)], lambda: [freelb(), ema(0.5)]],
    ids=["plain", "smart", "freelb"],
)
def test_accumulation_and_clipping_are_those_of_a_plain_loop(methods: Any, tmp_path: Path) -> None:
    module = SteadyClassifier(tiny.bert(dtype=torch.float64), 1e-2, methods=methods(), method_seed=4)
    fit(module, tmp_path, accumulate_grad_batches=3, gradient_clip_val=0.5)
    model, data = tiny.bert(dtype=torch.float64), tiny.dataset(12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    with Stack(methods(), seed=4) as stack:
        stack.prepare(model, optimizer, total_updates=6)
        for i in [0, 2, 4, 6, 8, 10] * 3:
            stack.backward(model, tiny.collate(data[i : i + 2]), scale=1 / 3)
            if i in (4, 10):
                torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
    assert module.stack.updates == stack.updates == 6
    assert tiny.distance(tiny.weights(module.model), tiny.weights(model)) < 1e-9


@pytest.mark.parametrize("step", [6, 12])
def test_resume_is_bit_exact(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seeded(SteadyClassifier):
        """Lightning saves no random state, so dropout draws by the number of the batch."""

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            torch.manual_seed(self.global_step)
            return super().training_step(batch, batch_idx)

    keep = lightning.pytorch.callbacks.ModelCheckpoint(dirpath=tmp_path / "kept", filename="{step}", save_top_k=-1)
    whole = Seeded(tiny.bert(dropout=0.1), 1e-2, methods=stateful())
    fit(whole, tmp_path, checkpoints=True, callbacks=[keep])
    saved = tmp_path / "kept" / f"step={step}.ckpt"

    def resumed() -> dict[str, torch.Tensor]:
        again = Seeded(tiny.bert(dropout=0.1, seed=99), 1e-2, methods=stateful())
        fit(again, tmp_path, resume=str(saved))
        assert again.stack.updates == 18
        return tiny.weights(again.model)

    assert tiny.differences(resumed(), tiny.weights(whole.model)) == []
    monkeypatch.setattr(Session, "_load_teachers", lambda *_: None)  # it can fail
    assert tiny.differences(resumed(), tiny.weights(whole.model)) != []


def test_a_checkpoint_without_state_trains_no_further_but_is_evaluated(tmp_path: Path) -> None:
    class Validated(SteadyClassifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("validation_loss", self.model(**batch).loss)

    trainer = fit(Validated(tiny.bert(), 1e-2), tmp_path, max_epochs=1)
    path = tmp_path / "plain.ckpt"
    trainer.save_checkpoint(path)
    assert STATE not in torch.load(path, weights_only=False)
    module = Validated(tiny.bert(), 1e-2, methods=[smart(**LARGE)])
    with pytest.raises(CheckpointError, match="holds no state of the methods"):
        fit(module, tmp_path, resume=str(path))
    trainer.validate(module, rows(), ckpt_path=str(path), verbose=False)
    loaded = Validated.load_from_checkpoint(path, model=tiny.bert(seed=3), learning_rate=1e-2, methods=[smart()])
    assert tiny.differences(tiny.weights(loaded.model), tiny.weights(module.model)) == []


def test_a_checkpoint_of_other_methods_is_refused(tmp_path: Path) -> None:
    trainer = fit(SteadyClassifier(tiny.bert(), 1e-2, methods=[smart(**LARGE)]), tmp_path, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "saved.ckpt")
    with pytest.raises(CheckpointError, match="was written with other methods"):
        fit(
            SteadyClassifier(tiny.bert(), 1e-2, methods=[smart()]),
            tmp_path,
            resume=str(tmp_path / "saved.ckpt"),
            max_epochs=2,
        )


class Weighted(Classifier):
    """A loss of the module's own, in a dictionary, from a model that never sees the labels."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        given = {name: value for name, value in batch.items() if name != "labels"}
        logits = self.model(**given).logits
        loss = nn.functional.cross_entropy(logits, batch["labels"], label_smoothing=0.1)
        self.log("own_loss", loss)
        return {"loss": loss, "logits": logits.detach()}


class SteadyWeighted(SteadyModuleMixin, Weighted):
    pass


@pytest.mark.parametrize("methods", [lambda: [smart(5.0, **LARGE)], lambda: [sam()]], ids=["smart", "sam"])
def test_a_loss_of_the_module_s_own_stays(methods: Any, tmp_path: Path) -> None:
    module = SteadyWeighted(tiny.bert(dtype=torch.float64), 1e-2, methods=methods())
    trainer = fit(module, tmp_path, max_epochs=1)
    assert float(trainer.callback_metrics["own_loss"]) > 0
    model, data = tiny.bert(dtype=torch.float64), tiny.dataset(12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    with Stack(methods()) as stack:
        stack.prepare(model, optimizer, total_updates=6)
        for i in range(0, 12, 2):
            batch = tiny.collate(data[i : i + 2])

            def loss(batch: Any = batch) -> torch.Tensor:
                with stack.clean_pass() as clean:
                    outputs = model(**batch)
                own = nn.functional.cross_entropy(outputs.logits, batch["labels"], label_smoothing=0.1)
                return stack.add_terms(own, outputs, clean, model=model, inputs=batch)

            def run(loss: Any = loss) -> torch.Tensor:
                own = loss()
                own.backward()
                return own.detach()

            stack.run_step(batch, loss=loss, run=run)
            optimizer.step()
            optimizer.zero_grad()
    assert tiny.distance(tiny.weights(module.model), tiny.weights(model)) < 1e-9


def test_terms_are_logged_and_the_model_leaves_as_it_came(tmp_path: Path) -> None:
    model = tiny.bert()
    before, keys, hooks = _surface(model), list(model.state_dict()), len(torch_optimizer._global_optimizer_post_hooks)
    pre_hooks = len(torch_optimizer._global_optimizer_pre_hooks)
    trainer = fit(SteadyClassifier(model, 1e-2, methods=[smart(**LARGE), mixout()]), tmp_path)
    assert {"smoothness", "bregman", "task_loss"} <= trainer.callback_metrics.keys()
    assert _surface(model) == before
    assert list(model.state_dict()) == keys
    assert len(torch_optimizer._global_optimizer_post_hooks) == hooks
    assert len(torch_optimizer._global_optimizer_pre_hooks) == pre_hooks


def test_a_failure_leaves_the_model_as_it_came(tmp_path: Path) -> None:
    class Stop(lightning.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise RuntimeError("the disk is full")

    model = tiny.bert()
    before, hooks = _surface(model), len(torch_optimizer._global_optimizer_post_hooks)
    with pytest.raises(RuntimeError, match="the disk is full"):
        fit(SteadyClassifier(model, 1e-2, methods=[smart(**LARGE), mixout()]), tmp_path, callbacks=[Stop()])
    assert _surface(model) == before
    assert len(torch_optimizer._global_optimizer_post_hooks) == hooks


def test_a_schedule_of_a_method_is_stepped_each_update(tmp_path: Path) -> None:
    rates: list[float] = []

    class Rates(lightning.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    method = slanted_triangular(cut_fraction=0.5)
    fit(SteadyClassifier(tiny.bert(), 1e-2, methods=[method]), tmp_path, max_epochs=1, callbacks=[Rates()])
    schedule = method.schedule(6)
    assert rates == pytest.approx([1e-2 * schedule(i) for i in range(6)])
    assert len(set(rates)) > 3


class Scheduled(Classifier):
    def configure_optimizers(self) -> Any:
        return {"optimizer": super().configure_optimizers()}


class SteadyScheduled(SteadyModuleMixin, Scheduled):
    pass


class Nameless(SteadyModuleMixin, lightning.LightningModule):
    pass


def refusals() -> list[Any]:
    return [
        (lambda: SteadyScheduled(tiny.bert(), 1e-2, methods=[slanted_triangular()]), {}, "return one optimizer"),
        (lambda: Nameless(methods=[smart()]), {}, "needs the network that it trains as self.model"),
        (
            lambda: SteadyClassifier(tiny.bert(), 1e-2, methods=[sam()]),
            {"accumulate_grad_batches": 2},
            "accumulate_grad_batches=1",
        ),
    ]


@pytest.mark.parametrize(("module", "settings", "said"), refusals(), ids=["optimizer", "model", "whole batch"])
def test_what_cannot_work_is_refused_in_a_line(module: Any, settings: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(HostError, match=said) as error:
        fit(module(), tmp_path, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("method", "attribute", "value", "said"),
    [
        (freelb(), "world_size", 2, "train on one device"),
        (freeat(), "precision", "16-mixed", "use bf16 or 32 bits"),
    ],
    ids=["devices", "fp16"],
)
def test_what_needs_other_devices_is_refused(
    method: Any, attribute: str, value: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = SteadyClassifier(tiny.bert(), 1e-2, methods=[method])

    class Elsewhere:
        world_size, precision, accumulate_grad_batches = 1, "32-true", 1

    monkeypatch.setattr(Elsewhere, attribute, value)
    monkeypatch.setattr(SteadyClassifier, "trainer", Elsewhere())
    with pytest.raises(HostError, match=said):
        module._refuse_trainer()


def test_another_model_of_the_module_is_told(tmp_path: Path) -> None:
    class Elsewhere(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return next(self.model.parameters()).sum()

    class SteadyElsewhere(SteadyModuleMixin, Elsewhere):
        pass

    with pytest.raises(HostError, match=r"never called self\.model"):
        fit(SteadyElsewhere(tiny.bert(), 1e-2, methods=[smart()]), tmp_path)


def test_a_batch_given_by_position_is_told(tmp_path: Path) -> None:
    class Positional(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.model(batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss

    class SteadyPositional(SteadyModuleMixin, Positional):
        pass

    with pytest.raises(HostError, match="by their names") as error:
        fit(SteadyPositional(tiny.bert(), 1e-2, methods=[smart()]), tmp_path)
    assert "\n" not in str(error.value)


def test_bf16(tmp_path: Path) -> None:
    for methods in ([smart(**LARGE)], [freelb()]):
        module = SteadyClassifier(tiny.bert(), 1e-2, methods=methods)
        seen: list[torch.dtype] = []
        module.model.classifier.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out.dtype))
        fit(module, tmp_path, precision="bf16-mixed", max_epochs=1)
        assert set(seen) == {torch.bfloat16}
        assert all(p.isfinite().all() for p in module.model.parameters())
