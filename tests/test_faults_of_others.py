"""The faults of other implementations: a check for each that our form passes and the faulty form fails.

Each faulty form is written here in a few lines, as it was published or as the naive version of it. Shown elsewhere:
the Trainer's scale under accumulation (test_trainer.py), and dropout that hides small radii (test_invariants.py).
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from unittest.mock import patch

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, AdamW, Optimizer
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForTokenClassification,
    PreTrainedModel,
    T5Config,
    T5ForSequenceClassification,
    Trainer,
)

from steadytune import Stack, SteadyTrainer, perturb_weights
from steadytune.core.arithmetic import noise
from steadytune.core.arithmetic.ascent import ascend, ascend_in_l2
from steadytune.core.arithmetic.divergence import symmetric_kl
from steadytune.core.authoring.method import OPTIMIZER, Method, OptimizerMethod
from steadytune.core.authoring.passes import Passes
from steadytune.core.authoring.per_item import PerItem
from steadytune.core.authoring.step import Step
from steadytune.core.authoring.training import Attachment, Training
from steadytune.core.model.tap import Tap, word_embedding
from steadytune.core.stack.session import Session
from steadytune.core.state.teacher import copied
from steadytune.errors import HostError
from steadytune.methods import child_tuning as child_file
from steadytune.methods import mixout as mixout_file
from steadytune.methods.alum import Alum
from steadytune.methods.bregman import Bregman
from steadytune.methods.child_tuning import ChildTuning
from steadytune.methods.fisher import fisher_information, largest
from steadytune.methods.freelb import FreeLB
from steadytune.methods.l2_sp import L2SP
from steadytune.methods.layerwise_decay import LayerwiseDecay
from steadytune.methods.mixout import Mixout
from steadytune.methods.neftune import NEFTune
from steadytune.methods.optimizer_groups import adam_groups
from steadytune.methods.pgd import PGD
from steadytune.methods.r3f import R3F
from steadytune.methods.r_drop import RDrop
from steadytune.methods.recadam import RecAdam, RecAdamOptimizer
from steadytune.methods.sam import SAM
from steadytune.methods.smoothness import Smoothness
from steadytune.methods.vat import VirtualAdversarialTraining
from steadytune.methods.weight_averaging import WeightAveraging
from steadytune.testing.tiny import one_update

Form = TypeVar("Form")
Batch = dict[str, Tensor]
Weights = dict[str, Tensor]

ROUNDING = 1e-9  # of float64
HEAD = ("classifier.weight", "classifier.bias")


def shown(check: Callable[[Form], None], ours: Form, faulty: Form, said: str) -> None:
    """Our form passes the check, and the faulty one fails it for the stated reason, not for another."""
    check(ours)
    with pytest.raises(AssertionError, match=said):
        check(faulty)


def double(**settings: Any) -> PreTrainedModel:
    return tiny.bert(dtype=torch.float64, **settings)


def gradients_with(methods: Sequence[Method], network: nn.Module, *parts: Batch) -> Weights:
    """Gradients of one update from micro-batches, added to those that are there, and the same random numbers."""
    with Stack(methods) as stack:
        stack.prepare(network, total_updates=4)
        stack.optimizer(SGD(network.parameters(), lr=0.1))
        torch.manual_seed(5)
        for given in parts:
            stack.backward(network, given, scale=1 / len(parts))
    return tiny.gradients(network)


# --- checkpoints: the same run with and without an interruption -------------------------------------------


def moved_away(network: nn.Module) -> nn.Module:
    """Other initial weights, as of a program that was started again."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1)
    return network


def plain_run(methods: Sequence[Method], folder: Path, first: int, last: int) -> Weights:
    """Updates ``first`` to ``last`` of 4 in a plain loop, from and to the files that a user would write."""
    network = tiny.bert(dropout=0.1)
    if first > 0:
        moved_away(network).load_state_dict(torch.load(folder / "model.pt"))
    stack = Stack(methods)
    # Other examples in the resumed run: only a method that looks at them again can tell.
    data = [tiny.batch(seed=100 + first), tiny.batch(seed=200 + first)]
    stack.prepare(network, total_updates=4, batches=data, resume_from=folder if first > 0 else None)
    optimizer = stack.optimizer(AdamW(network.parameters(), lr=1e-2))
    if first > 0:
        optimizer.load_state_dict(torch.load(folder / "optimizer.pt"))
    for update in range(first, last):
        torch.manual_seed(1000 + update)
        stack.backward(network, tiny.batch(seed=update))
        optimizer.step()
        optimizer.zero_grad()
    if last == 4:
        stack.finish()
        return tiny.weights(network)
    stack.save(folder)
    torch.save(network.state_dict(), folder / "model.pt")
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    stack.close()
    return {}


def resumes_in_a_plain_loop(form: Callable[[], Sequence[Method]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        whole = plain_run(form(), Path(name), 0, 4)
        plain_run(form(), Path(name), 0, 2)
        resumed = plain_run(form(), Path(name), 2, 4)
    assert tiny.differences(resumed, whole) == [], "the plain loop's resumed run is another"


def trainer_run(methods: Sequence[Method], folder: Path, resume: Path | None = None) -> Weights:
    """Four updates of the Trainer with a checkpoint after two, or the last two of them."""
    network = tiny.bert(dropout=0.1)
    trainer = SteadyTrainer(
        model=moved_away(network) if resume else network,
        args=tiny.arguments(folder, max_steps=4, save_strategy="steps", save_steps=2, optim="adamw_torch"),
        train_dataset=tiny.dataset(16),
        data_collator=tiny.collate,
        methods=methods,
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return tiny.weights(network)


def resumes_in_the_trainer(form: Callable[[], Sequence[Method]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        whole = trainer_run(form(), Path(name))
        resumed = trainer_run(form(), Path(name, "again"), Path(name, "checkpoint-2"))
    assert tiny.differences(resumed, whole) == [], "the Trainer's resumed run is another"


# --- Mixout -----------------------------------------------------------------------------------------------


class WithoutTheFactor(torch.autograd.Function):
    """The mixed weight whose backward pass has the mask and no 1 / (1 - p)."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, pretrained: Tensor, keep: Tensor, probability: float) -> Tensor:
        ctx.save_for_backward(keep)
        return pretrained + torch.where(keep, weight - pretrained, 0.0) / (1 - probability)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (keep,) = ctx.saved_tensors
        return gradients[0] * keep, None, None, None


def mixout_s_gradient_is_the_derivative(mixed: Callable[..., Tensor]) -> None:
    """Of the loss that was computed, along a random direction of one mixed weight."""
    network, given, size = double(), tiny.batch(), 1e-5
    p = network.get_parameter("bert.encoder.layer.0.intermediate.dense.weight")
    direction = torch.randn(p.shape, dtype=p.dtype)
    with patch.object(mixout_file, "mixed", mixed), Stack([Mixout(probability=0.9)]) as stack:
        stack.prepare(network)

        def loss(step: float) -> float:
            with torch.no_grad():
                p.add_(direction, alpha=step)
            torch.manual_seed(5)  # the same masks
            value = float(stack.backward(network, given))
            with torch.no_grad():
                p.sub_(direction, alpha=step)
            return value

        expected = (loss(size) - loss(-size)) / (2 * size)
        network.zero_grad()
        loss(0.0)
    found = float((p.grad * direction).sum())
    assert found == pytest.approx(expected, rel=1e-5), "the gradient is not the derivative"


def test_mixout_s_backward_pass_divides_by_the_kept_share() -> None:
    """bloodwass/mixout multiplies the gradient by the mask alone: 10 times too small at p = 0.9."""
    shown(mixout_s_gradient_is_the_derivative, mixout_file.mixed, WithoutTheFactor.apply, "not the derivative")


def one_mask_per_input_column(weight: Tensor, probability: float) -> Tensor:
    return torch.empty(1, weight.shape[1]).bernoulli_(1 - probability).expand_as(weight)


def mixout_draws_for_each_weight(draw: Callable[[Tensor, float], Tensor]) -> None:
    network = nn.Sequential(nn.Linear(48, 48, bias=False))
    with patch.object(mixout_file, "draw_mask", draw), Stack([Mixout(probability=0.5)]) as stack:
        stack.prepare(network)
        pretrained = network[0].weight.detach().clone()
        moved_away(network)
        kept = (network(torch.eye(48)).T.detach() != pretrained).double()
    for dim in (0, 1):
        # 48 fair coins per line: a share of 0.5, give or take 0.07.
        assert float(kept.mean(dim).std()) < 0.15, "whole lines are kept or mixed together"
    assert float(kept.mean()) == pytest.approx(0.5, abs=0.1), "another share"


def test_mixout_s_mask_is_drawn_for_each_weight() -> None:
    """bloodwass/mixout draws one number per input column, for all output rows together."""
    shown(mixout_draws_for_each_weight, mixout_file.draw_mask, one_mask_per_input_column, "whole lines")


class MixLinear(nn.Module):
    """A module of its own, no nn.Linear, with a copy of the weight and the target as a buffer."""

    def __init__(self, linear: nn.Linear, probability: float) -> None:
        super().__init__()
        self.weight, self.probability = nn.Parameter(linear.weight.detach().clone()), probability
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().clone())
        self.register_buffer("target", linear.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        keep = mixout_file.draw_mask(self.weight, self.probability).bool()
        return functional.linear(x, mixout_file.mixed(self.weight, self.target, keep, self.probability), self.bias)


class ReplacesModules(Mixout):
    """Puts a MixLinear in the place of every nn.Linear, and leaves it there."""

    def attach(self, training: Training) -> Attachment:
        for name, module in list(training.model.named_modules()):
            if isinstance(module, nn.Linear):
                training.model.set_submodule(name, MixLinear(module, self.probability))
        return Attachment()


class SwapsForGood(Mixout):
    """Changes the modules' type and never changes it back."""

    def attach(self, training: Training) -> Attachment:
        attachment = super().attach(training)
        attachment.detach = lambda: None  # type: ignore[method-assign]
        training.cleanup.clear()
        return attachment


def mixout_is_not_seen(form: Mixout) -> None:
    network = tiny.bert()
    names, types = list(network.state_dict()), {name: type(m) for name, m in network.named_modules()}
    with Stack([form]) as stack:
        stack.prepare(network)
        optimizer = stack.optimizer(SGD(network.parameters(), lr=0.1))
        stack.backward(network, tiny.batch())
        optimizer.step()
        assert list(network.state_dict()) == names, "other names in the state dict during the training"
    assert list(network.state_dict()) == names, "other names in the state dict after the training"
    assert {name: type(m) for name, m in network.named_modules()} == types, "other types after the training"


@pytest.mark.parametrize(
    ("faulty", "said"),
    [(ReplacesModules, "other names in the state dict during"), (SwapsForGood, "other types after the training")],
)
def test_mixout_leaves_names_and_types_alone(faulty: type[Mixout], said: str) -> None:
    """Neither a target among the state dict's names, nor a module of another type when the training is over."""
    shown(mixout_is_not_seen, Mixout(probability=0.5), faulty(probability=0.5), said)


class ForgetsItsTarget(Mixout):
    """Mixes with the weights that are there when it is attached, as a target outside the checkpoint must."""

    def attach(self, training: Training) -> Attachment:
        now = copied({name: p for name, p in training.parameters().items() if name in training.anchor})
        return super().attach(replace(training, anchor=now))


def test_mixout_s_target_is_the_pretrained_weights_after_a_resume() -> None:
    """bloodwass/mixout keeps the target outside the state dict, so a resumed run mixes with half-trained weights."""
    shown(
        resumes_in_a_plain_loop,
        lambda: [Mixout(probability=0.5)],
        lambda: [ForgetsItsTarget(probability=0.5)],
        "resumed run is another",
    )


def mixout_lives_with_adapters(form: Mixout) -> None:
    """Refused in a sentence where PEFT has frozen what would be mixed; adapters can be put on modules that mix."""
    config = LoraConfig(target_modules=["query", "value"], modules_to_save=["classifier"], r=2)
    adapted = get_peft_model(tiny.bert(), config)
    before = {name: type(m) for name, m in adapted.named_modules()}
    with pytest.raises(HostError, match="frozen, as under PEFT"):
        Stack([form]).prepare(adapted)
    assert {name: type(m) for name, m in adapted.named_modules()} == before
    network = tiny.bert()
    with Stack([form]) as stack:
        stack.prepare(network)
        try:
            adapted = get_peft_model(network, config)
        except ValueError as error:
            raise AssertionError(f"PEFT refuses modules that mix: {error}") from error
        adapted.train()(**tiny.batch()).loss.backward()
        moved = {n for n, p in adapted.named_parameters() if p.grad is not None and bool(p.grad.any())}
        assert any("lora_B" in n for n in moved)
        assert all("lora_" in n or "modules_to_save" in n for n in moved), "frozen weights get gradients"


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mixout_does_not_break_adapters() -> None:
    """A MixLinear is no nn.Linear, so PEFT finds nothing that it could adapt."""
    shown(mixout_lives_with_adapters, Mixout(), ReplacesModules(), "PEFT refuses modules that mix")


def mixout_keeps_heads_tied(form: Mixout) -> None:
    network = tiny.seeded(lambda: BertForMaskedLM(BertConfig(**tiny.sizes(tie_word_embeddings=True))), 0)
    words, given = network.get_input_embeddings(), tiny.batch()
    given["labels"] = given["input_ids"]
    assert network.get_output_embeddings().weight is words.weight
    with Stack([form]) as stack:
        stack.prepare(network)
        optimizer = stack.optimizer(SGD(network.parameters(), lr=0.1))
        for _ in range(2):
            stack.backward(network, given)
            optimizer.step()
            assert network.get_output_embeddings().weight is words.weight, "the head is tied no longer"
    assert network.get_output_embeddings().weight is words.weight, "the head is tied no longer"


def test_mixout_keeps_a_tied_head_tied() -> None:
    """A MixLinear has a weight of its own, so the output embeddings leave the input embeddings."""
    shown(mixout_keeps_heads_tied, Mixout(), ReplacesModules(), "tied no longer")


# --- RecAdam ----------------------------------------------------------------------------------------------


def recadam_comes_nearer_every_step(pull: Callable[[RecAdamOptimizer, float], float]) -> None:
    """Weights away from the pretrained ones, no gradient of the task, lr * gamma = 2.5 and the task's share near 0."""
    network = nn.Linear(8, 8)
    with patch.object(RecAdamOptimizer, "_pull", pull), Stack([RecAdam(anchor_strength=5000.0)]) as stack:
        stack.prepare(network, total_updates=1000)
        optimizer = stack.optimizer(AdamW(network.parameters(), lr=5e-4, weight_decay=0.0))
        pretrained = tiny.weights(network)
        moved_away(network)
        before = tiny.distance(tiny.weights(network), pretrained)
        for _ in range(8):
            for p in network.parameters():
                p.grad = torch.zeros_like(p)
            optimizer.step()
            after = tiny.distance(tiny.weights(network), pretrained)
            assert after <= before, "a step leads away from the pretrained weights"
            before = after


def test_recadam_does_not_overshoot() -> None:
    """The released update multiplies the distance by 1 - lr * gamma * (1 - lambda), below -1 for lr * gamma > 2."""
    shown(recadam_comes_nearer_every_step, RecAdamOptimizer._pull, lambda _self, share: share, "a step leads away")


class PairsByOrder(RecAdam):
    """Takes the pretrained weights in the order of the model, whatever the order of the groups."""

    def build(self, optimizer: Optimizer, training: Training) -> Optimizer:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        anchors = dict(zip(parameters, training.anchor.values(), strict=True))
        return RecAdamOptimizer(adam_groups(optimizer), self, anchors.get)


def recadam_pulls_each_weight_home(form: RecAdam) -> None:
    """With groups in another order than the model, as where the groups differ in weight decay or learning rate."""
    network = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    with Stack([form]) as stack:
        stack.prepare(network, total_updates=1000)
        groups = [{"params": [layer.weight]} for layer in reversed(network)]
        optimizer = stack.optimizer(AdamW(groups, lr=1e-3, weight_decay=0.0))
        pretrained = tiny.weights(network)
        moved_away(network)
        for p in network.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert tiny.distance(tiny.weights(network), pretrained) < 1e-6, "a weight is pulled to that of another"


def test_recadam_pairs_weights_by_name() -> None:
    """The released code walks through two models side by side, which needs groups in the order of the model."""

    settings = {"anchor_strength": 1000.0}
    shown(recadam_pulls_each_weight_home, RecAdam(**settings), PairsByOrder(**settings), "pulled to that of another")


# --- SAM --------------------------------------------------------------------------------------------------


class Wrapper(Optimizer):
    """As davda54/sam is built: the real optimizer is an attribute, and the state dict is the wrapper's own."""

    def __init__(self, base: Optimizer) -> None:
        super().__init__(base.param_groups, {})
        self.base = base

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)


@dataclass(frozen=True)
class Wraps(OptimizerMethod):
    """Puts the host's optimizer into a wrapper."""

    name: ClassVar[str] = "wraps"
    paper: ClassVar[str] = "none"
    claims: ClassVar[frozenset[str]] = frozenset({OPTIMIZER})

    def build(self, optimizer: Optimizer, training: Training) -> Optimizer:
        return Wrapper(optimizer)

    def effect(self) -> str:
        return "nothing good"


@pytest.mark.parametrize("resumes", [resumes_in_a_plain_loop, resumes_in_the_trainer])
def test_sam_keeps_the_optimizer_s_moments(resumes: Callable[[Any], None]) -> None:
    """davda54/sam saves a state dict without the moments of the optimizer inside, so a resume starts them anew."""
    shown(resumes, lambda: [SAM()], lambda: [SAM(), Wraps()], "resumed run is another")


class TakesParts(SAM):
    """Moves the weights for each micro-batch by itself."""

    whole_batch: ClassVar[bool] = False


def sam_is_that_of_the_whole_batch(form: SAM) -> None:
    """In micro-batches it gives the gradient of the whole batch, or it is refused in a sentence."""
    whole = tiny.batch(8)
    expected, found, refusal = gradients_with([form], double(), whole), {}, ""
    try:
        found = gradients_with([form], double(), tiny.rows(whole, 0, 4), tiny.rows(whole, 4, 8))
    except HostError as error:
        refusal = str(error)
    if "set gradient accumulation to 1" in refusal:
        return
    assert tiny.distance(found, expected) < ROUNDING, "accumulation gives another gradient"


def test_sam_refuses_what_it_cannot_accumulate() -> None:
    """davda54/sam trains in silence on another perturbation for each micro-batch."""
    shown(sam_is_that_of_the_whole_batch, SAM(rho=0.5), TakesParts(rho=0.5), "accumulation gives another")


class BackwardOfItsOwn(SAM):
    """Calls `loss.backward()` where the host would scale the loss first."""

    def run(self, passes: Passes) -> Tensor:
        def run() -> Tensor:
            loss = passes.loss()
            loss.backward()
            return loss.detach()

        return super().run(replace(passes, run=run))


def sam_feels_no_gradient_scaler(form: SAM) -> None:
    """With a GradScaler and clipping in the loop the weights move as with clipping alone."""
    moves = []
    for scale in (None, 2.0**12):
        network, given = tiny.bert(), tiny.batch()
        before = tiny.weights(network)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        scaler.scale(torch.zeros(()))  # it begins to work with the first loss that it sees
        with Stack([form]) as stack:
            stack.prepare(network)
            optimizer = stack.optimizer(SGD(network.parameters(), lr=0.5))
            loss = stack.backward(network, given, backward=lambda x, by=scaler: by.scale(x).backward())
            assert float(loss) < 10
            scaler.unscale_(optimizer)
            clip_grad_norm_(network.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
        assert stack.updates == 1
        moves.append({name: p - before[name] for name, p in tiny.weights(network).items()})
    assert tiny.distance(moves[1], moves[0]) < 1e-4, "the weights move otherwise with a gradient scaler"


def test_sam_works_with_a_gradient_scaler() -> None:
    """A SAM that runs its backward passes by itself leaves the scaler out."""
    shown(sam_feels_no_gradient_scaler, SAM(rho=0.5), BackwardOfItsOwn(rho=0.5), "with a gradient scaler")


def a_skipped_step_does_no_harm(form: Method) -> None:
    """A gradient that overflows in 16 bits makes the scaler skip the optimizer's step; the next batch trains."""
    network, overflows = tiny.bert(), True
    network.classifier.weight.register_hook(lambda g: g * float("inf") if overflows else g)
    scaler = torch.amp.GradScaler("cpu")
    with Stack([form]) as stack:
        stack.prepare(network)
        optimizer = stack.optimizer(SGD(network.parameters(), lr=0.1))
        before = tiny.weights(network)
        for done in (0, 1):
            refusal = ""
            try:
                stack.backward(network, tiny.batch(), backward=lambda x: scaler.scale(x).backward())
            except HostError as error:
                refusal = str(error)
            assert not refusal, f"refused after a skipped step: {refusal}"
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            assert stack.updates == done
            assert (tiny.differences(tiny.weights(network), before) == []) == overflows
            overflows = False


@pytest.mark.parametrize("form", [PGD(), SAM()], ids=["pgd", "sam"])
def test_training_goes_on_after_a_skipped_step(form: Method) -> None:
    """The scaler of fp16 training skips steps as a matter of course, at first nearly always."""
    a_skipped_step_does_no_harm(form)


def clipped_by_the_host(network: nn.Module, given: Batch, limit: float) -> None:
    with Stack([SAM(rho=0.5)]) as stack:
        stack.prepare(network)
        optimizer = stack.optimizer(SGD(network.parameters(), lr=1.0))
        stack.backward(network, given)
        clip_grad_norm_(network.parameters(), limit)
        optimizer.step()


def clipped_by_the_trainer(network: nn.Module, given: Batch, limit: float) -> None:
    rows = [{name: tensor[i] for name, tensor in given.items()} for i in range(len(given["labels"]))]
    with tempfile.TemporaryDirectory() as folder:
        settings = {"optim": "sgd", "learning_rate": 1.0, "max_steps": 1, "max_grad_norm": limit}
        SteadyTrainer(
            model=network,
            args=tiny.arguments(folder, **settings),
            train_dataset=rows,
            data_collator=tiny.collate,
            methods=[SAM(rho=0.5)],
        ).train()


def clipped_before_the_closure(network: nn.Module, given: Batch, limit: float) -> None:
    """The loop clips after its own backward pass, and the step runs a second one in a closure."""
    weights = list(network.parameters())
    network(**given).loss.backward()
    clip_grad_norm_(weights, limit)
    length = torch.stack([p.grad.norm() for p in weights]).norm()
    moves = [0.5 * p.grad / length for p in weights]
    with torch.no_grad():
        for p, move in zip(weights, moves, strict=True):
            p.add_(move)
    network.zero_grad()
    network(**given).loss.backward()
    with torch.no_grad():
        for p, move in zip(weights, moves, strict=True):
            p.sub_(move + p.grad)


def sam_s_step_is_clipped(train: Callable[[nn.Module, Batch, float], None]) -> None:
    network, limit = tiny.bert(), 0.05
    before = tiny.weights(network)
    train(network, tiny.batch(), limit)
    moved = torch.cat([(p - before[name]).flatten() for name, p in tiny.weights(network).items()])
    assert float(moved.norm()) == pytest.approx(limit, rel=1e-3), "the step is not clipped"


@pytest.mark.parametrize("ours", [clipped_by_the_host, clipped_by_the_trainer])
def test_sam_s_gradient_is_what_is_clipped(ours: Callable[[nn.Module, Batch, float], None]) -> None:
    """Where SAM's second pass hides in the step, the host clips the gradient of the first one."""
    shown(sam_s_step_is_clipped, ours, clipped_before_the_closure, "not clipped")


# --- Child-Tuning -----------------------------------------------------------------------------------------


class ChoosesAgain(ChildTuning):
    """Looks at the data on every start."""

    def build(self, optimizer: Optimizer, training: Training) -> Optimizer:
        return super().build(optimizer, replace(training, resumed=False))


def test_child_tuning_keeps_its_child_over_a_resume() -> None:
    """The released code computes the mask on every start, so a resumed run trains other weights."""
    shown(
        resumes_in_a_plain_loop,
        lambda: [ChildTuning(variant="D")],
        lambda: [ChoosesAgain(variant="D")],
        "resumed run is another",
    )


class MasksGradientsAlone(ChildTuning):
    """Chooses the child and masks gradients, and leaves weight decay to the optimizer."""

    def build(self, optimizer: Optimizer, training: Training) -> Optimizer:
        names = child_file._in_layers(training)
        training.tensors.update(largest(fisher_information(training, names, self.name), self.share))

        def mask(*_: Any) -> None:
            for name, kept in training.tensors.items():
                p = training.parameters()[name]
                p.grad = p.grad * kept

        training.cleanup.append(optimizer.register_step_pre_hook(mask).remove)
        return optimizer


def child_tuning_leaves_the_rest(form: ChildTuning, build: Callable[..., Optimizer]) -> None:
    """What is outside the child keeps every bit under weight decay, and the child does not."""
    network, given = tiny.bert(), tiny.batch()
    before = tiny.weights(network)
    with Stack([form]) as stack:
        stack.prepare(network, batches=[given])
        optimizer = stack.optimizer(build(network.parameters(), lr=1e-2, weight_decay=0.1))
        child = {name: kept.clone() for name, kept in stack._require_prepared().tensors["child_tuning"].items()}
        for _ in range(3):
            stack.backward(network, given)
            optimizer.step()
            optimizer.zero_grad()
    assert len(child) > 20
    for name, kept in child.items():
        moved = network.get_parameter(name).detach() != before[name]
        assert not bool((moved & ~kept).any()), "weights outside the child moved"
        assert not bool(kept.any()) or bool(moved.any())


@pytest.mark.parametrize("build", [AdamW, torch.optim.Adam, SGD])
def test_weight_decay_does_not_move_what_child_tuning_masks(build: Callable[..., Optimizer]) -> None:
    """The released code masks gradients, and weight decay still moves every weight."""
    shown(
        lambda form: child_tuning_leaves_the_rest(form, build),
        ChildTuning(variant="D"),
        MasksGradientsAlone(variant="D"),
        "outside the child moved",
    )


# --- NEFTune ----------------------------------------------------------------------------------------------


class HookOnInputEmbeddings(NEFTune):
    """As the Trainer of Transformers has it: ``get_input_embeddings()`` of the model, and the padded length."""

    def attach(self, training: Training) -> Attachment:
        def add(module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            width = self.alpha / (output.shape[1] * output.shape[2]) ** 0.5
            return output + torch.empty_like(output).uniform_(-width, width) if module.training else output

        training.cleanup.append(training.model.get_input_embeddings().register_forward_hook(add).remove)
        return Attachment()


def t5() -> nn.Module:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0}
    tokens = {"vocab_size": tiny.VOCABULARY, "pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
    config = T5Config(**sizes, **tokens, classifier_dropout=0.0, num_labels=2)
    return tiny.seeded(lambda: T5ForSequenceClassification(config), 0)


def bart() -> nn.Module:
    sizes = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in (("layers", 2), ("ffn_dim", 32))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "dropout": 0.0, "attention_dropout": 0.0}
    tokens = {"vocab_size": tiny.VOCABULARY, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    more = {"decoder_start_token_id": 2, "max_position_embeddings": 40, "init_std": 0.2}
    config = BartConfig(d_model=16, num_labels=2, **sizes, **heads, **tokens, **more)
    return tiny.seeded(lambda: BartForSequenceClassification(config), 0)


def neftune_is_felt(form: NEFTune, build: Callable[[], nn.Module], pad: int) -> None:
    ids = [torch.cat([sentence, torch.tensor([2])]) for sentence in tiny.sentences(4)]
    network, given = build(), tiny.batch_of(ids, [0, 1, 1, 0], pad=pad)
    plain = network(**given).logits.detach()
    with Stack([form]) as stack:
        stack.prepare(network)
        noisy = network(**given).logits.detach()
        network.eval()
        assert torch.equal(network(**given).logits, plain), "evaluation has changed"
    assert float((noisy - plain).abs().max()) > 1e-3, "no effect at all"


@pytest.mark.parametrize(("build", "pad"), [(t5, 0), (bart, 1)], ids=["t5", "bart"])
def test_neftune_is_felt_by_encoder_decoders(build: Callable[[], nn.Module], pad: int) -> None:
    """T5 and BART never call the module that ``get_input_embeddings()`` returns, so a hook on it does nothing."""
    neftune_is_felt(HookOnInputEmbeddings(alpha=50), tiny.bert, 0)  # where it is called, the faulty form is felt
    shown(
        lambda form: neftune_is_felt(form, build, pad),
        NEFTune(alpha=50),
        HookOnInputEmbeddings(alpha=50),
        "no effect at all",
    )


def neftune_s_noise_has_one_length(form: NEFTune) -> None:
    """The noise on a sentence is alpha / sqrt(3) long, whatever the sentence and however far it is padded."""
    network = tiny.bert(hidden_size=64)
    embedding = network.get_input_embeddings()
    for extra in (0, 24):
        given, seen = tiny.batch(4, extra=extra), []
        with Stack([form]) as stack:
            stack.prepare(network)
            handle = embedding.register_forward_hook(lambda _m, _i, output, to=seen: to.append(output.detach()))
            network(**given)
            handle.remove()
        added = (seen[0] - embedding.weight[given["input_ids"]].detach()) * given["attention_mask"].unsqueeze(-1)
        for length in added.flatten(1).norm(dim=1).tolist():
            assert length == pytest.approx(6 / 3**0.5, rel=0.15), "the noise is shorter on padded sentences"


def test_neftune_s_length_is_that_of_the_sentence() -> None:
    """Transformers divides by the length of the padded batch, so short sentences get less noise."""
    shown(neftune_s_noise_has_one_length, NEFTune(alpha=6), HookOnInputEmbeddings(alpha=6), "shorter on padded")


# --- gradients that are there already ---------------------------------------------------------------------


class WipesGradients(VirtualAdversarialTraining):
    """Clears the gradients before its own search, as VAT-pytorch does."""

    def term(self, step: Step) -> PerItem:
        step.plain_model.zero_grad()
        return super().term(step)


def gradients_add_up(form: Method) -> None:
    """What an earlier micro-batch left in ``p.grad`` stays, and the new gradients come on top."""
    expected = gradients_with([form], double(), tiny.batch())
    network = double()
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    found = {name: g - 1 for name, g in gradients_with([form], network, tiny.batch()).items()}
    assert tiny.distance(found, expected) < ROUNDING, "accumulated gradients are lost"


def test_vat_keeps_accumulated_gradients() -> None:
    """VAT-pytorch calls ``model.zero_grad()`` in its power iteration, which wipes the task's gradients."""
    shown(gradients_add_up, VirtualAdversarialTraining(), WipesGradients(), "accumulated gradients are lost")


class ClimbsWithFullBackward(PGD):
    """Takes the gradient to the perturbation from a backward pass that reaches the weights too."""

    def run(self, passes: Passes) -> Tensor:
        delta = self.start(passes)
        for _ in range(self.ascent_steps):
            _, gradient = self.train_on(passes, delta)
            delta = self.climb(delta, gradient)
        return passes.forward_backward(delta, part="task")


def the_ascent_spares_the_weights(form: PGD) -> None:
    """Steps of length 0 end at the clean input, whose gradient is the plain one if the ascent has left nothing."""
    found = gradients_with([form], double(), tiny.batch())
    assert tiny.distance(found, gradients_with([], double(), tiny.batch())) < ROUNDING, "the ascent is in p.grad"


def test_the_ascent_leaves_the_gradients_of_the_weights_alone() -> None:
    """A plain ``backward()`` in the ascent adds K gradients of the weights to that at the perturbation found."""
    settings = {"ascent_steps": 3, "step_size": 0.0, "initial_magnitude": 0.0}
    shown(the_ascent_spares_the_weights, PGD(**settings), ClimbsWithFullBackward(**settings), "the ascent is in")


# --- R3F --------------------------------------------------------------------------------------------------


def at_all_positions(step: Step) -> Step:
    """The same step without knowing which positions have a label."""
    return dataclasses.replace(step, supervised=None)


class SumsAllPositions(R3F):
    """The divergence at every position of the padded batch, summed, as fairseq's rxf has it."""

    def term(self, step: Step) -> PerItem:
        values = super().term(at_all_positions(step)).values
        return PerItem(values.sum().expand_as(values), torch.ones_like(values))


class MeansAllPositions(R3F):
    """The mean over every position of the padded batch."""

    def term(self, step: Step) -> PerItem:
        return super().term(at_all_positions(step))


def tagger() -> nn.Module:
    config = BertConfig(**tiny.sizes(num_labels=3))
    return tiny.seeded(lambda: BertForTokenClassification(config), 0, torch.float64)


def tags(*, extra: int = 0) -> Batch:
    """Three classes; padding and the first token of each sentence have no label."""
    given = tiny.batch(4, extra=extra)
    labels = torch.where(given["attention_mask"] == 1, given["input_ids"] % 3, -100)
    labels[:, 0] = -100
    return given | {"labels": labels}


def only_labelled_positions_count(form: Method) -> None:
    """No gradient reaches the logits of a position without a label, in any pass; more padding changes nothing."""
    found = []
    for extra in (0, 6):
        network, given, logits = tagger(), tags(extra=extra), []

        def keep(_module: nn.Module, _inputs: object, output: Tensor, to: list[Tensor] = logits) -> None:
            output.retain_grad()
            to.append(output)

        network.classifier.register_forward_hook(keep)
        found.append(gradients_with([form], network, given))
        assert len(logits) == 2
        for output in logits:
            assert bool(output.grad[given["labels"] != -100].any())
            assert not bool(output.grad[given["labels"] == -100].any()), "positions without a label count"
    assert tiny.distance(found[1], found[0]) < ROUNDING, "padding counts"


@pytest.mark.parametrize("faulty", [SumsAllPositions, MeansAllPositions])
def test_r3f_leaves_out_positions_without_a_label(faulty: type[R3F]) -> None:
    """fairseq's rxf sums the divergence over all positions, padding included."""
    settings = {"radius": 0.1, "weight": 5.0}
    shown(only_labelled_positions_count, R3F(**settings), faulty(**settings), "positions without a label count")


class SkipsRegression(R3F):
    """Applies nothing to a head that gives a number, as fairseq's rxf does."""

    def term(self, step: Step) -> PerItem:
        found = super().term(step)
        return PerItem(0 * found.values, found.weights) if step.prediction == "regression" else found


def the_term_is_there_in_regression(form: R3F) -> None:
    """Its value is above 0 and its gradient is felt."""
    given = tiny.batch(labels=1)
    with Stack([form]) as stack:
        network = double(num_labels=1)
        stack.prepare(network)
        stack.backward(network, given)
        assert stack.take_logs()["r3f"] > 1e-6, "no term in regression"
    plain = gradients_with([], double(num_labels=1), given)
    assert tiny.distance(tiny.gradients(network), plain) > 1e-4, "no gradient in regression"


def test_r3f_acts_in_regression() -> None:
    """The regression branch of fairseq's rxf computes the task loss alone."""
    shown(the_term_is_there_in_regression, R3F(radius=0.1), SkipsRegression(radius=0.1), "no term in regression")


# --- R-Drop -----------------------------------------------------------------------------------------------


class RunsTwiceAlways(Trainer):
    """Both passes in evaluation as well, and their losses added."""

    def __init__(self, *args: Any, methods: Sequence[Method], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        first, second = model(**inputs), model(**inputs)
        loss = first.loss + second.loss + symmetric_kl(first.logits, second.logits).mean()
        return (loss, first) if return_outputs else loss


def evaluation_is_plain(build: Callable[..., Trainer]) -> None:
    """One pass per batch, and the loss is the cross-entropy."""
    network, calls = tiny.bert(dropout=0.1), []
    data = tiny.dataset(16, seed=3)
    with tempfile.TemporaryDirectory() as folder:
        arguments = tiny.arguments(folder, per_device_eval_batch_size=4)
        trainer = build(
            model=network, args=arguments, eval_dataset=data, data_collator=tiny.collate, methods=[RDrop(weight=5.0)]
        )
        handle = network.register_forward_pre_hook(lambda *_: calls.append(1))
        metrics = trainer.evaluate()
        handle.remove()
    whole = tiny.collate(data)
    with torch.no_grad():
        logits = network.eval()(whole["input_ids"], whole["attention_mask"]).logits
    expected = float(functional.cross_entropy(logits, whole["labels"]))
    assert len(calls) == 4, "evaluation runs the model more than once per batch"
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-5), "the evaluation loss is another"


def test_r_drop_is_plain_in_evaluation() -> None:
    """The released code runs every batch twice in evaluation and reports the loss of training."""
    shown(evaluation_is_plain, SteadyTrainer, RunsTwiceAlways, "more than once per batch")


class FixedDropout(nn.Module):
    """Stands for dropout: what it drops depends on the pass, the place in the sentence and the feature alone."""

    def __init__(self, passes: list[int], number: int) -> None:
        super().__init__()
        self.p, self.passes, self.number = 0.25, passes, number

    def forward(self, x: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(2 * self.number + len(self.passes) % 2)
        kept = torch.rand(40, x.shape[-1], generator=generator) >= self.p
        return x * (kept[: x.shape[1]] if x.dim() == 3 else kept[0]) / (1 - self.p)


def with_fixed_dropout(network: nn.Module) -> nn.Module:
    """The two passes of each micro-batch drop different things, always the same ones."""
    passes: list[int] = []
    network.register_forward_pre_hook(lambda *_: passes.append(1))
    for number, (name, module) in enumerate(list(network.named_modules())):
        if isinstance(module, nn.Dropout) and not name.endswith("self.dropout"):
            network.set_submodule(name, FixedDropout(passes, number))
    return network


def r_drop_s_update(form: RDrop, network: nn.Module, *parts: Batch) -> Weights:
    with one_update(with_fixed_dropout(network), [form], parts) as (stack, _, gradients):
        assert stack.take_logs()["r_drop"] > 1e-3
    return gradients


class SumsOverTheBatch(RDrop):
    """Adds the divergences up, beside a task loss that is a mean."""

    def term(self, step: Step) -> PerItem:
        found = super().term(at_all_positions(step))
        return PerItem(found.values.sum().expand_as(found.values), torch.ones_like(found.values))


class CountsPadding(RDrop):
    """The mean over all positions, whether they have a label or not."""

    def term(self, step: Step) -> PerItem:
        return super().term(at_all_positions(step))


class ComparesNeighbours(RDrop):
    """Takes the two passes of a doubled batch apart at the wrong place."""

    def term(self, step: Step) -> PerItem:
        _, second = step.task(masks="fresh")
        return step.per_item(0.5 * step.divergence(step.logits(), second.roll(1, 0)))


def r_drop_does_not_depend_on_accumulation(form: RDrop) -> None:
    whole = tiny.batch(8)
    expected = r_drop_s_update(form, double(), whole)
    assert tiny.distance(expected, gradients_with([], double(), whole)) > 1e-2
    for size in (4, 2):
        found = r_drop_s_update(form, double(), *(tiny.rows(whole, i, i + size) for i in range(0, 8, size)))
        assert tiny.distance(found, expected) < ROUNDING, "micro-batches give another gradient"


def r_drop_does_not_depend_on_padding(form: RDrop) -> None:
    for build, batch in (
        (double, lambda extra: tiny.batch(4, extra=extra)),
        (tagger, lambda extra: tags(extra=extra)),
    ):
        expected, found = (r_drop_s_update(form, build(), batch(extra)) for extra in (0, 6))
        assert tiny.distance(found, expected) < ROUNDING, "padding counts"


def r_drop_does_not_depend_on_the_order(form: RDrop) -> None:
    whole, order = tiny.batch(6), torch.tensor([3, 0, 5, 1, 4, 2])
    expected = r_drop_s_update(form, double(), whole)
    found = r_drop_s_update(form, double(), {name: tensor[order] for name, tensor in whole.items()})
    assert tiny.distance(found, expected) < ROUNDING, "the order of the examples counts"


@pytest.mark.parametrize(
    ("check", "faulty", "said"),
    [
        (r_drop_does_not_depend_on_accumulation, SumsOverTheBatch, "micro-batches give another gradient"),
        (r_drop_does_not_depend_on_padding, SumsOverTheBatch, "padding counts"),
        (r_drop_does_not_depend_on_padding, CountsPadding, "padding counts"),
        (r_drop_does_not_depend_on_the_order, ComparesNeighbours, "the order of the examples counts"),
    ],
)
def test_r_drop_does_not_depend_on_how_a_batch_is_cut(
    check: Callable[[RDrop], None], faulty: type[RDrop], said: str
) -> None:
    """The released files disagree on sum and mean; what the contract cannot check is checked with fixed dropout."""
    shown(check, RDrop(weight=2.0), faulty(weight=2.0), said)


# --- L2-SP ------------------------------------------------------------------------------------------------


class PullsTheHeadBack(L2SP):
    """Takes the head's random start for pretrained, as a group that is never excluded does."""

    def term(self, step: Step) -> PerItem:
        start = copied(double().state_dict())
        return super().term(replace(step, anchor={name: start[name] for name in step.parameters()}))


def the_new_head_is_pulled_to_zero(form: L2SP) -> None:
    """At its random start the pull on the head is ``head_weight`` times the head, and on the rest nothing."""
    plain, network = gradients_with([], double(), tiny.batch()), double()
    found = gradients_with([form], network, tiny.batch())
    for name, p in network.named_parameters():
        expected = form.head_weight * p.detach() if name in HEAD else torch.zeros_like(p)
        close = torch.allclose(found[name] - plain[name], expected, rtol=0, atol=1e-12)
        assert close, f"another pull on {name}"
    assert bool(network.get_parameter(HEAD[0]).any())


def test_l2_sp_does_not_pull_a_new_head_to_its_random_start() -> None:
    """In revisit-bert-finetuning the option that excludes the head never takes effect."""
    settings = {"weight": 0.5, "head_weight": 0.3}
    shown(the_new_head_is_pulled_to_zero, L2SP(**settings), PullsTheHeadBack(**settings), "another pull on classifier")


# --- FreeLB -----------------------------------------------------------------------------------------------


class PerturbsPadding(FreeLB):
    """Does not know which tokens are padding."""

    def run(self, passes: Passes) -> Tensor:
        unmasked = {name: tensor for name, tensor in passes.inputs.items() if name != "attention_mask"}
        return super().run(replace(passes, inputs=unmasked))


class DrawsFreshMasks(FreeLB):
    """Lets every pass of the ascent drop something else."""

    def train_on(self, passes: Passes, delta: Tensor, *, share: float = 1.0) -> tuple[Tensor, Tensor]:
        delta = delta.detach().requires_grad_(True)
        loss = passes.forward_backward(delta, part="task", share=share, masks="fresh")
        assert delta.grad is not None
        return loss, delta.grad


def padding_stays_where_it_is(form: FreeLB) -> None:
    """In all K passes the embeddings of padding are the clean ones bit for bit, and those of real tokens are not."""
    network, given, seen = tiny.bert(), tiny.batch(4, extra=3), []
    norm = network.bert.embeddings.LayerNorm
    handle = norm.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].detach()))
    network(**given)
    clean = seen.pop()
    with Stack([form]) as stack:
        stack.prepare(network)
        stack.backward(network, given)
    handle.remove()
    real = given["attention_mask"].bool()
    assert len(seen) == form.ascent_steps
    for embedded in seen:
        assert bool((embedded[real] != clean[real]).any(-1).all())
        assert torch.equal(embedded[~real], clean[~real]), "padding is perturbed"


def test_freelb_leaves_padding_alone() -> None:
    """On some models the gradient at padding is hundreds of times that at a word, and takes the whole norm."""
    shown(padding_stays_where_it_is, FreeLB(ascent_steps=3), PerturbsPadding(ascent_steps=3), "padding is perturbed")


def all_passes_drop_the_same(form: FreeLB) -> None:
    """With a perturbation of 0 the mean over the K passes is the plain gradient; and each layer's mask is one."""
    network, masks = double(dropout=0.3), {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Dropout) and not name.endswith("self.dropout"):
            module.register_forward_hook(lambda _m, _i, out, key=name: masks.setdefault(key, []).append(out != 0))
    found = gradients_with([form], network, tiny.batch())
    assert len(masks) == 6
    for drawn in masks.values():
        assert len(drawn) == form.ascent_steps
        assert not bool(drawn[0].all())
        assert all(torch.equal(mask, drawn[0]) for mask in drawn), "the passes drop different things"
    plain = gradients_with([], double(dropout=0.3), tiny.batch())
    assert tiny.distance(found, plain) < ROUNDING, "attention drops different things"


def test_freelb_drops_the_same_in_all_passes() -> None:
    """The released code needs edited models to use one dropout mask in all K passes; a hook needs none."""
    settings = {"ascent_steps": 3, "step_size": 0.0, "initial_magnitude": 0.0}
    shown(all_passes_drop_the_same, FreeLB(**settings), DrawsFreshMasks(**settings), "the passes drop different")


def without_a_guard(delta: Tensor, gradient: Tensor, *, step_size: float, radius: float) -> Tensor:
    norm = gradient.flatten(1).norm(dim=1).view(-1, 1, 1)
    moved = delta + step_size * gradient / norm
    return moved * (radius / moved.flatten(1).norm(dim=1).view(-1, 1, 1)).clamp_max(1.0)


def a_step_up_stays_finite(climb: Callable[..., Tensor]) -> None:
    """An example without a gradient, or with one whose squares vanish or overflow, does no harm to the others."""
    gradient = torch.randn(4, 3, 8)
    gradient[0] = 0.0
    gradient[1] *= 1e-30
    gradient[2] *= 1e25
    moved = climb(torch.zeros(4, 3, 8), gradient, step_size=0.5, radius=1.0)
    lengths = moved.flatten(1).norm(dim=1)
    assert torch.allclose(lengths, torch.tensor([0.0, 0.5, 0.5, 0.5])), "a step is not finite, or has another length"


def test_the_adversary_stays_finite() -> None:
    """FreeLB's replays are reported to give NaN unless the adversary starts late."""
    shown(a_step_up_stays_finite, ascend_in_l2, without_a_guard, "a step is not finite")


# --- NoisyTune (more in test_noisytune.py) ----------------------------------------------------------------


def two_line_recipe(network: nn.Module) -> None:
    with torch.no_grad():
        for p in network.parameters():
            p.add_((torch.rand(p.shape) - 0.5) * 0.15 * torch.std(p))


def noise_stays_where_it_belongs(perturb: Callable[[nn.Module], Any], what: str) -> None:
    network = tiny.bert(num_labels=1)
    with torch.no_grad():
        network.get_input_embeddings().weight[0] = 0.25
    before = tiny.weights(network)
    perturb(network)
    after, words = tiny.weights(network), "bert.embeddings.word_embeddings.weight"
    assert not torch.equal(after[words], before[words])
    if what == "finite":
        assert all(bool(torch.isfinite(p).all()) for p in after.values()), "a weight is not finite"
    elif what == "padding":
        assert torch.equal(after[words][0], before[words][0]), "the row of the padding token moved"
    else:
        assert torch.equal(after[HEAD[0]], before[HEAD[0]]), "the new head moved"


@pytest.mark.filterwarnings("ignore:std")
@pytest.mark.parametrize(
    ("what", "said"), [("finite", "is not finite"), ("padding", "the padding token moved"), ("head", "head moved")]
)
def test_noisytune_spares_what_has_no_spread_padding_and_the_head(what: str, said: str) -> None:
    """The recipe of two lines gives NaN for a bias of one entry, and moves the pad row and the fresh head."""
    shown(lambda form: noise_stays_where_it_belongs(form, what), perturb_weights, two_line_recipe, said)


# --- the smoothness term ----------------------------------------------------------------------------------


def difference_of_log_odds(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """What mt-dnn's "stable" divergence amounts to: ``2 sum_c p_c (logit p_c - logit q_c)``."""
    p, q = (functional.softmax(logits, -1).clamp(1e-6, 1 - 1e-6) for logits in (p_logits, q_logits))
    return 2 * (p * (torch.logit(p) - torch.logit(q)).detach()).sum(-1)


def with_constant_targets(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    """The right value, each direction of the KL divergence with a constant target."""
    log_p, log_q = p_logits.log_softmax(-1), q_logits.log_softmax(-1)
    there = (log_q.exp().detach() * (log_q.detach() - log_p)).sum(-1)
    return there + (log_p.exp().detach() * (log_p.detach() - log_q)).sum(-1)


def never_negative(form: Callable[[Tensor, Tensor], Tensor]) -> None:
    """For pairs that are near each other, as those of a perturbation are."""
    p, direction = torch.randn(2, 2000, 3, generator=torch.Generator().manual_seed(0))
    values = form(p, p + 0.1 * direction)
    share = float((values < 0).double().mean())
    assert share == 0, f"negative for {share:.0%} of the pairs"
    assert bool((form(p, p.clone()).abs() < 1e-12).all()), "not 0 for equal outputs"


def whole_gradient(form: Callable[[Tensor, Tensor], Tensor]) -> None:
    """The gradient is the derivative of the value, in a direction that moves both outputs."""
    generator, size = torch.Generator().manual_seed(0), 1e-5
    p, q, dp, dq = torch.randn(4, 20, 3, generator=generator, dtype=torch.float64)
    slope = (form(p + size * dp, q + size * dq) - form(p - size * dp, q - size * dq)).sum() / (2 * size)
    p.requires_grad_(True)
    q.requires_grad_(True)
    form(p, q).sum().backward()
    found = float((p.grad * dp + q.grad * dq).sum())
    assert found == pytest.approx(float(slope), rel=1e-6), "a part of the gradient is missing"


def test_the_divergence_is_one() -> None:
    """mt-dnn's ``stable_kl`` is negative for nearly half of all pairs of three classes."""
    shown(never_negative, symmetric_kl, difference_of_log_odds, r"negative for 4\d% of the pairs")


def test_the_divergence_has_its_whole_gradient() -> None:
    """mt-dnn's symmetric KL detaches each target: the right value and a part of the gradient."""
    p, q = torch.randn(2, 20, 3, dtype=torch.float64)
    assert torch.allclose(with_constant_targets(p, q), symmetric_kl(p, q))
    shown(whole_gradient, symmetric_kl, with_constant_targets, "a part of the gradient is missing")


Ascent = Callable[..., tuple[Tensor, Tensor]]


def divided_and_not_projected(
    objective: Callable[[Tensor], Tensor], start: Tensor, *, steps: int, step_size: float, radius: float
) -> tuple[Tensor, Tensor]:
    """As released: the radius is only added to what the step is divided by."""
    delta = start
    for _ in range(steps):
        delta = delta.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(objective(delta), delta)
        moved = delta.detach() + step_size * gradient
        delta = moved / (moved.abs().amax(-1, keepdim=True) + radius)
    return delta, torch.zeros((), dtype=torch.long)


def climbed(form: Ascent) -> tuple[Tensor, Tensor]:
    """The perturbation at the paper's settings and the direction of the gradient; one of 1e-3 per entry or less."""
    generator = torch.Generator().manual_seed(0)
    slope = 1e-3 * torch.randn(2, 6, 16, generator=generator)
    start = 1e-5 * torch.randn(2, 6, 16, generator=generator)
    delta, _ = form(lambda d: (slope * d).sum(), start, steps=1, step_size=1e-3, radius=1e-5)
    return delta, slope


def the_radius_is_a_radius(form: Ascent) -> None:
    delta, _ = climbed(form)
    assert float(delta.abs().max()) <= 1e-5 * (1 + 1e-6), "the perturbation is larger than the radius"


def the_ascent_steers(form: Ascent) -> None:
    delta, slope = climbed(form)
    assert float(functional.cosine_similarity(delta.flatten(), slope.flatten(), dim=0)) > 0.5, "nearly at random"


def test_the_perturbation_stays_within_the_radius() -> None:
    """Public code for R_s perturbs by about 1 per token, where the paper projects on a ball of 1e-5."""
    shown(the_radius_is_a_radius, ascend, divided_and_not_projected, "larger than the radius")


def test_the_ascent_is_more_than_its_random_start() -> None:
    """With the released defaults the result is the random start, stretched: the gradient barely turns it."""
    shown(the_ascent_steers, ascend, divided_and_not_projected, "nearly at random")


def by_a_hook(network: nn.Module, given: Batch, delta: Tensor) -> Tensor:
    with Tap(word_embedding(network)).perturbing(delta):
        return network(given["input_ids"], given["attention_mask"]).logits


def by_inputs_embeds(network: nn.Module, given: Batch, delta: Tensor) -> Tensor:
    """The output of the whole embedding layer, fed in as word embeddings."""
    embedded = network.bert.embeddings(given["input_ids"]) + delta
    return network(inputs_embeds=embedded, attention_mask=given["attention_mask"]).logits


def no_perturbation_is_the_clean_pass(run: Callable[[nn.Module, Batch, Tensor], Tensor]) -> None:
    network, given = double(), tiny.batch()
    zero = torch.zeros(*given["input_ids"].shape, tiny.WIDTH, dtype=torch.float64)
    clean = network(given["input_ids"], given["attention_mask"]).logits
    assert torch.equal(run(network, given, zero), clean), "a perturbation of 0 changes the output"


def test_positions_and_norm_apply_once() -> None:
    """mt-dnn feeds the full embedding output back, so positions and LayerNorm apply twice on that branch."""
    shown(no_perturbation_is_the_clean_pass, by_a_hook, by_inputs_embeds, "a perturbation of 0 changes")


def everywhere(inputs: Mapping[str, Any], seen: Any) -> Tensor:
    return torch.ones(seen.shape[:2], dtype=torch.bool)


def terms_leave_padding_alone(mask: Callable[[Mapping[str, Any], Any], Tensor], form: Method) -> None:
    network, given, seen = tiny.bert(), tiny.batch(4, extra=3), []
    norm = network.bert.embeddings.LayerNorm
    with patch.object(noise, "token_mask", mask), Stack([form]) as stack:
        stack.prepare(network)
        handle = norm.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].detach()))
        stack.backward(network, given)
        handle.remove()
    real, (clean, *moved) = given["attention_mask"].bool(), seen
    for embedded in moved:
        assert bool((embedded[real] != clean[real]).any(-1).all())
        assert torch.equal(embedded[~real], clean[~real]), "padding is perturbed"


@pytest.mark.parametrize(
    "form", [Smoothness(radius=0.1), R3F(radius=0.1), VirtualAdversarialTraining(radius=5.0)], ids=lambda m: m.name
)
def test_terms_do_not_perturb_padding(form: Method) -> None:
    """mt-dnn's noise covers the padded batch."""
    shown(lambda mask: terms_leave_padding_alone(mask, form), noise.token_mask, everywhere, "padding is perturbed")


# --- small radii in 16 bits -------------------------------------------------------------------------------


def silent(form: Method) -> Method:
    """The same method, which says nothing about the host or the model."""
    quiet = {"check_host": lambda self, **_: None, "check_model": lambda self, training: None}
    return type("Silent", (type(form),), quiet)(**form.settings())


def the_loss_to_rounding_is_said(form: Method, messages: list[str]) -> None:
    for dtype, count in ((torch.bfloat16, 1), (torch.float32, 0)):
        messages.clear()
        network = tiny.bert(dtype=dtype)
        with Stack([form]) as stack:
            stack.prepare(network)
            for _ in range(2):
                stack.backward(network, tiny.batch())
                stack.after_update()
        found = [m for m in messages if m.startswith(f"{form.name}: ") and "rounding" in m]
        assert len(found) == count, f"{count} warnings are due in {dtype}"


@pytest.mark.parametrize(
    "form",
    [Smoothness(), R3F(), Alum(radius=1e-5), VirtualAdversarialTraining(radius=0.1), SAM(rho=1e-3)],
    ids=lambda m: m.name,
)
def test_a_radius_that_16_bits_lose_is_said(form: Method, messages: list[str]) -> None:
    """In bf16 the rounding is 400 times what a radius of 1e-5 changes; elsewhere nothing tells."""
    shown(lambda given: the_loss_to_rounding_is_said(given, messages), form, silent(form), "1 warnings are due")


# --- layer-wise decay and averages ------------------------------------------------------------------------


class UpsideDown(LayerwiseDecay):
    """Gives the lowest layer the highest rate."""

    def rate(self, lr: Any, *, depth: int, layers: int) -> Any:
        return lr * self.factor**depth


class ForgetsEmbeddings(LayerwiseDecay):
    """Grades the layers, and leaves the rate of the host to whatever is in none."""

    def rate(self, lr: Any, *, depth: int, layers: int) -> Any:
        return lr if depth == 0 else super().rate(lr, depth=depth, layers=layers)


def rates_fall_to_the_embeddings(form: LayerwiseDecay) -> None:
    network = tiny.bert(num_hidden_layers=3)
    with Stack([form]) as stack:
        stack.prepare(network)
        optimizer = stack.optimizer(AdamW(network.parameters(), lr=1.0))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: rates[id(p)] for name, p in network.named_parameters()}
    assert len(rates) == len(found)
    for name, rate in found.items():
        places = {"embeddings": 4, "layer.0": 3, "layer.1": 2, "layer.2": 1, "pooler": 0, "classifier": 0}
        power = next(n for place, n in places.items() if place in name)
        assert rate == pytest.approx(0.5**power), f"{name} has the rate {rate}"


@pytest.mark.parametrize(("faulty", "said"), [(UpsideDown, "embeddings"), (ForgetsEmbeddings, "embeddings")])
def test_layerwise_decay_ends_at_the_embeddings(faulty: type[LayerwiseDecay], said: str) -> None:
    """The factor counts from the head down, and the embeddings come last, with the smallest rate."""
    shown(rates_fall_to_the_embeddings, LayerwiseDecay(factor=0.5), faulty(factor=0.5), f"{said}.* has the rate")


class StartsAgain(WeightAveraging):
    """Copies the weights whenever it is attached."""

    def attach(self, training: Training) -> Attachment:
        return super().attach(replace(training, resumed=False))


@pytest.mark.parametrize("resumes", [resumes_in_a_plain_loop, resumes_in_the_trainer])
def test_an_average_is_kept_over_a_resume(resumes: Callable[[Any], None]) -> None:
    """An average that starts again from the checkpoint's weights ends elsewhere."""
    shown(
        resumes,
        lambda: [WeightAveraging(decay=0.9, warmup=False)],
        lambda: [StartsAgain(decay=0.9, warmup=False)],
        "resumed run is another",
    )


def test_a_teacher_is_kept_over_a_resume() -> None:
    """Losing the teacher at a resume moves the weights by 1e-2 within three steps."""
    loses: AbstractContextManager[Any] = patch.object(Session, "_load_teachers", lambda self, saved: None)

    def check(is_kept: bool) -> None:
        def methods() -> list[Method]:
            return [Bregman(weight=5.0, beta=0.9, early_fraction=0.0)]

        if is_kept:
            resumes_in_a_plain_loop(methods)
            return
        with loses:
            resumes_in_a_plain_loop(methods)

    shown(check, True, False, "resumed run is another")
