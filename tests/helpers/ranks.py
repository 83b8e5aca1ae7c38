"""What the tests on several processes run: one training of a few updates, whatever the number of processes.

Started by `test_devices.py` as ``python ranks.py FOLDER PLAN`` with RANK and WORLD_SIZE set: every process runs every
training of the plan and writes what came out, or how it failed, to ``FOLDER/<rank>.pt``. One process alone can run
the same functions.
"""

from __future__ import annotations

import datetime
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from steadytune.core.arithmetic.randomness import derive_seed
from steadytune.core.authoring.method import Method
from steadytune.core.authoring.step import Step
from steadytune.core.model.sharding import reshard, whole
from steadytune.core.stack.low_memory import Memory
from steadytune.core.stack.stack import Stack
from steadytune.core.stack.update_clock import UpdateClock
from steadytune.core.state.file import FILE_NAME
from steadytune.methods.registry import method_classes
from steadytune.testing import surroundings, tiny

WORLD = 2
UPDATES = 3
HALF = 2
GLOBAL_BATCH = 8
METHODS: dict[str, type[Method]] = {method.name: method for method in method_classes()}
#: What needs dropout to act gets masks that do not depend on the place in the batch.
NEEDS_DROPOUT = ("r_drop",)


def subjects() -> dict[str, tuple[str, Mapping[str, Any]]]:
    """A short name for every method with its strong settings, and with each of its variants."""
    found: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for name, method in METHODS.items():
        found[name] = (name, dict(method.strong_settings))
        for number, changes in enumerate(method.variants):
            found[f"{name}-{number}"] = (name, {**method.strong_settings, **changes})
    return found


SUBJECTS = subjects()


def model(name: str) -> nn.Module:
    settings: dict[str, Any] = {"attn_implementation": "eager"}
    return tiny.model(num_labels=3, dropout=0.1 if name in NEEDS_DROPOUT else 0.0, dtype=torch.float64, **settings)


def global_batch(update: int) -> tiny.Batch:
    """The examples of one update, all of one length, so that splitting them changes no shape."""
    return tiny.batch(GLOBAL_BATCH, seed=update)


def own_rows(whole: Mapping[str, Tensor], rank: int, world: int) -> tiny.Batch:
    """The part of a batch that one process works on."""
    size = GLOBAL_BATCH // world
    return {name: tensor[rank * size : (rank + 1) * size] for name, tensor in whole.items()}


@contextmanager
def rowwise_randomness() -> Iterator[None]:
    """Make noise and dropout depend on nothing that differs between one process and two: rows, ranks, batch sizes."""

    def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return x
        kept = torch.rand(x.shape[1:], dtype=x.dtype) >= p
        return x * kept.to(x.device) / (1 - p)

    def seed(self: UpdateClock, *parts: int | str) -> int:
        return derive_seed(self.seed, self.updates, *parts)

    with (
        tiny.noise_by_position(),
        patch.object(nn.functional, "dropout", dropout),
        patch.object(UpdateClock, "_derive_seed", seed),
    ):
        yield


@dataclass(frozen=True)
class Place:
    """Which process this is, of how many, and how it wraps its model."""

    rank: int = 0
    world: int = 1
    wrapping: str = "plain"
    wraps_first: bool = False

    def wrap(self, network: nn.Module, method: Method) -> nn.Module:
        if self.wrapping == "ddp":
            return DistributedDataParallel(
                network, find_unused_parameters=getattr(method, "leaves_weights_out", False)
            )
        return sharded(network) if self.wrapping == "fsdp" else network

    def batches(self) -> list[tiny.Batch]:
        """The part of each update's batch that this process works on."""
        return [own_rows(global_batch(update), self.rank, self.world) for update in range(UPDATES)]

    def batches_before(self) -> list[tiny.Batch]:
        """The batches to look at before training: of one size, whatever the number of processes."""
        ranks = range(WORLD) if self.world == 1 else [self.rank]
        return [own_rows(global_batch(update), rank, WORLD) for update in range(UPDATES) for rank in ranks]


def sharded(network: nn.Module) -> nn.Module:
    """FSDP2, cut as Accelerate cuts it: layers and word embeddings on their own, the rest in the root."""
    bert: Any = network.bert
    for module in (*bert.encoder.layer, bert.embeddings.word_embeddings, network):
        fully_shard(module)
    return network


def trajectory(
    subject: str,
    place: Place,
    *,
    save: Path | None = None,
    resume: Path | None = None,
    updates: range = range(UPDATES),
    memory: Memory = "full",
) -> dict[str, Tensor]:
    """Train a tiny model on this process's rows and return its full weights, before and after the end of training."""
    name, settings = SUBJECTS[subject]
    network, method, batches = model(name), METHODS[name](**settings), place.batches()
    with rowwise_randomness(), Stack([method], memory=memory) as stack:
        if resume is not None:
            network.load_state_dict(torch.load(resume / "weights.pt"))
        wrapped = place.wrap(network, method) if place.wraps_first else network
        stack.prepare(network, total_updates=UPDATES, batches=place.batches_before(), resume_from=resume)
        wrapped = wrapped if place.wraps_first else place.wrap(network, method)
        optimizer: torch.optim.Optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.05, weight_decay=0.01)
        optimizer = stack.optimizer(optimizer)
        scheduler = stack.scheduler(optimizer)
        for update in updates:
            torch.manual_seed(1000 + update)
            stack.backward(wrapped, batches[update])
            optimizer.step()
            optimizer.zero_grad()
            if scheduler is not None:
                scheduler.step()
        trained = full_weights(network)
        if save is not None:
            stack.save(save)
            save.mkdir(parents=True, exist_ok=True)
            torch.save(trained, save / "weights.pt")
        stack.finish()
        final = full_weights(network)
    return {f"trained/{n}": w for n, w in trained.items()} | {f"final/{n}": w for n, w in final.items()}


def full_weights(network: nn.Module) -> dict[str, Tensor]:
    reshard(network)
    return {name: whole(p).detach().clone() for name, p in network.named_parameters()}


def train(place: Place, folder: Path, subject: str) -> dict[str, Tensor]:
    return trajectory(subject, place)


def train_low(place: Place, folder: Path, subject: str) -> dict[str, Tensor]:
    """The same with one graph at a time, so with several backward passes in a step."""
    return trajectory(subject, place, memory="low")


def save_half(place: Place, folder: Path, subject: str) -> dict[str, Tensor]:
    """The first updates, saved for one process to continue."""
    target = folder / f"{place.wrapping}-{subject}" / ("written" if place.rank == 0 else "other")
    return trajectory(subject, place, save=target, updates=range(HALF))


def resume_half(place: Place, folder: Path, subject: str) -> dict[str, Tensor]:
    """The last updates, from what one process has saved."""
    return trajectory(subject, place, resume=folder / f"plain-{subject}", updates=range(HALF, UPDATES))


def accumulate(place: Place, folder: Path, subject: str) -> dict[str, Tensor]:
    """The gradient of two micro-batches."""
    name, settings = SUBJECTS[subject]
    network, method = model(name), METHODS[name](**settings)
    with rowwise_randomness(), Stack([method]) as stack:
        stack.prepare(network, total_updates=UPDATES)
        tiny.move_teachers(stack)
        wrapped = place.wrap(network, method)
        for part in place.batches()[:2]:
            stack.backward(wrapped, part, scale=0.5)
        return {n: whole(p.grad).clone() for n, p in network.named_parameters() if p.grad is not None}


def own_heads(place: Place, folder: Path, subject: str) -> dict[str, Tensor]:
    """Teachers of models whose head every process has drawn for itself."""
    network = model("bregman")
    torch.manual_seed(place.rank)
    nn.init.normal_(network.classifier.weight)
    with Stack([METHODS["bregman"]()]) as stack:
        stack.prepare(network, total_updates=UPDATES)
        (teacher,) = stack.teacher_weights().values()
        return {"teacher": teacher["classifier.weight"].clone(), "student": network.classifier.weight.detach().clone()}


def noise(place: Place, folder: Path, subject: str) -> dict[str, Tensor]:
    """What NoisyTune adds, and a start of the ascent for a batch that all processes share."""
    network = model("smoothness")
    stack = Stack([METHODS["noisytune"](), METHODS["smoothness"]()], seed=3)
    seen = []
    draw = Step.normal_noise
    with patch.object(Step, "normal_noise", lambda *args, **kwargs: seen.append(draw(*args, **kwargs)) or seen[-1]):
        stack.prepare(network, total_updates=UPDATES)
        weight = network.bert.pooler.dense.weight.detach().clone()
        stack.backward(network, global_batch(0))
    stack.close()
    return {"weight": weight, "start": seen[0]}


def trainer(place: Place, folder: Path, subject: str) -> dict[str, Tensor]:
    """The same training in the Trainer, with a checkpoint after the first updates."""
    return in_the_trainer(subject, folder / f"trainer-{place.wrapping}-{subject}", place)


def resume_trainer(place: Place, folder: Path, subject: str) -> dict[str, Tensor]:
    """The last updates in the Trainer, from what one process has saved."""
    before = folder / f"trainer-plain-{subject}" / f"checkpoint-{HALF}"
    return in_the_trainer(subject, folder / f"again-{place.wrapping}-{subject}", place, resume=before)


def in_the_trainer(
    subject: str, folder: Path, place: Place, *, resume: Path | None = None, dies_at: int | None = None
) -> dict[str, Tensor]:
    name, settings = SUBJECTS[subject]
    network = model(name)
    changes: dict[str, Any] = {"per_device_train_batch_size": GLOBAL_BATCH // place.world, "max_steps": UPDATES}
    changes |= {"save_strategy": "steps", "save_steps": HALF, "optim": "sgd", "learning_rate": 0.05}
    if place.wrapping == "fsdp":
        changes |= {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": ["BertLayer"]}}
        changes |= {"save_strategy": "no"}  # Accelerate gathers the weights for it right on GPUs only
    with rowwise_randomness(), accelerate_shards_on_the_cpu() if place.wrapping == "fsdp" else nullcontext():
        host = surroundings._trainer(network, [METHODS[name](**settings)], folder, **changes)
        if dies_at is not None:
            host.add_callback(Death(dies_at, place.rank))
        host.train(resume_from_checkpoint=str(for_place(resume, folder, place)) if resume else None)
        assert host.is_fsdp_enabled == (place.wrapping == "fsdp")
        return full_weights(host.accelerator.unwrap_model(host.model))


def for_place(checkpoint: Path, folder: Path, place: Place) -> Path:
    """A copy of a checkpoint with this place's batch size; old versions of Transformers go on with the one in it."""
    own = folder / f"from-{place.rank}" / checkpoint.name
    shutil.copytree(checkpoint, own)
    path = own / "trainer_state.json"
    state = json.loads(path.read_text()) | {"train_batch_size": GLOBAL_BATCH // place.world}
    path.write_text(json.dumps(state))
    mark = own / FILE_NAME  # whose checksums are of the file as it was
    with safe_open(mark, framework="pt") as file:
        metadata = {k: v for k, v in file.metadata().items() if k not in ("files", "checksum")}
    save_file(load_file(mark), mark, metadata)
    return own


@contextmanager
def accelerate_shards_on_the_cpu() -> Iterator[None]:
    """Let Accelerate use FSDP2 here: without a GPU it ignores the setting, silently."""
    init = AcceleratorState.__init__

    def with_plugin(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState._reset_state()
    with patch.object(AcceleratorState, "__init__", with_plugin):
        yield
    AcceleratorState._reset_state()


class Death(TrainerCallback):
    """The last process is killed at the start of an update."""

    def __init__(self, update: int, rank: int) -> None:
        self.update, self.rank = update, rank

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.update and self.rank == WORLD - 1:
            os.kill(os.getpid(), signal.SIGKILL)


def die(place: Place, folder: Path, subject: str) -> dict[str, Tensor]:
    """A training that loses a process after its checkpoint."""
    return in_the_trainer(subject, folder / f"died-{subject}", place, dies_at=HALF)


def main(folder: Path, plan: list[str]) -> None:
    """Run the entries ``what:wrapping:subject`` of the plan."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=60),
    )
    found: dict[str, Any] = {}
    for entry in plan:
        what, wrapping, subject = entry.split(":")
        place = Place(rank, world, wrapping.removesuffix("_first"), wraps_first=wrapping.endswith("_first"))
        try:
            found[entry] = globals()[what](place, folder, subject)
        except Exception as error:
            found[entry] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        torch.save(found, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
