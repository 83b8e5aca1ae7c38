"""Checks of how a method gets along with its surroundings: hosts, checkpoints, adapters, the user's model."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from steadytune.core.authoring.method import Method
from steadytune.core.stack.stack import Stack
from steadytune.errors import MethodError
from steadytune.integrations.transformers.trainer import SteadyTrainer
from steadytune.testing import tiny
from steadytune.testing.subject import Subject


def round_trip(subject: Subject) -> None:
    """The settings, written as json and read again, build an equal method."""
    method = subject.build()
    text = json.dumps(method.settings())
    assert type(method)(**json.loads(text)) == method
    assert type(method)().settings() == type(method)(**type(method)().settings()).settings()


class _Rows(torch.utils.data.Dataset):
    """The examples of the contract's batches, in their order."""

    def __init__(self) -> None:
        self.rows = [
            {name: tensor[0] for name, tensor in tiny.rows(given, i, i + 1).items()}
            for given in tiny.batches()
            for i in range(len(given["labels"]))
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.rows[index]


def _collated(examples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    longest = max(len(e["input_ids"]) for e in examples)

    def padded(name: str) -> Tensor:
        return torch.stack([nn.functional.pad(e[name], (0, longest - len(e[name]))) for e in examples])

    labels = torch.stack([e["labels"] for e in examples])
    return {"input_ids": padded("input_ids"), "attention_mask": padded("attention_mask"), "labels": labels}


class _SeedEachUpdate(TrainerCallback):
    """Starts every update from a random state of its own, as the plain loop does."""

    def on_step_begin(self, args, state, control, **kwargs) -> None:  # noqa: ARG002 - Transformers' signature
        torch.manual_seed(1000 + state.global_step)


class _InOrder(SteadyTrainer):
    """Takes the examples in their order."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(_Rows())


def _trainer(network: nn.Module, methods: Sequence[Method], folder: Path | str, **changes: Any) -> SteadyTrainer:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "max_steps": tiny.UPDATES,
        "learning_rate": tiny.LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch",
        "use_cpu": True,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "max_grad_norm": 0.0,
        "seed": 0,
    }
    trainer = _InOrder(
        model=network,  # pyright: ignore[reportArgumentType]
        args=TrainingArguments(**settings | changes),
        train_dataset=_Rows(),
        data_collator=_collated,
        methods=methods,
    )
    trainer.add_callback(_SeedEachUpdate())
    return trainer


def hosts_agree(subject: Subject) -> None:
    """The same updates in a plain PyTorch loop and in the Trainer end at the same weights."""
    plain, network = tiny.model(dropout=0.1), tiny.model(dropout=0.1)
    tiny.loop(plain, [subject.build()], updates=tiny.UPDATES)
    with tempfile.TemporaryDirectory() as folder:
        _trainer(network, [subject.build()], folder).train()
    assert tiny.distance(tiny.weights(network), tiny.weights(plain)) < 1e-6


def resume(subject: Subject) -> None:
    """A run that is resumed from its checkpoint, with another initial model, ends at the same weights, bit for bit."""
    whole = tiny.model(dropout=0.1)
    with tempfile.TemporaryDirectory() as folder:
        saving = {"save_strategy": "steps", "save_steps": 2}
        _trainer(whole, [subject.build()], folder, **saving).train()
        for at in (2, 4):
            continued = tiny.model(dropout=0.1)
            with torch.no_grad():
                for p in continued.parameters():
                    p.add_(0.1)
            trainer = _trainer(continued, [subject.build()], f"{folder}/again-{at}")
            trainer.train(resume_from_checkpoint=f"{folder}/checkpoint-{at}")
            different = tiny.differing(tiny.weights(continued), tiny.weights(whole))
            assert different == [], f"resumed at {at}, these differ: {different}"


def lora(subject: Subject) -> None:
    """Under LoRA the frozen weights stay, bit for bit, and the adapters train."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise MethodError("The check needs peft: pip install 'steadytune[lora]'.") from error
    base: Any = tiny.model(dropout=0.1)
    network: Any = get_peft_model(
        base, LoraConfig(target_modules=["query", "value"], modules_to_save=["classifier"], r=2)
    )
    network.train()
    trainable = {name for name, p in network.named_parameters() if p.requires_grad}
    before = tiny.weights(network)
    tiny.loop(network, [subject.build()])
    moved = set(tiny.differing(before, tiny.weights(network)))
    assert moved, "nothing trained"
    assert moved <= trainable, f"frozen weights moved: {sorted(moved - trainable)}"


def leaves_no_trace(subject: Subject) -> None:
    """After training, and after a training that failed, nothing about the model but its weights is different."""
    for fails in (False, True):
        network = tiny.model(dropout=0.1)
        before, hooks = _surface(network), _global_hooks()
        if fails:
            _fail_within_a_pass(network, subject)
        else:
            tiny.loop(network, [subject.build()])
        after = _surface(network)
        for what, value in before.items():
            assert after[what] == value, f"{what} changed" + (" by a training that failed" if fails else "")
        assert _global_hooks() == hooks, "a hook is left on all optimizers"


def _global_hooks() -> int:
    """How many hooks there are on the steps of all optimizers."""
    module: Any = sys.modules["torch.optim.optimizer"]
    return len(module._global_optimizer_pre_hooks) + len(module._global_optimizer_post_hooks)


class _Fault(Exception):  # noqa: N818 - stands for anything that the user's own code may raise
    pass


def _fail_within_a_pass(network: nn.Module, subject: Subject) -> None:
    def fail(*_: Any) -> None:
        raise _Fault

    stack = Stack([subject.build()])
    try:
        with stack:
            stack.prepare(network, total_updates=tiny.UPDATES, batches=tiny.batches)
            optimizer = stack.optimizer(torch.optim.SGD(network.parameters(), lr=0.1))
            stack.scheduler(optimizer)
            stack.backward(network, tiny.batch())
            optimizer.step()
            handle = network.classifier.register_forward_hook(fail)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
            try:
                stack.backward(network, tiny.batch())
            finally:
                handle.remove()
    except _Fault:
        return
    raise AssertionError("the failure was swallowed")


def _surface(network: nn.Module) -> dict[str, Any]:
    """Everything about a model that training should leave alone."""
    modules = dict(network.named_modules())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "the hooks": {(n, h): len(getattr(m, h)) for n, m in modules.items() for h in hooks},
        "a module's class": {n: type(m) for n, m in modules.items()},
        "a module's attributes": {n: sorted(m.__dict__) for n, m in modules.items()},
        "the training mode": {n: m.training for n, m in modules.items()},
        "the names in the state dict": list(network.state_dict()),
        "the buffers": [n for n, _ in network.named_buffers()],
        "what requires a gradient": {n: p.requires_grad for n, p in network.named_parameters()},
        "the hooks of a parameter": {n: len(p._backward_hooks or {}) for n, p in network.named_parameters()},
        "the type of a parameter": {n: (type(p), p.dtype) for n, p in network.named_parameters()},
        "the gradients": [n for n, p in network.named_parameters() if p.grad is not None and not network.training],
    }
