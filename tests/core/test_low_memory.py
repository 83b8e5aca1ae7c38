"""``memory="low"``: the same gradient, losses and random state as with all graphs at once, with those of one pass."""

from __future__ import annotations

import gc
import itertools
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from datasets import Dataset
from helpers import tiny as small
from helpers import tiny_language
from torch import Tensor, nn
from torch.utils.data import DataLoader

from steadytune import Stack, SteadyMixin, SteadyTrainer, bregman, l2_sp, r3f, r_drop, sam, smart, smoothness
from steadytune.core.authoring.method import LossMethod, Method
from steadytune.core.stack.composition import total_cost
from steadytune.core.stack.low_memory import Memory
from steadytune.errors import HostError, MethodError
from steadytune.integrations.lightning import SteadyModuleMixin
from steadytune.methods.registry import method_classes
from steadytune.settings.train import TrainSettings
from steadytune.testing import tiny
from steadytune.testing.accounting import _bytes_alive, counted_passes, measured_memory

CLASSES = {m.name: m for m in method_classes()}
FELT: dict[str, Any] = {"radius": 0.1, "noise_std": 0.01, "step_size": 0.1}


def felt(name: str, **changes: Any) -> Method:
    return CLASSES[name](**{**CLASSES[name].strong_settings, **changes})


def alone() -> dict[str, list[Method]]:
    """Every term with its felt settings, and with each of its variants."""
    terms = {name: method for name, method in CLASSES.items() if issubclass(method, LossMethod)}
    found = {name: [felt(name)] for name in terms}
    for name, method in terms.items():
        found |= {f"{name}-{i}": [felt(name, **changes)] for i, changes in enumerate(method.variants)}
    return found


STACKS: dict[str, list[Method]] = {
    "smart": list(smart(3.0, 2.0, **FELT)),
    "all kinds": [felt(n) for n in ("smoothness", "bregman", "r3f", "r_drop", "l2_sp", "mixout", "neftune")],
    "two searches": [felt("vat"), felt("alum")],
    "with a step method": [felt("r3f"), felt("bregman"), felt("freelb")],
}


def update(methods: list[Method], memory: Memory, **settings: Any) -> tuple[Any, ...]:
    """Two padded micro-batches with dropout: gradients, losses, logs, and the random state that is left."""
    network = tiny.model(dropout=0.1, dtype=torch.float64)
    with Stack(methods, memory=memory) as stack:
        stack.prepare(network, total_updates=tiny.UPDATES)
        stack.optimizer(torch.optim.SGD(network.parameters(), lr=0.1))
        tiny.move_teachers(stack)
        torch.manual_seed(5)
        losses = [
            float(stack.backward(network, tiny.batch(4 - i, seed=i, padding=2 * i), scale=0.5, **settings))
            for i in range(2)
        ]
        return tiny.gradients(network), losses, stack.take_logs(), torch.get_rng_state()


def assert_same(low: tuple[Any, ...], full: tuple[Any, ...]) -> None:
    assert tiny.distance(low[0], full[0]) < 1e-10
    assert low[1] == pytest.approx(full[1], rel=1e-12)
    assert low[2] == pytest.approx(full[2], rel=1e-12)
    assert torch.equal(low[3], full[3])


@pytest.mark.parametrize("methods", [*alone().values(), *STACKS.values()], ids=[*alone(), *STACKS])
def test_the_gradient_is_the_same(methods: list[Method]) -> None:
    assert_same(update(methods, "low"), update(methods, "full"))


def test_the_second_update_is_the_same_with_sam() -> None:
    """Which repeats the step at other weights, and all parts of it."""

    def trained(memory: Memory) -> dict[str, Tensor]:
        network = tiny.model(dropout=0.1, dtype=torch.float64)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        with Stack([sam(rho=0.5), r_drop(), smoothness(3.0, **FELT)], memory=memory) as stack:
            stack.prepare(network, optimizer)
            for i in range(2):
                torch.manual_seed(i)
                stack.backward(network, tiny.batch(seed=i))
                optimizer.step()
                optimizer.zero_grad()
        return tiny.weights(network)

    assert tiny.distance(trained("low"), trained("full")) < 1e-10


@pytest.mark.long
@pytest.mark.parametrize("methods", [*STACKS.values(), [felt("l2_sp")]], ids=[*STACKS, "nothing to gain"])
def test_the_figures_are_right(methods: list[Method]) -> None:
    total = Stack(methods, memory="low").explain().total
    assert total == total_cost(methods, low_memory=True)
    found = counted_passes(tiny.model(dropout=0.1), methods, memory="low")
    for what in ("forwards", "forwards_without_graph", "backwards", "backwards_to_embeddings"):
        assert getattr(found, what) == getattr(total, what), what
    copies, sets = measured_memory(methods, "low")
    assert copies == pytest.approx(total.weight_copies, abs=0.5)
    assert total.activation_sets == 0
    assert sets < 0.15


def test_what_it_costs_is_told() -> None:
    assert "3.33 x a plain step" in str(Stack(smart(), memory="low").explain())
    assert "0 more sets of activations" in Stack(smart(), memory="low").explain().totals()
    assert Stack(smart()).explain().relative_cost == 3.0
    assert Stack([bregman()], memory="low").explain().total == Stack([bregman()]).explain().total


# ---------------------------------------------------------------- loops


def test_a_backward_of_the_loop_s_own_scales_all_parts() -> None:
    methods = STACKS["all kinds"]
    plain = update(methods, "full")
    scaled = update(methods, "low", backward=lambda loss: (loss * 1024).backward())
    assert_same(({name: g / 1024 for name, g in scaled[0].items()}, *scaled[1:]), plain)


@pytest.mark.parametrize("memory", ["full", "low"])
def test_under_autocast_every_part_reaches_the_weights(memory: Memory) -> None:
    """Autocast keeps weights cast in a pass without gradient, through which a later pass would have none."""
    found = []
    for enabled in (False, True):
        network = tiny.model(dropout=0.1)
        with Stack(smart(3.0, **FELT), memory=memory) as stack:
            stack.prepare(network, total_updates=tiny.UPDATES)
            torch.manual_seed(5)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                stack.backward(network, tiny.batch())
        found.append(tiny.gradients(network))
    assert tiny.distance(found[1], found[0]) < 0.05


def test_checkpointing_of_activations_changes_nothing() -> None:
    expected = update(STACKS["smart"], "full")[0]
    network = tiny.model(dropout=0.1, dtype=torch.float64)
    tiny.enable_checkpointing(network)
    with Stack(STACKS["smart"], memory="low") as stack:
        stack.prepare(network, total_updates=tiny.UPDATES)
        tiny.move_teachers(stack)
        torch.manual_seed(5)
        for i in range(2):
            stack.backward(network, tiny.batch(4 - i, seed=i, padding=2 * i), scale=0.5)
    assert tiny.distance(tiny.gradients(network), expected) < 1e-10


@pytest.mark.long
def test_a_compiled_model_changes_nothing() -> None:
    found = []
    for memory in ("full", "low"):
        network: Any = tiny.model(
            dropout=0.1, dtype=torch.float64, num_hidden_layers=1, problem_type="single_label_classification"
        )
        with Stack([r3f(3.0, radius=0.1)], memory=memory) as stack:
            stack.prepare(network)
            torch.manual_seed(5)
            model: Any = torch.compile(network, backend="eager") if memory == "low" else network
            stack.backward(model, tiny.batch())
        found.append(tiny.gradients(network))
    assert tiny.distance(found[1], found[0]) < 1e-10


class Restless(nn.Module):
    """Adds noise of its own, which no random state of torch brings back."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.config, self.calls = network, network.config, itertools.count()

    def get_input_embeddings(self) -> nn.Module:
        return self.network.get_input_embeddings()

    def forward(self, **batch: Any) -> Any:
        outputs = self.network(**batch)
        outputs.logits = outputs.logits + next(self.calls)
        return outputs


def test_what_cannot_be_had_is_refused_in_a_line() -> None:
    with pytest.raises(MethodError, match=r"^memory must be 'full' or 'low'; got 'little'\.$"):
        Stack(smart(), memory="little")  # pyright: ignore[reportArgumentType]
    network = tiny.model()
    with Stack(smart(), memory="low") as stack:
        stack.prepare(network, total_updates=1)
        with pytest.raises(HostError, match=r"write `stack\.backward\(model, batch\)`"):
            stack.loss(network, tiny.batch())
        with pytest.raises(HostError, match=r"stack\.add_terms\(\)"), stack.clean_pass():
            pass
    restless = Restless(network)
    with Stack([r3f()], memory="low") as stack:
        stack.prepare(restless)
        with pytest.raises(HostError, match="the second time it gave other outputs"):
            stack.backward(restless, tiny.batch())
    with Stack([bregman(early_fraction=0), l2_sp()], memory="low") as stack:  # one graph as it is
        stack.prepare(network)
        stack.loss(network, tiny.batch()).backward()


# ---------------------------------------------------------------- trainers


class Adding(SteadyTrainer):
    """Makes a loss of its own of that of the methods."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, *args: Any, **given: Any) -> Any:
        loss, outputs = super().compute_loss(model, inputs, True, *args, **given)
        penalty = sum(p.square().sum() for p in model.parameters())
        loss = 2 * loss + 0.1 * penalty + outputs.logits.square().mean()
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(SteadyTrainer, {"gradient_accumulation_steps": 2, "label_smoothing_factor": 0.1}), (Adding, {})],
    ids=["accumulation", "a loss of its own"],
)
def test_the_trainer_trains_as_ever(kind: type[SteadyTrainer], settings: dict[str, Any], tmp_path: Path) -> None:
    found = []
    for memory in ("full", "low"):
        network = small.bert(dropout=0.1, dtype=torch.float64)
        arguments = small.arguments(tmp_path, optim="sgd", logging_strategy="steps", logging_steps=1, **settings)
        methods = [*smart(3.0, **FELT), r_drop()]
        trainer = kind(
            model=network, args=arguments, train_dataset=small.dataset(), data_collator=small.collate,
            methods=methods, memory=memory,
        )  # fmt: skip
        trainer.train()
        assert "compute_loss" not in vars(trainer)
        logs = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        found.append((small.weights(network), logs, torch.get_rng_state()))
    assert tiny.distance(found[1][0], found[0][0]) < 1e-10
    assert found[1][1] == pytest.approx(found[0][1])
    assert torch.equal(found[1][2], found[0][2])


def test_a_trainer_whose_head_gives_no_logits(tmp_path: Path) -> None:
    trl: Any = pytest.importorskip("trl", reason="the extra `trl`")

    class Steady(SteadyMixin, trl.SFTTrainer):
        pass

    found = []
    for memory in ("full", "low"):
        quiet: dict[str, Any] = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no"}
        quiet |= {"bf16": False, "gradient_checkpointing": False, "max_length": 32, "logging_steps": 1}
        trainer: Any = Steady(
            model=tiny_language.causal(dropout=0.1, dtype=torch.float64),
            args=trl.SFTConfig(output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=4, **quiet),
            train_dataset=Dataset.from_list(tiny_language.prompts(8)),
            processing_class=tiny_language.tokenizer(),
            methods=[smoothness(5.0, **FELT), r_drop()],
            memory=memory,
        )
        trainer.train()
        found.append((small.weights(trainer.model), trainer.state.log_history[0]))
    assert tiny.distance(found[1][0], found[0][0]) < 1e-6  # TRL's figures and losses are in float32
    for name in ("loss", "smoothness", "num_tokens", "entropy", "mean_token_accuracy"):
        assert found[1][1][name] == pytest.approx(found[0][1][name], rel=1e-5), name


def test_a_module_of_lightning_trains_as_ever(tmp_path: Path) -> None:
    lightning: Any = pytest.importorskip("lightning.pytorch", reason="the extra `lightning`")

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = small.bert(dropout=0.1, dtype=torch.float64)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.model(**batch).loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Steady(SteadyModuleMixin, Classifier):
        pass

    found = []
    for memory in ("full", "low"):
        torch.manual_seed(3)
        module: Any = Steady(methods=[*smart(3.0, **FELT), r_drop()], memory=memory)
        loader: Any = DataLoader(small.dataset(8), batch_size=2, collate_fn=small.collate)  # pyright: ignore[reportArgumentType]
        quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        lightning.Trainer(
            accelerator="cpu", max_epochs=1, accumulate_grad_batches=2, default_root_dir=tmp_path,
            enable_checkpointing=False, **quiet,
        ).fit(module, loader)  # fmt: skip
        found.append((small.weights(module.model), torch.get_rng_state()))
    assert tiny.distance(found[1][0], found[0][0]) < 1e-10
    assert torch.equal(found[1][1], found[0][1])


def test_it_is_a_setting_of_a_run() -> None:
    assert TrainSettings().memory == "full"
    assert TrainSettings(memory="low").memory == "low"


# ---------------------------------------------------------------- teachers


def test_a_teacher_under_lora_copies_and_exchanges_the_adapters_alone() -> None:
    peft: Any = pytest.importorskip("peft", reason="the extra `lora`")
    network = peft.get_peft_model(
        tiny.model(), peft.LoraConfig(target_modules=["query", "value"], modules_to_save=["classifier"], r=2)
    )
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    gc.collect()
    before = _bytes_alive()
    exchanged: list[set[str]] = []
    call = torch.func.functional_call

    def watched(model: nn.Module, weights: Any, *given: Any) -> Any:
        exchanged.append(set(weights))
        # Nothing is made for the pass: these are the teacher's own tensors, and the base weights the student's.
        own = {tensor.data_ptr() for tensor in teacher.values()}
        assert {tensor.data_ptr() for tensor in weights.values()} == own
        return call(model, weights, *given)

    with Stack(smart()) as stack, patch.object(torch.func, "functional_call", watched):
        stack.prepare(network, total_updates=tiny.UPDATES)
        (teacher,) = stack.teacher_weights().values()
        gc.collect()
        assert _bytes_alive() - before == sum(t.numel() * t.element_size() for t in teacher.values())
        stack.backward(network, tiny.batch())
    assert set(teacher) == trained
    assert exchanged == [trained]
    assert sum(t.numel() for t in teacher.values()) < sum(p.numel() for p in network.parameters()) / 10
