"""After an error or Ctrl-C anywhere in a training, nothing is left on the model, nor in torch, nor in Transformers."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from interrupting import Lines, interrupted_everywhere, left_as_found
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from steadytune import Stack, bregman, freeze, mixout, noisytune, pgd, smoothness, spectral_norm, swa
from steadytune.core.authoring.method import Method
from steadytune.methods.registry import REGISTRY, method_classes
from steadytune.testing import tiny
from steadytune.testing.surroundings import _trainer

ROOT = Path(__file__).parents[2]
CLASSES = method_classes()
#: Of all lines and operations of a training, how many are tried here of each.
TRIED = 3

pytestmark = pytest.mark.filterwarnings("ignore")


def several() -> list[Any]:
    return [
        noisytune(),
        smoothness(),
        bregman(early_fraction=0.0),
        mixout(),
        spectral_norm(),
        freeze(),
        swa(start=0.0),
    ]


@pytest.fixture(params=CLASSES, ids=lambda m: m.name)
def method(request: pytest.FixtureRequest) -> Callable[[], Method]:
    return lambda: request.param(**request.param.strong_settings)


#: One of each kind of machinery; the long form is `make scale`.
KINDS = ("smoothness", "bregman", "freeat", "sam", "mixout", "neftune", "spectral_norm", "freeze", "child_tuning")


@pytest.mark.parametrize("name", KINDS)
def test_ctrl_c_at_a_line_or_an_operation(name: str, tmp_path: Path) -> None:
    chosen = REGISTRY[name].build
    assert interrupted_everywhere(lambda: [chosen(**chosen.strong_settings)], tmp_path, most=TRIED) == []


def test_a_close_that_is_interrupted_is_done_again_by_the_next() -> None:
    with Lines() as counted:
        _closed(counted)
    for at in counted.worth_trying()[1::4]:
        _closed(Lines(at))


def _closed(lines: Lines) -> None:
    network = tiny.model()
    with left_as_found(network):
        stack = Stack([mixout(), spectral_norm(), freeze()])
        stack.prepare(network)
        lines.seen = 0
        lines.places.clear()
        with suppress(KeyboardInterrupt), lines:
            stack.close()
        stack.close()


class _Fault(BaseException):
    """Stands for an error of the user's own, and for Ctrl-C."""


class _AtPass:
    """Fails at the end of one forward pass, or in its backward pass, when all that it needs is in place."""

    def __init__(self, network: nn.Module, at: int, *, backward: bool) -> None:
        self.at, self.backward, self.seen = at, backward, 0
        self._handle = network.classifier.register_forward_hook(self._passed)  # pyright: ignore

    def _passed(self, _module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        self.seen += 1
        if self.seen == self.at and not self.backward:
            raise _Fault
        if self.seen == self.at and output.requires_grad:
            output.register_hook(self._fail)

    def _fail(self, _gradient: torch.Tensor) -> None:
        raise _Fault

    def remove(self) -> None:
        self._handle.remove()


def test_a_fault_in_any_pass_leaves_weights_and_random_state(method: Callable[[], Method]) -> None:
    """The weights are those before the step, and a pass of ours has drawn nothing from the host's random numbers."""
    draws = "host_randomness" in type(method()).not_applicable
    for backward in (False, True):
        for at in range(1, 12):
            network = tiny.model(dropout=0.1)
            stack = Stack([method()])
            stack.prepare(network, total_updates=2, batches=tiny.batches)
            optimizer = stack.optimizer(torch.optim.SGD(network.parameters(), lr=0.01))
            stack.scheduler(optimizer)
            before = tiny.weights(network)
            torch.manual_seed(7)
            fault = _AtPass(network, at, backward=backward)
            try:
                stack.backward(network, tiny.batch())
                failed = False
            except _Fault:
                failed = True
            fault.remove()
            state = torch.get_rng_state()
            stack.close()
            assert tiny.differing(before, tiny.weights(network)) == [] or type(method()).name == "freeat"
            torch.manual_seed(7)
            tiny.model(dropout=0.1)(**tiny.batch())
            assert draws or torch.equal(state, torch.get_rng_state())
            if at > fault.seen and not failed:
                break
        else:
            pytest.fail("a step of more than 11 passes")


# ---------------------------------------------------------------- the hosts


class _AtEvent(TrainerCallback):
    """Fails at the first event of a name."""

    def __init__(self, name: str) -> None:
        setattr(self, name, self._fail)

    def _fail(self, *_: Any, **__: Any) -> None:
        raise _Fault


EVENTS = (
    *("on_train_begin", "on_step_begin", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end", "on_evaluate"),
    *("on_save", "on_train_end"),
)


@pytest.mark.long
@pytest.mark.parametrize("methods", [several, lambda: [pgd(), swa(start=0.0)]], ids=["several", "pgd"])
def test_a_trainer_that_fails_anywhere(methods: Callable[[], list[Any]], tmp_path: Path) -> None:
    def fail(folder: str, prepare: Callable[[nn.Module, Any], Any]) -> None:
        network = tiny.model(dropout=0.1)
        trainer = _trainer(
            network, methods(), tmp_path / folder, max_steps=1, save_strategy="steps", save_steps=1, eval_steps=1
        )
        trainer.args.eval_strategy, trainer.args.eval_steps = IntervalStrategy.STEPS, 1
        trainer.eval_dataset = trainer.train_dataset
        with left_as_found(network):
            fault = prepare(network, trainer)
            with pytest.raises(_Fault):
                trainer.train()
            network.train()  # the Trainer's own evaluation leaves it so, with or without methods
            fault.remove()

    class Nothing:
        def remove(self) -> None: ...

    def at_event(name: str) -> Callable[[nn.Module, Any], Any]:
        def prepare(_network: nn.Module, trainer: Any) -> Nothing:
            trainer.add_callback(_AtEvent(name))
            return Nothing()

        return prepare

    for name in EVENTS:
        fail(name, at_event(name))
    # The first two passes find out how the model scales its loss.
    for at, backward in ((1, False), (3, False), (3, True), (4, False)):
        fail(f"{at}{backward}", lambda net, _, at=at, backward=backward: _AtPass(net, at, backward=backward))


def test_accelerate_after_a_fault() -> None:
    def train(network: nn.Module) -> None:
        accelerator = Accelerator(cpu=True)
        with Stack(several()) as stack:
            stack.prepare(network, total_updates=2)
            optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
            wrapped, optimizer = accelerator.prepare(network, optimizer)
            for update in range(2):
                stack.backward(wrapped, tiny.batch(seed=update), backward=accelerator.backward)
                optimizer.step()
                optimizer.zero_grad()

    for at in (1, 2, 4):
        network = tiny.model(dropout=0.1)
        with left_as_found(network):
            fault = _AtPass(network, at, backward=at == 2)
            with pytest.raises(_Fault):
                train(network)
            fault.remove()


@pytest.fixture(scope="module")
def lightning_module() -> Any:
    pytest.importorskip("lightning", reason="the extra `lightning`")
    return runpy.run_path(str(ROOT / "examples" / "lightning_module.py"))["SteadyClassifier"]


@pytest.mark.parametrize("at", [1, 2, 5])
def test_lightning_after_a_fault(lightning_module: Any, tmp_path: Path, at: int) -> None:
    import lightning

    network = tiny.model(dropout=0.1)
    module = lightning_module(network, 1e-2, methods=several()).train()
    trainer = lightning.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False, max_steps=3,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    loader = DataLoader(list(tiny.batches()), batch_size=None)  # pyright: ignore[reportArgumentType]
    with left_as_found(network):
        fault = _AtPass(network, at, backward=at == 2)
        with pytest.raises(_Fault):
            trainer.fit(module, loader)
        fault.remove()
