"""What test_hosts_processes.py runs on one process and on several: a training by each host, rows unequal in tokens.

Started as ``python host_ranks.py FILE`` with RANK and WORLD_SIZE set; the first process writes the weights.
"""

from __future__ import annotations

import os
import runpy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from helpers import tiny, tiny_language
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import (
    BertConfig,
    BertForTokenClassification,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
)

from steadytune import SteadyMixin, SteadyTrainer, bregman, l2_sp

WORLD = int(os.environ.get("WORLD_SIZE", "1"))
UPDATE = 8
QUIET: dict[str, Any] = {
    "max_steps": 3,
    "optim": "sgd",
    "learning_rate": 0.1,
    "lr_scheduler_type": "constant",
    "use_cpu": True,
    "report_to": [],
    "disable_tqdm": True,
    "save_strategy": "no",
    "max_grad_norm": 0.0,
    "ddp_find_unused_parameters": False,
}


def methods() -> list[Any]:
    """Terms without random numbers, which differ between processes."""
    return [bregman(momentum=False, inner_steps=2), l2_sp()]


def split(accumulation: int) -> dict[str, int]:
    size = UPDATE // WORLD // accumulation
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}


def trained(trainer: Any) -> dict[str, Tensor]:
    trainer.train()
    return tiny.weights(trainer.accelerator.unwrap_model(trainer.model))


class SteadySeq2SeqTrainer(SteadyMixin, Seq2SeqTrainer):
    pass


def encoder_decoder(folder: str, accumulation: int) -> dict[str, Tensor]:
    words, model = tiny_language.tokenizer(), tiny_language.seq2seq(dtype=torch.float64)
    return trained(
        SteadySeq2SeqTrainer(
            model=model,
            args=Seq2SeqTrainingArguments(output_dir=folder, **QUIET, **split(accumulation)),
            train_dataset=[
                dict(words(row["prompt"], text_target=row["completion"])) for row in tiny_language.prompts(24)
            ],
            data_collator=DataCollatorForSeq2Seq(words, model=model),
            methods=methods(),
        )
    )


def tagger(folder: str, accumulation: int) -> dict[str, Tensor]:
    def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        batch = tiny.batch_of([row["input_ids"] for row in rows], [0])
        labels = [row["labels"] for row in rows]
        return batch | {"labels": tiny.batch_of(labels, [0], pad=-100)["input_ids"]}

    rows = [{"input_ids": ids, "labels": torch.where(ids % 4 == 0, -100, ids % 3)} for ids in tiny.sentences(24)]
    model: nn.Module = tiny.seeded(
        lambda: BertForTokenClassification(BertConfig(**tiny.sizes(num_labels=3))), 0, torch.float64
    )
    arguments = tiny.arguments(folder, **QUIET, **split(accumulation))
    return trained(
        SteadyTrainer(model=model, args=arguments, train_dataset=rows, data_collator=collate, methods=methods())
    )


def instructed(folder: str, accumulation: int) -> dict[str, Tensor]:
    import trl
    from datasets import Dataset

    class SteadySFTTrainer(SteadyMixin, trl.SFTTrainer):
        pass

    own: dict[str, Any] = {"bf16": False, "gradient_checkpointing": False, "max_length": 32}
    return trained(
        SteadySFTTrainer(
            model=tiny_language.causal(dtype=torch.float64),
            args=trl.SFTConfig(output_dir=folder, **QUIET, **own, **split(accumulation)),
            train_dataset=Dataset.from_list(tiny_language.prompts(24)),
            processing_class=tiny_language.tokenizer(),
            methods=methods(),
        )
    )


def by_lightning(folder: str, accumulation: int) -> dict[str, Tensor]:
    import lightning
    from torch.utils.data import DataLoader

    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "lightning_module.py"))
    # Without l2_sp: its tiny pull on the biases that do nothing is what Adam makes large, and rounding decides it.
    module = example["SteadyClassifier"](tiny.bert(dtype=torch.float64), 1e-2, methods=methods()[:1])
    trainer = lightning.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        devices=WORLD,
        strategy="ddp" if WORLD > 1 else "auto",
        max_epochs=1,
        accumulate_grad_batches=accumulation,
        use_distributed_sampler=False,  # it shuffles
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    rows = tiny.dataset(24)[int(os.environ.get("RANK", "0")) :: WORLD]
    loader = DataLoader(rows, batch_size=UPDATE // WORLD // accumulation, collate_fn=tiny.collate)
    trainer.fit(module.train(), loader)
    return tiny.weights(module.model)


HOSTS: dict[str, Callable[[str, int], dict[str, Tensor]]] = {
    "tagger": tagger,
    "encoder_decoder": encoder_decoder,
    "instructed": instructed,
    "lightning": by_lightning,
}
ACCUMULATIONS = (1, 2)


def outcomes() -> dict[tuple[str, int], dict[str, Tensor]]:
    """The weights that each host comes to, with updates in one micro-batch or two."""
    before = Trainer._get_train_sampler
    Trainer._get_train_sampler = lambda self, *_: SequentialSampler(self.train_dataset)  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            return {(name, n): host(folder, n) for name, host in HOSTS.items() for n in ACCUMULATIONS}
    finally:
        Trainer._get_train_sampler = before  # type: ignore[method-assign]


if __name__ == "__main__":
    found = outcomes()
    if os.environ["RANK"] == "0":
        torch.save(found, sys.argv[1])
