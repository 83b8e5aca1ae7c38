"""The Trainer as a host: one trajectory with a plain loop, exact accumulation, resume bit for bit."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import optimizer as torch_optimizer
from torch.utils.data import SequentialSampler
from transformers import (
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
)

from steadytune import Stack, SteadyMixin, SteadyTrainer, bregman, ema, noisytune, smart, smoothness, swa
from steadytune.core.authoring.per_item import scales_by_items
from steadytune.core.stack.session import Session
from steadytune.errors import CheckpointError, HostError, MethodError
from steadytune.methods.noisytune import NoisyTune

STATE = "steadytune.safetensors"
LARGE: dict[str, Any] = {"radius": 1e-2, "noise_std": 1e-2}


class InOrder(Trainer):
    """Takes the rows in their order, so that a plain loop can do the same."""

    def _get_train_sampler(self, *args: Any) -> Any:
        return SequentialSampler(self.train_dataset)


class SteadyInOrder(SteadyMixin, InOrder):
    pass


class Gradients(TrainerCallback):
    """Keeps the gradients of the first update."""

    def __init__(self) -> None:
        self.first: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.first:
            self.first = tiny.gradients(kwargs["model"])


def trainer_of(
    kind: type[Trainer], model: nn.Module | None, folder: Path, *, data: Any = None, **settings: Any
) -> Any:
    own = {
        name: settings.pop(name)
        for name in ("methods", "compute_loss_func", "model_init", "eval_dataset", "callbacks")
        if name in settings
    }
    return kind(
        model=model,
        args=tiny.arguments(folder, **settings),
        train_dataset=tiny.dataset() if data is None else data,
        data_collator=tiny.collate,
        **own,
    )


def first_gradients(kind: type[Trainer], model: nn.Module, folder: Path, **settings: Any) -> dict[str, Tensor]:
    """Gradients of one update with all the rows, as accumulated by the Trainer."""
    seen = Gradients()
    trainer = trainer_of(kind, model, folder, max_steps=1, callbacks=[seen], **settings)
    trainer.train()
    return seen.first


def teachers(stack: Stack) -> list[dict[str, Tensor]]:
    return list(stack.teacher_weights().values())


# --- one trajectory -------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(
    "methods",
    [lambda: [smart(**LARGE)], lambda: [noisytune(), smart(2.0, 3.0, **LARGE, ascent_steps=2)], lambda: []],
    ids=["smart", "noisytune+smart", "plain"],
)
def test_hosts_agree(methods: Callable[[], list[Any]], accumulation: int, tmp_path: Path) -> None:
    data, updates = tiny.dataset(32), 8 // accumulation
    hosted, looped = tiny.bert(), tiny.bert()
    trainer = trainer_of(
        SteadyInOrder,
        hosted,
        tmp_path,
        data=data,
        methods=methods(),
        max_steps=updates,
        gradient_accumulation_steps=accumulation,
        optim="adamw_torch",
    )
    trainer.train()
    stack = Stack(methods(), seed=trainer.args.seed)
    optimizer = torch.optim.AdamW(looped.parameters(), lr=1e-2, weight_decay=0.0)
    stack.prepare(looped, total_updates=updates)
    for i in range(0, 32, 4):
        (stack.loss(looped, tiny.collate(data[i : i + 4])) / accumulation).backward()
        if (i // 4 + 1) % accumulation == 0:
            optimizer.step()
            optimizer.zero_grad()
    stack.close()
    assert stack.updates == trainer.stack.updates == updates
    assert tiny.differences(tiny.weights(hosted), tiny.weights(looped)) == []
    for ours, theirs in zip(teachers(trainer.stack), teachers(stack), strict=True):
        assert tiny.differences(ours, theirs) == []


def test_weight_0_is_the_plain_trainer_bit_for_bit(tmp_path: Path) -> None:
    plain, off, on = (tiny.bert(dropout=0.1) for _ in range(3))
    settings = {"max_steps": 5, "logging_strategy": "steps", "logging_steps": 1}
    expected = trainer_of(Trainer, plain, tmp_path, **settings)
    expected.train()
    zero = trainer_of(
        SteadyTrainer, off, tmp_path, methods=[noisytune(intensity=0), smart(0.0, 0.0, **LARGE)], **settings
    )
    zero.train()
    trainer_of(SteadyTrainer, on, tmp_path, methods=[smart(**LARGE)], **settings).train()
    assert tiny.differences(tiny.weights(off), tiny.weights(plain)) == []
    assert tiny.differences(tiny.weights(on), tiny.weights(plain)) != []

    def losses(trainer: Any) -> list[float]:
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    assert len(losses(zero)) == 5
    assert losses(zero) == losses(expected)


# --- accumulation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "methods",
    [lambda: [], lambda: [smart(**LARGE)], lambda: [bregman(momentum=False, inner_steps=2), smoothness(**LARGE)]],
    ids=["plain", "smart", "vanilla"],
)
def test_accumulation_does_not_matter(methods: Callable[[], list[Any]], tmp_path: Path) -> None:
    found = {}
    for accumulation in (1, 2, 4, 8):
        model = tiny.bert(dtype=torch.float64)
        trainer = trainer_of(
            SteadyInOrder,
            model,
            tmp_path,
            methods=methods(),
            optim="sgd",
            learning_rate=0.3,
            per_device_train_batch_size=8 // accumulation,
            gradient_accumulation_steps=accumulation,
        )
        trainer.train()
        assert trainer.stack.updates == 3
        found[accumulation] = tiny.weights(model)
    assert tiny.distance(found[1], tiny.weights(tiny.bert(dtype=torch.float64))) > 1e-3
    for accumulation in (2, 4, 8):
        assert tiny.distance(found[accumulation], found[1]) < 1e-10


def test_the_trainer_multiplies_gradients_and_the_mixin_repairs_it(tmp_path: Path, messages: list[str]) -> None:
    """If the first part fails, transformers#47688 is repaired upstream and the repair here can go."""
    data = tiny.dataset(16)
    whole = tiny.bert(dtype=torch.float64)
    whole(**tiny.collate(data)).loss.backward()
    expected = tiny.gradients(whole)
    four = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "data": data}
    plain = first_gradients(InOrder, tiny.bert(dtype=torch.float64), tmp_path, **four)
    assert tiny.distance(plain, {name: 4 * g for name, g in expected.items()}) < 1e-10
    assert messages == []
    repaired = first_gradients(SteadyInOrder, tiny.bert(dtype=torch.float64), tmp_path, methods=[], **four)
    assert tiny.distance(repaired, expected) < 1e-10
    assert len(messages) == 1
    assert "The loss of BertForSequenceClassification is an average over each micro-batch" in messages[0]
    assert "multiply gradients by 4" in messages[0]
    assert "Repaired here" in messages[0]

    with Stack(smart(**LARGE), seed=11) as stack:
        model = tiny.bert(dtype=torch.float64)
        stack.prepare(model, total_updates=1)
        stack.loss(model, tiny.collate(data)).backward()
    terms = tiny.gradients(model)
    assert tiny.distance(terms, expected) > 1e-6
    found = first_gradients(SteadyInOrder, tiny.bert(dtype=torch.float64), tmp_path, methods=smart(**LARGE), **four)
    assert tiny.distance(found, terms) < 1e-10
    messages.clear()
    one = first_gradients(
        SteadyInOrder, tiny.bert(dtype=torch.float64), tmp_path, data=data, per_device_train_batch_size=16
    )
    assert tiny.distance(one, expected) < 1e-10
    assert messages == []  # without accumulation there is nothing to say


def language_rows(*, first_is_ignored: bool = False) -> list[dict[str, Tensor]]:
    """Sentences of different lengths; of the first two, perhaps no token is supervised."""
    rows = [{"input_ids": ids, "labels": ids.clone()} for ids in tiny.sentences(8)]
    if first_is_ignored:
        for row in rows[:2]:
            row["labels"].fill_(-100)
    return rows


def collate_language(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    batch = tiny.batch_of([r["input_ids"] for r in rows], [0] * len(rows))
    labels = tiny.batch_of([r["labels"] for r in rows], [0] * len(rows), pad=-100)["input_ids"]
    return batch | {"labels": labels}


@pytest.mark.parametrize("first_is_ignored", [False, True])
def test_a_head_that_heeds_the_number_of_items_is_left_alone(
    first_is_ignored: bool, tmp_path: Path, messages: list[str]
) -> None:
    def language_model() -> nn.Module:
        return tiny.seeded(lambda: LlamaForCausalLM(LlamaConfig(**tiny.llama_sizes())), 0, torch.float64)

    def gradients(kind: type[Trainer], accumulation: int) -> dict[str, Tensor]:
        seen = Gradients()
        trainer = kind(
            model=language_model(),
            args=tiny.arguments(
                tmp_path,
                max_steps=1,
                per_device_train_batch_size=8 // accumulation,
                gradient_accumulation_steps=accumulation,
            ),
            train_dataset=language_rows(first_is_ignored=first_is_ignored),
            data_collator=collate_language,
            callbacks=[seen],
        )
        trainer.train()
        assert trainer.model_accepts_loss_kwargs
        return seen.first

    expected = gradients(InOrder, 1)
    assert tiny.distance(gradients(SteadyInOrder, 1), expected) < 1e-10
    assert tiny.distance(gradients(SteadyInOrder, 4), expected) < 1e-10
    assert messages == []


def test_a_probe_answers_only_where_the_batch_does() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 1))
    state = torch.get_rng_state()

    def answer(loss: Callable[[Tensor], float]) -> bool | None:
        return scales_by_items(lambda batch, n: model(torch.rand(1, 1)).sum() * 0 + loss(n), model, {})

    assert answer(lambda n: 1.0) is False
    assert answer(lambda n: 8.0 / float(n)) is True
    assert answer(lambda n: 0.0) is None
    assert answer(lambda n: math.nan) is None
    assert answer(lambda n: math.inf) is None
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model[0].training
    model[0].eval()
    assert answer(lambda n: 1.0) is False
    assert model.training
    assert not model[0].training


@pytest.mark.parametrize("methods", [lambda: [], lambda: smart(**LARGE)], ids=["plain", "smart"])
def test_label_smoothing_with_accumulation_is_the_full_batch(methods: Callable[[], list[Any]], tmp_path: Path) -> None:
    data = tiny.dataset(16)
    found = [
        first_gradients(
            SteadyInOrder,
            tiny.bert(dtype=torch.float64),
            tmp_path,
            data=data,
            methods=methods(),
            label_smoothing_factor=factor,
            per_device_train_batch_size=16 // accumulation,
            gradient_accumulation_steps=accumulation,
        )
        for factor, accumulation in ((0.1, 1), (0.1, 4), (0.0, 1))
    ]
    assert tiny.distance(found[1], found[0]) < 1e-10
    assert tiny.distance(found[2], found[0]) > 1e-3
    # By hand (the Trainer smooths in float32): the smoothed loss, plus the terms that do not know of it.
    model = tiny.bert(dtype=torch.float64)
    with Stack(methods(), seed=11) as stack:
        stack.prepare(model, total_updates=1)
        batch = tiny.collate(data)
        with stack.clean_pass() as clean:
            outputs = model(**batch)
        smoothed = nn.functional.cross_entropy(outputs.logits, batch["labels"], label_smoothing=0.1)
        stack.add_terms(smoothed, outputs, clean, model=model, inputs=batch).backward()
    assert tiny.distance(found[0], tiny.gradients(model)) < 1e-8


def sum_over_items(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    return nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch


def mean_over_micro_batch(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    return nn.functional.cross_entropy(outputs.logits, labels)


@pytest.mark.parametrize("loss", [sum_over_items, mean_over_micro_batch])
@pytest.mark.parametrize("methods", [lambda: [], lambda: smart(**LARGE)], ids=["plain", "smart"])
def test_a_loss_function_of_the_user_keeps_its_scale_and_the_terms_follow(
    loss: Callable[..., Tensor], methods: Callable[[], list[Any]], tmp_path: Path, messages: list[str]
) -> None:
    data = tiny.dataset(16)
    model = tiny.bert(dtype=torch.float64)
    with Stack(methods(), seed=11) as stack:
        stack.prepare(model, total_updates=1)
        stack.loss(model, tiny.collate(data)).backward()
    found = first_gradients(
        SteadyInOrder,
        tiny.bert(dtype=torch.float64),
        tmp_path,
        data=data,
        methods=methods(),
        compute_loss_func=loss,
        gradient_accumulation_steps=4,
    )
    assert tiny.distance(found, tiny.gradients(model)) < 1e-10
    assert len(messages) == (loss is mean_over_micro_batch)


def mean_of_one_class(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    losses = nn.functional.cross_entropy(outputs.logits, labels, reduction="none")
    return torch.where(labels == 1, losses, 0).mean()


@pytest.mark.parametrize("methods", [lambda: [], lambda: smart(**LARGE)], ids=["plain", "smart"])
def test_a_batch_that_tells_nothing_is_followed_by_another_question(
    methods: Callable[[], list[Any]], tmp_path: Path, messages: list[str]
) -> None:
    data = tiny.dataset(16)
    for row in data[:8]:
        row["labels"] = torch.tensor(0)  # the first two micro-batches have a loss of 0
    model = tiny.bert(dtype=torch.float64)
    with Stack(methods(), seed=11) as stack:
        stack.prepare(model, total_updates=1)
        batch = tiny.collate(data)
        with stack.clean_pass() as clean:
            outputs = model(**batch)
        loss = mean_of_one_class(outputs, batch["labels"])
        stack.add_terms(loss, outputs, clean, model=model, inputs=batch).backward()
    found = first_gradients(
        SteadyInOrder,
        tiny.bert(dtype=torch.float64),
        tmp_path,
        data=data,
        methods=methods(),
        compute_loss_func=mean_of_one_class,
        gradient_accumulation_steps=4,
    )
    assert tiny.distance(found, tiny.gradients(model)) < 1e-10
    assert len(messages) == 1


# --- the noise comes once -------------------------------------------------------------------------


@pytest.fixture
def noised(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The models that got weight noise, in order."""
    seen: list[nn.Module] = []
    transform = NoisyTune.transform

    def recorded(self: NoisyTune, model: nn.Module, seed: int) -> Any:
        seen.append(model)
        return transform(self, model, seed)

    monkeypatch.setattr(NoisyTune, "transform", recorded)
    return seen


def test_a_second_train_does_not_perturb_again(tmp_path: Path, noised: list[nn.Module]) -> None:
    model = tiny.bert()
    trainer = trainer_of(SteadyTrainer, model, tmp_path, methods=[noisytune(), smart()])
    assert noised == []
    trainer.train()
    assert noised == [model]
    trainer.train()
    assert noised == [model]
    assert trainer.stack.updates == 3  # counted anew, and once per step


def test_a_new_model_of_model_init_is_perturbed(tmp_path: Path, noised: list[nn.Module]) -> None:
    def run(methods: list[Any]) -> dict[str, Tensor]:
        trainer = trainer_of(
            SteadyTrainer, None, tmp_path, methods=methods, model_init=lambda: tiny.bert(), max_steps=2
        )
        trainer.train()
        first = tiny.weights(trainer.model)
        trainer.train()
        assert tiny.differences(tiny.weights(trainer.model), first) == []
        return first

    plain = run([])
    assert noised == []
    assert tiny.differences(run([noisytune(), smart()]), plain) != []
    assert len(noised) == 2
    assert noised[0] is not noised[1]


def test_noise_is_there_before_the_teacher_and_the_optimizer(tmp_path: Path) -> None:
    model, expected = tiny.bert(), tiny.bert()
    noisytune().transform(expected, seed=11)
    trainer = trainer_of(SteadyTrainer, model, tmp_path, methods=[noisytune(), smart()])
    trainer.create_optimizer()
    assert tiny.differences(tiny.weights(model), tiny.weights(expected)) == []
    (teacher,) = teachers(trainer.stack)
    assert tiny.differences(teacher, tiny.weights(expected)) == []


# --- checkpoints ----------------------------------------------------------------------------------


def long_methods() -> list[Any]:
    return [noisytune(), smoothness(**LARGE), bregman(early_fraction=0.6, early_beta=0.5, beta=0.8)]


LONG: dict[str, Any] = {
    "max_steps": 11,  # more than one epoch of 8 steps; beta switches after update 6
    "save_strategy": "steps",
    "save_steps": 4,
    "lr_scheduler_type": "linear",
    "logging_strategy": "steps",
    "logging_steps": 1,
}


@pytest.mark.parametrize("resume_at", [4, 8])
def test_resume_is_bit_exact(
    resume_at: int, tmp_path: Path, noised: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trainer_of(SteadyTrainer, tiny.bert(dropout=0.1), tmp_path, methods=long_methods(), **LONG)
    whole.train()
    saved = tmp_path / f"checkpoint-{resume_at}"
    assert (saved / STATE).is_file()
    assert not list(tmp_path.rglob("*.unfinished"))
    assert len(noised) == 1

    fresh = tiny.bert(dropout=0.1, seed=99)
    resumed = trainer_of(SteadyTrainer, fresh, tmp_path / "again", methods=long_methods(), **LONG)
    resumed.train(resume_from_checkpoint=str(saved))
    assert len(noised) == 1
    assert resumed.stack.updates == whole.stack.updates == 11
    assert tiny.differences(tiny.weights(fresh), tiny.weights(whole.model)) == []
    (ours,), (theirs,) = teachers(resumed.stack), teachers(whole.stack)
    assert tiny.differences(ours, theirs) == []
    assert tiny.differences(ours, tiny.weights(fresh)) != []

    def history(trainer: Any) -> list[Any]:
        keys = ("step", "loss", "smoothness", "bregman", "task_loss")
        return [[e[k] for k in keys] for e in trainer.state.log_history if "loss" in e]

    assert history(resumed) == history(whole)
    # It can fail: without the teacher of the checkpoint, the end is another one.
    amnesic = trainer_of(
        SteadyTrainer, tiny.bert(dropout=0.1, seed=99), tmp_path / "third", methods=long_methods(), **LONG
    )
    with monkeypatch.context() as without:
        without.setattr(Session, "_load_teachers", lambda *_: None)
        amnesic.train(resume_from_checkpoint=str(saved))
    assert tiny.differences(tiny.weights(amnesic.model), tiny.weights(whole.model)) != []


def test_resume_in_the_same_trainer_and_from_the_last_checkpoint(tmp_path: Path, noised: list[nn.Module]) -> None:
    trainer = trainer_of(SteadyTrainer, tiny.bert(dropout=0.1), tmp_path, methods=long_methods(), **LONG)
    trainer.train()
    expected = tiny.weights(trainer.model)
    shutil.rmtree(tmp_path / "checkpoint-11")  # a finished run has nothing to resume
    trainer.train(resume_from_checkpoint=True)
    assert trainer.stack.updates == 11
    assert tiny.differences(tiny.weights(trainer.model), expected) == []
    assert len(noised) == 1


def checkpoint(folder: Path, methods: list[Any], **settings: Any) -> Path:
    trainer = trainer_of(
        SteadyTrainer,
        tiny.bert(),
        folder,
        methods=methods,
        max_steps=2,
        save_strategy="steps",
        save_steps=1,
        **settings,
    )
    trainer.train()
    return folder / "checkpoint-1"


def resume(saved: Path, methods: list[Any], **settings: Any) -> dict[str, Tensor]:
    """Resume in a new trainer; whatever is refused leaves no hook on any optimizer."""
    trainer = trainer_of(
        SteadyTrainer, tiny.bert(seed=5), saved.parent / "again", methods=methods, max_steps=2, **settings
    )
    hooks = len(torch_optimizer._global_optimizer_post_hooks)
    try:
        trainer.train(resume_from_checkpoint=str(saved))
    finally:
        assert len(torch_optimizer._global_optimizer_post_hooks) == hooks
    return tiny.weights(trainer.model)


def test_a_checkpoint_without_state_is_refused(tmp_path: Path) -> None:
    saved = checkpoint(tmp_path, [smart()])
    resume(saved, [smart()])
    (saved / STATE).unlink()
    for methods in ([smart()], [noisytune()], [noisytune(), smart()]):
        with pytest.raises(CheckpointError, match=r"checkpoint-1 holds no steadytune\.safetensors") as error:
            resume(saved, methods)
        assert "\n" not in str(error.value)
    resume(saved, [])  # plain training needs none
    with pytest.raises(CheckpointError, match="holds no steadytune"):
        Stack(smart()).load(saved)


@pytest.mark.parametrize(
    ("methods", "settings"),
    [
        (lambda: [noisytune()], {}),
        (lambda: [noisytune(), smart()], {}),
        (lambda: [smart(weight=2.0)], {}),
        (lambda: [smart(beta=0.99)], {}),
        (lambda: [smoothness()], {}),
        (lambda: [], {}),
        (lambda: [smart()], {"seed": 12}),
    ],
)
def test_a_checkpoint_of_other_methods_is_refused(
    methods: Callable[[], list[Any]], settings: dict[str, Any], tmp_path: Path
) -> None:
    saved = checkpoint(tmp_path, [smart()])
    with pytest.raises(CheckpointError, match="was written with other methods"):
        resume(saved, methods(), **settings)


def damaged(state: Path, kind: str) -> None:
    whole = state.read_bytes()
    tensors = load_file(state)
    if kind == "empty":
        state.write_bytes(b"")
    elif kind == "cut in the header":
        state.write_bytes(whole[:40])
    elif kind == "cut in the tensors":
        state.write_bytes(whole[:-100])
    elif kind == "text":
        state.write_text("not tensors at all, but long enough to be taken for a header")
    elif kind == "foreign":
        save_file(tensors, state)
    elif kind == "newer":
        save_file(tensors, state, metadata={"format": "3", "new": "things"})
    elif kind == "without the teacher":
        with_header = {"format": "1", "updates": "1", "description": "{}", "teachers": "[]"}
        save_file(tensors, state, metadata=with_header)
    elif kind == "not json":
        save_file(tensors, state, metadata={"format": "1", "updates": "1", "description": "{", "teachers": "["})
    elif kind == "a tensor less":
        length = int.from_bytes(whole[:8], "little")
        metadata = json.loads(whole[8 : 8 + length])["__metadata__"]
        del metadata["checksum"]  # an older version wrote none
        del tensors[next(iter(tensors))]
        save_file(tensors, state, metadata=metadata)
    else:
        raise ValueError(kind)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("empty", "cannot be read"),
        ("cut in the header", "cannot be read"),
        ("cut in the tensors", "cannot be read"),
        ("text", "cannot be read"),
        ("foreign", "format None"),
        ("newer", "format 3, and this version of steadytune reads up to 2"),
        ("without the teacher", "was written with other methods"),
        ("not json", "cannot be read"),
        ("a tensor less", "a teacher of another model"),
    ],
)
def test_a_damaged_state_is_refused(kind: str, said: str, tmp_path: Path) -> None:
    saved = checkpoint(tmp_path, [smart()])
    damaged(saved / STATE, kind)
    with pytest.raises(CheckpointError, match=said) as error:
        resume(saved, [smart()])
    assert "checkpoint-1" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_broken_write_leaves_the_old_state_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack(smart())
    stack.prepare(tiny.bert(), total_updates=5)
    state = stack.save(tmp_path / "new" / "folder")
    before = state.read_bytes()
    assert [p.name for p in state.parent.iterdir()] == [STATE]

    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", broken)
    stack.after_update()
    with pytest.raises(OSError, match="disk full"):
        stack.save(state.parent)
    stack.close()
    assert state.read_bytes() == before
    assert [p.name for p in state.parent.iterdir()] == [STATE]


def test_a_saved_model_loads_in_plain_transformers(tmp_path: Path) -> None:
    trainer = trainer_of(
        SteadyTrainer,
        tiny.bert(),
        tmp_path,
        methods=[noisytune(), smart()],
        max_steps=2,
        save_strategy="steps",
        save_steps=2,
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    trainer.model.save_pretrained(tmp_path / "by-hand")
    for folder in ("checkpoint-2", "final", "by-hand"):
        loaded, info = BertForSequenceClassification.from_pretrained(tmp_path / folder, output_loading_info=True)
        assert not info["unexpected_keys"]
        assert not info["missing_keys"]
        assert not info["mismatched_keys"]
        assert tiny.differences(tiny.weights(loaded), tiny.weights(trainer.model)) == []
    assert not (tmp_path / "final" / STATE).exists()


# --- what else a Trainer can do -------------------------------------------------------------------


def checkpointed(*, reentrant: bool) -> Any:
    model = tiny.bert(dropout=0.1, dtype=torch.float64)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("masks", ["fresh", "same"])
def test_gradient_checkpointing_changes_nothing(masks: Any) -> None:
    found = []
    for model in (tiny.bert(dropout=0.1, dtype=torch.float64), checkpointed(reentrant=False)):
        with Stack(smart(**LARGE, masks=masks)) as stack:
            stack.prepare(model, total_updates=5)
            for tensor in teachers(stack)[0].values():
                tensor.mul_(1.05)
            torch.manual_seed(7)
            loss = stack.loss(model, tiny.batch(4))
            loss.backward()
            found.append((loss.item(), tiny.gradients(model), stack.take_logs()))
    assert found[0][2]["bregman"] > 1e-6
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-12)
    assert tiny.distance(found[1][1], found[0][1]) < 1e-12


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_reentrant_checkpointing_is_refused_with_the_cure() -> None:
    model = checkpointed(reentrant=True)
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    with Stack([smoothness()]) as stack:
        stack.prepare(model)
        with pytest.raises(HostError, match=r"gradient_checkpointing_kwargs=\{'use_reentrant': False\}"):
            stack.loss(model, tiny.batch(4))
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_gradient_checkpointing_by_the_trainer(tmp_path: Path) -> None:
    found = []
    for on in (False, True):
        model = tiny.bert(dropout=0.1)
        trainer_of(
            SteadyTrainer, model, tmp_path, methods=[smart(**LARGE)], gradient_checkpointing=on, optim="sgd"
        ).train()
        assert bool(getattr(model, "is_gradient_checkpointing", False)) is on
        found.append(tiny.weights(model))
    assert tiny.distance(found[1], found[0]) < 1e-6


def test_bf16_runs_and_warns_of_a_small_radius(tmp_path: Path, messages: list[str]) -> None:
    for radius, warnings in ((1e-5, 1), (1e-2, 0)):
        messages.clear()
        model = tiny.bert()
        before = tiny.weights(model)
        seen = Gradients()
        trainer = trainer_of(
            SteadyTrainer,
            model,
            tmp_path,
            methods=[smart(radius=radius)],
            bf16=True,
            callbacks=[seen],
            logging_strategy="steps",
            logging_steps=1,
        )
        trainer.train()
        assert sum("is lost to rounding in bfloat16" in m for m in messages) == warnings
        assert all(torch.isfinite(w).all() for w in tiny.weights(model).values())
        unused = {"bert.embeddings.token_type_embeddings.weight"}
        assert set(tiny.differences(tiny.weights(model), before)) >= set(before) - unused
        plain = tiny.bert()
        plain_seen = Gradients()
        trainer_of(Trainer, plain, tmp_path, bf16=True, callbacks=[plain_seen]).train()
        assert tiny.distance(seen.first, plain_seen.first) < 0.2
        assert all("smoothness" in e for e in trainer.state.log_history if "loss" in e)


def test_lora_trains_the_adapters_alone(tmp_path: Path) -> None:
    from peft import LoraConfig, PeftModel, get_peft_model

    config = LoraConfig(target_modules=["query", "value"], r=2, task_type="SEQ_CLS", lora_dropout=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = get_peft_model(tiny.bert(), config)
    before = tiny.weights(model)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    trainer = trainer_of(
        SteadyTrainer,
        model,
        tmp_path,
        methods=[smart(**LARGE)],
        max_steps=4,
        save_strategy="steps",
        save_steps=2,
        logging_strategy="steps",
        logging_steps=1,
    )
    trainer.train()
    assert set(tiny.differences(tiny.weights(model), before)) == trainable
    (teacher,) = teachers(trainer.stack)
    assert set(teacher) == trainable
    assert all("lora" in n or "classifier" in n for n in trainable)
    logged = [e for e in trainer.state.log_history if "loss" in e]
    assert all(e["smoothness"] > 0 for e in logged)
    assert logged[0]["bregman"] == 0
    assert all(e["bregman"] > 0 for e in logged[1:])

    trainer.save_model(str(tmp_path / "adapter"))
    loaded = PeftModel.from_pretrained(tiny.bert(), tmp_path / "adapter").eval()
    inputs = tiny.batch(4)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, model.eval()(**inputs).logits)

    again = get_peft_model(tiny.bert(), config)
    resumed = trainer_of(SteadyTrainer, again, tmp_path / "again", methods=[smart(**LARGE)], max_steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert tiny.differences(tiny.weights(again), tiny.weights(model)) == []
    assert tiny.differences(teachers(resumed.stack)[0], teacher) == []

    with pytest.raises(MethodError, match="perturb_weights"):
        trainer_of(SteadyTrainer, get_peft_model(tiny.bert(), config), tmp_path, methods=[noisytune()]).train()


def test_terms_are_logged_as_means_since_the_last_log(tmp_path: Path) -> None:
    def logs(every: int) -> list[dict[str, float]]:
        trainer = trainer_of(
            SteadyInOrder,
            tiny.bert(),
            tmp_path,
            methods=[smart(2.0, 3.0, **LARGE)],
            max_steps=4,
            logging_strategy="steps",
            logging_steps=every,
        )
        trainer.train()
        return [e for e in trainer.state.log_history if "loss" in e]

    each, pairs = logs(1), logs(2)
    assert len(each) == 4
    for entry in each:
        total = entry["task_loss"] + 2 * entry["smoothness"] + 3 * entry["bregman"]
        assert float(entry["loss"]) == pytest.approx(total, abs=1e-4)
        assert "non_finite_perturbations" not in entry
    for name in ("smoothness", "bregman", "task_loss"):
        means = [(each[i][name] + each[i + 1][name]) / 2 for i in (0, 2)]
        assert [e[name] for e in pairs] == pytest.approx(means, rel=1e-6)


def test_evaluation_is_one_plain_pass_per_batch(tmp_path: Path) -> None:
    data, calls = tiny.dataset(20, seed=3), []
    trainer = trainer_of(
        SteadyTrainer,
        tiny.bert(dropout=0.1),
        tmp_path,
        methods=[noisytune(), smart(5.0, **LARGE)],
        eval_dataset=data,
        per_device_eval_batch_size=4,
    )
    plain = trainer_of(Trainer, trainer.model, tmp_path, eval_dataset=data, per_device_eval_batch_size=4)
    for train_first in (False, True):
        if train_first:
            trainer.train()
        handle = trainer.model.register_forward_pre_hook(lambda *_: calls.append(1))
        calls.clear()
        metrics = trainer.evaluate()
        assert len(calls) == 5
        predicted = trainer.predict(data)
        assert len(calls) == 10
        handle.remove()
        assert metrics["eval_loss"] == plain.evaluate()["eval_loss"]
        expected = plain.predict(data)
        assert (predicted.predictions == expected.predictions).all()
        assert predicted.metrics["test_loss"] == expected.metrics["test_loss"]
    assert "smoothness" not in metrics


def test_evaluation_between_steps_does_not_disturb(tmp_path: Path) -> None:
    # Without dropout, because an evaluation makes the plain Trainer draw other masks, too.
    found = []
    for strategy in ("no", "steps"):
        trainer = trainer_of(
            SteadyTrainer,
            tiny.bert(),
            tmp_path,
            methods=[smart(**LARGE)],
            eval_dataset=tiny.dataset(8, seed=3),
            eval_strategy=strategy,
            eval_steps=1,
        )
        trainer.train()
        found.append(tiny.weights(trainer.model))
    assert tiny.differences(found[1], found[0]) == []


def test_explain_before_and_after(tmp_path: Path) -> None:
    model = tiny.bert()
    before = tiny.weights(model)
    trainer = trainer_of(SteadyTrainer, model, tmp_path, methods=[noisytune(), smart()])
    first = trainer.explain()
    assert tiny.differences(tiny.weights(model), before) == []
    trainer.train()
    trained = tiny.weights(model)
    second = trainer.explain()
    assert tiny.differences(tiny.weights(model), trained) == []
    assert repr(first) == repr(second)
    assert str(first) == str(second)
    assert [m.name for m in first.methods] == ["noisytune", "smoothness", "bregman"]
    assert first.relative_cost == 3.0
    report = first.weight_reports["noisytune"]
    assert sum(not t.reason for t in report.tensors) > 10


class Weighted(Trainer):
    """A loss of the user's, with a column that the model does not take."""

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        importance = inputs.pop("importance")
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        losses = nn.functional.cross_entropy(outputs.logits, labels, reduction="none")
        loss = (losses * importance).mean()
        return (loss, outputs) if return_outputs else loss


class SteadyWeighted(SteadyMixin, Weighted):
    pass


def collate_weighted(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    batch = tiny.collate(rows)
    return batch | {"importance": (batch["input_ids"][:, 0] % 3).double()}


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_trainer_with_a_loss_of_its_own(accumulation: int, tmp_path: Path) -> None:
    data, seen, names = tiny.dataset(8), Gradients(), set()
    if accumulation == 1:
        data[3]["labels"] = torch.tensor(-100)  # the terms must know, although the loss takes the labels out
    trained = tiny.bert(dtype=torch.float64)
    trained.register_forward_pre_hook(lambda _m, _args, given: names.update(given), with_kwargs=True)
    trainer = SteadyWeighted(
        model=trained,
        args=tiny.arguments(
            tmp_path,
            max_steps=1,
            remove_unused_columns=False,
            per_device_train_batch_size=8 // accumulation,
            gradient_accumulation_steps=accumulation,
        ),
        train_dataset=data,
        data_collator=collate_weighted,
        callbacks=[seen],
        methods=[smart(2.0, **LARGE)],
    )
    trainer._get_train_sampler = lambda *args: SequentialSampler(data)  # type: ignore[method-assign]
    trainer.train()
    model, batch = tiny.bert(dtype=torch.float64), collate_weighted(data)
    importance = batch.pop("importance")
    with Stack(smart(2.0, **LARGE), seed=11) as stack:
        stack.prepare(model, total_updates=1)
        with stack.clean_pass() as clean:
            outputs = model(**batch)
        losses = nn.functional.cross_entropy(outputs.logits, batch["labels"], reduction="none")
        stack.add_terms((losses * importance).mean(), outputs, clean, model=model, inputs=batch).backward()
    assert tiny.distance(seen.first, tiny.gradients(model)) < 1e-10
    assert names == {"input_ids", "attention_mask"}


class AlreadyScaled(InOrder):
    """Divides by the accumulation itself and says so, as Transformers asks for."""

    loss_is_scaled_for_ga = True

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        found = super().compute_loss(*args, **kwargs)
        if isinstance(found, tuple):
            return found[0] / self.current_gradient_accumulation_steps, found[1]
        return found / self.current_gradient_accumulation_steps


class SteadyAlreadyScaled(SteadyMixin, AlreadyScaled):
    pass


def test_a_trainer_that_declares_its_scale_is_believed(tmp_path: Path, messages: list[str]) -> None:
    data = tiny.dataset(16)
    whole = tiny.bert(dtype=torch.float64)
    whole(**tiny.collate(data)).loss.backward()
    for kind in (AlreadyScaled, SteadyAlreadyScaled):
        found = first_gradients(
            kind, tiny.bert(dtype=torch.float64), tmp_path, data=data, gradient_accumulation_steps=4
        )
        assert tiny.distance(found, tiny.gradients(whole)) < 1e-10
    assert messages == []


def test_conflicts_and_missing_support_are_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="smoothness is in the stack twice"):
        trainer_of(SteadyTrainer, tiny.bert(), tmp_path, methods=[smart(), smoothness()])
    model = tiny.bert()
    trainer = trainer_of(SteadyTrainer, model, tmp_path, methods=[smart()])
    trainer.args._n_gpu = 2
    before = tiny.weights(model)
    with pytest.raises(HostError, match="DataParallel over 2 GPUs is not supported: start with `torchrun`"):
        trainer.train()
    assert tiny.differences(tiny.weights(model), before) == []


def test_an_exception_in_training_leaves_no_hook(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

    hooks = len(torch_optimizer._global_optimizer_post_hooks)
    model = tiny.bert()
    keys = list(model.state_dict())
    trainer = trainer_of(SteadyTrainer, model, tmp_path, methods=[smart()], callbacks=[Stop()])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert len(torch_optimizer._global_optimizer_post_hooks) == hooks
    assert not trainer.optimizer.optimizer._optimizer_step_post_hooks
    assert not any(module._forward_hooks for module in model.modules())
    assert list(model.state_dict()) == keys


# ---------------------------------------------------------------- searches, losses of one's own, names as written


@pytest.mark.filterwarnings("ignore")
def test_a_search_and_a_training_after_it(tmp_path: Path) -> None:
    trainer = SteadyTrainer(
        model_init=lambda: tiny.bert(),
        args=tiny.arguments(tmp_path, max_steps=2, eval_strategy="steps", eval_steps=2),
        train_dataset=tiny.dataset(8),
        eval_dataset=tiny.dataset(4),
        data_collator=tiny.collate,
        methods=[smart()],
    )
    rate = {"learning_rate": 1e-3}
    pytest.importorskip("optuna").logging.set_verbosity(40)
    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)}, n_trials=2, backend="optuna"
    )
    assert set(best.hyperparameters) == set(rate)
    trainer.explain()
    assert trainer.train().global_step == 2


def test_a_loss_that_never_meets_the_stack_is_refused_before_the_first_update(tmp_path: Path) -> None:
    class Own(SteadyTrainer):
        def compute_loss(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
            return model(**inputs).loss

    model = tiny.bert()
    before = tiny.weights(model)
    trainer = Own(
        model=model,
        args=tiny.arguments(tmp_path),
        train_dataset=tiny.dataset(8),
        data_collator=tiny.collate,
        methods=[smart()],
    )
    with pytest.raises(HostError, match=r"compute_loss of Own never called .* compute_loss_func="):
        trainer.train()
    assert tiny.differences(tiny.weights(model), before) == []


@pytest.mark.parametrize(("method", "said"), [(ema, "ema (weight_averaging) makes"), (swa, "swa (weight_averaging)")])
def test_a_refusal_has_the_name_that_was_written(method: Any, said: str, tmp_path: Path) -> None:
    args = tiny.arguments(
        tmp_path, load_best_model_at_end=True, eval_strategy="steps", save_strategy="steps", save_steps=1, eval_steps=1
    )
    trainer = SteadyTrainer(
        model=tiny.bert(),
        args=args,
        train_dataset=tiny.dataset(8),
        eval_dataset=tiny.dataset(4),
        data_collator=tiny.collate,
        methods=[method()],
    )
    with pytest.raises(HostError) as error:
        trainer.train()
    assert said in str(error.value)
