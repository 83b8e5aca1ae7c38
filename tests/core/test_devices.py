"""Several processes: the gradients, noise, teachers and checkpoints of one process, by DDP and by FSDP2 (on CPUs)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import ranks
from torch import nn

from steadytune.core.model.sharding import is_sharded, laid_like, whole
from steadytune.core.model.wrappers import unwrapped
from steadytune.core.stack.stack import Stack
from steadytune.errors import HostError
from steadytune.testing import tiny

pytestmark = pytest.mark.long

#: Relative difference of weights in float64 that the order of a sum explains, in RecAdam through square roots.
ROUNDING = 1e-6
#: Looks at whole gradients before training, which a model that is sharded by hand no longer has.
NOT_BY_HAND = {"child_tuning-0": "looks at the gradients of each process before training"}
REFUSED = {name: m.not_sharded for name, m in ranks.METHODS.items() if m.not_sharded}
SUBJECTS = [*ranks.METHODS, "bregman-0", "child_tuning-0"]
SHARDED = [name for name in SUBJECTS if name not in REFUSED and name not in NOT_BY_HAND]
STATEFUL = ["bregman", "weight_averaging", "wise_ft", "spectral_norm"]
IN_TRAINER = ["bregman", "freelb", "recadam"]

PLAN = [
    *(f"train:ddp:{name}" for name in SUBJECTS),
    *(f"train:fsdp:{name}" for name in [*SHARDED, *REFUSED, *NOT_BY_HAND]),
    *(f"train:fsdp_first:{name}" for name in ("bregman", "recadam", "spectral_norm", "noisytune")),
    *(f"save_half:{wrapping}:{name}" for wrapping in ("ddp", "fsdp") for name in STATEFUL),
    *(f"resume_half:{wrapping}:{name}" for wrapping in ("ddp", "fsdp") for name in STATEFUL),
    *(f"accumulate:{wrapping}:{name}" for wrapping in ("ddp", "fsdp") for name in ("bregman", "freelb")),
    *(f"trainer:{wrapping}:{name}" for wrapping in ("ddp", "fsdp") for name in IN_TRAINER),
    "trainer:fsdp:child_tuning",
    "trainer:fsdp:l2_sp",
    "resume_trainer:ddp:bregman",
    "own_heads:plain:bregman",
    "noise:plain:smoothness",
    *(f"train_low:{wrapping}:smoothness" for wrapping in ("ddp", "fsdp")),
]


def start(folder: Path, plan: Sequence[str]) -> list[subprocess.Popen[bytes]]:
    """The processes of a plan, as `torchrun` would start them."""
    surroundings = {"WORLD_SIZE": str(ranks.WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    surroundings |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return [
        subprocess.Popen(
            [sys.executable, ranks.__file__, str(folder), json.dumps(list(plan))],
            env={**os.environ, **surroundings, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=(folder / f"{rank}.log").open("wb"),
        )
        for rank in range(ranks.WORLD)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> list[dict[str, Any]]:
    """What each process found, run once for all tests; the checkpoints that they resume from are written before."""
    for name in STATEFUL:
        ranks.trajectory(name, ranks.Place(), save=folder / f"plain-{name}", updates=range(ranks.HALF))
    ranks.in_the_trainer("bregman", folder / "trainer-plain-bregman", ranks.Place())
    for process in start(folder, PLAN):
        process.wait(timeout=300)
    logs = [(folder / f"{rank}.log").read_text(errors="replace")[-3000:] for rank in range(ranks.WORLD)]
    found = [folder / f"{rank}.pt" for rank in range(ranks.WORLD)]
    assert all(path.exists() for path in found), logs
    return [torch.load(path) for path in found]


def require_wrapping(entry: str) -> None:
    if ":fsdp" in entry and not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip(f"torch {torch.__version__} has no FSDP2 on CPUs")


def of_all(outcomes: list[dict[str, Any]], entry: str) -> list[dict[str, torch.Tensor]]:
    require_wrapping(entry)
    for rank, outcome in enumerate(outcomes):
        assert isinstance(outcome.get(entry), dict), f"process {rank}: {outcome.get(entry, 'never came to it')}"
    return [outcome[entry] for outcome in outcomes]


def refusal(outcomes: list[dict[str, Any]], entry: str) -> str:
    require_wrapping(entry)
    messages = {outcome.get(entry) for outcome in outcomes}
    assert len(messages) == 1, messages
    (message,) = messages
    assert isinstance(message, str), "it was not refused"
    assert message.startswith("HostError: ")
    return message


def assert_equal(found: list[dict[str, torch.Tensor]], expected: dict[str, torch.Tensor]) -> None:
    for own in found:
        assert own.keys() == expected.keys()
        assert tiny.distance(own, expected) < ROUNDING


@pytest.mark.parametrize("wrapping", ["ddp", "fsdp"])
@pytest.mark.parametrize("subject", SUBJECTS)
def test_two_processes_train_as_one(outcomes, subject, wrapping):
    """Half of the examples on each; the weights after three updates, before and after the end of the training."""
    if wrapping == "fsdp" and subject in REFUSED:
        assert REFUSED[subject] in refusal(outcomes, f"train:fsdp:{subject}")
    elif wrapping == "fsdp" and subject in NOT_BY_HAND:
        assert NOT_BY_HAND[subject] in refusal(outcomes, f"train:fsdp:{subject}")
    else:
        found = of_all(outcomes, f"train:{wrapping}:{subject}")
        assert_equal(found, ranks.trajectory(subject, ranks.Place()))


@pytest.mark.parametrize("wrapping", ["ddp", "fsdp"])
def test_one_graph_at_a_time_is_the_same(outcomes, wrapping):
    assert_equal(of_all(outcomes, f"train_low:{wrapping}:smoothness"), ranks.trajectory("smoothness", ranks.Place()))


@pytest.mark.parametrize("subject", ["bregman", "recadam", "spectral_norm"])
def test_a_model_may_be_sharded_before_it_is_prepared(outcomes, subject):
    assert_equal(of_all(outcomes, f"train:fsdp_first:{subject}"), ranks.trajectory(subject, ranks.Place()))


def test_weight_noise_on_sharded_weights_is_refused(outcomes):
    assert "call stack.prepare(model) before fully_shard(model)" in refusal(outcomes, "train:fsdp_first:noisytune")


@pytest.mark.parametrize("wrapping", ["ddp", "fsdp"])
@pytest.mark.parametrize("subject", STATEFUL)
def test_a_checkpoint_of_two_processes_is_continued_by_one(outcomes, folder, subject, wrapping):
    of_all(outcomes, f"save_half:{wrapping}:{subject}")
    checkpoint = folder / f"{wrapping}-{subject}" / "written"
    rest = range(ranks.HALF, ranks.UPDATES)
    assert_equal(
        [ranks.trajectory(subject, ranks.Place(), resume=checkpoint, updates=rest)],
        ranks.trajectory(subject, ranks.Place()),
    )
    other = folder / f"{wrapping}-{subject}" / "other" / "steadytune.safetensors"
    assert other.exists() == (wrapping == "ddp")  # under FSDP2 the first process writes for all


@pytest.mark.parametrize("wrapping", ["ddp", "fsdp"])
@pytest.mark.parametrize("subject", STATEFUL)
def test_a_checkpoint_of_one_process_is_continued_by_two(outcomes, subject, wrapping):
    found = of_all(outcomes, f"resume_half:{wrapping}:{subject}")
    assert_equal(found, ranks.trajectory(subject, ranks.Place()))


@pytest.mark.parametrize("wrapping", ["ddp", "fsdp"])
@pytest.mark.parametrize("subject", ["bregman", "freelb"])
def test_accumulated_gradients_are_those_of_one_process(outcomes, subject, wrapping, tmp_path):
    found = of_all(outcomes, f"accumulate:{wrapping}:{subject}")
    assert_equal(found, ranks.accumulate(ranks.Place(), tmp_path, subject))


@pytest.mark.parametrize("wrapping", ["ddp", "fsdp"])
@pytest.mark.parametrize("subject", IN_TRAINER)
def test_the_trainer_on_two_processes_trains_as_on_one(outcomes, subject, wrapping, tmp_path):
    found = of_all(outcomes, f"trainer:{wrapping}:{subject}")
    assert_equal(found, ranks.in_the_trainer(subject, tmp_path, ranks.Place()))


def test_the_trainer_shards_after_the_optimizer_is_made(outcomes, tmp_path):
    """So the optimizer's methods see parameters that are not those that train in the end."""
    found = of_all(outcomes, "trainer:fsdp:child_tuning")
    assert_equal(found, ranks.in_the_trainer("child_tuning", tmp_path, ranks.Place()))


def test_the_trainer_refuses_at_start_what_cannot_be_sharded(outcomes):
    assert "l2_sp does not work under FSDP2" in refusal(outcomes, "trainer:fsdp:l2_sp")


def test_the_trainer_goes_from_one_process_to_two_and_back(outcomes, folder, tmp_path):
    expected = ranks.in_the_trainer("bregman", tmp_path / "whole", ranks.Place())
    assert_equal(of_all(outcomes, "resume_trainer:ddp:bregman"), expected)
    of_all(outcomes, "trainer:ddp:bregman")
    checkpoint = folder / "trainer-ddp-bregman" / f"checkpoint-{ranks.HALF}"
    found = ranks.in_the_trainer("bregman", tmp_path / "rest", ranks.Place(), resume=checkpoint)
    assert_equal([found], expected)


def test_a_process_that_is_killed_leaves_a_checkpoint_to_continue_from(tmp_path):
    first, last = start(tmp_path, ["die:ddp:bregman"])
    assert last.wait(timeout=120) == -9
    first.wait(timeout=120)
    log = (tmp_path / "0.log").read_text(errors="replace")
    assert isinstance(torch.load(tmp_path / "0.pt")["die:ddp:bregman"], str), log[-2000:]
    checkpoint = tmp_path / "died-bregman" / f"checkpoint-{ranks.HALF}"
    found = ranks.in_the_trainer("bregman", tmp_path / "rest", ranks.Place(), resume=checkpoint)
    assert_equal([found], ranks.in_the_trainer("bregman", tmp_path / "whole", ranks.Place()))


def test_heads_that_differ_become_those_of_the_first_process(outcomes):
    """As DDP does it, but before the teachers are copied."""
    first, second = of_all(outcomes, "own_heads:plain:bregman")
    assert torch.equal(first["student"], second["student"])
    assert torch.equal(first["teacher"], first["student"])
    assert torch.equal(second["teacher"], second["student"])


def test_weight_noise_is_the_same_and_the_noise_on_examples_differs(outcomes, tmp_path):
    first, second = of_all(outcomes, "noise:plain:smoothness")
    alone = ranks.noise(ranks.Place(), tmp_path, "smoothness")
    assert torch.equal(first["weight"], second["weight"])
    assert torch.equal(first["weight"], alone["weight"])
    assert torch.equal(first["start"], alone["start"])
    assert first["start"].shape == second["start"].shape
    assert not torch.isclose(first["start"], second["start"])[first["start"] != 0].any()


class DeepSpeedEngine(nn.Module):
    """Stands for DeepSpeed's, which needs a GPU: it is known by the name of its class."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (DeepSpeedEngine, "DeepSpeed runs the backward pass and the optimizer itself"),
        (nn.DataParallel, "copies the model in every pass"),
    ],
)
def test_an_engine_that_the_methods_cannot_work_in_is_refused(wrap, words):
    stack = Stack([ranks.METHODS["bregman"]()])
    with pytest.raises(HostError, match=words):
        stack.prepare(wrap(tiny.model()))
    stack.prepare(tiny.model())
    with pytest.raises(HostError, match=words):  # wrapped after it was prepared
        stack.backward(wrap(tiny.model()), tiny.batch())
    Stack().prepare(wrap(tiny.model()))  # without methods there is nothing to refuse


def test_zero_stage_three_and_fsdp1_are_known_by_their_parameters():
    network = tiny.model()
    network.classifier.weight.ds_id = 0
    with pytest.raises(HostError, match="DeepSpeedEngine is not supported"):
        Stack([ranks.METHODS["bregman"]()]).prepare(network)
    network = tiny.model()
    network.register_parameter("_flat_param", nn.Parameter(torch.zeros(1)))
    with pytest.raises(HostError, match="FullyShardedDataParallel is not supported"):
        Stack([ranks.METHODS["bregman"]()]).prepare(network)


def test_wrappers_are_looked_through():
    network = tiny.model()
    assert unwrapped(torch.compile(network, backend="eager")) is network
    stack = Stack([ranks.METHODS["noisytune"]()])
    stack.prepare(torch.compile(network, backend="eager"))
    assert stack._session.model is network
    stack.close()


def test_one_process_needs_no_gathering():
    tensor = torch.ones(2)
    assert not is_sharded(tensor)
    assert whole(tensor) is tensor
    assert laid_like(tensor, tensor) is tensor
