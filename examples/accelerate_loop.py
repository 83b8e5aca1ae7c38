"""Accelerate with methods: accelerate launch examples/accelerate_loop.py [MODEL] [FOLDER]; it resumes from FOLDER."""

import math
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from steadytune import Stack, noisytune, smart

SENTENCES = {
    "a fine film": 1,
    "a dull film": 0,
    "the plot was good": 1,
    "the plot was poor": 0,
    "not bad": 1,
    "not good": 0,
}


def train(model, rows, collate, methods, folder, *, epochs=3, learning_rate=5e-5, seed=42, shuffle=True, **settings):
    """Prepare the model with the stack first, then with Accelerate; save after each epoch, and resume from there."""
    accelerator = Accelerator(**settings)
    loader = DataLoader(rows, batch_size=2, shuffle=shuffle, collate_fn=collate)
    stack = Stack(methods, seed=seed)
    model.to(accelerator.device).train()
    batches = accelerator.num_processes * accelerator.gradient_accumulation_steps  # of an update
    updates = epochs * math.ceil(len(loader) / batches)
    stack.prepare(model, total_updates=updates)
    optimizer = stack.optimizer(torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0))
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    accelerator.register_for_checkpointing(stack)
    saved = sorted(Path(folder).glob("epoch-*"))
    if saved:
        accelerator.load_state(str(saved[-1]))

    def update():
        if accelerator.sync_gradients:
            accelerator.clip_grad_norm_(wrapped.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    for epoch in range(len(saved), epochs):
        for batch in loader:
            with accelerator.accumulate(wrapped):
                stack.backward(wrapped, batch, backward=accelerator.backward, update=update)
                update()
        accelerator.print(f"epoch {epoch}:", stack.take_logs())
        accelerator.save_state(str(Path(folder) / f"epoch-{epoch:03}"))
    stack.finish()
    return model


def main(name="google-bert/bert-base-uncased", folder="runs/accelerate"):
    """Train a classifier on a few sentences and save it."""
    set_seed(42)
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=2)
    rows = [{**tokenizer(text), "labels": label} for text, label in SENTENCES.items()]
    train(model, rows, DataCollatorWithPadding(tokenizer), [noisytune(), smart()], folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
