"""All hosts give one trajectory where the set-up is the same: the examples of each, on the same rows and methods."""

from __future__ import annotations

import itertools
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import Trainer

from steadytune import (
    child_tuning,
    ema,
    freeat,
    freelb,
    layerwise_decay,
    mixout,
    noisytune,
    r3f,
    recadam,
    sam,
    smart,
)

EXAMPLES = Path(__file__).parents[2] / "examples"
LARGE: dict[str, Any] = {"radius": 1e-2, "noise_std": 1e-2}
ROWS, SEED, RATE, EPOCHS = 12, 7, 1e-2, 2

STACKS: dict[str, Callable[[], list[Any]]] = {
    "plain": lambda: [],
    "noisytune+smart": lambda: [noisytune(), smart(**LARGE)],
    "freelb": lambda: [freelb()],
    "freeat": lambda: [freeat()],
    "sam": lambda: [sam()],
    "recadam": lambda: [recadam(midpoint=3)],
    "mixout+ema": lambda: [mixout(), ema()],
    "child_tuning+layerwise_decay+r3f": lambda: [child_tuning(), layerwise_decay(), r3f(radius=1e-2)],
}


def script(name: str) -> Any:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))["train"]


def by_trainer(model: nn.Module, methods: list[Any], folder: Path) -> nn.Module:
    quiet = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "lr_scheduler_type": "constant"}
    return script("trainer")(
        model,
        tiny.dataset(ROWS),
        tiny.collate,
        methods,
        str(folder),
        seed=SEED,
        learning_rate=RATE,
        num_train_epochs=EPOCHS,
        optim="adamw_torch",
        **quiet,
    )


def in_a_plain_loop(model: nn.Module, methods: list[Any], folder: Path) -> nn.Module:
    train = script("plain_pytorch")
    return train(
        model,
        tiny.dataset(ROWS),
        tiny.collate,
        methods,
        epochs=EPOCHS,
        learning_rate=RATE,
        seed=SEED,
        shuffle=False,
    )


def by_accelerate(model: nn.Module, methods: list[Any], folder: Path) -> nn.Module:
    return script("accelerate_loop")(
        model,
        tiny.dataset(ROWS),
        tiny.collate,
        methods,
        folder,
        epochs=EPOCHS,
        learning_rate=RATE,
        seed=SEED,
        shuffle=False,
        cpu=True,
    )


def by_lightning(model: nn.Module, methods: list[Any], folder: Path) -> nn.Module:
    pytest.importorskip("lightning", reason="the extra `lightning`")
    return script("lightning_module")(
        model,
        tiny.dataset(ROWS),
        tiny.collate,
        methods,
        folder,
        seed=SEED,
        learning_rate=RATE,
        shuffle=False,
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


HOSTS = {"trainer": by_trainer, "accelerate": by_accelerate, "lightning": by_lightning}


def drawing_alike(model: nn.Module) -> nn.Module:
    """Hosts draw different numbers between updates; let each pass of the task draw what its number says."""
    passes = itertools.count()

    def seed(module: nn.Module, *_: object) -> None:
        if module.training and torch.is_grad_enabled():
            torch.manual_seed(next(passes))

    model.register_forward_pre_hook(seed)
    return model


def trained(host: Callable[..., nn.Module], stack: str, folder: Path) -> dict[str, Tensor]:
    model = drawing_alike(tiny.bert(dropout=0.1 if stack.startswith("mixout") else 0.0, dtype=torch.float64))
    assert host(model, STACKS[stack](), folder / "run") is model
    return tiny.weights(model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("host", HOSTS)
def test_one_trajectory(host: str, stack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_get_train_sampler", lambda self, *_: SequentialSampler(self.train_dataset))
    expected = trained(in_a_plain_loop, stack, tmp_path)
    assert tiny.distance(trained(HOSTS[host], stack, tmp_path), expected) < 1e-6
    assert tiny.distance(expected, tiny.weights(tiny.bert(dtype=torch.float64))) > 1e-3
