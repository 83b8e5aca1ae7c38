"""What is given to a stack by mistake is refused in one line, and what only looks like a mistake is not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import tiny
from peft import LoraConfig, get_peft_model
from transformers import BertForSequenceClassification

from steadytune import (
    Stack,
    SteadyTrainer,
    ema,
    freeze,
    l2_sp,
    mixout,
    neftune,
    noisytune,
    r_drop,
    slanted_triangular,
    smart,
    smoothness,
    swa,
)
from steadytune.errors import CheckpointError, HostError, MethodError
from steadytune.methods.r3f import R3F


def refused(kind: type[Exception], call: Callable[[], Any]) -> str:
    with pytest.raises(kind) as error:
        call()
    said = str(error.value)
    assert "\n" not in said
    assert len(said) < 400  # no model, no tensor
    return said


def sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01)


# ---------------------------------------------------------------- methods and the seed


class Mine(R3F):
    """A method of the reader's."""


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (smart, "smart was not called: write smart()"),
        ([smart.frugal], "smart.frugal was not called: write smart.frugal()"),
        ([ema], "ema was not called: write ema()"),
        ([R3F], "R3F is a class, not a method: write r3f()."),
        ([Mine], "Mine is a class, not a method: write Mine()."),
        (["smrat"], "There is no method 'smrat'. Did you mean 'smart'?"),
        ("smrat", "There is no method 'smrat'. Did you mean 'smart'?"),
        (["compare"], "There is no method 'compare'."),
        (["smart(weight=3)"], "is a name with settings: pass the method itself, smart(weight=3), without quotes."),
        (["smart,noisytune"], "is one text with several names: pass a list, ['smart', 'noisytune']."),
        (["none", "smart"], "'none' stands for no method at all: leave it out, or give it alone."),
        ([Stack([smart()])], "a Stack was given: pass the list"),
        ([3], "3 is not a method"),
        ([torch.nn.Linear(100, 100)], "is not a method"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_method_is_told_what_to_write(methods: Any, said: str) -> None:
    assert said in refused(MethodError, lambda: Stack(methods))


def test_a_second_method_is_not_the_seed() -> None:
    wrong: Any = (smart(), noisytune())
    assert "Several methods go in one list: Stack([" in refused(MethodError, lambda: Stack(*wrong))
    for seed in (1.5, "3", None, True):
        kept: Any = seed
        assert "must be a whole number" in refused(MethodError, lambda kept=kept: Stack([], kept))
    assert Stack([], 3).seed == 3


def test_an_unknown_setting_is_named() -> None:
    wrong: Any = {"wieght": 3}
    said = refused(MethodError, lambda: smoothness(**wrong))
    assert "smoothness has no setting 'wieght'. Did you mean 'weight'? Its settings: weight, radius," in said
    with pytest.raises(TypeError):
        smoothness(*wrong.values(), *range(20))


# ---------------------------------------------------------------- prepare, optimizer, backward


def test_what_is_no_model_is_refused() -> None:
    model = tiny.bert()
    optimizer = sgd(model)

    def said(*given: Any, **settings: Any) -> str:
        return refused(HostError, lambda: Stack([smart()]).prepare(*given, **settings))

    assert "takes the model first, then the optimizer" in said(optimizer, model)
    assert "BertForSequenceClassification is a class" in said(BertForSequenceClassification)
    assert "not its name: load 'bert' with from_pretrained" in said("bert")
    assert "got a dict" in said({})
    assert "write total_updates=100" in said(model, 100)
    assert "got a BertForSequenceClassification" in said(model, model)
    for total in (0, -1, 2.0, "3", True):
        assert "total_updates must be a whole number of at least 1" in said(model, total_updates=total)
    with Stack([slanted_triangular()]) as stack:
        stack.prepare(model)
        optimizer = stack.optimizer(optimizer)
        assert "total_updates must be a whole" in refused(HostError, lambda: stack.scheduler(optimizer, 0))


def test_an_optimizer_of_another_model_is_refused() -> None:
    model = tiny.bert()
    with Stack([smoothness()]) as stack:
        said = refused(HostError, lambda: stack.prepare(model, sgd(tiny.bert())))
        assert "This SGD has none of the parameters of the BertForSequenceClassification" in said
        stack.prepare(model)
        assert "none of the parameters" in refused(HostError, lambda: stack.optimizer(sgd(tiny.bert())))
        head = [*model.classifier.parameters(), torch.nn.Parameter(torch.zeros(1))]
        stack.optimizer(torch.optim.SGD(head, lr=0.1))  # a part, and more beside it


def test_a_batch_that_is_no_mapping_is_refused() -> None:
    model, batch = tiny.bert(), tiny.batch(2)
    with Stack([smoothness()]) as stack:
        stack.prepare(model)
        wrong: Any = (batch["input_ids"], batch["labels"])
        for call in (stack.backward, stack.loss):
            assert "keyword arguments of the model" in refused(HostError, lambda call=call: call(model, wrong))
            swapped: Any = (batch, model)
            assert "The model comes first" in refused(HostError, lambda call=call, s=swapped: call(*s))


def test_more_updates_than_were_told_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny.bert()
    with Stack([swa()]) as stack, caplog.at_level(logging.WARNING, "steadytune"):
        stack.prepare(model, total_updates=1)
        for expected in (0, 1, 1):
            stack.after_update()
            assert caplog.text.count("continues past the 1 updates") == expected


# ---------------------------------------------------------------- evaluation mode


@pytest.mark.parametrize("method", [neftune(), mixout(), r_drop(), smoothness(), freeze()], ids=lambda m: m.name)
def test_training_in_evaluation_mode_is_refused(method: Any) -> None:
    model, batch = tiny.bert(dropout=0.1), tiny.batch(2)
    with Stack([method]) as stack:
        stack.prepare(model.eval())
        for call in (stack.backward, stack.loss):
            assert "Call model.train() first" in refused(HostError, lambda call=call: call(model, batch))
        model.train()
        model.bert.encoder.eval()  # a part may be
        stack.backward(model, batch)
        model.eval()  # after an evaluation, forgotten
        assert "Call model.train() first" in refused(HostError, lambda: stack.backward(model, batch))
        with torch.no_grad():
            model(**batch)


def test_training_in_evaluation_mode_inside_peft_is_refused() -> None:
    model = get_peft_model(tiny.bert(dropout=0.1).eval(), LoraConfig(target_modules=["query"]))  # pyright: ignore[reportArgumentType]
    assert model.training
    with Stack([neftune()]) as stack:
        stack.prepare(model)
        assert "Call model.train() first" in refused(HostError, lambda: stack.backward(model, tiny.batch(2)))
        model.train()
        stack.backward(model, tiny.batch(2))


def test_plain_training_and_measuring_in_evaluation_mode_are_not_refused() -> None:
    model = tiny.bert().eval()
    with Stack() as plain:
        plain.prepare(model)
        plain.backward(model, tiny.batch(2))
    with Stack([l2_sp()]) as stack, torch.no_grad():
        stack.prepare(model)
        assert not stack.loss(model, tiny.batch(2)).requires_grad


# ---------------------------------------------------------------- two stacks


def test_a_second_stack_on_a_model_is_refused() -> None:
    model = tiny.bert()
    first, second = Stack(smart()), Stack([neftune()])
    first.prepare(model)
    said = refused(HostError, lambda: second.prepare(model))
    assert "Another stack (smoothness + bregman) is at work on this BertForSequenceClassification" in said
    first.prepare(model)  # the same again
    second.prepare(tiny.bert())  # another model
    second.close()
    for harmless in (Stack(), Stack([noisytune()]), Stack([smoothness(weight=0.0)])):
        harmless.prepare(model)
        harmless.close()
    first.finish()
    second.prepare(model)
    first.prepare(tiny.bert())
    first.close()
    assert "(neftune)" in refused(HostError, lambda: first.prepare(model))
    second.close()
    first.prepare(model)
    first.close()


def test_a_stack_that_is_out_of_reach_or_failed_does_not_hinder() -> None:
    model = tiny.bert()
    optimizer = sgd(model)
    Stack([smoothness()]).prepare(model, optimizer)
    del optimizer  # its hooks were the last to know the stack
    failing = Stack([l2_sp(), freeze(layers=2)])
    model.requires_grad_(False)
    with pytest.raises(HostError, match="None of the weights"):
        failing.prepare(model)
    model.requires_grad_(True)
    with Stack([neftune()]) as stack:
        stack.prepare(model)


def test_trainers_after_one_another_share_a_model(tmp_path: Path) -> None:
    model = tiny.bert()

    def trainer(method: Any) -> SteadyTrainer:
        return SteadyTrainer(
            model=model,
            args=tiny.arguments(tmp_path, max_steps=1),
            train_dataset=tiny.dataset(4),
            data_collator=tiny.collate,
            methods=[method],
        )

    first, second = trainer(neftune()), trainer(smoothness())
    first.train()
    first.train()
    second.train()
    first.create_optimizer()
    with pytest.raises(HostError, match=r"Another stack \(neftune\)"):
        second.train()
    first.train()
    failing = trainer(ema())
    failing.data_collator = lambda _rows, return_tensors="pt": {return_tensors: 1 / 0}
    with pytest.raises(ZeroDivisionError):
        failing.train()
    second.train()


# ---------------------------------------------------------------- resuming


def test_a_folder_that_is_no_checkpoint_is_described(tmp_path: Path) -> None:
    stack = Stack([smoothness()])
    stack.prepare(tiny.bert())
    run = tmp_path / "run"
    for number in (4, 16):
        stack.save(run / f"checkpoint-{number}")
    stack.close()
    (run / "checkpoint-32").mkdir()
    (run / "checkpoint-32" / "config.json").write_text("{}")
    for name, file in (("adapter", "adapter_config.json"), ("final", "config.json"), ("log", "")):
        (run / name).mkdir()
        (run / name / (file or "log.txt")).write_text("{}")
    (tmp_path / "file").touch()
    newest = run / "checkpoint-16"
    wanted = {
        run / "nope": f"There is no folder {run}/nope to resume from. The newest checkpoint beside it is {newest}.",
        tmp_path / "nope": f"There is no folder {tmp_path / 'nope'} to resume from.",
        tmp_path / "file": "is a file: resume from the folder of a checkpoint",
        run: f"{run} holds checkpoints, and is none itself: resume from the newest, {newest}.",
        run / "adapter": "holds an adapter, not a checkpoint: load it with from_pretrained",
        run / "final": f"holds a model, not a checkpoint: load it with from_pretrained to train it further, or resume "
        f"from {newest}.",
        run / "log": "holds no steadytune.safetensors",
        run / "checkpoint-32": "holds no steadytune.safetensors",
    }
    trainer = SteadyTrainer(
        model=tiny.bert(),
        args=tiny.arguments(tmp_path / "again"),
        train_dataset=tiny.dataset(4),
        data_collator=tiny.collate,
        methods=[smoothness()],
    )
    for folder, said in wanted.items():
        found = refused(CheckpointError, lambda folder=folder: stack.prepare(tiny.bert(), resume_from=folder))
        assert said in found
        assert found == refused(CheckpointError, lambda folder=folder: trainer.train(str(folder)))
    trainer.args.output_dir = str(tmp_path / "never")
    assert "There is no folder" in refused(CheckpointError, lambda: trainer.train(resume_from_checkpoint=True))


def test_other_methods_are_told_by_their_difference(tmp_path: Path) -> None:
    with Stack([smoothness(), noisytune()]) as first:
        first.prepare(tiny.bert())
        first.save(tmp_path)

    def said(*methods: Any, seed: int = 0) -> str:
        stack = Stack(methods, seed)
        message = refused(CheckpointError, lambda: stack.prepare(tiny.bert(dropout=0.1), resume_from=tmp_path))
        return message.partition("other methods ")[2].partition(": continue")[0]

    assert said(smoothness(weight=3.0), noisytune()) == "(smoothness.weight was 1.0, now 3.0)"
    assert said(smoothness(), noisytune(), r_drop()) == "(r_drop was not there)"
    assert said(noisytune(), seed=3) == "(smoothness was there, now it is not; the seed was 0, now 3)"
    assert said(noisytune(), smoothness()) == "(in another order)"
