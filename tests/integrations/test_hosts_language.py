"""Language models in the Trainers for them: TRL's SFTTrainer, packed and not, and Seq2SeqTrainer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers import tiny, tiny_language
from peft import LoraConfig
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import (
    DataCollatorForSeq2Seq,
    LlamaForCausalLM,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
)

from steadytune import (
    Stack,
    SteadyMixin,
    bregman,
    ema,
    freelb,
    mixout,
    noisytune,
    r_drop,
    recadam,
    sam,
    smart,
    smoothness,
)
from steadytune.errors import HostError
from steadytune.integrations.transformers.fused_head import WithLogits, has_fused_head

trl = pytest.importorskip("trl", reason="the extra `trl`")

LARGE: dict[str, Any] = {"radius": 1e-2, "noise_std": 1e-2}
QUIET: dict[str, Any] = {
    "max_steps": 3,
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "use_cpu": True,
    "report_to": [],
    "disable_tqdm": True,
    "save_strategy": "no",
    "logging_steps": 1,
    "max_grad_norm": 0.0,
    "seed": 11,
}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]


class SteadySFTTrainer(SteadyMixin, trl.SFTTrainer):
    pass


class SteadySeq2SeqTrainer(SteadyMixin, Seq2SeqTrainer):
    pass


@pytest.fixture(autouse=True)
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "_get_train_sampler", lambda self, *_: SequentialSampler(self.train_dataset))


def instruct(
    kind: type[Trainer],
    folder: Path,
    *,
    methods: list[Any] | None = None,
    accumulation: int = 1,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float64,
    adapter: LoraConfig | None = None,
    callbacks: list[TrainerCallback] | None = None,
    **settings: Any,
) -> Any:
    """Train for three updates of eight prompts; the trainer."""
    own: dict[str, Any] = {
        "bf16": False,
        "gradient_checkpointing": False,
        "max_length": 32,
        "per_device_train_batch_size": 8 // accumulation,
        "gradient_accumulation_steps": accumulation,
    }
    trainer: Any = kind(
        model=tiny_language.causal(dropout=dropout, dtype=dtype),
        args=trl.SFTConfig(output_dir=str(folder), **QUIET | own | settings),
        train_dataset=Dataset.from_list(tiny_language.prompts(24)),
        processing_class=tiny_language.tokenizer(),
        peft_config=adapter,
        callbacks=callbacks,
        **({} if methods is None else {"methods": methods}),
    )
    trainer.train()
    return trainer


def first_log(trainer: Any) -> dict[str, float]:
    return trainer.state.log_history[0]


# ---------------------------------------------------------------- SFTTrainer


@pytest.mark.parametrize(
    "settings", [{}, {"packing": True}, {"packing": True, "packing_strategy": "wrapped"}], ids=str
)
def test_without_methods_it_is_the_trainer_bit_for_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    plain = instruct(trl.SFTTrainer, tmp_path, dropout=0.1, **settings)
    steady = instruct(SteadySFTTrainer, tmp_path, methods=[], dropout=0.1, **settings)
    assert tiny.differences(tiny.weights(steady.model), tiny.weights(plain.model)) == []
    assert first_log(steady)["loss"] == first_log(plain)["loss"]


@pytest.mark.parametrize("loss_type", ["nll", "dft"])
def test_weight_0_is_the_trainer_up_to_rounding_and_keeps_its_figures(loss_type: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*return_outputs")  # TRL's: it has run the model once more
        plain = instruct(trl.SFTTrainer, tmp_path, dropout=0.1, loss_type=loss_type)
        steady = instruct(SteadySFTTrainer, tmp_path, methods=[smart(0.0, 0.0)], dropout=0.1, loss_type=loss_type)
    assert tiny.distance(tiny.weights(steady.model), tiny.weights(plain.model)) < 1e-6
    for name in ("loss", "entropy", "mean_token_accuracy", "num_tokens"):
        assert first_log(steady)[name] == pytest.approx(first_log(plain)[name], rel=1e-5)
    assert first_log(steady)["mean_token_accuracy"] > 0
    assert first_log(steady)["smoothness"] > 0


STACKS: dict[str, Callable[[], list[Any]]] = {
    "plain": lambda: [],
    "smart": lambda: [smart(5.0, **LARGE)],
    "noisytune+bregman": lambda: [noisytune(), bregman(momentum=False, inner_steps=2)],
}


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize(
    "settings",
    [{}, pytest.param({"completion_only_loss": False}, marks=pytest.mark.long), {"label_smoothing_factor": 0.1}],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:`label_smoothing_factor`:FutureWarning")
def test_accumulation_does_not_matter(stack: str, settings: dict[str, Any], tmp_path: Path) -> None:
    """Prompts and answers of different lengths: one update has many tokens in one micro-batch and few in another."""
    found = {
        n: tiny.weights(
            instruct(SteadySFTTrainer, tmp_path, methods=STACKS[stack](), accumulation=n, **settings).model
        )
        for n in (1, 2, 8)
    }
    for n in (2, 8):
        # TRL's own head computes in float32; with terms the model's head answers, in float64.
        assert tiny.distance(found[n], found[1]) < (1e-6 if stack == "plain" else 1e-10)


@pytest.mark.parametrize("stack", STACKS)
def test_it_is_a_plain_loop(stack: str, tmp_path: Path) -> None:
    trained = instruct(SteadySFTTrainer, tmp_path, methods=STACKS[stack](), accumulation=2)
    model = tiny_language.causal(dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Stack(STACKS[stack](), seed=11) as alone:
        alone.prepare(model, optimizer, total_updates=3)
        for update in range(3):
            rows = [trained.train_dataset[i] for i in range(8 * update, 8 * update + 8)]
            halves = [trained.data_collator(rows[:4]), trained.data_collator(rows[4:])]
            items = sum(half["labels"][:, 1:].ne(-100).sum() for half in halves)
            for half in halves:
                alone.backward(model, {**half, "num_items_in_batch": items})
            optimizer.step()
            optimizer.zero_grad()
    # The loss of Transformers' language models is in float32.
    assert tiny.distance(tiny.weights(trained.model), tiny.weights(model)) < 1e-6
    assert tiny.distance(tiny.weights(model), tiny.weights(tiny_language.causal(dtype=torch.float64))) > 1e-3


@pytest.mark.parametrize("strategy", ["bfd", "wrapped"])
def test_packed_rows_stay_apart_in_every_pass(strategy: str, tmp_path: Path) -> None:
    """A perturbation of nearly nothing changes nearly nothing: the passes see the documents as the clean one does."""
    settings = {"packing": True, "packing_strategy": strategy, "max_length": 16}
    tiny_move = [smoothness(radius=1e-7, noise_std=1e-7, weight=5.0)]
    packed = instruct(SteadySFTTrainer, tmp_path, methods=tiny_move, **settings)
    assert 0 <= first_log(packed)["smoothness"] < 1e-9
    plain = instruct(trl.SFTTrainer, tmp_path, **settings)
    assert tiny.distance(tiny.weights(packed.model), tiny.weights(plain.model)) < 1e-6
    felt = instruct(SteadySFTTrainer, tmp_path, methods=[smart(5.0, **LARGE)], **settings)
    assert first_log(felt)["smoothness"] > 1e-4
    assert tiny.distance(tiny.weights(felt.model), tiny.weights(plain.model)) > 1e-4


@pytest.mark.parametrize(
    "methods",
    [
        [freelb()],
        [sam()],
        [r_drop()],
        [recadam(midpoint=2)],
        [mixout(), ema()],
        [freelb(), bregman(momentum=False, inner_steps=2)],
    ],
    ids=lambda ms: "+".join(m.name for m in ms),
)
def test_every_role_trains_and_tokens_are_counted_once(methods: list[Any], tmp_path: Path) -> None:
    plain = instruct(trl.SFTTrainer, tmp_path, dropout=0.1)
    steady = instruct(SteadySFTTrainer, tmp_path, methods=methods, dropout=0.1)
    assert [e["num_tokens"] for e in steady.state.log_history[:3]] == [
        e["num_tokens"] for e in plain.state.log_history[:3]
    ]
    assert tiny.distance(tiny.weights(steady.model), tiny.weights(plain.model)) > 1e-5
    assert not any(module._forward_hooks for module in steady.model.modules())


def test_adapters_alone_train(tmp_path: Path) -> None:
    adapter = LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = instruct(SteadySFTTrainer, tmp_path, methods=[smart(**LARGE)], adapter=adapter)
    start = tiny.weights(tiny_language.causal(dtype=torch.float64))
    now = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): p
        for name, p in tiny.weights(trainer.model).items()
        if "lora" not in name
    }
    assert tiny.differences({name: now[name] for name in start}, start) == []
    assert any(p.abs().max() > 0 for name, p in tiny.weights(trainer.model).items() if "lora_B" in name)
    assert first_log(trainer)["smoothness"] > 0


def test_checkpointing_of_activations_changes_nothing(tmp_path: Path) -> None:
    off, on = (
        instruct(SteadySFTTrainer, tmp_path, methods=[smart(**LARGE)], gradient_checkpointing=on)
        for on in (False, True)
    )
    assert tiny.distance(tiny.weights(on.model), tiny.weights(off.model)) < 1e-10
    with pytest.raises(HostError, match=r"gradient_checkpointing_kwargs=\{'use_reentrant': False\}"):
        instruct(
            SteadySFTTrainer,
            tmp_path,
            methods=[smart(**LARGE)],
            gradient_checkpointing=True,
            gradient_checkpointing_kwargs={"use_reentrant": True},
        )


def test_resume_is_bit_exact(tmp_path: Path) -> None:
    kept = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5, "dropout": 0.1}
    whole = instruct(SteadySFTTrainer, tmp_path / "whole", methods=[smart(**LARGE)], **kept)
    again = SteadySFTTrainer(
        model=tiny_language.causal(dropout=0.1, dtype=torch.float64, seed=5),
        args=whole.args,
        train_dataset=Dataset.from_list(tiny_language.prompts(24)),
        processing_class=tiny_language.tokenizer(),
        methods=[smart(**LARGE)],
    )
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert tiny.differences(tiny.weights(again.model), tiny.weights(whole.model)) == []


# ---------------------------------------------------------------- Seq2SeqTrainer


def rewrite(folder: Path, *, methods: list[Any], accumulation: int = 1, dropout: float = 0.0, **settings: Any) -> Any:
    words = tiny_language.tokenizer()
    model = tiny_language.seq2seq(dtype=torch.float64, dropout=dropout)
    rows = [words(row["prompt"], text_target=row["completion"]) for row in tiny_language.prompts(24)]
    arguments = Seq2SeqTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8 // accumulation,
        gradient_accumulation_steps=accumulation,
        predict_with_generate=True,
        **QUIET | settings,
    )
    trainer = SteadySeq2SeqTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows[:4],
        data_collator=DataCollatorForSeq2Seq(words, model=model),
        methods=methods,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.long
def test_an_encoder_decoder_accumulates_exactly(stack: str, smoothing: float, tmp_path: Path) -> None:
    """T5's loss is an average over the micro-batch, whose tokens are not equally many in each."""
    found = {
        n: tiny.weights(
            rewrite(tmp_path, methods=STACKS[stack](), accumulation=n, label_smoothing_factor=smoothing).model
        )
        for n in (1, 2, 4, 8)
    }
    for n in (2, 4, 8):
        # The Trainer smooths in float32.
        assert tiny.distance(found[n], found[1]) < (1e-10 if smoothing == 0 else 1e-6)


def test_an_encoder_decoder_is_a_plain_loop_and_still_writes(tmp_path: Path) -> None:
    methods = [smart(5.0, **LARGE)]
    trained = rewrite(tmp_path, methods=methods)
    model = tiny_language.seq2seq(dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Stack(methods, seed=11) as stack:
        stack.prepare(model, optimizer, total_updates=3)
        for update in range(3):
            rows = [trained.train_dataset[i] for i in range(8 * update, 8 * update + 8)]
            stack.backward(model, trained.data_collator(rows))
            optimizer.step()
            optimizer.zero_grad()
    assert tiny.distance(tiny.weights(trained.model), tiny.weights(model)) < 1e-10
    assert trained.predict(trained.eval_dataset, max_new_tokens=3).predictions.shape[0] == 4


# ---------------------------------------------------------------- what has no logits


def refused(folder: Path, methods: list[Any], **arguments: Any) -> Any:
    model: nn.Module = tiny_language.causal()
    trainer: Any = Steady(model=model, args=tiny.arguments(folder), train_dataset=tiny.dataset(), methods=methods)
    for name, value in arguments.items():
        setattr(trainer.args, name, value)  # the packages themselves need not be there
    return trainer.train


class Steady(SteadyMixin, Trainer):
    pass


def test_losses_without_logits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"liger_kernel_config=\{'fused_linear_cross_entropy': False\}") as error:
        refused(tmp_path, [smart()], use_liger_kernel=True)()
    assert "\n" not in str(error.value)
    with pytest.raises(HostError, match="loss_type='nll'"):
        refused(tmp_path, [smart()], loss_type="chunked_nll")()


def test_a_model_with_a_fused_head_answers_as_the_fused_head() -> None:
    if not hasattr(trl.trainer.utils, "add_fused_lm_head"):
        pytest.skip("this version of TRL has no fused head")
    model: LlamaForCausalLM = tiny_language.causal(dtype=torch.float64)
    assert not has_fused_head(model)
    trl.trainer.utils.add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    assert has_fused_head(model)
    batch = tiny_language.tokenizer()(["the sky is blue", "grass"], return_tensors="pt", padding=True)
    inputs: dict[str, Tensor] = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    expected = model(**inputs, labels=labels, fused_lm_head=True)
    seen = WithLogits(model)
    found = seen(**inputs, labels=labels, fused_lm_head=True)
    for name in ("log_probs", "entropy"):
        assert torch.allclose(getattr(found, name), getattr(expected, name).double(), atol=1e-6)
    for name in ("is_top1", "label_mask"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
    assert float(found.loss) == pytest.approx(float(expected.loss), rel=1e-6)
    assert seen.outputs.logits.requires_grad
    assert seen.config is model.config
    nothing = seen(**inputs, labels=torch.full_like(labels, -100), fused_lm_head=True)
    assert float(nothing.loss) == 0
    nothing.loss.backward()
