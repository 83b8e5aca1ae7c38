"""TRL's SFTTrainer with methods and LoRA: python examples/sft_trainer.py [MODEL] [FOLDER]."""

import sys

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from steadytune import SteadyMixin, bregman, smoothness

ANSWERS = {
    "what color is the sky ?": " blue",
    "what color is the grass ?": " it is green",
    "what color is a rose ?": " red",
}


class SteadySFTTrainer(SteadyMixin, SFTTrainer):
    """The trainer for instructions, with methods."""


def train(model, tokenizer, rows, methods, folder, *, adapter=None, **settings):
    """Train as usual; `methods` is the one argument more. In a row with a prompt only the completion counts."""
    bf16 = torch.cuda.is_available()  # SFTConfig turns it on everywhere
    arguments = SFTConfig(output_dir=folder, per_device_train_batch_size=2, bf16=bf16, report_to=[], **settings)
    trainer = SteadySFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=adapter,
        methods=methods,
    )
    trainer.train()
    return trainer.model


def main(name="Qwen/Qwen3-0.6B", folder="runs/sft"):
    """Train an adapter on a few questions and save it."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name)
    rows = [{"prompt": question, "completion": answer} for question, answer in ANSWERS.items()]
    adapter = LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    # The paper's radius of 1e-5 does nothing in a model without dropout, as most decoders are.
    methods = [smoothness(radius=1e-2, noise_std=1e-3, step_size=1e-1), bregman()]
    model = train(model, tokenizer, rows, methods, folder, adapter=adapter, num_train_epochs=3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
