"""What only a GPU can show: `make test-gpu`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import ranks
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from steadytune.core.authoring.step import Step
from steadytune.core.stack.stack import Stack
from steadytune.methods import child_tuning, mixout
from steadytune.testing import tiny

pytestmark = pytest.mark.gpu

UPDATES = 3
#: In float64 the order of sums on another device changes no more than this of a weight.
ROUNDING = 1e-7
#: Touch the passes in different ways: an ascent, a teacher, passes of their own, moved weights, a second task loss.
PASSES = ["smoothness", "bregman", "freelb", "sam", "r3f"]


def on(device: torch.device, batch: Mapping[str, Tensor]) -> tiny.Batch:
    return {name: tensor.to(device) for name, tensor in batch.items()}


@contextmanager
def drawn_on_the_cpu() -> Iterator[None]:
    """Random numbers that are the same for every device."""
    child, mix = child_tuning.draw_mask, mixout.draw_mask

    def of_child(*args: Any) -> Tensor:
        return child(*args[:-1], "cpu").to(args[-1])

    def of_mixout(weight: Tensor, probability: float) -> Tensor:
        return mix(torch.empty(weight.shape, dtype=weight.dtype), probability).to(weight.device)

    with (
        ranks.rowwise_randomness(),
        patch.object(child_tuning, "draw_mask", of_child),
        patch.object(mixout, "draw_mask", of_mixout),
    ):
        yield


def train(
    network: nn.Module,
    subject: str,
    *,
    device: torch.device,
    wrap: Callable[[nn.Module], nn.Module] = lambda network: network,
    batch: Callable[[int], tiny.Batch] = ranks.global_batch,
    scaler: torch.amp.GradScaler | None = None,
    autocast: torch.dtype | None = None,
    learning_rate: float = 0.05,
) -> dict[str, Tensor]:
    """A plain loop of a few updates; returns the weights, on the CPU."""
    name, settings = ranks.SUBJECTS[subject]
    batches = [on(device, batch(update)) for update in range(UPDATES)]
    with Stack([ranks.METHODS[name](**settings)]) as stack:
        stack.prepare(network, total_updates=UPDATES, batches=batches)
        wrapped = wrap(network)
        optimizer = stack.optimizer(torch.optim.SGD(network.parameters(), lr=learning_rate))
        scheduler = stack.scheduler(optimizer)
        for update, given in enumerate(batches):
            torch.manual_seed(1000 + update)
            with torch.autocast(device.type, autocast) if autocast else nullcontext():
                if scaler is None:
                    stack.backward(wrapped, given)
                else:
                    stack.backward(wrapped, given, backward=lambda loss: scaler.scale(loss).backward())
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
            optimizer.zero_grad()
            if scheduler is not None:
                scheduler.step()
        return {name: p.cpu() for name, p in ranks.full_weights(network).items()}


@pytest.mark.parametrize("subject", list(ranks.SUBJECTS))
def test_every_method_takes_the_path_that_it_takes_on_the_cpu(device, subject, figure):
    name, _ = ranks.SUBJECTS[subject]
    with drawn_on_the_cpu():
        expected = train(ranks.model(name), subject, device=torch.device("cpu"))
        found = train(ranks.model(name).to(device), subject, device=device)
    distance = tiny.distance(found, expected)
    figure("largest relative difference of a weight", distance)
    assert distance < ROUNDING


@pytest.mark.parametrize("subject", ["smoothness", "freelb"])
def test_dropout_is_replayed_and_the_host_draws_as_in_plain_training(device, subject):
    name, settings = ranks.SUBJECTS[subject]
    network, given = tiny.model(dropout=0.1).to(device), on(device, tiny.batch())
    torch.manual_seed(5)
    network(**given)
    expected = torch.rand(4, device=device)
    seen: list[tuple[Tensor, Tensor]] = []
    logits = Step.logits

    def replaying(self: Step, delta: Tensor | None = None, **kwargs: Any) -> Tensor:
        if delta is not None and not seen:
            again = logits(self, torch.zeros_like(delta), masks="same")
            seen.append((again.detach(), self.clean_logits.detach()))
        return logits(self, delta, **kwargs)

    with patch.object(Step, "logits", replaying), Stack([ranks.METHODS[name](**settings)]) as stack:
        stack.prepare(network, total_updates=1)
        torch.manual_seed(5)
        stack.backward(network, given)
    assert torch.equal(torch.rand(4, device=device), expected)
    for again, clean in seen:
        assert torch.equal(again, clean)


@pytest.mark.parametrize(
    "kernel",
    [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH],
    ids=lambda k: k.name.lower(),
)
@pytest.mark.parametrize("subject", PASSES)
def test_fused_attention_gives_the_gradients_of_plain_attention(device, subject, kernel, figure):
    """Only first derivatives are asked for, which every kernel has. No padding: flash attention takes no mask."""
    if device.type == "cpu" and kernel is SDPBackend.EFFICIENT_ATTENTION:
        pytest.skip("CPUs have no memory-efficient kernel")

    def unpadded(update: int) -> tiny.Batch:
        batch = tiny.batch(8, seed=update)
        return {"input_ids": batch["input_ids"].clamp_min(5), "labels": batch["labels"]}

    def trained(kind: str) -> dict[str, Tensor]:
        network = tiny.model(attn_implementation=kind, dtype=torch.bfloat16).to(device)
        return train(network, subject, device=device, batch=unpadded)

    with ranks.rowwise_randomness():
        expected = trained("eager")
        with sdpa_kernel(kernel):
            found = trained("sdpa")
    distance = tiny.distance(found, expected)
    figure("largest relative difference of a weight", distance)
    assert distance < 0.05  # bfloat16 has eight bits


@pytest.mark.parametrize("subject", PASSES)
def test_fp16_with_a_gradient_scaler_trains(device, subject, figure):
    with drawn_on_the_cpu():
        expected = train(ranks.model("x").float().to(device), subject, device=device)
        scaler = torch.amp.GradScaler(device.type, init_scale=2.0**10)
        network = ranks.model("x").float().to(device)
        found = train(network, subject, device=device, scaler=scaler, autocast=torch.float16)
    distance = tiny.distance(found, expected)
    figure("largest relative difference of a weight to float32", distance)
    assert scaler.get_scale() == 2.0**10, "a step was skipped"
    assert distance < 0.05


@pytest.mark.parametrize("subject", PASSES)
def test_a_power_of_two_as_scale_changes_no_bit(device, subject):
    """What a method computes from gradients does not depend on the scale: exact in float32, for a power of two."""
    with drawn_on_the_cpu():
        found = [
            train(
                ranks.model("x").float().to(device),
                subject,
                device=device,
                scaler=torch.amp.GradScaler(device.type, init_scale=scale),
            )
            for scale in (1.0, 2.0**12)
        ]
    assert tiny.differing(found[0], found[1]) == []


def test_a_step_that_the_scaler_skips_is_no_update(device):
    network = ranks.model("bregman").float().to(device)
    scaler = torch.amp.GradScaler(device.type, init_scale=2.0**127, growth_interval=10_000)
    before = tiny.weights(network)
    with Stack([ranks.METHODS["bregman"]()]) as stack:
        stack.prepare(network, total_updates=4)
        optimizer = stack.optimizer(torch.optim.SGD(network.parameters(), lr=0.05))
        loss = stack.backward(
            network, on(device, tiny.batch()), backward=lambda loss: (scaler.scale(loss) * 4).backward()
        )
        scaler.step(optimizer)
        scaler.update()
        assert math.isfinite(float(loss))
        assert stack.updates == 0
        assert tiny.differing(before, tiny.weights(network)) == []


@pytest.mark.parametrize("subject", ["smoothness", "freelb", "bregman"])
def test_a_compiled_model_takes_the_path_of_the_eager_one(device, subject, figure):
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    graphs = torch._dynamo.utils.counters
    torch._dynamo.reset()
    graphs.clear()

    def network() -> Any:
        made: Any = tiny.model(problem_type="single_label_classification").to(device)
        made.config.problem_type = "single_label_classification"
        return made

    with ranks.rowwise_randomness():
        expected = train(network(), subject, device=device)
        found = train(network(), subject, device=device, wrap=lambda n: torch.compile(n, backend=backend))
    distance = tiny.distance(found, expected)
    figure("largest relative difference of a weight", distance)
    figure("graphs", graphs["stats"]["unique_graphs"])
    assert graphs["stats"]["unique_graphs"] > 0
    assert distance < 1e-4


@pytest.mark.parametrize("subject", ["bregman", "bregman-0", "recadam", "weight_averaging", "sam", "freelb"])
def test_one_process_under_fsdp2_trains_as_a_plain_one(device, subject, tmp_path, figure):
    """The exchange of weights, the layout of copies and the streams of a GPU; several processes need several GPUs."""
    name, _ = ranks.SUBJECTS[subject]
    backend = "nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        with drawn_on_the_cpu():
            expected = train(ranks.model(name).to(device), subject, device=device)
            found = trained_sharded(name, subject, device)
    finally:
        torch.distributed.destroy_process_group()
    distance = tiny.distance(found, expected)
    figure("largest relative difference of a weight", distance)
    assert distance < ROUNDING


def trained_sharded(name: str, subject: str, device: torch.device) -> dict[str, Tensor]:
    """As `train`, with the optimizer made of the parts."""
    _, settings = ranks.SUBJECTS[subject]
    network = ranks.model(name).to(device)
    with Stack([ranks.METHODS[name](**settings)]) as stack:
        stack.prepare(network, total_updates=UPDATES)
        ranks.sharded(network)
        optimizer = stack.optimizer(torch.optim.SGD(network.parameters(), lr=0.05))
        for update in range(UPDATES):
            torch.manual_seed(1000 + update)
            stack.backward(network, on(device, ranks.global_batch(update)))
            optimizer.step()
            optimizer.zero_grad()
        return {name: p.cpu() for name, p in ranks.full_weights(network).items()}


@pytest.mark.parametrize("subject", ["none", *PASSES])
def test_the_memory_that_a_step_takes(device, subject, figure):
    """For the record: no limit is asserted."""
    if device.type != "cuda":
        pytest.skip("the peak of allocated memory is counted on CUDA GPUs only")
    network = tiny.model(hidden_size=256, intermediate_size=1024, num_hidden_layers=4, num_attention_heads=4).to(
        device
    )
    methods = [] if subject == "none" else [ranks.METHODS[subject](**ranks.SUBJECTS[subject][1])]
    with Stack(methods) as stack:
        stack.prepare(network, total_updates=UPDATES)
        given = on(device, tiny.batch(64, longest=32))
        stack.backward(network, given)
        network.zero_grad()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        stack.backward(network, given)
        torch.cuda.synchronize()
    figure("peak bytes above what was allocated before", torch.cuda.max_memory_allocated() - before)
