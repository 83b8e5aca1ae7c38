"""A loop of your own with methods: python examples/plain_pytorch.py [MODEL] [FOLDER]."""

import sys

import torch
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


def train(model, rows, collate, methods, *, epochs=3, learning_rate=5e-5, seed=42, shuffle=True):
    """An ordinary loop: `prepare` before it, `stack.backward` in the place of forward and backward."""
    loader = DataLoader(rows, batch_size=2, shuffle=shuffle, collate_fn=collate)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    model.train()
    with Stack(methods, seed=seed) as stack:
        stack.prepare(model, total_updates=epochs * len(loader))
        optimizer = stack.optimizer(optimizer)

        def update():
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

        for epoch in range(epochs):
            for batch in loader:
                stack.backward(model, batch, update=update)
                update()
            print(f"epoch {epoch}:", stack.take_logs())
    return model


def main(name="google-bert/bert-base-uncased", folder="runs/plain_pytorch"):
    """Train a classifier on a few sentences and save it."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=2)
    rows = [{**tokenizer(text), "labels": label} for text, label in SENTENCES.items()]
    train(model, rows, DataCollatorWithPadding(tokenizer), [noisytune(), smart()])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
